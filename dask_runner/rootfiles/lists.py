"""Files of one tree whose branches are numbers, lists, or lists of lists, to any depth.

A TTree in the layout of `writing` where it can hold them; beyond lists of numbers an RNTuple by
uproot, which ROOT reads from 6.34 on. Equal content gives equal bytes, however it is handed in.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import awkward as ak
import numpy as np
import numpy.typing as npt

from dask_runner.errors import BadInputError, UsageError
from dask_runner.rootfiles import layout
from dask_runner.rootfiles.boundary import opened, tree_in
from dask_runner.rootfiles.chunks import reader
from dask_runner.rootfiles.columns import Chunk, Column, columns_of
from dask_runner.rootfiles.hashing import content_hash
from dask_runner.rootfiles.index import empty_table
from dask_runner.rootfiles.joining import concatenate
from dask_runner.rootfiles.reading import indexed, is_ours
from dask_runner.rootfiles.reproducible import recreate
from dask_runner.rootfiles.tables import Jagged, Table, branch_name, column_name
from dask_runner.rootfiles.writing import COMPRESSION, Writer

Columns = dict[str, Column]
# Entries in a basket of a TTree, and in a cluster of an RNTuple.
_BASKET = 1000
_CLUSTER = 10_000


class ListWriter:
    """A new file, to which columns are appended; the first ones say what the tree is.

    `groups` names the collection of branches that share one counter, by branch; any other list has
    a counter of its own. The file is complete when the context ends without an exception.
    """

    def __init__(self, path: Path, tree: str, *, groups: Mapping[str, str] | None = None) -> None:
        self.metadata: dict[str, Any] = {}
        self.entries = 0
        self._path, self._tree, self._groups = path, tree, dict(groups or {})
        self._file: _TreeFile | _TupleFile | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close(self.metadata, kind, error, trace)

    def append(self, columns: Columns, entries: int) -> None:
        """Append entries. Raises ValueError if the columns are of other types than the first, and
        UsageError if the counter of a list has the name of another column.
        """
        if self._file is None:
            deep = any(len(column.offsets) > 1 for column in columns.values())
            self._file = (
                _TupleFile(self._path, self._tree, columns)
                if deep
                else _TreeFile(self._path, self._tree, self._groups)
            )
        self._file.append(columns, entries)
        self.entries += entries


class _TreeFile:
    """A TTree."""

    def __init__(self, path: Path, tree: str, groups: Mapping[str, str]) -> None:
        self._writer = Writer(path, basket=_BASKET)
        self._tree, self._groups = tree, groups

    def append(self, columns: Columns, entries: int) -> None:
        flat = {name: one.data for name, one in columns.items() if not one.offsets}
        jagged: dict[str, Jagged] = {}
        for name, column in columns.items():
            if not column.offsets:
                continue
            group = self._groups.get(name, name)
            if f"n{group}" in columns:
                raise UsageError(
                    f"{name}: ROOT needs a counter n{group} for it, which is another column",
                    hint=f"leave n{group} out, or give {name} another name",
                )
            there = jagged.setdefault(group, Jagged(offsets=column.offsets[0], columns={}))
            if not np.array_equal(there.offsets, column.offsets[0]):
                raise ValueError(f"{name}: not as long as other lists of {group}")
            there.columns[column_name(group, name)] = column.data
        self._writer.append(self._tree, Table(entries=entries, columns=flat, jagged=jagged))

    def close(self, metadata: Mapping[str, Any], *exc: Any) -> None:
        self._writer.metadata = dict(metadata)
        self._writer.__exit__(*exc)


class _TupleFile:
    """An RNTuple, in clusters of _CLUSTER entries."""

    def __init__(self, path: Path, tree: str, columns: Columns) -> None:
        self._stack = ExitStack()
        self._file = self._stack.enter_context(recreate(path, COMPRESSION))
        empty = slice_columns(columns, 0, 0)
        self._kinds = {name: _kind(column) for name, column in columns.items()}
        self._tree = self._file.mkrntuple(tree, _record(empty, 0).layout.form)
        self._waiting: list[Columns] = []
        self._count = 0

    def append(self, columns: Columns, entries: int) -> None:
        if {name: _kind(column) for name, column in columns.items()} != self._kinds:
            raise ValueError("other columns than before")
        self._waiting.append(columns)
        self._count += entries
        if self._count >= _CLUSTER:
            self._flush(self._count - self._count % _CLUSTER)

    def close(self, metadata: Mapping[str, Any], *exc: Any) -> None:
        with self._stack:
            if exc[0] is None:
                self._flush(self._count)
                self._file[layout.METADATA] = json.dumps(dict(metadata), sort_keys=True)

    def _flush(self, stop: int) -> None:
        # ROOT refuses clusters without entries.
        if not stop:
            return
        whole = joined_columns(self._waiting)
        for first in range(0, stop, _CLUSTER):
            last = min(first + _CLUSTER, stop)
            self._tree.extend(_record(slice_columns(whole, first, last), last - first))
        self._waiting = [slice_columns(whole, stop, self._count)]
        self._count -= stop


def _kind(column: Column) -> tuple[int, str]:
    return len(column.offsets), column.data.dtype.str


def _record(columns: Columns, entries: int) -> Any:
    contents = [_as_awkward(column) for column in columns.values()]
    return ak.Array(ak.contents.RecordArray(contents, list(columns), length=entries))


def _as_awkward(column: Column) -> Any:
    data: Any = ak.contents.NumpyArray(np.ascontiguousarray(column.data))
    for offsets in reversed(column.offsets):
        data = ak.contents.ListOffsetArray(ak.index.Index64(offsets), data)
    return data


def slice_columns(columns: Columns, first: int, stop: int) -> Columns:
    """The entries [first, stop)."""
    found = {}
    for name, column in columns.items():
        low, high = first, stop
        offsets = []
        for level in column.offsets:
            own = level[low : high + 1]
            offsets.append(own - own[0])
            low, high = int(own[0]), int(own[-1])
        found[name] = Column(data=column.data[low:high], offsets=tuple(offsets))
    return found


def joined_columns(parts: Sequence[Columns]) -> Columns:
    """Columns of the same names and types, one after the other."""
    if len(parts) == 1:
        return parts[0]
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def _joined(parts: Sequence[Column]) -> Column:
    offsets = []
    for levels in zip(*(part.offsets for part in parts), strict=True):
        counts = np.concatenate([np.diff(level) for level in levels])
        offsets.append(_offsets(counts))
    return Column(data=np.concatenate([part.data for part in parts]), offsets=tuple(offsets))


def _offsets(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def read_lists(path: Path, tree: str) -> Iterator[Chunk]:
    """All branches of a tree in pieces of bounded size; one without entries if it has none."""
    with reader(path, tree) as found:
        if found.entries:
            yield from found.chunks(list(found.types), 0, found.entries)
            return
    yield Chunk(first=0, entries=0, columns=_no_entries(path, tree))


def _no_entries(path: Path, tree: str) -> Columns:
    with indexed(path) as ours:
        if ours is not None:
            table = empty_table(ours.tree(tree))
            columns = {name: Column(data=data) for name, data in table.columns.items()}
            for group, jagged in table.jagged.items():
                columns[f"n{group}"] = Column(data=jagged.counts.astype(np.int32))
                for name, data in jagged.columns.items():
                    offsets = (jagged.offsets,)
                    columns[branch_name(group, name)] = Column(data=data, offsets=offsets)
            return columns
    with opened(path) as file:
        arrays = tree_in(file, path, tree).arrays(library="ak")
        fields = ak.fields(arrays)
        return columns_of(path, {name: name for name in fields}, {n: arrays[n] for n in fields})


def join_lists(
    parts: Sequence[Path], target: Path, tree: str, metadata: Mapping[str, Any]
) -> tuple[int, str]:
    """Join files that ListWriter made, in this order. Returns the entries and the content hash.

    Raises BadInputError if they have not the same branches.
    """
    if all(is_ours(part) for part in parts):
        entries = concatenate(parts, target, metadata)[tree]
        return entries, content_hash(target)
    with ListWriter(target, tree) as writer:
        writer.metadata = dict(metadata)
        for part in parts:
            for chunk in read_lists(part, tree):
                try:
                    writer.append(chunk.columns, chunk.entries)
                except ValueError as error:
                    raise BadInputError(f"{part}: {error}") from error
    return writer.entries, content_hash(target)
