"""Skims: the selected events of a range, with some branches and derived columns, in a file.

Owns what is written for `--skim`: events that pass `where_event`, and of each list that belongs to
the collection of `where` the objects that pass it. The numbers of a column are those that were
read, bit by bit. Refuses to guess: lists that should fit together and do not are an error.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dask_runner import rootfiles
from dask_runner.errors import UsageError
from dask_runner.histograms.expressions import Expression
from dask_runner.histograms.values import CountsDifferError, Value

Mask = npt.NDArray[np.bool_]

_DERIVED = re.compile(r"\s*([A-Za-z_]\w*)\s*=(?!=)(.*)", re.DOTALL)
_GLOB = re.compile(r"[*?\[]")
_NUMBER = re.compile(
    r"(std::)?(u?int\d*(_t)?|float\d*(_t)?|double|bool|char|short|long|signed|unsigned"
    r"|(signed|unsigned|long) \w+|(U?(Char|Short|Int|Long|Long64)|Float|Double|Bool)_t)( int)?"
)
_LIST = re.compile(r"(?:std::|ROOT::VecOps::)?(?:vector|RVec|array)<(.*?)(?:,\s*\d+)?\s*>")
_PLACE = "--skim"
# In the metadata of a file: its columns, without the counters that a TTree needs.
COLUMNS = "columns"


def resolve(texts: Sequence[str], types: Mapping[str, str]) -> tuple[str, ...]:
    """The columns of a skim, each as NAME or NAME = EXPRESSION, in order: globs become the names
    that match in `types` (branch to type), and `!GLOB` takes names away again.

    Raises UsageError for names that are not there, columns given twice, and branches of a glob that
    are neither numbers nor lists of numbers.
    """
    found: dict[str, str] = {}
    for text in texts:
        if text.startswith("!"):
            taken = [name for name in found if fnmatchcase(name, text[1:])]
            if not taken:
                raise UsageError(f"{_PLACE} {text}: takes nothing away")
            for name in taken:
                del found[name]
        else:
            for name, column in _columns(text, types):
                if found.setdefault(name, column) != column:
                    raise UsageError(f"{_PLACE} {text}: two columns of the name {name}")
    _refuse_odd(found, types)
    if not found:
        raise UsageError(f"{_PLACE}: no column")
    return tuple(found.values())


def _columns(text: str, types: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Name and text of the columns that one option asks for."""
    if derived := _DERIVED.fullmatch(text):
        name, formula = derived[1], derived[2].strip()
        for branch in Expression(formula, f"{_PLACE} {name}").branches:
            _full_name(branch, types, text)
        return [(name, f"{name} = {formula}")]
    if not _GLOB.search(text):
        full = _full_name(text.strip(), types, text)
        return [(short_name(full), full)]
    names = [
        full for full in types if fnmatchcase(full, text) or fnmatchcase(short_name(full), text)
    ]
    if not names:
        raise UsageError(f"{_PLACE} {text}: no branch matches", hint=_some(types))
    return [(short_name(full), full) for full in names]


def _full_name(name: str, types: Mapping[str, str], text: str) -> str:
    if name in types:
        return name
    ends = [full for full in types if short_name(full) == name]
    if len(ends) != 1:
        what = f"is one of {', '.join(ends)}" if ends else "there is no such branch"
        raise UsageError(f"{_PLACE} {text}: {name}: {what}", hint="" if ends else _some(types))
    return ends[0]


def short_name(full: str) -> str:
    """A branch without the folders it is in."""
    return full.rpartition("/")[2]


def _some(types: Mapping[str, str]) -> str:
    names = list(types)
    return "its branches: " + ", ".join(names[:12]) + (" ..." if len(names) > 12 else "")  # noqa: PLR2004  (as many as fit)


def _refuse_odd(found: Mapping[str, str], types: Mapping[str, str]) -> None:
    odd = [text for text in found.values() if text in types and not is_numeric(types[text])]
    if odd:
        raise UsageError(
            f"{_PLACE}: neither numbers nor lists of numbers: "
            + ", ".join(f"{name} ({types[name]})" for name in odd[:5]),
            hint=f"{_PLACE} '!{short_name(odd[0])}' leaves it out",
        )


def is_numeric(kind: str) -> bool:
    """True for the type (as ROOT and NumPy say it) of numbers and lists of them."""
    kind = re.sub(r"(\[\w*\])+$", "", kind.strip())
    while inner := _LIST.fullmatch(kind):
        kind = re.sub(r"(\[\w*\])+$", "", inner[1].strip())
    return _NUMBER.fullmatch(kind) is not None


class _Column(Struct, frozen=True, kw_only=True):
    """A column to be written: a branch, or an expression; the collections that it belongs to."""

    name: str
    branches: tuple[str, ...]
    expression: Any = None


