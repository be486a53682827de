"""A theory curve from a CSV file: a cross section for each mass.

Owns the header: names are checked, units may stand in brackets behind them.
"""

import csv
import re
from itertools import pairwise
from math import inf, isfinite
from pathlib import Path

from msgspec import Struct

from dask_runner.errors import BadInputError

_HEADING = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_ -]*?)\s*(?:[\[(]\s*([^\])]*?)\s*[\])])?\s*")
CROSS_SECTION = "cross_section"
_COLUMNS = 2


class Theory(Struct, frozen=True, kw_only=True):
    """Cross sections at rising masses, shape (masses,) each; units are "" if not given."""

    source: str
    mass: tuple[float, ...]
    cross_section: tuple[float, ...]
    mass_unit: str = ""
    unit: str = ""


def read_theory(path: Path, axis: str = "mass") -> Theory:
    """Read `mass [GeV], cross_section [pb]` and lines of two numbers each; the first column may
    have the name of the axis instead. Raises BadInputError that names file and line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [(k, row) for k, row in enumerate(csv.reader(file, strict=True), 1) if any(row)]
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: not a CSV file: {error}") from error
    if not rows:
        raise BadInputError(f"{path}: is empty", hint="mass [GeV], cross_section [pb]")
    mass_unit, unit = _units(path, rows[0][0], rows[0][1], axis)
    points = sorted(_point(path, line, row) for line, row in rows[1:])
    if len(points) < _COLUMNS:
        raise BadInputError(f"{path}: a curve needs at least 2 masses, there are {len(points)}")
    for (before, _), (after, _) in pairwise(points):
        if before == after:
            raise BadInputError(f"{path}: mass {after:g} is there twice")
    return Theory(
        source=str(path),
        mass=tuple(mass for mass, _ in points),
        cross_section=tuple(value for _, value in points),
        mass_unit=mass_unit,
        unit=unit,
    )


def _units(path: Path, line: int, heads: list[str], axis: str) -> tuple[str, str]:
    found = [_HEADING.fullmatch(head) for head in heads]
    names = ["" if match is None else re.sub(r"[ -]+", "_", match[1]).lower() for match in found]
    if (
        len(names) != _COLUMNS
        or names[0] not in {"mass", axis.lower()}
        or names[1] != CROSS_SECTION
    ):
        raise BadInputError(
            f"{path} line {line}: the columns are {_listed(heads)!r}, expected were mass and "
            "cross_section",
            hint="first line: mass [GeV], cross_section [pb]",
        )
    first, second = (match[2] or "" if match else "" for match in found)
    return first, second


def _point(path: Path, line: int, row: list[str]) -> tuple[float, float]:
    try:
        mass, value = (float(cell) for cell in row)
    except ValueError:
        raise BadInputError(f"{path} line {line}: {_listed(row)!r} are not two numbers") from None
    if not 0 < value < inf or not isfinite(mass):
        raise BadInputError(f"{path} line {line}: a cross section of {value:g} is not above 0")
    return mass, value


def _listed(cells: list[str]) -> str:
    return ", ".join(cell.strip() for cell in cells)
