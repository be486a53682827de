"""What makes one value for each event out of its objects: sum, max, first ...

The result of an event depends on its own objects alone, in their order; so it is the same wherever
the event stands in a chunk. Where an event has no objects there is no largest or first one: NaN.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from dask_runner.histograms.values import Data, Offsets


def _reduced(data: Data, offsets: Offsets, how: Any, empty: float) -> Data:
    filled = offsets[1:] > offsets[:-1]
    result = np.full(len(offsets) - 1, empty, dtype=data.dtype)
    if filled.any():
        result[filled] = how.reduceat(data, offsets[:-1][filled])
    return result


def total(data: Data, offsets: Offsets) -> Data:
    """The sum, in double precision or as 64-bit integer; of conditions, how many are true. Unsigned
    numbers, which may be beyond, are added as doubles.
    """
    kind = np.float64 if data.dtype.kind in "fu" else np.int64
    return _reduced(data.astype(kind), offsets, np.add, 0)


def count(data: Data, offsets: Offsets) -> Data:
    """How many objects; of conditions, how many are true."""
    return total(data, offsets) if data.dtype == np.bool_ else np.diff(offsets)


def some(data: Data, offsets: Offsets) -> Data:
    return _reduced(data.astype(np.bool_), offsets, np.logical_or, empty=False)


def every(data: Data, offsets: Offsets) -> Data:
    return _reduced(data.astype(np.bool_), offsets, np.logical_and, empty=True)


def largest(data: Data, offsets: Offsets) -> Data:
    return _reduced(_real(data), offsets, np.maximum, np.nan)


def smallest(data: Data, offsets: Offsets) -> Data:
    return _reduced(_real(data), offsets, np.minimum, np.nan)


def mean(data: Data, offsets: Offsets) -> Data:
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Data = _reduced(data.astype(np.float64), offsets, np.add, 0) / np.diff(offsets)
    return result


def nth(data: Data, offsets: Offsets, position: int) -> Data:
    """The object at a place, counted from 0, or from the end if it is negative."""
    counts = np.diff(offsets)
    there = counts > position if position >= 0 else counts >= -position
    start = offsets[:-1] if position >= 0 else offsets[1:]
    real = _real(data)
    result = np.full(len(counts), np.nan, dtype=real.dtype)
    result[there] = real[start[there] + position]
    return result


def _real(data: Data) -> Data:
    return data if data.dtype.kind == "f" else data.astype(np.float64)


REDUCTIONS: dict[str, Callable[[Data, Offsets], Data]] = {
    "sum": total,
    "count": count,
    "any": some,
    "all": every,
    "max": largest,
    "min": smallest,
    "mean": mean,
    "first": lambda data, offsets: nth(data, offsets, 0),
}
