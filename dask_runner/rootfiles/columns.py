"""Branches as flat arrays with offsets, whatever has read them.

Owns which types a branch may have: numbers, and lists of numbers in any depth. Refuses all others
by their names.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dask_runner.errors import BadInputError
from dask_runner.rootfiles.tables import Table, column_name


class Column(Struct, frozen=True, kw_only=True):
    """A branch: `data` flat; without offsets one value for each entry; with one array of offsets
    lists of values; with two, lists of lists, those of entry i being `offsets[0][i]` to
    `offsets[0][i + 1]` of the lists that `offsets[1]` gives.
    """

    data: npt.NDArray[Any]
    offsets: tuple[npt.NDArray[np.int64], ...] = ()


class Chunk(Struct, frozen=True, kw_only=True):
    """The entries from `first` on, by branch."""

    first: int
    entries: int
    columns: dict[str, Column]


def joined(name: str, tables: Sequence[Table]) -> Column:
    """A branch of several tables, one after the other."""
    pieces = [_column_of(table, name) for table in tables]
    data = np.concatenate([piece.data for piece in pieces])
    if not pieces[0].offsets:
        return Column(data=data)
    counts = np.concatenate([np.diff(piece.offsets[0]) for piece in pieces])
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return Column(data=data, offsets=(offsets,))


def _column_of(table: Table, name: str) -> Column:
    if name in table.columns:
        return Column(data=table.columns[name])
    for group, jagged in table.jagged.items():
        if name == f"n{group}":
            return Column(data=jagged.counts)
        own = column_name(group, name)
        if own in jagged.columns:
            return Column(data=jagged.columns[own], offsets=(jagged.offsets,))
    raise KeyError(name)


def columns_of(
    path: Path | str, names: Mapping[str, str], arrays: Mapping[str, Any]
) -> dict[str, Column]:
    """Awkward arrays by full name as columns. Raises BadInputError for what has other things than
    numbers in it.
    """
    shared: list[npt.NDArray[np.int64]] = []
    return {
        name: _column(path, name, _member(arrays, full), shared) for name, full in names.items()
    }


def _member(arrays: Mapping[str, Any], full: str) -> Any:
    """The array of a branch; RNTuple gives a field of records as one array."""
    if full in arrays:
        return arrays[full]
    name, _, rest = full.partition(".")
    found = arrays[name]
    for part in rest.split(".") if rest else ():
        found = found[part]
    return found


def _column(path: Path | str, name: str, array: Any, shared: list[npt.NDArray[np.int64]]) -> Column:
    """`shared` are offsets that other branches have: equal ones are made the same, so that they
    are compared once.
    """
    layout = array.layout
    offsets: list[npt.NDArray[np.int64]] = []
    if layout.is_option or layout.is_indexed:
        layout = ak.to_packed(array).layout
    while layout.is_list and layout.parameter("__array__") is None:
        layout = layout.to_ListOffsetArray64(True)  # from 0 on
        own = np.asarray(layout.offsets)
        same = next((one for one in shared if np.array_equal(one, own)), own)
        if same is own:
            shared.append(own)
        offsets.append(same)
        layout = layout.content[: own[-1]]
    if not layout.is_numpy or layout.parameter("__array__") is not None:
        raise BadInputError(
            f"{path}: the branch {name!r} has neither numbers nor lists of numbers: {array.type}"
        )
    data = np.asarray(layout.data)
    if data.ndim > 1:
        shape = data.shape
        for k in range(1, data.ndim):
            lists = int(np.prod(shape[:k]))
            offsets.append(np.arange(lists + 1, dtype=np.int64) * shape[k])
        data = data.reshape(-1)
    return Column(data=data, offsets=tuple(offsets))
