"""Probability maps of a source's direction, as searches for gravitational waves publish them.

Owns what a file is believed of: its pixels as a density relative to a flat sky, in RING order. The
only module that reads HEALPix files; healpy is imported when one is read or written. Refuses maps
in other than equatorial coordinates, and pixels that are no probabilities.
"""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dask_runner.errors import BadInputError
from dask_runner.optional import imported
from dask_runner.sky.pixels import check_nside, pixel_number

Floats = npt.NDArray[np.float64]

# Names of equatorial coordinates in COORDSYS; without it they are meant as well.
_EQUATORIAL: Final = frozenset({"", "C", "ICRS", "CELESTIAL", "EQUATORIAL"})
# HEALPix's own number for pixels that are not there.
_UNSEEN: Final = -1.6375e30
_MULTI_ORDER: Final = "NUNIQ"
_PROBABILITY: Final = "PROB"
# A multi-order map may have pixels of an arc second; a flat one has at most this many.
_FINEST: Final = 1024


class SkyDensity(Struct, frozen=True, kw_only=True, eq=False):
    """Where a source is: `density` in each pixel (RING order, equatorial) relative to a flat sky,
    so that its mean is 1, and exactly 1 everywhere for a flat map. `total` is the sum that was in
    the file. `instruments` and `time` are what its header says, if it does.
    """

    nside: int
    density: Floats
    total: float = 1.0
    instruments: str = ""
    time: str = ""

    @property
    def probability(self) -> Floats:
        """Of each pixel, with the sum 1."""
        return self.density / len(self.density)


def density_of(pixels: npt.ArrayLike, source: str) -> tuple[Floats, float]:
    """Pixels with any norm as a density with mean 1, and their sum. Pixels that are not seen have
    probability 0. Raises BadInputError for negative numbers, none, NaN, and a sum of 0.
    """
    values = np.asarray(pixels, dtype=np.float64)
    values = np.where(np.isclose(values, _UNSEEN, rtol=1e-6), 0.0, values)
    if not np.all(np.isfinite(values)) or np.any(values < 0):
        wrong = int(np.flatnonzero(~(np.isfinite(values) & (values >= 0)))[0])
        raise BadInputError(f"{source}: pixel {wrong} is {values[wrong]:g}, no probability")
    total = float(values.sum())
    if total == 0:
        raise BadInputError(f"{source}: all pixels are 0")
    if values.min() == values.max():
        return np.ones_like(values), total
    return values * (len(values) / total), total


def read_map(path: Path, *, nside: int = 0) -> SkyDensity:
    """The map of a FITS file: the first column of a HEALPix table, or a multi-order map (columns
    UNIQ and PROBDENSITY). With `nside` it is made that coarse if it is finer (probabilities are
    summed); multi-order maps get at most 1024 without it.

    Raises BadInputError for a file that is no map; UsageError if healpy is missing.
    """
    fits = imported("astropy.io.fits", "sky")
    try:
        with warnings.catch_warnings(), fits.open(path) as file:
            warnings.simplefilter("ignore")
            header, pixels = _read(file, nside)
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror or error}") from error
    except (LookupError, TypeError, ValueError) as error:
        raise BadInputError(f"{path}: not a HEALPix map: {error}") from error
    _check_coordinates(path, header)
    density, total = density_of(pixels, str(path))
    found = math.isqrt(len(density) // 12)
    if nside and found > nside:
        density, found = _coarser(density, nside), nside
    return SkyDensity(
        nside=found,
        density=density,
        total=total,
        instruments=str(header.get("INSTRUME", "")).strip(),
        time=str(header.get("DATE-OBS", "")).strip(),
    )


def write_map(
    path: Path,
    probability: npt.ArrayLike,
    *,
    instruments: str = "",
    time: str = "",
    extra: Mapping[str, str | float] | None = None,
) -> None:
    """Write a map in RING order and equatorial coordinates with the column PROB, as doubles. Never
    replaces a file. Raises UsageError if healpy is missing.
    """
    healpy = imported("healpy", "sky")
    given = {"INSTRUME": instruments, "DATE-OBS": time, **(extra or {})}
    healpy.write_map(
        path,
        np.asarray(probability, dtype=np.float64),
        coord="C",
        column_names=[_PROBABILITY],
        column_units=["pix-1"],
        extra_header=[(key, value) for key, value in given.items() if value != ""],
        dtype=np.float64,
        overwrite=False,
    )


def _read(file: Any, nside: int) -> tuple[Mapping[str, Any], Floats]:
    """The header of the table, with what only the file's first one says, and the pixels."""
    healpy = imported("healpy", "sky")
    if len(file) == 1:
        raise ValueError("there is no table in it")
    header = {**file[0].header, **file[1].header}
    if str(header.get("ORDERING", "")).strip().upper() == _MULTI_ORDER:
        return header, _multi_order(file[1].data, nside or _FINEST)
    # Of the open file: healpy leaves one open if it does not like what is in it.
    return header, np.array(healpy.read_map(file, field=0, dtype=np.float64), np.float64)


def _check_coordinates(path: Path, header: Mapping[str, Any]) -> None:
    system = str(header.get("COORDSYS", "")).strip().upper()
    if system not in _EQUATORIAL:
        raise BadInputError(
            f"{path}: its coordinates are {system!r}, not equatorial",
            hint="COORDSYS is C: healpy.Rotator(coord=['G', 'C']).rotate_map_pixel(map) turns one",
        )


def _multi_order(table: Any, nside: int) -> Floats:
    """A map of pixels of different sizes (NUNIQ = 4 nside^2 + pixel in NESTED order, probability
    for each steradian) on a grid of at most this `nside`, as probabilities in RING order.

    Fernique et al., IVOA Recommendation MOC 1.1 (2019), section 2.3.1, for NUNIQ.
    """
    healpy = imported("healpy", "sky")
    check_nside(nside)
    unique = np.asarray(table["UNIQ"], np.int64)
    dense = np.asarray(table["PROBDENSITY"], np.float64)
    # Bits of UNIQ: two more for each order.
    orders = ((np.frexp(unique.astype(np.float64))[1] - 1) // 2 - 1).astype(np.int64)
    finest = min(int(orders.max()), nside.bit_length() - 1)
    pixels = np.zeros(pixel_number(1 << finest))
    for order in np.unique(orders):
        of = orders == order
        place, share = unique[of] - (4 << (2 * int(order))), dense[of] * _area(int(order))
        if order <= finest:
            inside = 1 << (2 * (finest - int(order)))
            block = place[:, None] * inside + np.arange(inside)
            pixels[block] = (share / inside)[:, None]
        else:
            np.add.at(pixels, place >> (2 * (int(order) - finest)), share)
    return np.asarray(healpy.reorder(pixels, n2r=True), np.float64)


def _area(order: int) -> float:
    """Of a pixel, in steradian."""
    return 4 * math.pi / pixel_number(1 << order)


def _coarser(density: Floats, nside: int) -> Floats:
    healpy = imported("healpy", "sky")
    check_nside(nside)
    if density.min() == density.max():
        return np.ones(pixel_number(nside))
    return np.asarray(healpy.ud_grade(density, nside), np.float64)
