"""Grids of points: what `--grid`, `--set` and `-n` say, as a list of points with their trials.

Owns the syntax, and that no value is changed by writing it down: ranges step in decimal arithmetic
and hold both ends. Refuses to know what a parameter means.
"""

import csv
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, DecimalException, InvalidOperation
from pathlib import Path

from msgspec import Struct

from dask_runner.errors import BadInputError, UsageError
from dask_runner.seeds import Value, canonical_point
from dask_runner.trials.model import describe_point

Point = dict[str, Value]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOST_POINTS = 1_000_000
_MOST_TRIALS = 10**15
_EXACT = 2**53
_RANGE_PARTS = (2, 3)


class Demand(Struct, frozen=True, kw_only=True):
    """A point, and how many trials of it are wanted."""

    point: Point
    trials: int


def parse_grid(grids: Sequence[str], fixed: Sequence[str] = ()) -> list[Point]:
    """The product of all grids, the last one running fastest, with the fixed parameters in front.

    A grid is `name=VALUES`, where VALUES are numbers, words and ranges FIRST:LAST[:STEP] separated
    by commas; several `name=VALUES` separated by `;` go together (a zip); `@FILE` are the rows of a
    CSV file. Raises UsageError for anything else, and BadInputError for the file.
    """
    axes = [_axis(text) for text in grids]
    constants = dict(_assignment(text, "--set") for text in fixed)
    single = {name: _single(name, values) for name, values in constants.items()}
    _refuse_twice([single, *(axis[0] for axis in axes)])
    size = math.prod(len(axis) for axis in axes)
    if size > _MOST_POINTS:
        raise UsageError(f"--grid: {size} points are more than {_MOST_POINTS}")
    points = [
        {**single, **{name: value for part in parts for name, value in part.items()}}
        for parts in itertools.product(*axes)
    ]
    _refuse_equal(points)
    return points


def parse_counts(texts: Sequence[str], points: Sequence[Point]) -> list[Demand]:
    """How many trials each point gets: `1000` for all, `name=VALUE[,name=VALUE]:1000` for those
    with these values; the last that fits counts. Raises UsageError if a condition fits no point, or
    a point gets no number.
    """
    rules = [_count_rule(text) for text in texts]
    for condition, _, text in rules:
        if not any(_fits(point, condition) for point in points):
            raise UsageError(f"-n {text}: no point of the grid has these values")
    demands = []
    for point in points:
        counts = [count for condition, count, _ in rules if _fits(point, condition)]
        if not counts:
            raise UsageError(
                f"-n: no number of trials for the point {describe_point(point)}",
                hint="-n 1000 is for all points, -n 'n_sig=0:100000' for some",
            )
        demands.append(Demand(point=point, trials=counts[-1]))
    return demands


def parse_count(text: str, where: str) -> int:
    """A number of trials; 1e6 is one too."""
    exact = _decimal(text)
    if exact is None or not 1 <= exact <= _MOST_TRIALS or exact != exact.to_integral_value():
        raise UsageError(f"{where}: not a number of trials", hint="-n 1000 or -n 'n_sig=0:100000'")
    return int(exact)


def parse_values(text: str, where: str) -> list[Value]:
    """Numbers, words and ranges with both ends, separated by commas."""
    values = [value for item in text.split(",") for value in _item(item.strip(), where)]
    if len(values) > _MOST_POINTS:
        raise UsageError(f"{where}: {len(values)} values are more than {_MOST_POINTS}")
    return values


def point_label(point: Mapping[str, Value]) -> str:
    """The point as a part of file names: `mass=3000,width=0.1`. Different points may share one
    after cleaning and cutting: who names files tells them apart.
    """
    text = ",".join(f"{name}={value}" for name, value in point.items())
    return re.sub(r"[^A-Za-z0-9._+=,-]", "_", text)[:120]


def _axis(text: str) -> list[Point]:
    if text.startswith("@"):
        return _read_csv(Path(text[1:]).expanduser())
    columns = dict(_assignment(part, "--grid") for part in text.split(";"))
    if len(columns) != len(text.split(";")):
        raise UsageError(f"--grid {text}: a parameter is named twice")
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name} has {count}" for name, count in lengths.items())
        raise UsageError(f"--grid {text}: what goes together needs equal lengths: {counts}")
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _assignment(text: str, option: str) -> tuple[str, list[Value]]:
    name, equals, values = text.partition("=")
    name = name.strip()
    if not equals or not _NAME.fullmatch(name):
        raise UsageError(
            f"{option} {text!r}: not of the form name=VALUES",
            hint="mass=2000:7000:500 or n_sig=0,1,2 or mass=1:3:1;width=4:6:1 or @points.csv",
        )
    return name, parse_values(values, f"{option} {name}")


