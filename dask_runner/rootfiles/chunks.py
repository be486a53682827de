"""Some branches of a tree in pieces of bounded size: flat arrays with offsets, no objects.

Owns how branches are found by name, what types they may have, and where reading may be cut without
unpacking anything twice. Refuses what is neither numbers nor lists of numbers.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dask_runner.errors import BadInputError
from dask_runner.rootfiles.boundary import no_tree, opened, translated, tree_in
from dask_runner.rootfiles.reading import Indexed, indexed
from dask_runner.rootfiles.remote import TIMEOUT, opened_remote
from dask_runner.rootfiles.tables import Table, column_name

# What is unpacked at once, in bytes: of each branch (with less, calls cost more than bytes; with
# more, a processor's caches are too small), and of all; and within which number of entries.
_BRANCH_BYTES = 1_600_000
_STEP_BYTES = 32_000_000
_LEAST, _MOST = 1000, 400_000
# Of a branch whose size the file does not tell, for each entry.
_UNKNOWN = 32


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


class TreeShape(Struct, frozen=True, kw_only=True):
    """What a tree is without its data: the wanted `branches` with their types as text, and the
    entries at which the baskets of all of them end, ascending, with `entries` as the last.
    """

    entries: int
    branches: dict[str, str]
    boundaries: tuple[int, ...]


class Reader:
    """An open tree. Whatever is wrong with the file is a BadInputError that names it."""

    def __init__(self, path: Path | str, tree: "_Ours | _Any") -> None:
        self.path = path
        self._tree = tree

    @property
    def entries(self) -> int:
        """The number of entries."""
        return self._tree.entries

    @property
    def types(self) -> dict[str, str]:
        """The types of all branches, as text; slow if there are very many."""
        with translated(self.path):
            kinds = {name: self._tree.type_of(name) for name in self._tree.names}
        return {name: kind for name, kind in kinds.items() if kind}

    def shape(self, branches: Sequence[str]) -> TreeShape:
        """What the tree is. Raises BadInputError if one of the branches is not there."""
        names = self.resolve(branches)
        with translated(self.path):
            boundaries = self._tree.boundaries([*names.values()])
            types = {name: self._tree.type_of(full) for name, full in names.items()}
        inner = sorted(end for end in boundaries if 0 < end < self.entries)
        return TreeShape(entries=self.entries, branches=types, boundaries=(*inner, self.entries))

    def resolve(self, branches: Sequence[str]) -> dict[str, str]:
        """The full names of branches that may be named without the folders they are in."""
        there = self._tree.names
        found = {}
        for name in branches:
            if name in there:
                found[name] = name
                continue
            ends = [full for full in there if full.rpartition("/")[2] == name]
            if len(ends) != 1:
                raise self._no_branch(name, there, ends)
            found[name] = ends[0]
        return found

    def chunks(
        self, branches: Sequence[str], first: int, stop: int, *, step: int = 0
    ) -> Iterator[Chunk]:
        """The entries [first, stop) in pieces of `step` entries, by size if it is 0."""
        if not 0 <= first <= stop <= self.entries:
            raise BadInputError(
                f"{self.path}: has no entries {first} to {stop - 1}, only {self.entries}"
            )
        names = self.resolve(branches)
        step = step or self._tree.step([*names.values()])
        pieces = self._tree.chunks(names, first, stop, step)
        while True:
            # Only what is read here: the user's faults are not those of the file.
            with translated(self.path):
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    def _no_branch(self, name: str, there: Sequence[str], ends: Sequence[str]) -> BadInputError:
        if ends:
            return BadInputError(f"{self.path}: the branch {name!r} is one of {', '.join(ends)}")
        return BadInputError(
            f"{self.path}: has no branch {name!r}", hint=f"its branches: {_listed(there)}"
        )


@contextmanager
def reader(path: Path | str, tree: str, *, timeout: float = TIMEOUT) -> Iterator[Reader]:
    """The tree of a file, for as long as this is open. What is text is an address, whose server has
    `timeout` s for each request. Raises BadInputError, UnreachableError.
    """
    with ExitStack() as stack:
        found = _opened(stack, path, tree, timeout)
        kept = stack.pop_all()
    # Closed without being told of what happens in between.
    try:
        yield Reader(path, found)
    finally:
        kept.close()


def _opened(stack: ExitStack, path: Path | str, tree: str, timeout: float) -> "_Ours | _Any":
    if isinstance(path, str):
        file = stack.enter_context(opened_remote(path, timeout=timeout))
        with translated(path):
            return _Any(path, tree_in(file, path, tree))
    ours = stack.enter_context(indexed(path))
    if ours is not None:
        return _Ours(ours, tree)
    return _Any(path, tree_in(stack.enter_context(opened(path)), path, tree))


class _Any:
    """A tree that uproot reads: TTree or RNTuple."""

    def __init__(self, path: Path | str, node: Any) -> None:
        self._path = path
        self._node = node
        self._is_ntuple = hasattr(node, "cluster_summaries")
        self.entries = int(node.num_entries)

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self._node.keys(recursive=True, full_paths=True))

    def type_of(self, name: str) -> str:
        return str(self._node[name].typename)

    def boundaries(self, names: Sequence[str]) -> set[int]:
        """Where the baskets of all these branches end."""
        if self._is_ntuple:
            return {int(one.num_first_entry) for one in self._node.cluster_summaries}
        ends = [{int(end) for end in self._node[name].entry_offsets} for name in names]
        return set.intersection(*ends) if ends else set()

    def step(self, names: Sequence[str]) -> int:
        sizes = [getattr(self._node[name], "uncompressed_bytes", None) for name in names]
        each = sum(_UNKNOWN if size is None else size / max(1, self.entries) for size in sizes)
        return _entries(each, len(names))

    def chunks(self, names: Mapping[str, str], first: int, stop: int, step: int) -> Iterator[Chunk]:
        begin = first
        for arrays in self._arrays(names, first, stop, step):
            entries = min(step, stop - begin)
            yield Chunk(first=begin, entries=entries, columns=columns_of(self._path, names, arrays))
            begin += entries

    def _arrays(
        self, names: Mapping[str, str], first: int, stop: int, step: int
    ) -> Iterator[Mapping[str, Any]]:
        if not names:
            yield from ({} for _ in range(first, stop, step))
            return
        common = {
            "entry_start": first,
            "entry_stop": stop,
            "step_size": step,
            "library": "ak",
            "how": dict,
        }
        if self._is_ntuple:
            wanted = set(names.values())
            yield from self._node.iterate(filter_name=lambda name: name in wanted, **common)
            return
        branches = {full: self._node[full] for full in names.values()}
        keys = {branch.cache_key for branch in branches.values()}
        for arrays in self._node.iterate(
            filter_branch=lambda branch: branch.cache_key in keys, **common
        ):
            yield {full: arrays[branch.name] for full, branch in branches.items()}


class _Ours:
    """A tree of one of our files, with the names that ROOT sees."""

    def __init__(self, file: Indexed, tree: str) -> None:
        if tree not in file.index.trees:
            raise no_tree(file.path, tree, file.index.trees)
        self._file = file
        self._name = tree
        self._tree = file.index.trees[tree]

    @property
    def entries(self) -> int:
        return self._tree.entries

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(branch.name for branch in self._tree.branches)

    def type_of(self, name: str) -> str:
        (kind,) = (
            f"{np.dtype(branch.type).name}{'[]' if branch.counter else ''}"
            for branch in self._tree.branches
            if branch.name == name
        )
        return kind

    def boundaries(self, names: Sequence[str]) -> set[int]:  # noqa: ARG002  the same for all
        return {cluster.end for cluster in self._tree.clusters}

    def step(self, names: Sequence[str]) -> int:  # noqa: ARG002
        """All branches are read, whichever are wanted."""
        sizes = sum(sum(cluster.sizes) for cluster in self._tree.clusters)
        return _entries(sizes / max(1, self.entries), len(self._tree.branches))

    def chunks(self, names: Mapping[str, str], first: int, stop: int, step: int) -> Iterator[Chunk]:
        for begin in range(first, stop, step):
            end = min(stop, begin + step)
            tables = self._file.tables(self._name, begin, end)
            yield Chunk(
                first=begin,
                entries=end - begin,
                columns={name: _joined(full, tables) for name, full in names.items()},
            )


def _entries(each: float, branches: int) -> int:
    """Entries of a step, if each has so many bytes in all branches."""
    wanted = min(_STEP_BYTES, _BRANCH_BYTES * max(1, branches))
    return int(min(_MOST, max(_LEAST, wanted / max(each, 1.0))))


def _joined(name: str, tables: Sequence[Table]) -> Column:
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


def aligned(
    entries: int, size: int, boundaries: Sequence[int], *, grid: int = 1
) -> list[tuple[int, int]]:
    """The entries as ranges (first, count) of about `size`: cut at the nearest boundary if one is
    within a quarter of the size, at a multiple of `grid` if that is above 1.
    """
    if grid > 1:
        size = max(grid, round(size / grid) * grid)
    if not entries:
        return []
    ends = np.asarray(boundaries, np.int64)
    cuts = [0]
    while cuts[-1] + size < entries:
        ideal = cuts[-1] + size
        cut = ideal
        if grid == 1 and len(ends):
            near = int(ends[np.argmin(np.abs(ends - ideal))])
            cut = near if abs(near - ideal) <= size // 4 else ideal
        if cut >= entries:
            break
        cuts.append(cut)
    return [(a, b - a) for a, b in pairwise([*cuts, entries])]


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


def _listed(names: Sequence[str], most: int = 12) -> str:
    more = f" ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more
