"""The histograms of a run as data, and what a merge of them says: their sums, the cutflow.

Refuses runs of other workloads, and what is not complete as far as the user wants it complete.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dask_runner.errors import UsageError
from dask_runner.histograms.result import Cut, Filled, HistogramResult
from dask_runner.histograms.spec import Axis
from dask_runner.manifest import RunState
from dask_runner.merge import MergeResult, gather
from dask_runner.workloads.histogram import Histogram
from dask_runner.workloads.interface import MergedFile

WORKLOAD = "histogram"


class AxisSummary(Struct, frozen=True, kw_only=True):
    """One axis: of numbers, with mean and standard deviation of the bin centres within it (null if
    it is empty), and entries below and above; or of `categories`.
    """

    label: str
    bins: int
    low: float
    high: float
    mean: float | None
    deviation: float | None
    underflow: int
    overflow: int
    categories: tuple[str, ...] = ()


class HistogramSummary(Struct, frozen=True, kw_only=True):
    """A histogram: `integral` is the sum of weights within all axes, with its error; `entries` is
    null where only a user's function could know.
    """

    name: str
    axes: tuple[AxisSummary, ...]
    samples: tuple[str, ...]
    entries: int | None
    nan: int
    integral: float
    integral_error: float


class HistogramReport(Struct, frozen=True, kw_only=True):
    """A merge of a run of histograms or of a skim."""

    run: str
    files: tuple[MergedFile, ...]
    histograms: tuple[HistogramSummary, ...]
    cutflow: tuple[Cut, ...]
    events_read: int
    events_asked: int
    missing: tuple[str, ...] = ()
    plots: tuple[str, ...] = ()


def is_histograms(state: RunState) -> bool:
    """True for a run of histograms or of a skim."""
    return state.header.workload.name == WORKLOAD


def load(state: RunState, *, acceptance: float = 1.0) -> HistogramResult:
    """The merged histograms of a run. Raises UsageError if it is of another workload,
    FailedBatchesError if less than `acceptance` of the events is done.
    """
    name, spec = state.folder.timestamp, state.header.workload
    if not is_histograms(state):
        raise UsageError(
            f"run {name} is no run of histograms but of {spec.name}",
            hint="`dask-runner runs` shows what runs are of",
        )
    try:
        workload = msgspec.convert(spec.configuration, Histogram)
    except msgspec.ValidationError as error:
        raise UsageError(f"run {name}: wrong configuration: {error}") from error
    return workload.result(gather(state, state.folder, acceptance=acceptance))


def report(
    state: RunState, result: HistogramResult, merged: MergeResult, plots: Sequence[str] = ()
) -> HistogramReport:
    """What a user is told of a merge."""
    return HistogramReport(
        run=state.folder.timestamp,
        files=merged.files,
        histograms=tuple(summarize(filled) for filled in result.histograms),
        cutflow=result.cutflow,
        events_read=result.events_read,
        events_asked=result.events_asked,
        missing=result.missing,
        plots=tuple(plots),
    )


def summarize(filled: Filled) -> HistogramSummary:
    """The numbers of a histogram that people look at first."""
    axes = filled.spec.axes
    samples = axes[0].categories if filled.spec.by_sample else ()
    return HistogramSummary(
        name=filled.spec.name,
        axes=tuple(_axis(filled, k) for k in range(int(filled.spec.by_sample), len(axes))),
        samples=samples,
        entries=None if is_uncounted(filled) else filled.entries,
        nan=filled.nan,
        integral=float(filled.values[filled.inner].sum()),
        integral_error=float(np.sqrt(filled.variances[filled.inner].sum())),
    )


def is_uncounted(filled: Filled) -> bool:
    """True for a weighted histogram of a user's function: nobody knows how often it filled."""
    return filled.weighted and not filled.counts.any() and bool(filled.values.any())


def _axis(filled: Filled, position: int) -> AxisSummary:
    axis = filled.spec.axes[position]
    others = tuple(k for k in range(filled.counts.ndim) if k != position)
    counts = filled.counts.sum(axis=others)
    weights = filled.values[filled.inner].sum(axis=others)
    edges = axis.all_edges
    if axis.kind == "category":
        return AxisSummary(
            label=axis.label or axis.name,
            bins=axis.size,
            low=float(edges[0]),
            high=float(edges[-1]),
            mean=None,
            deviation=None,
            underflow=0,
            overflow=0,
            categories=axis.categories,
        )
    mean, deviation = _moments(weights, edges)
    return AxisSummary(
        label=axis.label or _expression(filled, position) or axis.name,
        bins=axis.size,
        low=float(edges[0]),
        high=float(edges[-1]),
        mean=mean,
        deviation=deviation,
        underflow=int(counts[0]),
        overflow=int(counts[-1]),
    )


def _expression(filled: Filled, position: int) -> str:
    fill = filled.spec.fill
    number = position - filled.spec.by_sample
    return fill[number] if number < len(fill) else ""


def _moments(
    weights: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]
) -> tuple[float | None, float | None]:
    total = float(weights.sum())
    with np.errstate(invalid="ignore"):  # one bin without any end
        middle = (edges[:-1] + edges[1:]) / 2
    known = np.isfinite(middle)
    if total <= 0 or not known.all():
        return None, None
    mean = float((weights * middle).sum() / total)
    variance = float((weights * (middle - mean) ** 2).sum() / total)
    return mean, float(np.sqrt(variance)) if variance >= 0 else None


def axis_title(filled: Filled, axis: Axis) -> str:
    """What an axis is called in a picture."""
    return axis.label or _expression(filled, filled.spec.axes.index(axis)) or axis.name
