"""What one batch, or many of them, give: histograms and cutflow as exact sums.

Owns their form as bytes, which is the same for the same sums. Merging is addition of integers: in
any order and grouping the result is the same.
"""

import zlib
from collections.abc import Sequence
from math import prod
from typing import Self

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dask_runner.errors import BadInputError
from dask_runner.histograms.accumulate import ExactSum
from dask_runner.histograms.spec import Axis, HistogramSpec, Job

Places = npt.NDArray[np.int64]

_VERSION = 1
# The fastest: most bytes are zeros.
_LEVEL = 1


class HistogramSum:
    """A histogram of one sample: flat arrays of `cells` places, without the axis of the samples.
    Without weights, `weights` and `squares` are None, and `counts` are all there is.
    """

    def __init__(self, axes: Sequence[Axis], *, weighted: bool) -> None:
        self.shape = tuple(axis.extent for axis in axes)
        self.cells = prod(self.shape)
        self.counts: Places = np.zeros(self.cells, np.int64)
        self.weights = ExactSum(self.cells) if weighted else None
        self.squares = ExactSum(self.cells) if weighted else None
        self.nan = 0

    def empty(self) -> "HistogramSum":
        """One like this without entries."""
        found = HistogramSum((), weighted=False)
        found.shape, found.cells = self.shape, self.cells
        found.counts = np.zeros(self.cells, np.int64)
        if self.weights is not None:
            found.weights, found.squares = ExactSum(self.cells), ExactSum(self.cells)
        return found

    def merge(self, other: Self) -> None:
        """Add the entries of another."""
        self.counts += other.counts
        self.nan += other.nan
        for mine, theirs in ((self.weights, other.weights), (self.squares, other.squares)):
            if mine is not None and theirs is not None:
                mine.merge(theirs)


class CutSum:
    """What is left after a cut: so many, and the sum of their weights if there are weights."""

    def __init__(self, name: str, level: str, *, weighted: bool) -> None:
        self.name = name
        self.level = level
        self.count = 0
        self.weights = ExactSum(1) if weighted else None

    def merge(self, other: Self) -> None:
        """Add what is left of others."""
        self.count += other.count
        if self.weights is not None and other.weights is not None:
            self.weights.merge(other.weights)


class Sums:
    """All that is made of `events` events of one sample, in the order of the job."""

    def __init__(self, histograms: Sequence[HistogramSum], cuts: Sequence[CutSum]) -> None:
        self.histograms = [*histograms]
        self.cuts = [*cuts]
        self.events = 0

    def merge(self, other: Self) -> None:
        """Add the sums of other events, made by the same job."""
        self.events += other.events
        for mine, theirs in zip(self.histograms, other.histograms, strict=True):
            mine.merge(theirs)
        for cut, more in zip(self.cuts, other.cuts, strict=True):
            cut.merge(more)


def numeric_axes(spec: HistogramSpec) -> tuple[Axis, ...]:
    """The axes of what one sample gives."""
    return spec.axes[1:] if spec.by_sample else spec.axes


def bytes_at_most(job: Job) -> int:
    """About how many bytes the sums of a job may be, if nothing is empty."""
    # Counts, and about three digits each of weights and squares.
    return sum(
        8
        * (7 if spec.weight or job.weight else 1)
        * prod(axis.extent for axis in numeric_axes(spec))
        for spec in job.histograms
    )


class _Exact(Struct, array_like=True):
    levels: list[int]
    digits: list[bytes]


class _Histogram(Struct, array_like=True):
    shape: tuple[int, ...]
    nan: int
    counts: bytes
    weights: _Exact | None
    squares: _Exact | None


class _Cut(Struct, array_like=True):
    name: str
    level: str
    count: int
    weights: _Exact | None


class _Sums(Struct, array_like=True):
    version: int
    events: int
    histograms: list[_Histogram]
    cuts: list[_Cut]


def encode(sums: Sums) -> bytes:
    """The sums as bytes."""
    form = _Sums(
        _VERSION,
        sums.events,
        [
            _Histogram(
                one.shape,
                one.nan,
                _packed(one.counts),
                _exact_form(one.weights),
                _exact_form(one.squares),
            )
            for one in sums.histograms
        ],
        [_Cut(one.name, one.level, one.count, _exact_form(one.weights)) for one in sums.cuts],
    )
    return zlib.compress(msgspec.msgpack.encode(form), _LEVEL)


def decode(data: bytes, where: str) -> Sums:
    """The sums again. Raises BadInputError that names `where` they are from."""
    try:
        form = msgspec.msgpack.decode(zlib.decompress(data), type=_Sums)
    except (zlib.error, msgspec.DecodeError) as error:
        raise BadInputError(f"{where}: not the histograms of a batch: {error}") from error
    if form.version != _VERSION:
        raise BadInputError(f"{where}: of another version of dask-runner ({form.version})")
    sums = Sums([_histogram(one) for one in form.histograms], [_cut(one) for one in form.cuts])
    sums.events = form.events
    return sums


def _packed(values: Places) -> bytes:
    return values.astype("<i8", copy=False).tobytes()


def _unpacked(data: bytes) -> Places:
    return np.frombuffer(data, "<i8").astype(np.int64)


def _exact_form(exact: ExactSum | None) -> _Exact | None:
    if exact is None:
        return None
    exact.carry()
    levels = sorted(exact.digits)
    return _Exact(levels, [_packed(exact.digits[level]) for level in levels])


def _exact(form: _Exact | None, cells: int) -> ExactSum | None:
    if form is None:
        return None
    exact = ExactSum(cells)
    for level, digit in zip(form.levels, form.digits, strict=True):
        exact.digits[level] = _unpacked(digit)
    return exact


def _histogram(form: _Histogram) -> HistogramSum:
    found = HistogramSum((), weighted=False)
    found.shape = form.shape
    found.cells = prod(form.shape)
    found.nan = form.nan
    found.counts = _unpacked(form.counts)
    found.weights = _exact(form.weights, found.cells)
    found.squares = _exact(form.squares, found.cells)
    return found


def _cut(form: _Cut) -> CutSum:
    found = CutSum(form.name, form.level, weighted=False)
    found.count = form.count
    found.weights = _exact(form.weights, 1)
    return found
