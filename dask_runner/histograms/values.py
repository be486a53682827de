"""Values of a chunk of events: one for each event, or any number of objects for each.

Owns how they combine: what belongs to the event is repeated for its objects, and objects combine
only with objects of the same number in each event.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

Data = npt.NDArray[Any]
Offsets = npt.NDArray[np.int64]


class Value(Struct, frozen=True, kw_only=True):
    """`data` has one item for each event; or, with `offsets`, those of event i are at
    `offsets[i]:offsets[i + 1]`. `name` says where it comes from, for messages.
    """

    data: Data
    offsets: Offsets | None = None
    name: str = ""

    @property
    def jagged(self) -> bool:
        """True if it has objects, not one value for each event."""
        return self.offsets is not None


class CountsDifferError(Exception):
    """Two values have different numbers of objects: `event` is the first such one in the chunk,
    with `counts` objects of either.
    """

    def __init__(self, names: tuple[str, str], event: int, counts: tuple[int, int]) -> None:
        super().__init__(*names, event, *counts)
        self.names = names
        self.event = event
        self.counts = counts


def common_offsets(values: Iterable[Value]) -> Offsets | None:
    """The offsets of all that have objects, None if none has. Raises CountsDifferError."""
    found: Value | None = None
    for value in values:
        if value.offsets is None or (found is not None and value.offsets is found.offsets):
            continue
        if found is None:
            found = value
        elif not np.array_equal(found.offsets, value.offsets):  # type: ignore[arg-type]
            raise _differ(found, value)
    return None if found is None else found.offsets


def spread(value: Value, offsets: Offsets | None) -> Data:
    """The data with one item for each object of `offsets`: what belongs to events is repeated."""
    if offsets is None or value.offsets is not None:
        return value.data
    return np.repeat(value.data, np.diff(offsets))


def _differ(one: Value, other: Value) -> CountsDifferError:
    assert one.offsets is not None
    assert other.offsets is not None
    counts = np.diff(one.offsets), np.diff(other.offsets)
    event = int(np.flatnonzero(counts[0] != counts[1])[0])
    return CountsDifferError(
        (one.name, other.name), event, (int(counts[0][event]), int(counts[1][event]))
    )
