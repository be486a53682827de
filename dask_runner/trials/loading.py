"""Trials of finished batches as arrays: by point, by field, as one table.

Owns the rule that no trial is counted twice, and that nothing is read before it is asked for.
Refuses to know runs: it gets the files of batches, wherever they are from.
"""

import importlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dask_runner.errors import BadInputError, UsageError
from dask_runner.seeds import Value, canonical_point
from dask_runner.trials.model import describe_point
from dask_runner.trials.points import Point
from dask_runner.trials.tables import FAILED, Table, joined

_TREE_FILE = re.compile(r"trials__N_(\d+)_seed_(\d+)\.npy")
_SHOWN = 5


class TrialFile(Struct, frozen=True, kw_only=True):
    """The table of `count` trials of a point, from number `first` on, of the run seed `seed`."""

    path: Path
    point: Point
    first: int
    count: int
    seed: int = 0


class TrialData:
    """Trials by point. `trials.at(mass=3000).limit` is the array of the field `limit` of the good
    trials in order of their index; `table` has the failed ones too.
    """

    def __init__(self, files: Iterable[TrialFile], *, planned: int | None = None) -> None:
        """Raises UsageError if two files hold the same trials. `planned` is how many there should
        be.
        """
        self._files: dict[bytes, list[TrialFile]] = defaultdict(list)
        self._points: dict[bytes, Point] = {}
        for file in files:
            key = canonical_point(file.point)
            self._points.setdefault(key, file.point)
            self._files[key].append(file)
        for key, found in self._files.items():
            found.sort(key=lambda file: (file.seed, file.first))
            _refuse_overlap(self._points[key], found)
        self._tables: dict[bytes, Table] = {}
        self.planned = planned

    def __len__(self) -> int:
        return sum(file.count for files in self._files.values() for file in files)

    def __repr__(self) -> str:
        missing = f" of {self.planned}" if self.planned not in {None, len(self)} else ""
        fields = ", ".join(self.fields)
        return f"<{len(self)}{missing} trials at {len(self._points)} points: {fields}>"

    @property
    def points(self) -> list[Point]:
        """The points that there are, in the order of the files."""
        return list(self._points.values())

    @property
    def parameters(self) -> list[str]:
        """The names of all parameters."""
        return list(dict.fromkeys(name for point in self._points.values() for name in point))

    @property
    def fields(self) -> list[str]:
        """The names of the fields of a trial."""
        for files in self._files.values():
            kind = _read_type(files[0].path)
            return [name for name in kind.names or () if name != FAILED]
        return []

    def values(self, parameter: str) -> list[Value]:
        """The values that a parameter has, ascending. Raises UsageError for an unknown one."""
        found = {point[parameter] for point in self._points.values() if parameter in point}
        if not found:
            raise UsageError(
                f"no parameter {parameter!r}", hint=f"there are: {', '.join(self.parameters)}"
            )
        return sorted(found, key=lambda value: (isinstance(value, str), value))

    def at(self, **parameters: Value) -> "TrialData":
        """Those points that have exactly these values. Raises UsageError if there is none."""
        wanted = {name: canonical_point({name: value}) for name, value in parameters.items()}
        chosen = [
            key
            for key, point in self._points.items()
            if all(
                name in point and canonical_point({name: point[name]}) == form
                for name, form in wanted.items()
            )
        ]
        if not chosen:
            name, value = next(iter(parameters.items()))
            near = self.values(name)[:_SHOWN]
            raise UsageError(
                f"no point has {describe_point(parameters)}",
                hint=f"{name} has {', '.join(map(str, near))} ...; nearest({name}={value}) takes "
                "the next one",
            )
        return self._part(chosen)

    def nearest(self, **parameters: float) -> "TrialData":
        """Those points whose values are nearest to these, one parameter after the other."""
        data = self
        for name, value in parameters.items():
            numbers = [v for v in data.values(name) if not isinstance(v, str)]
            data = data.at(**{name: min(numbers, key=lambda v: abs(v - value))})
        return data

    def __iter__(self) -> Iterator[tuple[Point, "TrialData"]]:
        """Each point with its trials."""
        for key, point in self._points.items():
            yield point, self._part([key])

    @property
    def table(self) -> Table:
        """All trials of all points, failed ones too, in order of points and indices."""
        tables = [self._table(key) for key in self._points]
        if not tables:
            raise UsageError("there are no trials")
        return tables[0] if len(tables) == 1 else np.concatenate(tables)

    @property
    def failed(self) -> int:
        """How many trials failed."""
        tables = [self._table(key) for key in self._points]
        return int(sum(t[FAILED].sum() for t in tables if FAILED in (t.dtype.names or ())))

    def column(self, field: str) -> npt.NDArray[Any]:
        """A field of the good trials. Raises UsageError for an unknown one."""
        table = self.table
        if field not in (table.dtype.names or ()):
            raise UsageError(f"no field {field!r}", hint=f"there are: {', '.join(self.fields)}")
        values: npt.NDArray[Any] = table[field]
        if FAILED not in (table.dtype.names or ()) or not table[FAILED].any():
            return values
        good: npt.NDArray[Any] = values[~table[FAILED]]
        return good

    def __getattr__(self, field: str) -> npt.NDArray[Any]:
        if field.startswith("_"):
            raise AttributeError(field)
        try:
            return self.column(field)
        except UsageError as error:
            raise AttributeError(str(error)) from error

    def first_trials(self, number: int) -> "TrialData":
        """Only the first trials of each point: what a run with fewer trials would have given."""
        return self._part(list(self._points), first=number)

    def flat(self) -> Table:
        """One table with the parameters and the trial's index as columns in front; if runs with
        several seeds are in it, also the seed.
        """
        names = self.parameters
        if len({file.seed for files in self._files.values() for file in files}) > 1:
            names = ["seed", *names]
        pieces = [
            (rows, {"seed": file.seed, **file.point}, file.first)
            for key, files in self._files.items()
            for file, rows in _pieces(files, self._table(key))
        ]
        return joined(pieces, names)

    def to_pandas(self) -> Any:
        """The flat table as a pandas DataFrame. Raises UsageError if pandas is not installed."""
        try:
            pd: Any = importlib.import_module("pandas")  # an optional component
        except ImportError as error:
            raise UsageError("pandas is not installed", hint="pip install pandas") from error
        table = self.flat()
        return pd.DataFrame({name: table[name] for name in table.dtype.names or ()})

    def _table(self, key: bytes) -> Table:
        table = self._tables.get(key)
        if table is None:
            table = self._tables[key] = _read(self._files[key])
        return table

    def _part(self, keys: Sequence[bytes], first: int | None = None) -> "TrialData":
        part = TrialData([])
        part._points = {key: self._points[key] for key in keys}
        part._files = defaultdict(list, {key: self._files[key] for key in keys})
        if first is None:
            part._tables = {key: self._tables[key] for key in keys if key in self._tables}
        else:
            part._tables = {key: self._table(key)[:first] for key in keys}
        return part


