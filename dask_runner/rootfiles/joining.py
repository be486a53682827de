"""Many files into one: trees one after the other, histograms added up.

Memory is bounded by one chunk, however large the files are.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import awkward as ak

from dask_runner.errors import BadInputError
from dask_runner.rootfiles import histograms, index, layout
from dask_runner.rootfiles.boundary import opened, tree_names
from dask_runner.rootfiles.reading import Indexed, chunks_of, indexed, is_ours
from dask_runner.rootfiles.reproducible import recreate
from dask_runner.rootfiles.writing import COMPRESSION, Writer

# Entries that are collected before they are written: small parts would make tiny baskets.
_BASKET = 1000


def concatenate(parts: Sequence[Path], target: Path, metadata: Mapping[str, Any]) -> dict[str, int]:
    """Join `parts`, in this order, into the new file `target`. Returns the entries of each tree.

    Every part must have the same trees with the same branches, and the same histograms with the
    same bins; anything else in the files (other than our metadata) is refused by name.
    """
    if not parts:
        raise BadInputError(f"{target}: nothing to join")
    if all(is_ours(part) for part in parts):
        return _join_ours(parts, target, metadata)
    return _join_any(parts, target, metadata)


def _join_ours(parts: Sequence[Path], target: Path, metadata: Mapping[str, Any]) -> dict[str, int]:
    trees: dict[str, index.TreeIndex] = {}
    with Writer(target, basket=_BASKET) as writer:
        for part in parts:
            with indexed(part) as ours:
                assert ours is not None
                if trees.keys() != ours.index.trees.keys() and part != parts[0]:
                    raise BadInputError(f"{part}: has other trees than {parts[0]}")
                trees = ours.index.trees
                for name, tree in trees.items():
                    _append(writer, ours, name, tree)
        writer.metadata = dict(metadata)
        return {name: writer.entries(name) for name in trees}


def _append(writer: Writer, ours: Indexed, name: str, tree: index.TreeIndex) -> None:
    begin = 0
    try:
        writer.append(name, index.empty_table(tree))
        for cluster in tree.clusters:
            for table in ours.tables(name, begin, cluster.end):
                writer.append(name, table)
            begin = cluster.end
    except ValueError as error:
        raise BadInputError(f"{ours.path}: {error}") from error


def _join_any(parts: Sequence[Path], target: Path, metadata: Mapping[str, Any]) -> dict[str, int]:
    names = _Contents.of(parts[0])
    for part in parts[1:]:
        names.compare(_Contents.of(part))
    entries = {}
    with recreate(target, COMPRESSION) as file:
        for tree in names.trees:
            entries[tree] = _join_tree(parts, file, tree)
        for name in names.histograms:
            file[name] = _sum(parts, name)
        file[layout.METADATA] = json.dumps(dict(metadata), sort_keys=True)
    return entries


class _Contents:
    """What is in a file, by kind."""

    def __init__(self, path: Path, classes: Mapping[str, str], trees: list[str]) -> None:
        self.path = path
        self.trees = trees
        self.histograms = sorted(n for n, kind in classes.items() if histograms.supports(kind))
        known = {layout.METADATA, index.NAME, *self.histograms}
        known.update(name for name in trees if classes[name] == "TTree")
        for name, kind in classes.items():
            if name not in known and not kind.startswith("TDirectory"):
                raise BadInputError(
                    f"{path}: {name!r} is a {kind}, which cannot be merged",
                    hint="trees and histograms (TH1, TH2, TH3, TProfile) can; --merge-command "
                    "joins the rest",
                )

    @classmethod
    def of(cls, path: Path) -> "_Contents":
        with opened(path) as file:
            return cls(path, file.classnames(recursive=True, cycle=False), tree_names(file))

    def compare(self, other: "_Contents") -> None:
        for kind in ("trees", "histograms"):
            mine, theirs = getattr(self, kind), getattr(other, kind)
            if mine != theirs:
                odd = ", ".join(sorted(set(mine) ^ set(theirs)))
                raise BadInputError(
                    f"{other.path}: other {kind} than in {self.path}: {odd} only in one of them"
                )


class _TreeWriter:
    """The joined tree; it is made when the first part tells the types of its branches."""

    def __init__(self, file: Any, name: str) -> None:
        self._file = file
        self._name = name
        self._tree: Any = None
        self._types: dict[str, str] = {}
        self._waiting: list[Any] = []
        self._count = 0
        self.entries = 0

    def begin(self, node: Any, path: Path) -> None:
        """Take the branches of the first part; refuse a later part that differs."""
        types = {branch.name: branch.typename for branch in node.branches}
        if not self._types:
            self._types = types
            self._make(node)
        elif types != self._types:
            odd = sorted({name for name, _ in types.items() ^ self._types.items()})
            raise BadInputError(
                f"{path}: tree {self._name!r} differs from that of the first part in the branches "
                f"{', '.join(odd)}"
            )

    def _make(self, node: Any) -> None:
        counters = _counters(node)
        empty = {
            branch.name: branch.array(entry_stop=0, library="ak")
            for branch in node.branches
            if branch.name not in counters.values()
        }
        self._tree = self._file.mktree(
            self._name,
            {name: array.type.content for name, array in empty.items()},
            counter_name=lambda name: counters.get(name, f"n{name}"),
        )

    def add(self, chunk: Any) -> None:
        self._waiting.append(chunk)
        self._count += len(chunk)
        if self._count >= _BASKET:
            self.flush()

    def flush(self) -> None:
        if not self._count:
            return
        whole = ak.concatenate(self._waiting)
        self._waiting, self._count = [], 0
        for first in range(0, len(whole), _BASKET):
            part = whole[first : first + _BASKET]
            self._tree.extend({name: ak.to_packed(part[name]) for name in ak.fields(part)})
        self.entries += len(whole)


def _counters(node: Any) -> dict[str, str]:
    """For each branch of lists, the branch that counts its items."""
    return {
        branch.name: branch.count_branch.name
        for branch in node.branches
        if branch.count_branch is not None
    }


def _join_tree(parts: Sequence[Path], file: Any, name: str) -> int:
    writer = _TreeWriter(file, name)
    expected = 0
    for part in parts:
        with opened(part) as source:
            node = source[name]
            writer.begin(node, part)
            expected += int(node.num_entries)
            for chunk in chunks_of(node):
                writer.add(chunk)
    writer.flush()
    if writer.entries != expected:
        raise BadInputError(
            f"tree {name!r}: {expected} entries in {len(parts)} files, {writer.entries} read"
        )
    return writer.entries


def _sum(parts: Sequence[Path], name: str) -> Any:
    total: histograms.Sum | None = None
    for part in parts:
        with opened(part) as source:
            if total is None:
                total = histograms.Sum(source[name], part)
            else:
                total.add(source[name], part)
    assert total is not None
    return total.result()
