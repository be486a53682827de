"""Filling the histograms of a job from chunks.

Owns what goes into which bin. Histograms without weights are filled by boost-histogram; with
weights it gives the bins, and the weights are added up exactly.
"""

from typing import Any

import boost_histogram as bh
import numpy as np

from dask_runner.errors import UsageError
from dask_runner.histograms.expressions import Expression
from dask_runner.histograms.selection import Mask, Selected, Weights, as_weights, fits
from dask_runner.histograms.spec import Axis, HistogramSpec, Job
from dask_runner.histograms.sums import HistogramSum, numeric_axes
from dask_runner.histograms.values import CountsDifferError, Offsets, common_offsets, spread


class Filler:
    """One histogram of expressions; `sum` adds up over all chunks."""

    def __init__(self, spec: HistogramSpec, job: Job) -> None:
        """Raises UsageError for what is no expression."""
        place = f"histogram {spec.name}"
        self._fill = [Expression(text, place) for text in spec.fill]
        self._where = Expression(spec.where, f"{place}: where") if spec.where else None
        self._weight = Expression(spec.weight, f"{place}: weight") if spec.weight else None
        self._axes = [_axis(axis) for axis in numeric_axes(spec)]
        self._weighted = bool(spec.weight or job.weight)
        self._sum = HistogramSum(numeric_axes(spec), weighted=self._weighted)
        self._counter: Any = (
            None if self._weighted else bh.Histogram(*self._axes, storage=bh.storage.Int64())
        )

    @property
    def expressions(self) -> list[Expression]:
        """All that is evaluated."""
        return [*self._fill, *(one for one in (self._where, self._weight) if one)]

    @property
    def sum(self) -> HistogramSum:
        """What was filled so far."""
        if self._counter is not None:
            self._sum.counts = self._counter.view(flow=True).reshape(-1).astype(np.int64)
        return self._sum

    def add(self, selected: Selected) -> int:
        """Fill what is selected of a chunk; returns how many entries that were."""
        values = [selected.evaluate(one) for one in self._fill]
        try:
            offsets = common_offsets(values)
        except CountsDifferError as error:
            raise selected.unequal(error, " : ".join(one.text for one in self._fill)) from error
        mask = self._mask(selected, offsets)
        data = [_number(spread(value, offsets), self._fill[0]) for value in values]
        if mask is not None:
            data = [one[mask] for one in data]
        weights = self._weights(selected, offsets, mask)
        data, weights = self._without_nan(data, weights)
        if self._counter is not None:
            self._counter.fill(*data)
        elif weights is not None:
            self._add_weighted(data, weights)
        return len(data[0])

    def _mask(self, selected: Selected, offsets: Offsets | None) -> Mask | None:
        """What is taken of the values; None if all is."""
        if selected.objects is not None:
            fits(selected, offsets, self._fill[0].text, selected.objects, self._fill[0])
        mask = selected.mask(offsets, selected.objects)
        if self._where is None:
            return mask
        own = selected.shared(self._where)
        fits(selected, offsets, self._fill[0].text, own, self._fill[0])
        here = selected.spread(own, offsets).astype(np.bool_, copy=False)
        return here if mask is None else mask & here

    def _weights(
        self, selected: Selected, offsets: Offsets | None, mask: Mask | None
    ) -> Weights | None:
        own = selected.shared(self._weight) if self._weight else None
        weights = [value for value in (selected.weight, own) if value is not None]
        for value in weights:
            fits(selected, offsets, self._fill[0].text, value, self._fill[0])
        return as_weights(selected, weights, offsets, mask)

    def _without_nan(
        self, data: list[Any], weights: Weights | None
    ) -> tuple[list[Any], Weights | None]:
        bad = None
        for one in data:
            if one.dtype.kind == "f" and (here := np.isnan(one)).any():
                bad = here if bad is None else bad | here
        if bad is None:
            return data, weights
        self._sum.nan += int(np.count_nonzero(bad))
        good = ~bad
        return [one[good] for one in data], None if weights is None else weights[good]

    def _add_weighted(self, data: list[Any], weights: Weights) -> None:
        places = np.zeros(len(weights), np.int64)
        for axis, one in zip(self._axes, data, strict=True):
            places = places * axis.extent + (np.asarray(axis.index(one)) + 1)
        total = self._sum
        assert total.weights is not None
        assert total.squares is not None
        total.counts += np.bincount(places, minlength=total.cells)
        total.weights.add_at(places, weights)
        total.squares.add_at(places, np.square(weights))


def _axis(axis: Axis) -> Any:
    if axis.kind == "variable":
        return bh.axis.Variable(axis.all_edges)
    return bh.axis.Regular(axis.bins, axis.start, axis.stop)


def _number(data: Any, expression: Expression) -> Any:
    if data.dtype.kind == "c":
        raise UsageError(f"{expression.place}: {expression.text!r} is complex")
    # boost-histogram takes no conditions.
    return data.astype(np.int64) if data.dtype == np.bool_ else data
