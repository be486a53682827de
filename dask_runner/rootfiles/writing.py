"""Writing trees: TTree (readable by every ROOT), ZLIB level 1, small baskets, an index.

Equal content gives equal bytes: no dates, no random identifier, no file name. ZLIB because it is
the only codec here with a checksum of its own; with the others half of all flipped bits read back
silently wrong.
"""

import functools
import hashlib
import io
import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import uproot
from msgspec import Struct

from dask_runner.rootfiles import index, layout
from dask_runner.rootfiles.tables import Column, Table, branch_name, concatenated

COMPRESSION = uproot.ZLIB(1)
# Entries in a basket: a range of entries costs whole baskets.
BASKET = 100
_FORMAT = 1


def write(
    path: Path, tables: Mapping[str, Table], metadata: Mapping[str, Any], *, basket: int = BASKET
) -> None:
    """Write each table as a tree of a new file, and `metadata` as JSON in a TObjString."""
    with Writer(path, basket=basket) as writer:
        for name, table in tables.items():
            writer.append(name, table)
        writer.metadata = dict(metadata)


class Writer:
    """A new file, to which tables are appended in any order; memory is bounded by a basket.

    The file is complete when the context ends without an exception, and useless otherwise.
    """

    def __init__(self, path: Path, *, basket: int = BASKET) -> None:
        self.metadata: dict[str, Any] = {}
        self._basket = basket
        self._trees: dict[str, _Tree] = {}
        self._keys: list[bytes] = []
        # The front is written last; its length is fixed.
        front = _front(_Places(), uuid=bytes(16))
        streamers = _streamers(len(front))
        self._places = _Places(info=(len(front), len(streamers)))
        self._crc = 0
        self._position = len(front)
        self._file = path.open("wb")
        self._file.write(front)
        self._put(streamers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._file:
            if kind is None:
                self._finish()

    def append(self, tree: str, table: Table) -> None:
        """Append the entries of a table to a tree. Its columns must be those of the first one."""
        if tree not in self._trees:
            self._trees[tree] = _Tree(tree, table)
        state = self._trees[tree]
        state.add(table)
        if state.waiting >= self._basket:
            self._flush(state, least=self._basket)

    def entries(self, tree: str) -> int:
        """What was appended to a tree so far."""
        return self._trees[tree].entries

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._crc = zlib.crc32(data, self._crc)
        self._position += len(data)

    def _flush(self, tree: "_Tree", *, least: int) -> None:
        """Write whole baskets of what is waiting, as long as there are `least` entries."""
        for table in tree.take(self._basket, least):
            self._put(tree.cluster(table, self._position))

    def _record(self, key: layout.Key, data: bytes) -> None:
        stored = layout.compressed(data)
        head = key.pack(self._position, len(stored), len(data))
        self._keys.append(head)
        self._put(head + stored)

    def _finish(self) -> None:
        for tree in self._trees.values():
            self._flush(tree, least=1)
            self._record(layout.Key(kind="TTree", name=tree.name), tree.packed())
        text = json.dumps(self.metadata, sort_keys=True).encode()
        self._record(_string_key(layout.METADATA), layout.string_object(text))
        contents = index.Index(
            version=_FORMAT,
            trees={tree.name: tree.index for tree in self._trees.values()},
            metadata=self.metadata,
        )
        # All numbers that are not known yet have a fixed width.
        size = len(layout.string_object(index.encode(contents, 0)))
        self._close(contents, size)

    def _close(self, contents: index.Index, size: int) -> None:
        """The end of the file, then its front, which says where the end is."""
        key = _string_key(index.NAME)
        head = key.pack(0, size, size)
        seek_keys = self._position
        seek_free = seek_keys + len(layout.key_list(0, [*self._keys, head]))
        at = seek_free + len(layout.free_list(0, 0))
        end = at + len(head) + size
        head = key.pack(at, size, size)
        keys = layout.key_list(seek_keys, [*self._keys, head])
        free = layout.free_list(seek_free, end)
        self._put(keys + free)
        uuid = hashlib.sha256(index.encode(contents, at)).digest()[:16]
        places = _Places(
            info=self._places.info,
            keys=(seek_keys, len(keys)),
            free=(seek_free, len(free)),
            end=end,
        )
        front = _front(places, uuid=uuid)
        contents.front = f"{zlib.crc32(front):08x}"
        contents.body = f"{self._crc:08x}"
        text = layout.string_object(index.encode(contents, at))
        self._file.write(index.sealed(head + text))
        self._file.seek(0)
        self._file.write(front)


class _Places(Struct, frozen=True, kw_only=True):
    """Position and length of the records that the front of the file points to."""

    info: tuple[int, int] = (0, 0)
    keys: tuple[int, int] = (0, 0)
    free: tuple[int, int] = (0, 0)
    end: int = 0


def _front(places: _Places, *, uuid: bytes) -> bytes:
    header = layout.header(end=places.end, free=places.free, info=places.info, uuid=uuid)
    return header + layout.root_directory(keys=places.keys, uuid=uuid)


def _string_key(name: str) -> layout.Key:
    return layout.Key(kind="TObjString", name=name, title="Collectable string class")


class _Tree:
    """A tree that is being written."""

    def __init__(self, name: str, first: Table) -> None:
        self.name = name
        self.index = index.TreeIndex(branches=_branches(first))
        self.waiting = 0
        self._tables: list[Table] = []
        self._states = [layout.BranchState(sizes=[], seeks=[]) for _ in self.index.branches]

    @property
    def entries(self) -> int:
        return self.index.entries + self.waiting

    def add(self, table: Table) -> None:
        if _branches(table) != self.index.branches:
            raise ValueError(f"tree {self.name!r} has other columns than the table to be appended")
        self._tables.append(table)
        self.waiting += table.entries

    def take(self, basket: int, least: int) -> list[Table]:
        """Cut what is waiting into baskets; the last is shorter, or waits on."""
        if self.waiting < least:
            return []
        whole = concatenated(self._tables)
        stop = whole.entries if least < basket else whole.entries - whole.entries % basket
        parts = [whole.slice(first, min(first + basket, stop)) for first in range(0, stop, basket)]
        self._tables = [whole.slice(stop, whole.entries)]
        self.waiting = whole.entries - stop
        return parts

    def cluster(self, table: Table, position: int) -> bytes:
        """The baskets of all branches for the entries of `table`, to be written at `position`."""
        records = []
        sizes = []
        start = position
        for branch, state, column in zip(
            self.index.branches, self._states, _columns(table), strict=True
        ):
            raw, record = _basket(self.name, branch, column, table, position)
            state.raw += raw
            state.stored += len(record)
            state.sizes.append(len(record))
            state.seeks.append(position)
            if branch.counts:
                state.maximum = max(state.maximum, int(column.max(initial=0)))
            sizes.append(len(record))
            records.append(record)
            position += len(record)
        data = b"".join(records)
        end = self.index.entries + table.entries
        self.index.clusters.append(
            index.Cluster(end=end, seek=start, crc=zlib.crc32(data), sizes=sizes)
        )
        return data

    def packed(self) -> bytes:
        ends = [cluster.end for cluster in self.index.clusters]
        return layout.tree_object(self.name, self.index.branches, self._states, ends)


def _branches(table: Table) -> list[layout.Branch]:
    """The branches of a table: `njet` counts the items of `jet_pt`, `jet_eta` ..."""
    branches = [layout.Branch(name, _type(column)) for name, column in table.columns.items()]
    for group, jagged in table.jagged.items():
        counter = f"n{group}"
        branches.append(layout.Branch(counter, "i4", counts=True))
        for name, column in jagged.columns.items():
            branches.append(layout.Branch(branch_name(group, name), _type(column), counter))
    return branches


def _type(column: Column) -> str:
    name = column.dtype.str[1:]
    if name not in layout.TYPES:
        raise ValueError(f"a column of {column.dtype} cannot be written to a tree")
    return name


def _columns(table: Table) -> list[Column]:
    """The columns in the order of `_branches`."""
    columns = list(table.columns.values())
    for jagged in table.jagged.values():
        columns.append(jagged.counts.astype(np.int32))
        columns.extend(jagged.columns.values())
    return columns


def _basket(
    tree: str, branch: layout.Branch, column: Column, table: Table, position: int
) -> tuple[int, bytes]:
    """A basket's size in memory, and its bytes in the file."""
    values = column.astype(f">{branch.type}").tobytes()
    ends = None
    if branch.counter:
        offsets = table.jagged[branch.counter[1:]].offsets
        shifted = offsets * column.itemsize + layout.basket_head_length(tree, branch.name)
        shifted[-1] = 0
        ends = shifted.astype(">i4").tobytes()
    return layout.basket(
        tree,
        branch.name,
        values,
        item=column.itemsize,
        entries=table.entries,
        ends=ends,
        seek=position,
    )


@functools.lru_cache(maxsize=1)
def _streamers(position: int) -> bytes:
    """The record that describes ROOT's classes, as uproot writes it; the same in every file."""
    target = io.BytesIO()
    with uproot.recreate(target) as file:
        tree = file.mktree("t", {name: np.dtype(name) for name in layout.TYPES})
        tree.extend({name: np.zeros(1, name) for name in layout.TYPES})
        file[layout.METADATA] = ""
        data = target.getvalue()
    with uproot.open(io.BytesIO(data)) as file:
        seek = file.file.fSeekInfo
    size, _, raw, _, head = struct.unpack_from(">ihiIh", data, seek)
    # Its inner references count from the start of the record: the length of its head must stay.
    key = layout.Key(kind="TList", name="StreamerInfo", title="Doubly linked list", small=True)
    assert (key.length, size) == (head, head + raw)
    stored = layout.compressed(data[seek + head : seek + size])
    return key.pack(position, len(stored), raw) + stored