def _single(name: str, values: list[Value]) -> Value:
    if len(values) != 1:
        raise UsageError(f"--set {name}: one value, not {len(values)}", hint=f"--grid {name}=...")
    return values[0]


def _item(text: str, where: str) -> list[Value]:
    if not text:
        raise UsageError(f"{where}: a value is missing")
    parts = text.split(":")
    if len(parts) == 1:
        return [_value(text, where)]
    numbers = [_decimal(part) for part in parts]
    if len(parts) not in _RANGE_PARTS or None in numbers:
        raise UsageError(f"{where}: {text!r} is no range FIRST:LAST[:STEP]")
    return _range([number for number in numbers if number is not None], text, where)


def _range(numbers: list[Decimal], text: str, where: str) -> list[Value]:
    first, last, *rest = numbers
    step = rest[0] if rest else Decimal(1)
    try:
        if step == 0 or (last - first) / step < 0:
            raise UsageError(f"{where}: the range {text} never gets from {first} to {last}")
        count, left = divmod(last - first, step)
    except DecimalException:
        raise UsageError(f"{where}: the steps of {text} cannot be counted") from None
    if left:
        raise UsageError(
            f"{where}: the steps of {text} miss its end: {first + count * step} is the last before",
            hint="ranges hold both ends: choose a step that divides the range",
        )
    if count >= _MOST_POINTS:
        raise UsageError(f"{where}: {text} has more than {_MOST_POINTS} values")
    return [_number(first + k * step, where) for k in range(int(count) + 1)]


def _value(text: str, where: str) -> Value:
    number = _decimal(text)
    if number is None:
        try:
            float(text)
        except ValueError:
            return text
        raise UsageError(f"{where}: {text!r} is not a finite number")
    return _number(number, where)


def _decimal(text: str) -> Decimal | None:
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _number(number: Decimal, where: str) -> int | float:
    """An integer if it is written as one or comes to one, else the nearest float. Raises UsageError
    for a number that would become another one: an integer with too many digits, infinity, zero.
    """
    value = float(number)
    whole = math.isinf(value) or number == number.to_integral_value()
    if whole and abs(number) < _EXACT:
        return int(number)
    if Decimal(repr(value)) != number if whole else value == 0:
        raise UsageError(f"{where}: {number} cannot be kept: it would become {value!r}")
    return value


def _read_csv(path: Path) -> list[Point]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, strict=True))
    except OSError as error:
        raise BadInputError(f"--grid @{path}: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadInputError(f"--grid @{path}: not a CSV file: {error}") from error
    header = [name.strip() for name in rows[0]] if rows else []
    wrong = [name for name in header if not _NAME.fullmatch(name) or header.count(name) > 1]
    if not header or wrong:
        raise BadInputError(f"{path} line 1: the names of the parameters, each once, are expected")
    points = []
    for number, row in enumerate(rows[1:], 2):
        if not row:
            continue
        if len(row) != len(header):
            raise BadInputError(
                f"{path} line {number}: {len(row)} values for {len(header)} parameters"
            )
        values = [_value(cell.strip(), f"{path} line {number}") for cell in row]
        points.append(dict(zip(header, values, strict=True)))
    if not points:
        raise BadInputError(f"{path}: no points below the names")
    return points


def _refuse_twice(parts: Iterable[Mapping[str, Value]]) -> None:
    seen: set[str] = set()
    for part in parts:
        for name in part:
            if name in seen:
                raise UsageError(f"the parameter {name} is given twice by --grid and --set")
        seen.update(part)


def _refuse_equal(points: Sequence[Point]) -> None:
    seen: set[bytes] = set()
    for point in points:
        key = canonical_point(point)
        if key in seen:
            raise UsageError(f"the grid has the point {describe_point(point)} twice")
        seen.add(key)


def _count_rule(text: str) -> tuple[Point, int, str]:
    condition, colon, number = text.rpartition(":")
    count = parse_count(number, f"-n {text}")
    if not colon:
        return {}, count, text
    wanted: Point = {}
    for part in condition.split(","):
        name, values = _assignment(part, "-n")
        wanted[name] = _single(name, values)
    return wanted, count, text


def _fits(point: Mapping[str, Value], condition: Mapping[str, Value]) -> bool:
    return all(name in point and point[name] == value for name, value in condition.items())
