"""ROOT histograms: one-dimensional ones as arrays, and sums, bin by bin with their statistics.

uproot has no arithmetic on histograms, so the sum is made in the object it read, which can be
written again: the only place that touches the private parts of its models.
"""

# ruff: noqa: SLF001

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dask_runner.errors import BadInputError
from dask_runner.rootfiles.boundary import opened

_CLASSES = ("TH1", "TH2", "TH3")
_PROFILES = ("TProfile", "TProfile2D", "TProfile3D")
_KINDS = tuple("CSIFD")
# Members that add up when histograms do; the others must be equal or belong to the drawing.
_ADDITIVE = (
    "fEntries", "fTsumw", "fTsumw2", "fTsumwx", "fTsumwx2", "fTsumwy", "fTsumwy2", "fTsumwxy",
    "fTsumwz", "fTsumwz2", "fTsumwxz", "fTsumwyz",
)  # fmt: skip
_AXES = ("fXaxis", "fYaxis", "fZaxis")
_ARRAYS = ("fSumw2", "fBinEntries", "fBinSumw2")


def supports(kind: str) -> bool:
    """True for the classes of histograms that can be added up and written."""
    return kind in _PROFILES or (kind[:3] in _CLASSES and kind[3:] in _KINDS)


class Histogram(Struct, frozen=True, kw_only=True):
    """A one-dimensional histogram without underflow and overflow: edges (bins + 1,), contents
    (bins,).
    """

    edges: npt.NDArray[np.float64]
    contents: npt.NDArray[np.float64]


def read_histogram(path: Path, name: str) -> Histogram:
    """The TH1 called `name`, folders as in `jets/mjj`. Raises BadInputError if there is none."""
    with opened(path) as file:
        kinds = file.classnames(recursive=True, cycle=False)
        if not kinds.get(name, "").startswith("TH1"):
            found = ", ".join(sorted(key for key, kind in kinds.items() if kind[:3] == "TH1"))
            raise BadInputError(f"{path}: has no TH1 {name!r} (it has: {found or 'none'})")
        contents, edges = file[name].to_numpy()
        return Histogram(edges=np.asarray(edges, float), contents=np.asarray(contents, float))


class Sum:
    """The running sum, in the object of the first histogram."""

    def __init__(self, first: Any, path: Path) -> None:
        self._total = first
        self._path = path
        self._shape = _shape(first)

    def add(self, other: Any, path: Path) -> None:
        """Add a histogram. Its class and bins must be those of the first."""
        if type(other) is not type(self._total) or _shape(other) != self._shape:
            raise BadInputError(
                f"{path}: histogram {other.member('fName')!r} has other bins or another class "
                f"than in {self._path}"
            )
        _add(self._total, other, path)

    def result(self) -> Any:
        return self._total.to_writable()


def _add(total: Any, other: Any, path: Path) -> None:
    for mine, theirs in zip(_layers(total), _layers(other), strict=True):
        if isinstance(getattr(mine, "_data", None), np.ndarray):
            mine._data = _checked(mine._data, theirs._data, path)
        for name, value in theirs._members.items():
            if name in _ADDITIVE:
                mine._members[name] = mine._members[name] + value
            elif name in _ARRAYS:
                array = mine._members[name]
                array._data = _checked(array._data, value._data, path)


def _checked(mine: Any, theirs: Any, path: Path) -> Any:
    """The sum of bin contents. Integer bins that would overflow are refused, not wrapped."""
    if len(mine) != len(theirs):
        raise BadInputError(f"{path}: a histogram has errors (Sumw2) where the first has none")
    if np.issubdtype(mine.dtype, np.integer):
        exact = mine.astype(np.int64) + theirs
        limits = np.iinfo(mine.dtype)
        if len(exact) and not limits.min <= exact.min() <= exact.max() <= limits.max:
            raise BadInputError(f"{path}: the sum of an integer histogram overflows its bins")
    # The arrays are big-endian, as in the file, and are written as they are.
    return (mine + theirs).astype(mine.dtype)


def _layers(model: Any) -> list[Any]:
    """The object and all its base classes."""
    layers = [model]
    for base in model._bases:
        layers.extend(_layers(base))
    return layers


def _shape(model: Any) -> list[tuple[Any, ...]]:
    """What two histograms must share: number of bins and edges of each axis."""
    shape = []
    for name in _AXES:
        if not model.has_member(name):
            continue
        axis = model.member(name)
        edges = np.asarray(axis.member("fXbins")).tolist()
        shape.append((axis.member("fNbins"), axis.member("fXmin"), axis.member("fXmax"), edges))
    return shape
