"""The batches that still have to be sent, in order; those to be tried again come first.

Refuses to know hosts but by name.
"""

from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Backlog:
    """`indices` is their order. A batch that is tried again goes alone, and not to a host where it
    has failed, if there is another.
    """

    def __init__(self, indices: Iterable[int] = ()) -> None:
        self._todo: deque[int] = deque(array("q", indices))
        # By the hosts to be avoided: few sets, however many batches.
        self._again: dict[frozenset[str], deque[int]] = {}
        self._waiting = 0

    def __len__(self) -> int:
        return len(self._todo) + self._waiting

    @property
    def fresh(self) -> int:
        """How many may share a group."""
        return len(self._todo)

    def take(self, size: int) -> list[int]:
        """The next ones that may share a group, at most `size`."""
        return [self._todo.popleft() for _ in range(min(size, len(self._todo)))]

    def put_back(self, indices: Iterable[int]) -> None:
        """They come next: they are older than all others."""
        self._todo.extendleft(sorted(indices, reverse=True))

    def again(self, index: int, avoid: frozenset[str] = frozenset()) -> None:
        """Once more, alone, on a host that is not one of `avoid`."""
        self._again.setdefault(avoid, deque()).append(index)
        self._waiting += 1

    def take_again(self, choose: Callable[[Collection[str]], T | None]) -> tuple[int, T] | None:
        """One that is to be tried again, with the host that `choose` gives for what is to be
        avoided; None if there is none of them, or no host for any.
        """
        for avoid, waiting in self._again.items():
            host = choose(avoid)
            if host is not None:
                index = waiting.popleft()
                self._waiting -= 1
                if not waiting:
                    del self._again[avoid]
                return index, host
        return None

    def pardon(self, host: str, avoided: Callable[[int], frozenset[str]]) -> None:
        """A host was at fault and not the batches that failed there: those with no other stain may
        share a group again.
        """
        for index in list(self._drop(host)):
            avoid = avoided(index)
            if avoid:
                self.again(index, avoid)
            else:
                self._todo.appendleft(index)

    def _drop(self, host: str) -> Iterator[int]:
        for avoid in [avoid for avoid in self._again if host in avoid]:
            waiting = self._again.pop(avoid)
            self._waiting -= len(waiting)
            yield from waiting
