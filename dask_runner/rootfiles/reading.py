"""Reading trees: entry counts, ranges of entries, metadata, and reading everything as a check.

Our own files are read by their index; all others by uproot.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import awkward as ak
import numpy as np
from msgspec import Struct

from dask_runner.errors import BadInputError
from dask_runner.rootfiles import index, layout
from dask_runner.rootfiles.boundary import no_tree, opened, translated, tree_in, tree_names
from dask_runner.rootfiles.index import Index, TreeIndex
from dask_runner.rootfiles.tables import (
    Column,
    Jagged,
    Table,
    column_name,
    concatenated,
    offsets_of,
)

# How much is decompressed at once when a whole file is read.
CHUNK_BYTES = 16_000_000


class Indexed(Struct, frozen=True, kw_only=True):
    """An open file of ours."""

    path: Path
    file: BinaryIO
    index: Index

    def tree(self, name: str) -> TreeIndex:
        if name not in self.index.trees:
            raise no_tree(self.path, name, self.index.trees)
        return self.index.trees[name]

    def tables(self, name: str, first: int, stop: int) -> list[Table]:
        return index.read_tables(self.file, self.tree(name), self.path, first, stop)


@contextmanager
def indexed(path: Path) -> Iterator[Indexed | None]:
    """The open file, or None if it is not one of ours."""
    with translated(path), path.open("rb") as file:
        found = index.load(file, path)
        yield None if found is None else Indexed(path=path, file=file, index=found)


def is_ours(path: Path) -> bool:
    """True if the file has our index."""
    with indexed(path) as ours:
        return ours is not None


def count_entries(path: Path, tree: str) -> int:
    """The number of entries that the file's own books give. Reads no data."""
    with indexed(path) as ours:
        if ours is not None:
            return ours.tree(tree).entries
    with opened(path) as file:
        return int(tree_in(file, path, tree).num_entries)


def validate(path: Path, tree: str = "") -> int:
    """Read all data of all trees; return the number of entries of `tree` (0 if none is named).

    A truncated file, every flipped bit of a file of ours and every flipped bit of compressed data
    in other ZLIB files is a BadInputError.
    """
    with indexed(path) as ours:
        if ours is not None:
            index.verify(ours.file, ours.index, path)
            return ours.tree(tree).entries if tree else 0
    with opened(path) as file:
        if tree:
            tree_in(file, path, tree)
        entries = {name: _read_through(file[name], path, name) for name in tree_names(file)}
    return entries[tree] if tree else 0


def _read_through(node: Any, path: Path, name: str) -> int:
    read = sum(len(chunk) for chunk in chunks_of(node))
    if read != node.num_entries:
        raise BadInputError(
            f"{path}: damaged: tree {name!r} has {node.num_entries} entries, "
            f"of which {read} can be read"
        )
    return read


def chunks_of(node: Any) -> Iterator[Any]:
    """All entries of a tree as awkward arrays of bounded size."""
    if node.num_entries:
        yield from node.iterate(step_size=CHUNK_BYTES)


def read(
    path: Path,
    tree: str,
    *,
    first: int = 0,
    count: int | None = None,
    columns: Collection[str] | None = None,
) -> Table:
    """The entries [first, first + count) of a tree of numbers and lists of numbers.

    `columns` restricts it to some columns of one value per entry.
    """
    with indexed(path) as ours:
        if ours is not None:
            return _from_index(ours, tree, first, count, columns)
    with opened(path) as file:
        node = tree_in(file, path, tree)
        stop = _stop(path, int(node.num_entries), first, count)
        return _from_uproot(node, first, stop, columns)


def read_with_metadata(
    path: Path, tree: str, *, first: int = 0, count: int | None = None
) -> tuple[Table, dict[str, Any]]:
    """As `read`, with the file's metadata."""
    return read(path, tree, first=first, count=count), read_metadata(path)


def _from_index(
    ours: Indexed, tree: str, first: int, count: int | None, columns: Collection[str] | None
) -> Table:
    stop = _stop(ours.path, ours.tree(tree).entries, first, count)
    tables = ours.tables(tree, first, stop)
    if not tables:
        tables = [index.empty_table(ours.tree(tree))]
    whole = concatenated(tables)
    if columns is None:
        return whole
    return Table(entries=whole.entries, columns={name: whole[name] for name in columns})


def _stop(path: Path, entries: int, first: int, count: int | None) -> int:
    stop = entries if count is None else first + count
    if not 0 <= first <= stop <= entries:
        raise BadInputError(f"{path}: has no entries {first} to {stop - 1}, only {entries}")
    return stop


def _from_uproot(node: Any, first: int, stop: int, wanted: Collection[str] | None) -> Table:
    columns: dict[str, Column] = {}
    groups: dict[str, dict[str, Any]] = {}
    counters = {b.count_branch.name for b in node.branches if b.count_branch is not None}
    for branch in node.branches:
        if branch.name in counters or (wanted is not None and branch.name not in wanted):
            continue
        array = branch.array(entry_start=first, entry_stop=stop)
        if branch.count_branch is None:
            columns[branch.name] = np.asarray(array)
        else:
            # `njet` counts `jet_pt`, `jet_eta` ...
            group = branch.count_branch.name[1:]
            groups.setdefault(group, {})[column_name(group, branch.name)] = array
    jagged = {}
    for group, arrays in groups.items():
        counts = np.asarray(ak.num(next(iter(arrays.values()))))
        jagged[group] = Jagged(
            offsets=offsets_of(counts),
            columns={name: np.asarray(ak.flatten(array)) for name, array in arrays.items()},
        )
    return Table(entries=stop - first, columns=columns, jagged=jagged)


def as_awkward(paths: Sequence[Path], tree: str) -> ak.Array:
    """A tree of several files, one after the other, as one array in memory."""
    arrays = []
    for path in paths:
        with opened(path) as file:
            arrays.append(tree_in(file, path, tree).arrays(library="ak"))
    return ak.concatenate(arrays)


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata that this package wrote into the file; empty if there is none."""
    with indexed(path) as ours:
        if ours is not None:
            return ours.index.metadata
    with opened(path) as file:
        if layout.METADATA not in file.keys(recursive=False, cycle=False):
            return {}
        found = json.loads(str(file[layout.METADATA]))
        return found if isinstance(found, dict) else {}
