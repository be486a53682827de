"""Some branches of a tree in pieces of bounded size: flat arrays with offsets, no objects.

Owns how branches are found by name, what types they may have, and where reading may be cut without
unpacking anything twice. Refuses what is neither numbers nor lists of numbers.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct

from dask_runner.errors import BadInputError
from dask_runner.rootfiles.boundary import no_tree, opened, translated, tree_in
from dask_runner.rootfiles.columns import Chunk, columns_of, joined
from dask_runner.rootfiles.reading import Indexed, indexed
from dask_runner.rootfiles.remote import TIMEOUT, opened_remote

# What is unpacked at once, in bytes: of each branch (with less, calls cost more than bytes; with
# more, a processor's caches are too small), and of all; and within which number of entries.
_BRANCH_BYTES = 1_600_000
_STEP_BYTES = 32_000_000
_LEAST, _MOST = 1000, 400_000
# Of a branch whose size the file does not tell, for each entry.
_UNKNOWN = 32


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
        begin = first
        while True:
            # Only what is read here: the user's faults are not those of the file.
            try:
                with translated(self.path):
                    piece = next(pieces, None)
            except BadInputError as error:
                raise self._blamed(error, names, begin, min(stop, begin + step)) from error
            if piece is None:
                return
            begin += piece.entries
            yield piece

    def _blamed(
        self, error: BadInputError, names: Mapping[str, str], first: int, stop: int
    ) -> BadInputError:
        """The error with the branches that cannot be read there."""
        bad = []
        for name, full in names.items():
            try:
                with translated(self.path):
                    for _ in self._tree.chunks({name: full}, first, stop, stop - first):
                        pass
            except BadInputError:
                bad.append(name)
        where = f"entries {first} to {stop - 1}" + (f" of {_listed(bad)}" if bad else "")
        return BadInputError(f"{error.message}, {where}", hint=error.hint)

    def _no_branch(self, name: str, there: Sequence[str], ends: Sequence[str]) -> BadInputError:
        if ends:
            return BadInputError(f"{self.path}: the branch {name!r} is one of {', '.join(ends)}")
        near = difflib.get_close_matches(name, there, n=3)
        return BadInputError(
            f"{self.path}: has no branch {name!r}",
            hint=f"did you mean {' or '.join(map(_quoted, near))}?"
            if near
            else f"its branches: {_listed(there)}",
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
                columns={name: joined(full, tables) for name, full in names.items()},
            )


def _entries(each: float, branches: int) -> int:
    """Entries of a step, if each has so many bytes in all branches."""
    wanted = min(_STEP_BYTES, _BRANCH_BYTES * max(1, branches))
    return int(min(_MOST, max(_LEAST, wanted / max(each, 1.0))))


def _quoted(name: str) -> str:
    """As it stands in an expression."""
    return name if name.isidentifier() else f"`{name}` (in backticks)"


def _listed(names: Sequence[str], most: int = 12) -> str:
    more = f" ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more
