"""A detector as a TOML file describes it: what it sees, how well, and what it cannot tell apart.

Owns the tables and what lies between their numbers. Refuses to draw events: see `samples`. The
shipped detector is described in `icecube_like.toml`, with the source of its numbers.
"""

from pathlib import Path
from typing import Annotated, Final

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from dask_runner.errors import BadInputError
from dask_runner.sky.events import Array
from dask_runner.sky.toml import read_toml

SHIPPED: Final = Path(__file__).with_name("icecube_like.toml")
_LEAST: Final = 2
Positive = Annotated[float, Meta(gt=0)]


class Surface(Struct, frozen=True, kw_only=True):
    """Something at points of sin(dec) and log10 of energy in GeV. `values` are its logarithms to
    base 10, a row for each sin(dec). In between the logarithm is linear in log10 of energy, and
    what comes of it is linear in sin(dec); beyond it is as at the edge.
    """

    sin_dec: tuple[float, ...]
    log10e: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]

    def at(self, sin_dec: npt.ArrayLike, log10e: npt.ArrayLike) -> Array:
        """The values (no logarithms) at pairs, shapes as NumPy broadcasts them."""
        rows, across = _between(self.sin_dec, sin_dec)
        columns, along = _between(self.log10e, log10e)
        table = np.asarray(self.values)
        low = table[rows, columns] * (1 - along) + table[rows, columns + 1] * along
        high = table[rows + 1, columns] * (1 - along) + table[rows + 1, columns + 1] * along
        mixed: Array = 10**low * (1 - across) + 10**high * across
        return mixed

    def check(self, where: str) -> None:
        """Raises BadInputError, beginning with `where`."""
        _check_rising(self.sin_dec, f"{where}.sin_dec")
        _check_rising(self.log10e, f"{where}.log10e")
        if self.sin_dec[0] < -1 or self.sin_dec[-1] > 1:
            raise BadInputError(f"{where}.sin_dec goes beyond -1 to 1")
        if len(self.values) != len(self.sin_dec):
            raise BadInputError(
                f"{where}.values has {len(self.values)} rows for {len(self.sin_dec)} of sin_dec"
            )
        for number, row in enumerate(self.values, 1):
            if len(row) != len(self.log10e) or not np.all(np.isfinite(row)):
                raise BadInputError(
                    f"{where}.values, row {number}: {len(self.log10e)} finite numbers are "
                    "expected, one for each of log10e"
                )


class PointSpread(Struct, frozen=True, kw_only=True):
    """The median angular error in degrees at log10 of the measured energy. The errors of events of
    an energy scatter by a factor exp(`scatter` x), x normal, between `least` and `most` degrees.
    """

    log10e: tuple[float, ...]
    median: tuple[Positive, ...]
    scatter: Annotated[float, Meta(ge=0)] = 0.0
    least: Positive = 0.1
    most: Annotated[float, Meta(gt=0, le=60)] = 10.0


class EnergyResolution(Struct, frozen=True, kw_only=True):
    """log10 of the measured energy, at log10 of the true one: its mean and standard deviation."""

    log10e: tuple[float, ...]
    mean: tuple[float, ...]
    deviation: tuple[Positive, ...]


class Detector(Struct, frozen=True, kw_only=True):
    """`livetime` in days. `effective_area` is in m^2 against the true energy; `background` a
    density per sin(dec) and log10 of the measured energy, of any norm.
    """

    livetime: Positive
    effective_area: Surface
    background: Surface
    point_spread: PointSpread
    energy_resolution: EnergyResolution


def read_detector(path: Path = SHIPPED) -> Detector:
    """Raises BadInputError that names file and key."""
    table = read_toml(path, Detector)
    try:
        detector = msgspec.convert(table, Detector, strict=False)
    except msgspec.ValidationError as error:
        raise BadInputError(f"{path}: {error}") from error
    detector.effective_area.check(f"{path}: effective_area")
    detector.background.check(f"{path}: background")
    for name in ("point_spread", "energy_resolution"):
        part = getattr(detector, name)
        _check_rising(part.log10e, f"{path}: {name}.log10e")
        for key in ("median", "mean", "deviation"):
            values = getattr(part, key, part.log10e)
            if len(values) != len(part.log10e):
                raise BadInputError(
                    f"{path}: {name}.{key}: {len(values)} numbers for {len(part.log10e)} of log10e"
                )
    if detector.point_spread.least > detector.point_spread.most:
        raise BadInputError(f"{path}: point_spread.least is above point_spread.most")
    return detector


def _check_rising(numbers: tuple[float, ...], where: str) -> None:
    if len(numbers) < _LEAST or not np.all(np.diff(numbers) > 0) or not np.isfinite(numbers).all():
        raise BadInputError(f"{where}: two or more rising numbers are expected")


def _between(
    nodes: tuple[float, ...], values: npt.ArrayLike
) -> tuple[npt.NDArray[np.int64], Array]:
    """For each value the node below, and how far it is from it to the next one, from 0 to 1."""
    points, inside = np.asarray(nodes), np.clip(values, nodes[0], nodes[-1])
    place = np.clip(np.searchsorted(points, inside, side="right") - 1, 0, len(points) - 2)
    share = (inside - points[place]) / (points[place + 1] - points[place])
    return place, share
