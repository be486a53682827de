"""What a batch of trials leaves behind: a table with a row for each trial, and why trials failed.

Owns the file formats: one `.npy` with a structured type for each batch, which NumPy reads as it is,
and a JSON file for failed trials if there are any. Refuses to know where the files are.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dask_runner.errors import BadInputError
from dask_runner.seeds import Value

Table = npt.NDArray[np.void]

FAILED = "failed"
# Columns that every table of all trials has, or may have.
_OWN = frozenset({FAILED, "trial", "seed"})
_KINDS = "biuf"


class FailedTrials(Struct, frozen=True, kw_only=True):
    """The `count` trials of a batch that failed for the same reason: `message` is that of the
    first, `trials` are the first ones.
    """

    cause: str
    message: str
    count: int
    trials: tuple[int, ...]


def table_type(fields: Mapping[str, str]) -> np.dtype[np.void]:
    """The type of a row: the fields of the model, and whether the trial failed. A failed trial has
    NaN, 0 or False in its fields.
    """
    return np.dtype([*fields.items(), (FAILED, "?")])


def blank(fields: Mapping[str, str]) -> npt.NDArray[np.void]:
    """One row of a failed trial."""
    row = np.zeros((), table_type(fields))
    for name in fields:
        if row.dtype[name].kind == "f":
            row[name] = np.nan
    row[FAILED] = True
    return row


def check_fields(fields: Mapping[str, str], parameters: Iterable[str] = ()) -> None:
    """Raises BadInputError unless each field is a number, and fields and the points' parameters
    have names that can be a column's, no two the same.
    """
    for name, kind in fields.items():
        # Others come back changed from a `.npy` file.
        if not name.isidentifier() or not name.isascii() or name in _OWN:
            raise BadInputError(f"{name!r} cannot be the name of a field")
        if np.dtype(kind).kind not in _KINDS:
            raise BadInputError(f"field {name!r} is not a number but {np.dtype(kind)}")
    for name in parameters:
        if name in _OWN:
            raise BadInputError(f"{name!r} cannot be the name of a parameter: a column has it")
        if name in fields:
            raise BadInputError(
                f"{name!r} is a field and a parameter of the points: the table would have it twice",
                hint="give the field another name",
            )


def encode_table(table: Table) -> bytes:
    """A `.npy` file's bytes."""
    buffer = io.BytesIO()
    np.save(buffer, table, allow_pickle=False)
    return buffer.getvalue()


def encode_failures(failures: Iterable[FailedTrials]) -> bytes:
    """A JSON file's bytes."""
    return msgspec.json.format(msgspec.json.encode(list(failures)), indent=1) + b"\n"


def decode_failures(data: bytes) -> list[FailedTrials]:
    """Raises BadInputError."""
    try:
        return msgspec.json.decode(data, type=list[FailedTrials])
    except msgspec.MsgspecError as error:
        raise BadInputError(f"not a list of failed trials: {error}") from error


def joined(pieces: Sequence[tuple[Table, Mapping[str, Value], int]], names: Sequence[str]) -> Table:
    """Tables behind each other, each given with its point and the index of its first trial, with
    columns for the parameters `names` and the trial's index in front.

    A column of parameters holds numbers, NaN where a point lacks it; or text, if it is a word at
    any point, with "" for what is lacking.
    """
    types = {name: _column_type([point.get(name) for _, point, _ in pieces]) for name in names}
    return np.concatenate([_with_point(*piece, types) for piece in pieces])


def _column_type(values: Sequence[Value | None]) -> str:
    if not any(isinstance(value, str) for value in values):
        return "f8"
    return f"U{max(1, *(len(_text(value)) for value in values))}"


def _text(value: Value | None) -> str:
    return "" if value is None else str(value)


def _with_point(
    table: Table, point: Mapping[str, Value], first: int, types: Mapping[str, str]
) -> Table:
    own = [(name, table.dtype[name]) for name in table.dtype.names or ()]
    wide = np.zeros(len(table), [*types.items(), ("trial", "i8"), *own])
    for name, kind in types.items():
        value = point.get(name)
        wide[name] = _text(value) if kind != "f8" else np.nan if value is None else value
    wide["trial"] = np.arange(first, first + len(table))
    for name, _ in own:
        wide[name] = table[name]
    return wide


def fill(table: Table, first: int, fields: Mapping[str, Sequence[Any] | npt.NDArray[Any]]) -> None:
    """Write columns into rows `first` on. Raises ValueError naming the field if a column is not of
    numbers, one for each row, that its type can hold.
    """
    for name, values in fields.items():
        column = np.asarray(values)
        kind = table.dtype[name]
        if column.ndim != 1:
            raise ValueError(f"field {name!r} has shape {column.shape[1:]}: one number is expected")
        if column.dtype.kind not in _KINDS:
            raise ValueError(f"field {name!r} is not a number: {values[0]!r:.80}")
        with np.errstate(invalid="ignore", over="ignore"):
            cast = column.astype(kind)
        if kind.kind != "f" and not np.array_equal(cast, column):
            raise ValueError(f"field {name!r} holds {kind} and not {_example(cast, column)!r}")
        table[name][first : first + len(cast)] = cast


def _example(cast: npt.NDArray[Any], column: npt.NDArray[Any]) -> Any:
    return column[cast != column][0].item()
