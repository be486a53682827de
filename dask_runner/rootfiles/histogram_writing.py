"""Writing histograms that ROOT reads: TH1D, TH2D and TH3D with Sumw2, entries and labels.

Equal content gives equal bytes (see `reproducible`). Means and widths, which ROOT keeps beside the
bins, are those of the bin centres, as after TH1::ResetStats: the values themselves are not here.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from uproot.writing import identify

from dask_runner.rootfiles import layout
from dask_runner.rootfiles.reproducible import recreate
from dask_runner.rootfiles.writing import COMPRESSION

Numbers = npt.NDArray[np.float64]

MOST_AXES = 3
_MAKERS = {1: identify.to_TH1x, 2: identify.to_TH2x, 3: identify.to_TH3x}
_LETTERS = "xyz"


class PlainAxis(Struct, frozen=True, kw_only=True):
    """An axis: edges (bins + 1,), written as equal bins if `regular`; `labels` one for each bin, or
    none.
    """

    edges: Numbers
    regular: bool = False
    title: str = ""
    labels: tuple[str, ...] = ()


class PlainHistogram(Struct, frozen=True, kw_only=True):
    """A histogram of up to MOST_AXES axes: `values` and `variances` with underflow and overflow on
    every axis; `entries` are fillings, flow included.
    """

    title: str
    axes: tuple[PlainAxis, ...]
    values: Numbers
    variances: Numbers
    entries: float


def write_histograms(
    path: Path, histograms: Mapping[str, PlainHistogram], metadata: Mapping[str, Any]
) -> None:
    """A new file of histograms; a name with slashes is in a folder. `metadata` as in `write`."""
    with recreate(path, COMPRESSION) as file:
        for name, histogram in histograms.items():
            file[name] = _writable(name.rpartition("/")[2], histogram)
        file[layout.METADATA] = json.dumps(dict(metadata), sort_keys=True)


def _writable(name: str, histogram: PlainHistogram) -> Any:
    axes = [
        _axis(f"{letter}axis", axis) for letter, axis in zip(_LETTERS, histogram.axes, strict=False)
    ]
    make = partial(
        _MAKERS[len(axes)],
        name,
        histogram.title,
        # ROOT's first axis runs fastest.
        histogram.values.ravel(order="F"),
        histogram.entries,
        **_statistics(histogram),
        fSumw2=histogram.variances.ravel(order="F"),
    )
    titles = ("fXaxis", "fYaxis", "fZaxis")
    return make(**dict(zip(titles, axes, strict=False)))


def _axis(name: str, axis: PlainAxis) -> Any:
    bins = len(axis.edges) - 1
    return identify.to_TAxis(
        name,
        axis.title,
        bins,
        float(axis.edges[0]),
        float(axis.edges[-1]),
        fXbins=None if axis.regular or axis.labels else axis.edges,
        fLabels=_labels(axis.labels) if axis.labels else None,
    )


def _labels(labels: tuple[str, ...]) -> Any:
    """A THashList whose items carry the number of their bin, as TAxis::SetBinLabel makes it."""
    items = identify.to_THashList([identify.to_TObjString(label) for label in labels])
    for k, item in enumerate(items):
        item._bases[0]._members["@fUniqueID"] = k + 1  # noqa: SLF001  (uproot has no other way)
    return items


def _statistics(histogram: PlainHistogram) -> dict[str, float]:
    """The sums that ROOT has for means and widths, over the bins without flow."""
    inner = (slice(1, -1),) * len(histogram.axes)
    weights = histogram.values[inner]
    sums = {
        "fTsumw": float(weights.sum()),
        "fTsumw2": float(histogram.variances[inner].sum()),
    }
    centres = [_centres(axis, k, len(histogram.axes)) for k, axis in enumerate(histogram.axes)]
    for letter, place in zip(_LETTERS, centres, strict=False):
        sums[f"fTsumw{letter}"] = float((weights * place).sum())
        sums[f"fTsumw{letter}2"] = float((weights * place**2).sum())
    for first in range(len(centres)):
        for second in range(first + 1, len(centres)):
            name = f"fTsumw{_LETTERS[first]}{_LETTERS[second]}"
            sums[name] = float((weights * centres[first] * centres[second]).sum())
    return sums


def _centres(axis: PlainAxis, position: int, axes: int) -> Numbers:
    """The bin centres, in the direction of the axis; of an endless bin its other edge."""
    edges = np.where(np.isfinite(axis.edges), axis.edges, np.nan)
    middle = np.nanmean([edges[:-1], edges[1:]], axis=0)
    shape = [1] * axes
    shape[position] = len(middle)
    centres: Numbers = np.nan_to_num(middle).reshape(shape)
    return centres