class Skim:
    """What is written of a tree with these branches. `columns` are as `resolve` gives them."""

    def __init__(self, columns: Sequence[str], types: Mapping[str, str], where: str = "") -> None:
        """Raises UsageError for expressions that are none, and counters that would have the name of
        a column.
        """
        self._types = {short_name(name): kind for name, kind in types.items()}
        self._columns = [self._column(text) for text in columns]
        self._where = Expression(where, "--where").branches if where else ()
        self.groups = self._groups()
        # The number of objects that were written is not always the number that was read.
        counters = {f"n{group}" for group in self.groups.values()}
        self._columns = [c for c in self._columns if c.expression or c.name not in counters]
        self.branches = tuple(dict.fromkeys(b for c in self._columns for b in c.branches))

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that are written, without counters."""
        return tuple(column.name for column in self._columns)

    @contextmanager
    def writer(
        self, path: Path, tree: str, metadata: Mapping[str, Any] | None = None
    ) -> Iterator["SkimWriter"]:
        """A new file, complete when the context ends without an exception."""
        with rootfiles.ListWriter(path, tree, groups=self.groups) as file:
            file.metadata = {COLUMNS: list(self.names), **(metadata or {})}
            yield SkimWriter(self, file)

    def selected(
        self, chunk: Any, values: Mapping[str, Value], events: Mask, objects: Value | None
    ) -> dict[str, Any]:
        """The columns of a chunk, cut down. Raises CountsDifferError if the objects of a column of
        the collection of `where` are not as many as `objects`.
        """
        pruned = self._collections(self._where, chunk) if objects is not None else set()
        found = {}
        for column in self._columns:
            if column.expression is None:
                whole = chunk.columns[column.branches[0]]
            else:
                whole = _as_column(column.expression(values, chunk.entries))
            mine = self._collections(column.branches, chunk)
            mask = None
            if whole.offsets and objects is not None and mine & pruned:
                mask = _matching(column.name, whole, objects)
            found[column.name] = _cut(whole, events, mask)
        return found

    def _column(self, text: str) -> _Column:
        if derived := _DERIVED.fullmatch(text):
            expression = Expression(derived[2], f"{_PLACE} {derived[1]}")
            return _Column(name=derived[1], branches=expression.branches, expression=expression)
        return _Column(name=short_name(text), branches=(text,))

    def _groups(self) -> dict[str, str]:
        """The collection of branches that have a common counter in a TTree."""
        found = {}
        for column in self._columns:
            kind = self._types.get(column.name, "")
            if column.expression is None and kind.endswith("[]"):
                group = self.collection(column.name)
                if f"n{group}" in self._types:
                    found[column.name] = group
        return found

    def collection(self, branch: str) -> str:
        """What a branch belongs to: `jet` of `jet_pt` if there is a branch `njet`; else its name up
        to the last underscore or point.
        """
        name = short_name(branch)
        ends = [match.start() for match in re.finditer(r"[_.]", name)]
        for end in reversed(ends):
            if f"n{name[:end]}" in self._types:
                return name[:end]
        return name[: ends[-1]] if ends else name

    def _collections(self, branches: Sequence[str], chunk: Any) -> set[str]:
        return {self.collection(name) for name in branches if chunk.columns[name].offsets}


class SkimWriter:
    """The file of a range."""

    def __init__(self, skim: Skim, file: Any) -> None:
        self._skim, self._file = skim, file

    @property
    def entries(self) -> int:
        """What was written so far."""
        return int(self._file.entries)

    def add(
        self, chunk: Any, values: Mapping[str, Value], events: Mask, objects: Value | None = None
    ) -> None:
        """Write what is selected of a chunk: `values` are its columns as expressions take them,
        `events` (entries,) what passes, `objects` the mask of `where`. Raises CountsDifferError.
        """
        columns = self._skim.selected(chunk, values, events, objects)
        self._file.append(columns, int(events.sum()))


def _as_column(value: Value) -> Any:
    data = value.data
    if data.dtype == np.float16:
        data = data.astype(np.float32)
    return rootfiles.ListColumn(
        data=data, offsets=() if value.offsets is None else (value.offsets,)
    )


def _matching(name: str, column: Any, objects: Value) -> Mask:
    """The mask of a column's lists or numbers."""
    own, theirs = column.offsets[0], objects.offsets
    assert theirs is not None
    if own is not theirs and not np.array_equal(own, theirs):
        counts = np.diff(own), np.diff(theirs)
        event = int(np.flatnonzero(counts[0] != counts[1])[0])
        raise CountsDifferError(
            (name, objects.name), event, (int(counts[0][event]), int(counts[1][event]))
        )
    return objects.data.astype(bool)


def _cut(column: Any, events: Mask, objects: Mask | None) -> Any:
    """What is left of a column: of events, and of the items of its outermost lists."""
    if objects is None and events.all():
        return column
    keep = events
    offsets = []
    for level, ends in enumerate(column.offsets):
        inner = np.repeat(keep, np.diff(ends))
        if level == 0 and objects is not None:
            inner &= objects
        running = np.concatenate(([0], np.cumsum(inner, dtype=np.int64)))
        counts = (running[ends[1:]] - running[ends[:-1]])[keep]
        offsets.append(np.concatenate(([0], np.cumsum(counts, dtype=np.int64))))
        keep = inner
    return rootfiles.ListColumn(data=column.data[keep], offsets=tuple(offsets))
