"""What a scan leaves behind: the numbers of pixels, or only the hottest pixel of each sky.

Owns the file format of a batch (a structured `.npy`), how ranges become maps again, and which of
two pixels is the hotter one: that must not depend on how a sky was split. A scan counts through all
pixels of all skies: number k is pixel k % pixels (in the band, RING order) of sky k // pixels.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dask_runner.errors import BadInputError

Table = npt.NDArray[np.void]

# n_s in events; gamma is the fitted index of the spectrum.
PIXEL: Final = np.dtype([("ts", "f8"), ("n_s", "f8"), ("gamma", "f8")])
# `pixel` is its number in the whole sky, RING order; ra and dec in radians; mlog10p is NaN if there
# were no background trials.
HOTTEST: Final = np.dtype(
    [
        ("sky", "i8"),
        ("pixel", "i8"),
        ("ra", "f8"),
        ("dec", "f8"),
        *((name, PIXEL[name]) for name in PIXEL.names or ()),
        ("mlog10p", "f8"),
    ]
)


class Piece(Struct, frozen=True, kw_only=True):
    """The file of a batch with numbers `first` to `first + count - 1` of the scan."""

    path: Path
    first: int
    count: int


def sky_ranges(first: int, count: int, pixels: int) -> Iterator[tuple[int, int, int]]:
    """A range of the scan, sky by sky: sky, first pixel in the band, number of pixels."""
    end = first + count
    while first < end:
        sky, pixel = divmod(first, pixels)
        number = min(end - first, pixels - pixel)
        yield sky, pixel, number
        first += number


def hottest_of(rows: Table) -> Table:
    """The hottest pixel of each sky among rows of HOTTEST, in order of the skies: the largest
    -log10 p, else the largest test statistic; of equal ones that with the lowest number.
    """
    heat = np.where(np.isnan(rows["mlog10p"]), 0.0, rows["mlog10p"])
    order = np.lexsort((rows["pixel"], -rows["ts"], -heat, rows["sky"]))
    ordered = rows[order]
    _, first = np.unique(ordered["sky"], return_index=True)
    return ordered[first]


def encode(table: Table) -> bytes:
    """A `.npy` file's bytes."""
    buffer = io.BytesIO()
    np.save(buffer, table, allow_pickle=False)
    return buffer.getvalue()


def read(path: Path, kind: np.dtype[Any], length: int | None = None) -> Table:
    """A batch's table. Raises BadInputError if the file is not one."""
    try:
        table: Table = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadInputError(f"{path}: {error}") from error
    if table.dtype != kind or table.ndim != 1 or length not in {None, len(table)}:
        raise BadInputError(f"{path}: not the pixels of a scan: {table.dtype}, {table.shape}")
    return table


def read_sky(pieces: Sequence[Piece], sky: int, pixels: int) -> Table:
    """The pixels of a sky, (pixels,), from the pieces that have some of them; NaN where none has.
    Raises BadInputError for a damaged file.
    """
    found = np.full(pixels, np.nan, dtype=[(name, "f8") for name in PIXEL.names or ()])
    begin, end = sky * pixels, (sky + 1) * pixels
    for piece in pieces:
        low, high = max(begin, piece.first), min(end, piece.first + piece.count)
        if low < high:
            rows = read(piece.path, PIXEL, piece.count)
            found[low - begin : high - begin] = rows[low - piece.first : high - piece.first]
    return found


def read_hottest(pieces: Iterable[Piece]) -> Table:
    """The hottest pixel of each sky from pieces that kept only those."""
    tables = [read(piece.path, HOTTEST) for piece in pieces]
    return hottest_of(np.concatenate(tables)) if tables else np.zeros(0, HOTTEST)


def complete_skies(pieces: Iterable[Piece], pixels: int) -> list[int]:
    """The skies of which all pixels are there."""
    seen: dict[int, int] = {}
    for piece in pieces:
        for sky, _, number in sky_ranges(piece.first, piece.count, pixels):
            seen[sky] = seen.get(sky, 0) + number
    return sorted(sky for sky, number in seen.items() if number == pixels)
