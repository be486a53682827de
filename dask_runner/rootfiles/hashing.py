"""The content hash of a file: the same for the same data, however it is cut into baskets.

Definition (docs/chain.md): for every tree and every branch, sorted by name, one line

    tree <tab> branch <tab> type <tab> entries <tab> A [<tab> A ...] <newline>

where each A is the SHA-256 of one array of the branch over all its entries in order: for a branch
of numbers its values; for a branch of lists first the running end of each entry's list as 64-bit
integers, then the items. All numbers little-endian. The content hash is the SHA-256 of all lines.
Metadata, compression, basket sizes and the order of branches do not matter.
"""

import hashlib
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from dask_runner.errors import BadInputError
from dask_runner.rootfiles.boundary import opened, tree_names
from dask_runner.rootfiles.index import empty_table
from dask_runner.rootfiles.reading import Indexed, chunks_of, indexed
from dask_runner.rootfiles.tables import Column, Table, branch_name


class _Column:
    """The running hashes of one branch: one of the ends of the lists, if any, one of the values."""

    def __init__(self) -> None:
        self.type = ""
        self._hashes: list[Any] = []
        self._ends: list[int] = []

    def add_layout(self, array: Any) -> None:
        """An awkward layout: numbers, or lists of numbers to any depth."""
        ends, depth = [], 0
        while array.is_list:
            packed = array.to_ListOffsetArray64(start_at_zero=True)
            ends.append(np.asarray(packed.offsets)[1:])
            array = packed.content[: packed.offsets[-1]]
            depth += 1
        self.add(ends, np.asarray(array.data))

    def add(self, ends: list[Column], values: Column) -> None:
        """The ends of the lists of each level, within this chunk, and the values."""
        while len(self._hashes) <= len(ends):
            self._hashes.append(hashlib.sha256())
            self._ends.append(0)
        for level, within in enumerate(ends):
            self._hashes[level].update((within + self._ends[level]).astype("<i8").tobytes())
            self._ends[level] += int(within[-1]) if len(within) else 0
        little = values.astype(values.dtype.newbyteorder("<"), copy=False)
        self._hashes[-1].update(np.ascontiguousarray(little).tobytes())
        self.type = "list:" * len(ends) + little.dtype.str.lstrip("<|=")

    def digests(self) -> list[str]:
        return [running.hexdigest() for running in self._hashes]


def content_hash(path: Path) -> str:
    """SHA-256 over tree and branch names, types, offsets and values in the order of entries."""
    whole = hashlib.sha256()
    with indexed(path) as ours:
        if ours is not None:
            for name in sorted(ours.index.trees):
                whole.update(_indexed_lines(name, ours))
            return whole.hexdigest()
    with opened(path) as file:
        for name in tree_names(file):
            whole.update(_uproot_lines(name, file[name], path))
    return whole.hexdigest()


def _indexed_lines(name: str, ours: Indexed) -> bytes:
    tree = ours.tree(name)
    columns = {branch.name: _Column() for branch in tree.branches}
    _add_table(columns, empty_table(tree))
    begin = 0
    for cluster in tree.clusters:
        for table in ours.tables(name, begin, cluster.end):
            _add_table(columns, table)
        begin = cluster.end
    return _lines(name, tree.entries, columns)


def _add_table(columns: dict[str, _Column], table: Table) -> None:
    for name, column in table.columns.items():
        columns[name].add([], column)
    for group, jagged in table.jagged.items():
        columns[f"n{group}"].add([], jagged.counts.astype(np.int32))
        for name, column in jagged.columns.items():
            columns[branch_name(group, name)].add([jagged.offsets[1:]], column)


def _uproot_lines(name: str, node: Any, path: Path) -> bytes:
    columns = {branch: _Column() for branch in node.keys(recursive=True)}
    for chunk in chunks_of(node) if node.num_entries else [node.arrays()]:
        for branch, column in columns.items():
            try:
                column.add_layout(ak.to_packed(chunk[branch]).layout)
            except AttributeError as error:
                raise BadInputError(
                    f"{path}: the content hash does not cover branch {branch!r} of {name!r}: "
                    "neither numbers nor lists of numbers"
                ) from error
    return _lines(name, int(node.num_entries), columns)


def _lines(name: str, entries: int, columns: dict[str, _Column]) -> bytes:
    lines = (
        "\t".join([name, branch, columns[branch].type, str(entries), *columns[branch].digests()])
        for branch in sorted(columns)
    )
    return "".join(f"{line}\n" for line in lines).encode()
