"""The histograms of a spectrum search: reading them, one binning for all, templates.

Every error names the file. Refuses to fit anything.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from scipy.special import ndtr

from dask_runner.errors import BadInputError
from dask_runner.rootfiles import Histogram, read_histogram

Array = NDArray[np.float64]

_ROOT = ".root:"
_COLUMNS = 3
# Edges count as equal within this share of the narrowest bin: files may hold them as float32.
_SAME = 1e-3


class Binning(Struct, frozen=True, kw_only=True):
    """The bins of all histograms, and those of the search: `first` to before `stop`."""

    edges: Array
    first: int
    stop: int
    source: str

    @property
    def searched(self) -> Array:
        """The edges of the bins that are searched."""
        return self.edges[self.first : self.stop + 1]

    def cut(self, histogram: Histogram, source: str) -> Array:
        """The contents within the range. Raises BadInputError if the bins are others."""
        self.check(histogram, source)
        return histogram.contents[self.first : self.stop]

    def check(self, histogram: Histogram, source: str) -> None:
        """Raises BadInputError if the bins of a histogram are others."""
        mine, theirs = self.edges, histogram.edges
        if len(mine) == len(theirs):
            away = np.abs(mine - theirs)
            if np.all(away <= _SAME * np.diff(mine).min()):
                return
            worst = int(away.argmax())
            detail = f"edge {worst} is {theirs[worst]:g}, not {mine[worst]:g}"
        else:
            detail = f"{len(theirs) - 1} bins, not {len(mine) - 1}"
        raise BadInputError(f"{source}: another binning than {self.source}: {detail}")


def make_binning(
    histogram: Histogram, source: str, between: tuple[float, float] | None, config: Path
) -> Binning:
    """The binning of a histogram, within a range that begins and ends at edges."""
    edges = histogram.edges
    first, stop = 0, len(edges) - 1
    if between is not None:
        first, stop = (_edge_at(edges, place, config) for place in between)
        if first >= stop:
            raise BadInputError(f"{config}: range: {between[0]:g} is not below {between[1]:g}")
    return Binning(edges=edges, first=first, stop=stop, source=source)


def read_spectrum(text: str, folder: Path) -> Histogram:
    """`FILE.root:NAME`, or `FILE.csv` with the columns low, high, content and any first line of
    names. Relative to `folder`. Raises BadInputError; also for bins that are negative.
    """
    file, colon, name = text.rpartition(":")
    if colon and text[: len(file) + 1].endswith(_ROOT):
        histogram = read_histogram(folder / Path(file).expanduser(), name)
    elif text.endswith(".csv"):
        histogram = _read_csv(folder / Path(text).expanduser())
    else:
        raise BadInputError(f"{text}: not a spectrum", hint="FILE.root:HISTOGRAM or FILE.csv")
    if not np.all(np.isfinite(histogram.contents)):
        raise BadInputError(f"{text}: has bins that are no numbers")
    negative = np.flatnonzero(histogram.contents < 0)
    if len(negative):
        bin_ = negative[0]
        raise BadInputError(
            f"{text}: negative content {histogram.contents[bin_]:g} in the bin from "
            f"{histogram.edges[bin_]:g} to {histogram.edges[bin_ + 1]:g}"
        )
    return histogram


def template_name(text: str, mass: float, config: Path) -> str:
    """The name of the template for a mass: `{mass}` is 2000 or 0.5, `{mass:05.0f}` 02000."""
    try:
        return text.format(mass=int(mass) if mass == int(mass) else mass)
    except (LookupError, ValueError, AttributeError) as error:
        raise BadInputError(
            f"{config}: signal.histogram {text!r}: only {{mass}} may be in braces ({error})"
        ) from error


def smoothed(histogram: Histogram, width: float) -> Histogram:
    """Each bin's content spread over all bins by a Gaussian around its centre, with the standard
    deviation `width` times the centre. The sum stays; a peak of width w becomes one of
    sqrt(w^2 + (width m)^2).
    """
    if not width:
        return histogram
    edges = histogram.edges
    centres = (edges[:-1] + edges[1:]) / 2
    spread = np.diff(ndtr((edges[:, None] - centres) / (width * np.abs(centres))), axis=0)
    contents = (spread / spread.sum(axis=0)) @ histogram.contents
    return Histogram(edges=edges, contents=contents)


def whole_counts(counts: Sequence[float] | Array, source: str) -> Array:
    """Counts that were observed. Raises BadInputError if they are no whole numbers."""
    array = np.asarray(counts, float)
    if np.any(array != np.round(array)):
        raise BadInputError(f"{source}: observed counts are whole numbers, these are not")
    return array


def _edge_at(edges: Array, place: float, config: Path) -> int:
    nearest = int(np.abs(edges - place).argmin())
    if abs(edges[nearest] - place) > _SAME * np.diff(edges).min():
        raise BadInputError(
            f"{config}: range: {place:g} is not an edge of a bin; the nearest is {edges[nearest]:g}"
        )
    return nearest


def _read_csv(path: Path) -> Histogram:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file, strict=True) if row]
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: not a CSV file: {error}") from error
    names = 1 if rows and _numbers(rows[0]) is None else 0
    numbers: list[list[float]] = []
    for line, row in enumerate(rows[names:], 1 + names):
        values = _numbers(row)
        if values is None or len(values) != _COLUMNS:
            raise BadInputError(f"{path} row {line}: the three numbers low, high, content")
        if numbers and values[0] != numbers[-1][1]:
            raise BadInputError(
                f"{path} row {line}: begins at {values[0]:g}, the bin before ends at "
                f"{numbers[-1][1]:g}"
            )
        numbers.append(values)
    if not numbers:
        raise BadInputError(f"{path}: no bins")
    table = np.array(numbers)
    edges = np.append(table[:, 0], table[-1, 1])
    if not np.all(np.diff(edges) > 0):
        raise BadInputError(f"{path}: the edges of the bins do not rise")
    return Histogram(edges=edges, contents=table[:, 2])


def _numbers(row: list[str]) -> list[float] | None:
    try:
        return [float(cell) for cell in row]
    except ValueError:
        return None
