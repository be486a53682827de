"""Merged histograms with their cutflow: what is written, drawn and given to Python users.

Owns what the numbers mean. Refuses to know files and drawing.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dask_runner.histograms.spec import HistogramSpec

Counts = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]


class Filled(Struct, frozen=True, kw_only=True):
    """A filled histogram. The arrays have the shape `spec.shape`, with underflow and overflow:
    `counts` are entries, `values` sums of weights, `variances` sums of squared weights. `nan` are
    the entries where a value is not a number: they are in no bin.
    """

    spec: HistogramSpec
    counts: Counts
    values: Numbers
    variances: Numbers
    nan: int = 0
    weighted: bool = False

    @property
    def entries(self) -> int:
        """All that was filled, underflow and overflow too."""
        return int(self.counts.sum())

    @property
    def inner(self) -> tuple[slice, ...]:
        """What of the arrays is neither underflow nor overflow."""
        return tuple(axis.inner for axis in self.spec.axes)


class Cut(Struct, frozen=True, kw_only=True):
    """A step of the cutflow: what is left after it. `name` is the cut's expression, or "all" for
    what was read; `count` are events or objects, `weights` the sum of the job's weight over them
    (of the count itself if there is none). `sample` is "" for all samples together.
    """

    name: str
    level: Literal["event", "object"]
    count: int
    weights: float
    sample: str = ""


class HistogramResult(Struct, frozen=True, kw_only=True):
    """What a run gives: `events_read` of `events_asked`; `missing` are the ranges that are not in
    it. In the cutflow all samples together come first, then each sample if there are several.
    """

    histograms: tuple[Filled, ...]
    cutflow: tuple[Cut, ...]
    events_read: int
    events_asked: int
    missing: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Filled:
        for histogram in self.histograms:
            if histogram.spec.name == name:
                return histogram
        raise KeyError(name)
