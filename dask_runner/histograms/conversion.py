"""Histograms as those of hist, for what it can do with them: projections, sums, plots."""

from typing import Any

import numpy as np

from dask_runner.histograms.result import Filled
from dask_runner.histograms.spec import SAMPLE, Axis
from dask_runner.optional import imported


def uhi_name(axis: Axis) -> str:
    """An axis's name for hist, which has `sample` for something else."""
    return "samples" if axis.name == SAMPLE else axis.name


def as_hist(filled: Filled) -> Any:
    """A `hist.Hist` with the same bins and underflow and overflow; weighted ones with their
    variances. Raises UsageError if hist is not installed.
    """
    hist = imported("hist", "stats")
    axes = [_axis(hist.axis, axis, k) for k, axis in enumerate(filled.spec.axes)]
    storage = hist.storage.Weight() if filled.weighted else hist.storage.Int64()
    made = hist.Hist(*axes, storage=storage, name=filled.spec.name)
    view = made.view(flow=True)
    if filled.weighted:
        view["value"] = filled.values
        view["variance"] = filled.variances
    else:
        view[...] = filled.counts
    return made


def _axis(kinds: Any, axis: Axis, position: int) -> Any:
    names = {"name": uhi_name(axis) or f"axis{position}", "label": axis.label}
    if axis.kind == "category":
        return kinds.StrCategory(list(axis.categories), overflow=False, **names)
    if axis.kind == "variable":
        return kinds.Variable(np.asarray(axis.edges), **names)
    return kinds.Regular(axis.bins, axis.start, axis.stop, **names)
