"""The sums of all batches -> the result of the run.

Owns that samples get their places, and that what was read is compared with what was asked for.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, cast

import numpy as np

from dask_runner.histograms.accumulate import ExactSum
from dask_runner.histograms.result import Counts, Cut, Filled, HistogramResult, Numbers
from dask_runner.histograms.selection import weights_sum
from dask_runner.histograms.spec import HistogramSpec, Job
from dask_runner.histograms.sums import CutSum, HistogramSum, Sums, numeric_axes


def combine(
    job: Job, parts: Iterable[tuple[int, Sums]], *, asked: int, missing: Sequence[str] = ()
) -> HistogramResult:
    """The result of parts, each with the number of its sample (0 without samples). `asked` are the
    events that should have been read, `missing` describes what is not in it.
    """
    samples: dict[int, Sums] = {}
    for sample, sums in parts:
        if sample in samples:
            samples[sample].merge(sums)
        else:
            samples[sample] = sums
    order = sorted(samples)
    if order:
        for number in range(len(job.samples)):
            samples.setdefault(number, _nothing(samples[order[0]]))
        order = sorted(samples)
    histograms = [
        _filled(spec, {k: samples[k].histograms[number] for k in order})
        for number, spec in enumerate(job.histograms)
    ]
    # Last, because it adds up in place.
    several = len(job.samples) > 1
    cutflow = [cut for k in order if several for cut in _cuts(samples[k], job.samples[k].name)]
    events = sum(samples[k].events for k in order)
    whole = samples[order[0]] if order else Sums([], [])
    for k in order[1:]:
        for cut, more in zip(whole.cuts, samples[k].cuts, strict=True):
            cut.merge(more)
    return HistogramResult(
        histograms=tuple(histograms),
        cutflow=(*_cuts(whole, ""), *cutflow),
        events_read=events,
        events_asked=asked,
        missing=tuple(missing),
    )


def _nothing(like: Sums) -> Sums:
    """What a sample without any events gives."""
    cuts = [CutSum(c.name, c.level, weighted=c.weights is not None) for c in like.cuts]
    return Sums([one.empty() for one in like.histograms], cuts)


def _cuts(sums: Sums, sample: str) -> list[Cut]:
    return [
        Cut(
            name=cut.name,
            level=cast('Literal["event", "object"]', cut.level),
            count=cut.count,
            weights=weights_sum(cut),
            sample=sample,
        )
        for cut in sums.cuts
    ]


def _filled(spec: HistogramSpec, by_sample: dict[int, HistogramSum]) -> Filled:
    """One histogram: a row for each sample, or all samples together."""
    shape = spec.shape
    counts = np.zeros(shape, np.int64)
    values = np.zeros(shape)
    variances = np.zeros(shape)
    weighted = any(one.weights is not None for one in by_sample.values())
    if spec.by_sample:
        for k, one in by_sample.items():
            own = _arrays(one)
            counts[k] = own[0].reshape(shape[1:])
            values[k] = own[1].reshape(shape[1:])
            variances[k] = own[2].reshape(shape[1:])
    elif by_sample:
        whole = HistogramSum(numeric_axes(spec), weighted=weighted)
        for one in by_sample.values():
            whole.merge(one)
        own = _arrays(whole)
        counts, values, variances = (
            own[0].reshape(shape),
            own[1].reshape(shape),
            own[2].reshape(shape),
        )
    return Filled(
        spec=spec,
        counts=counts,
        values=values,
        variances=variances,
        nan=sum(one.nan for one in by_sample.values()),
        weighted=weighted,
    )


def _arrays(one: HistogramSum) -> tuple[Counts, Numbers, Numbers]:
    def of(exact: ExactSum | None) -> Numbers:
        return one.counts.astype(np.float64) if exact is None else exact.value()

    return one.counts, of(one.weights), of(one.squares)