def _pieces(files: Sequence[TrialFile], table: Table) -> Iterator[tuple[TrialFile, Table]]:
    """Each file with its rows of the joined table, which may be cut off."""
    position = 0
    for file in files:
        yield file, table[position : position + file.count]
        position += file.count


def read_tree(folder: Path) -> TrialData:
    """Trials in a tree of folders as the csky tutorial writes it:
    `dec/+005/nsig/010.0/trials__N_001000_seed_0000.npy`; names and values of parameters take turns.
    Raises BadInputError for files that are not of that form.
    """
    files = []
    for path in sorted(folder.rglob("trials__*.npy")):
        match = _TREE_FILE.fullmatch(path.name)
        parts = path.parent.relative_to(folder).parts
        if match is None or len(parts) % 2:
            raise BadInputError(f"{path}: not NAME/VALUE/.../trials__N_<number>_seed_<number>.npy")
        point = {
            name: _tree_value(value, path)
            for name, value in zip(parts[::2], parts[1::2], strict=True)
        }
        files.append(
            TrialFile(
                path=path,
                point=point,
                first=0,
                count=int(match[1]),
                seed=int(match[2]),
            )
        )
    if not files:
        raise BadInputError(f"{folder}: no files trials__*.npy")
    return TrialData(files)


def _tree_value(text: str, path: Path) -> Value:
    try:
        number = float(text)
    except ValueError:
        raise BadInputError(f"{path}: {text!r} is not a number") from None
    return int(number) if number.is_integer() else number


def _refuse_overlap(point: Point, files: Sequence[TrialFile]) -> None:
    for before, after in pairwise(files):
        if before.seed == after.seed and after.first < before.first + before.count:
            raise UsageError(
                f"the same trials of {describe_point(point)} are in {before.path} and in "
                f"{after.path}: they would count twice",
                hint="load one of them, or a run with another seed",
            )


def _read(files: Sequence[TrialFile]) -> Table:
    """The tables of some files behind each other. Raises BadInputError."""
    kind = _read_type(files[0].path)
    table = np.empty(sum(file.count for file in files), kind)
    raw: Any = table.view(np.uint8)
    position = 0
    for file in files:
        size = file.count * kind.itemsize
        _read_into(file, kind, memoryview(raw)[position : position + size])
        position += size
    return table


def _read_into(file: TrialFile, kind: np.dtype[Any], target: memoryview) -> None:
    try:
        with file.path.open("rb") as stream:
            found, length = _read_head(stream)
            if found != kind or length != file.count:
                raise BadInputError(
                    f"{file.path}: {length} trials of {found}, expected were {file.count} of {kind}"
                )
            if stream.readinto(target) != len(target):
                raise BadInputError(f"{file.path}: ends too early")
    except OSError as error:
        raise BadInputError(f"{file.path}: {error.strerror}") from error


def _read_type(path: Path) -> np.dtype[Any]:
    try:
        with path.open("rb") as stream:
            return _read_head(stream)[0]
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from error


# Reading a head costs more than reading a small file, and the heads of a point's files differ in
# nothing but the length.
_heads: dict[bytes, tuple[np.dtype[Any], int]] = {}
_MOST_HEADS = 1000


def _read_head(stream: Any) -> tuple[np.dtype[Any], int]:
    """Type and length of a table; a table without the column `failed` has no failed trials."""
    try:
        version = np.lib.format.read_magic(stream)
        start = stream.tell()
        size = int.from_bytes(stream.read(2 if version == (1, 0) else 4), "little")
        text = stream.read(size)
        if text in _heads:
            return _heads[text]
        stream.seek(start)
        reader = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, kind = reader(stream)
    except (ValueError, EOFError) as error:
        raise BadInputError(f"{getattr(stream, 'name', 'file')}: not a table: {error}") from error
    if len(shape) != 1 or kind.names is None:
        raise BadInputError(f"{getattr(stream, 'name', 'file')}: not a table of trials")
    if len(_heads) >= _MOST_HEADS:
        _heads.clear()
    _heads[text] = kind, shape[0]
    return kind, shape[0]
