"""The trial model `counting`: n events where b are expected without signal, b known exactly.

Owns the tables that make a trial cost nanoseconds: the inverse of the Poisson distribution, and
what follows from each count. The formulas are those of `stats.counting`.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from math import isfinite
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from scipy.special import pdtr, pdtrc

from dask_runner.errors import UsageError
from dask_runner.seeds import Value
from dask_runner.stats import counting as exact
from dask_runner.trials.model import BlockTrial, Parameters

Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int32]

_CONFIDENCE = 0.95
# Tables grow as the root of the expectation: at this one they have 165 000 counts.
_MOST_EXPECTED = 1e8
# Uniform numbers are multiples of this one: no count beyond 8.3 standard deviations is needed.
_STEP = 2.0**-53
_WIDTH = 9.0
_EXTRA = 40
# Buckets of the guide: many times more than counts, so that few have a step inside.
_BUCKETS = 1 << 14
_PER_COUNT = 16


class Counting(Struct, frozen=True, kw_only=True):
    """Parameters of a point: `b` and `n_sig`, the expected background and signal, in events."""

    @classmethod
    def from_options(
        cls,
        *,
        points: Sequence[Mapping[str, Value]] = (),  # noqa: ARG003  # needs no files for them
        **given: Any,
    ) -> Self:
        """Raises UsageError for any option: there is nothing to choose."""
        if given:
            raise UsageError(
                f"model counting takes no --{next(iter(given))}",
                hint="--set b=3 --grid n_sig=0,1,2,4,8",
            )
        return cls()

    def parameters(self) -> Parameters:
        return Parameters(required=("b",), optional={"n_sig": 0})

    def fields(self) -> dict[str, str]:
        """`n` the count, `ts` the test statistic of a signal above b, `limit` the 95 % upper limit
        on the signal (flat prior, which is that of CLs too).
        """
        return {"n": "<i4", "ts": "<f8", "limit": "<f8"}

    def sampler(self, point: Mapping[str, Value]) -> BlockTrial:
        """Tabulate a point. With b = 0 any event excludes the background: `ts` is infinite then.

        Raises UsageError for a negative background or expectation, or one above 1e8.
        """
        b = _events(point, "b")
        expected = b + _events(point, "n_sig")
        if b < 0 or not 0 <= expected <= _MOST_EXPECTED:
            raise UsageError(
                f"model counting: b={b:g} and b + n_sig={expected:g} must be 0 or more, and at "
                f"most {_MOST_EXPECTED:g}"
            )
        inverse = PoissonInverse(expected)
        n = inverse.counts
        ts = exact.test_statistic(n, b)
        limit = exact.upper_limit(n, b, _CONFIDENCE)
        return BlockTrial(words=1, run=partial(_draw, inverse, ts, limit))


class PoissonInverse:
    """The quantiles of a Poisson distribution: for u the smallest n with P(N <= n) >= u.

    A table of all counts that a multiple of 2^-53 in [0, 1) can give (`counts`; u = 0 stands for
    what is below half a step), and a guide that knows the answer for each of many equal buckets of
    [0, 1), except for those few in which it changes: there the table is searched. So the answer is
    that of the table for every u (Chen and Asau, AIIE Transactions 6 (1974) 163, with a binary
    search in place of theirs).
    """

    def __init__(self, mean: float) -> None:
        half = _WIDTH * np.sqrt(mean) + _EXTRA
        counts = np.arange(max(0, np.floor(mean - half)), np.ceil(mean + half), dtype=np.int32)
        below = _at_most(counts, mean)
        first = int(np.searchsorted(below, _STEP / 2))
        last = int(np.searchsorted(below, 1 - _STEP))
        self.counts: Counts = counts[first : last + 1]
        # With the last count it is certain.
        self._below = below[first:last]
        wanted = max(_BUCKETS, _PER_COUNT * len(self.counts))
        self._buckets = 1 << (wanted - 1).bit_length()
        edges = np.arange(self._buckets + 1) / self._buckets
        place = np.searchsorted(self._below, edges).astype(np.int32)
        # -1: the bucket [k, k+1) / buckets holds a step.
        self._guide = np.where(place[:-1] == place[1:], place[:-1], np.int32(-1))

    def places(self, uniforms: Array) -> Counts:
        """Indices into `counts` for numbers in [0, 1), shape (trials,)."""
        # A power of two: the product is exact, so that no number gets into a neighbouring bucket.
        found = self._guide[(uniforms * self._buckets).astype(np.int32)]
        open_ = np.flatnonzero(found < 0)
        found[open_] = np.searchsorted(self._below, uniforms[open_])
        return found


def _at_most(counts: Counts, mean: float) -> Array:
    """P(N <= n), never falling; near 1 rounded down to a multiple of 2^-53, from the tail above: so
    its comparison with one is exact where a float has no digits left.
    """
    above = pdtrc(counts, mean)
    upper = 1 - np.ceil(above / _STEP) * _STEP
    return np.maximum.accumulate(np.where(above < 1 / 2, upper, pdtr(counts, mean)))


def _draw(
    inverse: PoissonInverse, ts: Array, limit: Array, uniforms: Array
) -> dict[str, npt.NDArray[Any]]:
    place = inverse.places(uniforms[:, 0])
    return {"n": inverse.counts[place], "ts": ts[place], "limit": limit[place]}


def _events(point: Mapping[str, Value], name: str) -> float:
    value = point.get(name, 0)
    if isinstance(value, str) or not isfinite(value):
        raise UsageError(f"model counting: {name}={value!r} is not a number of events")
    return float(value)
