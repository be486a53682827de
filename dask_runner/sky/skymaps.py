"""Maps of a sky: -log10 p, TS, n_s and index on a HEALPix grid, as a FITS file, and their hottest
spots.

Owns the columns of the file and what a spot is. healpy is imported only here, when a file is
written; `healpix` reads other people's maps.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dask_runner.errors import StorageError, UsageError
from dask_runner.files import beside, fsync_file
from dask_runner.optional import imported
from dask_runner.sky.pixels import centres, pixel_number, separation
from dask_runner.sky.significance import Significance

Floats = npt.NDArray[np.float64]

# HEALPix's own number for pixels that are not there.
UNSEEN: Final = -1.6375e30
COLUMNS: Final = {"mlog10p": "MLOG10P", "ts": "TS", "n_s": "N_S", "gamma": "GAMMA"}
_UNITS: Final = {"N_S": "events"}


class SkyMap(Struct, frozen=True, kw_only=True, eq=False):
    """The pixels of a band of a sky: numbers `first` on in RING order of a grid `nside`. `columns`
    are arrays (pixels,) by name: ts, n_s, gamma, and mlog10p if there were background trials; NaN
    where nothing was scanned. `ra` and `dec` in radians.
    """

    nside: int
    first: int
    columns: dict[str, Floats]

    @property
    def ra(self) -> Floats:
        return self._centres()[0]

    @property
    def dec(self) -> Floats:
        return self._centres()[1]

    def _centres(self) -> tuple[Floats, Floats]:
        return centres(self.nside, self.first + np.arange(len(self.columns["ts"])))

    def full(self, name: str) -> Floats:
        """A column over the whole sky, (12 nside^2,), UNSEEN where there is nothing."""
        whole = np.full(pixel_number(self.nside), UNSEEN)
        values = self.columns[name]
        whole[self.first : self.first + len(values)] = np.where(np.isnan(values), UNSEEN, values)
        return whole

    @property
    def heat(self) -> str:
        """The column by which a pixel is hot."""
        return "mlog10p" if "mlog10p" in self.columns else "ts"


class Spot(Struct, frozen=True, kw_only=True):
    """A hot pixel; `ra` and `dec` in degrees; `mlog10p` is None without background trials."""

    ra: float
    dec: float
    ts: float
    n_s: float
    gamma: float
    mlog10p: float | None
    pixel: int


def sky_map(
    nside: int, first: int, table: npt.NDArray[np.void], significance: Significance | None
) -> SkyMap:
    """From the rows of a sky's pixels (`scans.PIXEL`)."""
    columns = {name: np.ascontiguousarray(table[name]) for name in table.dtype.names or ()}
    bare = SkyMap(nside=nside, first=first, columns=columns)
    if significance is None:
        return bare
    known = np.isfinite(columns["ts"])
    mlog10p = np.full(len(known), np.nan)
    mlog10p[known] = significance.mlog10p(bare.dec[known], columns["ts"][known])
    return SkyMap(nside=nside, first=first, columns={"mlog10p": mlog10p, **columns})


def hottest_spots(sky: SkyMap, number: int, apart: float) -> tuple[Spot, ...]:
    """The hottest pixels, each at least `apart` (radians) from all hotter ones of the list: the
    neighbours of a hot pixel are hot too, and no news. Pixels with TS = 0 are never hot.
    """
    return tuple(_spots(sky, number, apart))


def _spots(sky: SkyMap, number: int, apart: float) -> Iterator[Spot]:
    ra, dec = sky.ra, sky.dec
    ts = sky.columns["ts"]
    heat = np.where(ts > 0, sky.columns[sky.heat], -np.inf)
    # Where p-values are the same, the test statistic decides, then the place.
    order = np.lexsort((np.arange(len(ts)), -ts, -heat))
    left = heat[order] > -np.inf
    for _ in range(number):
        if not left.any():
            return
        here = int(order[np.argmax(left)])
        yield _spot(sky, here, float(ra[here]), float(dec[here]))
        left &= separation(ra[order], dec[order], float(ra[here]), float(dec[here])) >= apart
        left[np.flatnonzero(order == here)] = False


def _spot(sky: SkyMap, place: int, ra: float, dec: float) -> Spot:
    row = {name: float(values[place]) for name, values in sky.columns.items()}
    return Spot(
        ra=float(np.degrees(ra)),
        dec=float(np.degrees(dec)),
        ts=row["ts"],
        n_s=row["n_s"],
        gamma=row["gamma"],
        mlog10p=row.get("mlog10p"),
        pixel=sky.first + place,
    )


def write_fits(sky: SkyMap, path: Path, header: Mapping[str, str | int | float]) -> None:
    """A HEALPix FITS file in RING order and equatorial coordinates, a column of doubles for each
    map, that `healpy.read_map(path, field=None)` reads. Raises UsageError if healpy is missing.
    """
    healpy = imported("healpy", "sky")
    names = [name for name in COLUMNS if name in sky.columns]
    columns = [COLUMNS[name] for name in names]
    healpy.write_map(
        path,
        [sky.full(name) for name in names],
        coord="C",
        column_names=columns,
        column_units=[_UNITS.get(column, "") for column in columns],
        extra_header=list(header.items()),
        dtype=np.float64,
        overwrite=False,
    )


def check_target(path: Path) -> None:
    """Raises UsageError unless the name is that of a new FITS file in a folder that is there."""
    if path.suffix != ".fits":
        raise UsageError(f"--to {path}: a map is written as FITS", hint="a name in .fits")
    if path.exists():
        raise UsageError(f"{path} exists already and is not overwritten")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--to {path}: there is no folder {path.parent}")


def save_fits(sky: SkyMap, path: Path, header: Mapping[str, str | int | float]) -> None:
    """The same as `write_fits`, whole or not at all, and never in place of a file. Raises
    StorageError if it cannot be written.
    """
    try:
        with beside(path) as temporary:
            temporary.unlink(missing_ok=True)
            write_fits(sky, temporary, header)
            fsync_file(temporary)
            os.link(temporary, path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
