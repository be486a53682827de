"""Merged histograms made by hand, for tests of what is written and drawn."""

import numpy as np

from dask_runner.histograms.result import Cut, Filled, HistogramResult
from dask_runner.histograms.spec import Axis, HistogramSpec

SAMPLE = Axis(kind="category", name="sample", label="sample", categories=("ttbar", "zprime"))
ENERGY = Axis(bins=20, start=0.0, stop=200.0, name="x", label="Jet energy [GeV]")
EDGES = Axis(kind="variable", edges=(0.0, 1.0, 10.0, 100.0), name="y")
DECADES = Axis(kind="variable", edges=tuple(10.0**k for k in range(5)), name="x", label="E")


def filled(name, *axes, weighted=False, seed=1, **more):
    """A histogram with every bin filled, also those that are not shown."""
    spec = HistogramSpec(name=name, fill=("x", "y", "z")[: len(axes)], axes=axes, **more)
    rng = np.random.default_rng(seed)
    counts = rng.poisson(50, spec.shape)
    values = rng.normal(1, 0.3, spec.shape) * counts if weighted else counts.astype(float)
    return Filled(
        spec=spec,
        counts=counts,
        values=values,
        variances=values**2 / 40 if weighted else values,
        nan=3,
        weighted=weighted,
    )


CUTFLOW = (
    Cut(name="all", level="event", count=1000, weights=1000.0),
    Cut(name="met > 20", level="event", count=400, weights=400.0),
    Cut(name="all", level="object", count=900, weights=900.0),
    Cut(name="jet_pt > 25", level="object", count=300, weights=300.0),
)
BY_SAMPLE = tuple(
    Cut(name=cut.name, level=cut.level, count=cut.count // 2, weights=0.1 * cut.count, sample=name)
    for name in SAMPLE.categories
    for cut in CUTFLOW
)


def result(*histograms, cutflow=CUTFLOW, missing=()):
    return HistogramResult(
        histograms=histograms,
        cutflow=cutflow,
        events_read=1000,
        events_asked=1500 if missing else 1000,
        missing=missing,
    )


ALL = (
    filled("energy", ENERGY, where="jet_pt > 25"),
    filled("weighted", SAMPLE, ENERGY, weighted=True, weight="w"),
    filled("plane", ENERGY, EDGES, seed=2),
    filled("decades", SAMPLE, DECADES, seed=3),
)
