"""Groups on their way: which attempts wait for an outcome, where they are, and when they are over.

Owns the count of groups at each host. Refuses to decide what a batch without an outcome has become.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any

from dask_runner.batch import Attempt, Batch, Outcome
from dask_runner.cluster.interface import HostState
from dask_runner.placement import Load
from dask_runner.run_folder import LOG_NAME, attempt_name, group_log_name

# A group's last streamed outcomes may arrive just after its end; then they count as lost.
SETTLE = 5.0
# As long is waited for outcomes of a host whose worker is gone, and for the scheduler's word on it.
_GONE = 2.0
# A worker that is seen to die within so many seconds after its connection died of itself, or of its
# batch. Later, or if the scheduler is the last to hear of it, its host was cut off.
_DEATH = 5.0
# The cluster says when the processes of a lost worker are dead. Should it never, so long is waited.
_FENCE = 120.0


class Flight:
    """A group: the attempts that have no outcome yet, by batch, and what is known of its end.

    Times are of the monotonic clock, None as long as it has not happened: `ended` of its Dask task,
    `gone` of the worker it was sent to, `stranded` of the client that waits for it. `cut_off`: its
    worker did not die of itself; `free`: its slot has no work of it any more. `lost` is why the
    task has no result, `finished` that it does not run any more all the same, `unfetched` that it
    had a result. `collecting` are the batches whose files are on the way.
    """

    def __init__(self, key: str, attempts: Sequence[Attempt], host: HostState) -> None:
        self.key = key
        self.attempts = attempts
        self.host = host.name
        self.worker = host.worker
        self.life = host.life
        self._batches = {attempt.batch.index: attempt.batch for attempt in attempts}
        self.waiting = {attempt.batch.index: attempt.number for attempt in attempts}
        self.collecting: set[int] = set()
        self.cut_off = False
        self.free = False
        self.submitted = False
        self.future: Any = None
        self.ended: float | None = None
        self.gone: float | None = None
        self.stranded: float | None = None
        self.generation = 0
        self.lost = ""
        self.finished = False
        self.unfetched = False

    @property
    def single(self) -> bool:
        return len(self.attempts) == 1

    def batch(self, index: int) -> Batch:
        """One of its batches."""
        return self._batches[index]

    def logs(self, index: int) -> tuple[str, str]:
        """Where the log of a batch may be: its own, or that of the group."""
        first = self.attempts[0]
        own = attempt_name(index, self.waiting[index])
        return f"{own}/{LOG_NAME}", group_log_name(first.batch.index, first.number)

    @property
    def unheard(self) -> dict[int, int]:
        """The attempts that nobody has told anything of."""
        return {i: number for i, number in self.waiting.items() if i not in self.collecting}

    def over(self, now: float, *, generation: int | None) -> bool:
        """True if nothing more is to be expected of it. `generation` of the scheduler that we are
        connected with, None if we are not.
        """
        if not self.unheard:
            return self.ended is not None or self.gone is not None or self.stranded is not None
        if self.stranded is not None:
            return self._stranded_over(now, self.stranded, generation)
        if self.ended is None:
            return self.gone is not None and now - self.gone >= _GONE
        if not self.lost:
            return now - self.ended >= SETTLE
        # Lost to the scheduler is not dead: it must not run twice at the same time.
        return self.finished or self.gone is not None or now - self.ended >= _FENCE

    def _stranded_over(self, now: float, since: float, generation: int | None) -> bool:
        if not self.submitted:
            return True
        if self.gone is not None:
            return now - self.gone >= _GONE
        # The same scheduler again: the worker lives, and was told to end the batches.
        return generation == self.generation and now - since >= SETTLE

    @property
    def guilty(self) -> bool:
        """True if its batch may be what ended its worker. Nobody is blamed for a host that was cut
        off, for a scheduler, or for a result that was lost on its way.
        """
        if self.stranded is not None or self.ended is None or self.unfetched:
            return False
        if not self.lost or self.finished:
            return True
        if self.cut_off:
            return False
        return self.gone is not None and 0 <= self.gone - self.ended <= _DEATH


class Flights:
    """All flights of a session by key, and by batch."""

    def __init__(self, load: dict[str, Load]) -> None:
        self._load = load
        self._all: dict[str, Flight] = {}
        self._by_batch: dict[int, Flight] = {}
        self._ending: dict[str, Flight] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Flight]:
        return iter(self._all.values())

    @property
    def active(self) -> int:
        """How many of them hold a slot, or will."""
        return sum(not flight.free for flight in self._all.values())

    @property
    def batches(self) -> int:
        """How many batches wait for an outcome."""
        return len(self._by_batch)

    @property
    def ending(self) -> list[Flight]:
        """Those that are over, or may be soon."""
        return list(self._ending.values())

    def get(self, key: str) -> Flight | None:
        return self._all.get(key)

    def add(self, flight: Flight) -> None:
        self._all[flight.key] = flight
        self._load.setdefault(flight.host, Load()).active += 1
        for index in flight.waiting:
            self._by_batch[index] = flight

    def awaiting(self, outcome: Outcome) -> Flight | None:
        """The flight that waits for this outcome, and has not got it yet."""
        flight = self._by_batch.get(outcome.batch)
        if flight is None or flight.waiting[outcome.batch] != outcome.attempt:
            return None
        return None if outcome.batch in flight.collecting else flight

    def heard(self, flight: Flight, batch: int) -> None:
        """An outcome of the batch is taken in."""
        del flight.waiting[batch]
        del self._by_batch[batch]
        flight.collecting.discard(batch)

    def end(self, flight: Flight) -> None:
        """Its Dask task has ended: its slot is free."""
        flight.ended = time.monotonic()
        self._free(flight)

    def gone(self, flight: Flight, *, cut_off: bool) -> None:
        """Its worker is gone, `cut_off`: with its host's agent or lease."""
        flight.gone = time.monotonic()
        flight.cut_off = cut_off
        self._free(flight)

    def strand(self, flight: Flight) -> None:
        """Its client is gone."""
        flight.stranded = time.monotonic()
        self._ending[flight.key] = flight

    def remove(self, flight: Flight) -> None:
        """Nothing more is expected of it."""
        del self._all[flight.key]
        self._free(flight)
        del self._ending[flight.key]
        self._load[flight.host].unsettled -= 1

    def _free(self, flight: Flight) -> None:
        self._ending[flight.key] = flight
        if not flight.free:
            flight.free = True
            load = self._load[flight.host]
            load.active -= 1
            load.unsettled += 1
