"""Reading trees: entry counts, ranges of entries, metadata, and reading everything as a check."""

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from dask_runner.errors import BadInputError
from dask_runner.rootfiles.boundary import opened, tree_in, tree_names
from dask_runner.rootfiles.tables import Column, Jagged, Table, offsets_of

METADATA = "metadata"
# How much is decompressed at once when a whole file is read.
CHUNK_BYTES = 16_000_000


def count_entries(path: Path, tree: str) -> int:
    """The number of entries that the tree's header gives. Reads no data."""
    with opened(path) as file:
        return int(tree_in(file, path, tree).num_entries)


def validate(path: Path, tree: str = "") -> int:
    """Read all data of all trees; return the number of entries of `tree` (0 if none is named).

    A truncated file, and in ZLIB files every flipped bit of the data, is a BadInputError.
    """
    with opened(path) as file:
        if tree:
            tree_in(file, path, tree)
        entries = {name: _read_through(file[name], path, name) for name in tree_names(file)}
        _ = metadata_in(file)
    return entries[tree] if tree else 0


def _read_through(node: Any, path: Path, name: str) -> int:
    read = 0
    for chunk in chunks_of(node):
        read += len(chunk)
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
    with opened(path) as file:
        return _read(file, path, tree, first, count, columns)


def read_with_metadata(
    path: Path, tree: str, *, first: int = 0, count: int | None = None
) -> tuple[Table, dict[str, Any]]:
    """As `read`, with the file's metadata, in one opening."""
    with opened(path) as file:
        return _read(file, path, tree, first, count, None), metadata_in(file)


def _read(
    file: Any,
    path: Path,
    tree: str,
    first: int,
    count: int | None,
    wanted: Collection[str] | None,
) -> Table:
    node = tree_in(file, path, tree)
    entries = int(node.num_entries)
    stop = entries if count is None else first + count
    if not 0 <= first <= stop <= entries:
        raise BadInputError(f"{path}: has no entries {first} to {stop - 1}, only {entries}")
    if wanted is not None:
        found = {
            name: np.asarray(node[name].array(entry_start=first, entry_stop=stop))
            for name in wanted
        }
        return Table(entries=stop - first, columns=found)
    return _table(node, first, stop)


def _table(node: Any, first: int, stop: int) -> Table:
    columns: dict[str, Column] = {}
    groups: dict[str, dict[str, Any]] = {}
    counters = {b.count_branch.name for b in node.branches if b.count_branch is not None}
    for branch in node.branches:
        if branch.name in counters:
            continue
        array = branch.array(entry_start=first, entry_stop=stop)
        if branch.count_branch is None:
            columns[branch.name] = np.asarray(array)
        else:
            # `njet` counts `jet_pt`, `jet_eta` ...
            group = branch.count_branch.name[1:]
            groups.setdefault(group, {})[branch.name.removeprefix(f"{group}_")] = array
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
    with opened(path) as file:
        return metadata_in(file)


def metadata_in(file: Any) -> dict[str, Any]:
    if METADATA not in file.keys(recursive=False, cycle=False):
        return {}
    found = json.loads(str(file[METADATA]))
    return found if isinstance(found, dict) else {}
