"""Lists of neutrino events with their times, as CSV or JSON files.

Owns the columns and their units: time (days, MJD), ra, dec, sigma (degrees), energy (GeV), and that
everything that is wrong is said with its file and place. Refuses to judge an event.
"""

import csv
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dask_runner.errors import BadInputError

Floats = npt.NDArray[np.float64]

COLUMNS: Final = ("time", "ra", "dec", "sigma", "energy")
# Names that other programs have for them.
_ALIASES: Final = {"mjd": "time", "angular_error": "sigma", "ang_err": "sigma", "right_ascension": "ra", "declination": "dec"}  # fmt: skip  # noqa: E501
_KEYS: Final = ("events", "triggers")
SECONDS_A_DAY: Final = 86400.0
_CIRCLE: Final = 360.0
_POLE: Final = 90.0


class EventList(Struct, frozen=True, kw_only=True, eq=False):
    """Events of a list, arrays (n,): `time` in days (MJD), `ra`, `dec` and the angular error
    `sigma` (of one coordinate) in radians, `energy` in GeV.
    """

    time: Floats
    ra: Floats
    dec: Floats
    sigma: Floats
    energy: Floats

    def __len__(self) -> int:
        return len(self.time)

    @property
    def span(self) -> float:
        """Seconds from the first event to the last; 0 for fewer than two."""
        return float(np.ptp(self.time)) * SECONDS_A_DAY if len(self) else 0.0


def joined(lists: "list[EventList]") -> EventList:
    """All events of some lists, one list after the other."""
    return EventList(
        **{name: np.concatenate([getattr(one, name) for one in lists]) for name in COLUMNS}
    )


def read_list(path: Path) -> EventList:
    """Read `FILE.csv` (the first line names the columns) or `FILE.json`: a list of objects, or an
    object with such a list as `events` or `triggers`. Other columns are ignored; a list may be
    empty. Raises BadInputError with file, line or event, and column.
    """
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise BadInputError(f"{path}: not a list of events", hint="FILE.csv or FILE.json")
    try:
        columns = _columns(path) if suffix == ".csv" else None
        if columns is None:
            table = np.array(list(_READERS[suffix](path)), dtype=np.float64)
            columns = list(table.reshape(-1, len(COLUMNS)).T)
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path}: not UTF-8 text: {error}") from error
    time, ra, dec, sigma, energy = (np.ascontiguousarray(column) for column in columns)
    ra, dec, sigma = np.radians(ra), np.radians(dec), np.radians(sigma)
    return EventList(time=time, ra=ra, dec=dec, sigma=sigma, energy=energy)


def _columns(path: Path) -> list[Floats] | None:
    """The columns of a CSV file in which nothing is wrong: a pool has a million events, and each
    batch reads it. None if there may be something, for the slow reader to say what.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file, strict=True) if row]
    except csv.Error:
        return None
    names = [_name(cell) for cell in rows[0]] if rows else []
    if any(name not in names for name in COLUMNS):
        return None
    try:
        whole = list(zip(*rows[1:], strict=True)) or [()] * len(names)
        columns = [np.array(whole[names.index(name)], dtype=np.float64) for name in COLUMNS]
    except (ValueError, IndexError):
        return None
    _, ra, dec, sigma, energy = columns
    good = (
        all(np.isfinite(column).all() for column in columns)
        and bool((np.abs(ra) <= _CIRCLE).all() and (np.abs(dec) <= _POLE).all())
        and bool((sigma > 0).all() and (sigma <= _CIRCLE / 2).all() and (energy > 0).all())
    )
    return columns if good else None


def write_list(path: Path, events: EventList) -> None:
    """Write a CSV or JSON file that `read_list` reads. Numbers keep about 15 digits, for angles are
    written in degrees.
    """
    degrees = {name: np.degrees(getattr(events, name)) for name in ("ra", "dec", "sigma")}
    columns = {"time": events.time, **degrees, "energy": events.energy}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*(c.tolist() for c in columns.values()), strict=True)]  # fmt: skip  # noqa: E501
    if path.suffix.lower() == ".json":
        path.write_text(json.dumps({"events": rows}, indent=1) + "\n", encoding="utf-8")
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(COLUMNS), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _read_csv(path: Path) -> Iterator[tuple[float, ...]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            names = [_name(cell) for cell in next(reader, [])]
            missing = [name for name in COLUMNS if name not in names]
            if missing:
                raise BadInputError(
                    f"{path} line 1: there is no column {missing[0]}",
                    hint=f"the first line names the columns: {','.join(COLUMNS)}",
                )
            for row in reader:
                where = f"{path} line {reader.line_num}"
                if not row:
                    continue
                if len(row) != len(names):
                    raise BadInputError(f"{where}: {len(row)} values, not {len(names)}")
                yield _checked(dict(zip(names, row, strict=True)), where)
        except csv.Error as error:
            raise BadInputError(f"{path} line {reader.line_num}: {error}") from error


def _read_json(path: Path) -> Iterator[tuple[float, ...]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise BadInputError(f"{path} line {error.lineno}: {error.msg}") from error
    if isinstance(content, dict):
        content = next((content[key] for key in _KEYS if key in content), content)
    if not isinstance(content, list):
        raise BadInputError(f"{path}: no list of events", hint='{"events": [{"time": ...}, ...]}')
    for number, row in enumerate(content):
        where = f"{path} event {number}"
        if not isinstance(row, dict):
            raise BadInputError(f"{where}: not an object", hint='{"time": ..., "ra": ...}')
        yield _checked({_name(key): value for key, value in row.items()}, where)


def _name(text: str) -> str:
    name = text.strip().lower()
    return _ALIASES.get(name, name)


def _checked(row: Mapping[str, Any], where: str) -> tuple[float, ...]:
    values = tuple(_number(row, name, where) for name in COLUMNS)
    _, ra, dec, sigma, energy = values
    if not -_CIRCLE <= ra <= _CIRCLE:
        raise BadInputError(f"{where}: ra {ra:g} is not within a circle of 360 degrees")
    if not -_POLE <= dec <= _POLE:
        raise BadInputError(f"{where}: dec {dec:g} is not within 90 degrees of the equator")
    if not 0 < sigma <= _CIRCLE / 2:
        raise BadInputError(f"{where}: sigma {sigma:g} is not an angular error in degrees")
    if energy <= 0:
        raise BadInputError(f"{where}: energy {energy:g} is not above 0")
    return values


def _number(row: Mapping[str, Any], name: str, where: str) -> float:
    if name not in row:
        raise BadInputError(f"{where}: there is no {name}")
    value = row[name]
    try:
        if isinstance(value, bool):
            raise TypeError  # noqa: TRY301  (float(True) is 1)
        number = float(value)
    except (TypeError, ValueError):
        raise BadInputError(f"{where}: {name} {value!r} is not a number") from None
    if not math.isfinite(number):
        raise BadInputError(f"{where}: {name} {value!r} is not a finite number")
    return number


_READERS: Final = {".csv": _read_csv, ".json": _read_json}
