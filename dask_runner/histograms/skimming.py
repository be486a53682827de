"""Skims: the selected events of a range, with some branches and derived columns, in a file.

Owns what is written for `--skim`: events that pass `where_event`, and of each list with the objects
of `where` those that pass it. Which lists these are is found once, in the first file, and not for
each range: lists that do not fit any more later are an error. The numbers of a column are those
that were read, bit by bit.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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

_DERIVED = re.compile(r"\s*([A-Za-z_]\w*)\s*=(?!=)(.*)", re.DOTALL | re.ASCII)
_GLOB = re.compile(r"[*?\[]")
_NUMBER = re.compile(
    r"(std::)?(u?int\d*(_t)?|float\d*(_t)?|double|bool|char|short|long|signed|unsigned"
    r"|(signed|unsigned|long) \w+|(U?(Char|Short|Int|Long|Long64)|Float|Double|Bool)_t)( int)?"
)
_LIST = re.compile(r"(?:std::|ROOT::VecOps::)?(?:vector|RVec|array)<(.*?)(?:,\s*\d+)?\s*>")
# What C++ calls otherwise than NumPy.
_PLAIN = {"float": "float32", "double": "float64", "int": "int32"}
_PLACE = "--skim"
# How far the first file is looked at for lists with the objects of `where`.
_LOOKED_AT = 100_000
_STEP = 2_000
_OBJECTS = 2_000
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
            taken = [name for name, full in found.items() if _matches(text[1:], name, full)]
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
    if "=" in text and text.strip() not in types:
        raise UsageError(
            f"{_PLACE} {text}: not NAME = EXPRESSION",
            hint="the name of a new column has letters without accents, digits and _",
        )
    if not _GLOB.search(text):
        full = _full_name(text.strip(), types, text)
        return [(written_name(full), full)]
    names = [full for full in types if _matches(text, full)]
    if not names:
        raise UsageError(f"{_PLACE} {text}: no branch matches", hint=_some(types))
    return [(written_name(full), full) for full in names]


def _matches(glob: str, *names: str) -> bool:
    return any(fnmatchcase(one, glob) for name in names for one in (name, short_name(name)))


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


def written_name(full: str) -> str:
    """What a branch is called in a skim: ROOT allows no points in names of fields."""
    return short_name(full).replace(".", "_")


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
    return _NUMBER.fullmatch(_taken_apart(kind)[1]) is not None


def plain_type(kind: str) -> str:
    """The same text for the same type, whoever says it: `float32 in 1 lists` of float[] and of
    std::vector<float>.
    """
    depth, number = _taken_apart(kind)
    plain = number.removeprefix("std::").removesuffix("_t")
    return f"{_PLAIN.get(plain, plain)} in {depth} lists"


def _taken_apart(kind: str) -> tuple[int, str]:
    """How deep lists are, and what is in them."""
    depth = 0
    while True:
        bare, brackets = re.subn(r"\[\w*\]$", "", kind.strip())
        inner = _LIST.fullmatch(bare)
        if not brackets and inner is None:
            return depth, bare
        depth += 1
        kind = bare if brackets or inner is None else inner[1]


def branches_of_columns(columns: Sequence[str]) -> tuple[str, ...]:
    """What the columns of a skim, as `resolve` gives them, are made of."""
    found: dict[str, None] = {}
    for text in columns:
        derived = _DERIVED.fullmatch(text)
        names = Expression(derived[2], f"{_PLACE} {derived[1]}").branches if derived else (text,)
        found.update(dict.fromkeys(names))
    return tuple(found)


def objects_of(tree: rootfiles.TreeReader, columns: Sequence[str], where: str) -> tuple[str, ...]:
    """The columns whose outermost lists have as many objects as `where` in each of the first
    entries of an open tree; none if something in it cannot be evaluated, which a batch will say.
    Raises UsageError if it has objects, but no column has them.
    """
    if not where:
        return ()
    try:
        return _objects_of(tree, Skim(columns, tree.types), Expression(where, "--where"))
    except CountsDifferError:
        return ()


def _objects_of(tree: rootfiles.TreeReader, skim: "Skim", cut: Expression) -> tuple[str, ...]:
    branches = tuple(dict.fromkeys((*skim.branches, *cut.branches)))
    same = set(skim.names)
    objects = 0
    for chunk in tree.chunks(branches, 0, min(tree.entries, _LOOKED_AT), step=_STEP):
        values = as_values(chunk.columns)
        mask = cut(values, chunk.entries)
        if mask.offsets is None:
            return ()
        for name, column in skim.whole(chunk, values).items():
            if not column.offsets or not np.array_equal(column.offsets[0], mask.offsets):
                same.discard(name)
        objects += len(mask.data)
        if objects > _OBJECTS:
            break
    if objects and not same:
        raise UsageError(
            f"{cut.place} {cut.text!r}: no column of the skim has these objects",
            hint="skim a list that has them, or select events: --where-event 'any(...)'",
        )
    return tuple(name for name in skim.names if name in same)


def as_values(columns: Mapping[str, Any]) -> dict[str, Value]:
    """Columns as expressions take them; lists of lists cannot be in one."""
    return {
        name: Value(data=one.data, offsets=one.offsets[0] if one.offsets else None, name=name)
        for name, one in columns.items()
        if len(one.offsets) < 2  # noqa: PLR2004  (lists of lists)
    }


def is_list(kind: str) -> bool:
    """True for the type of lists of any length."""
    return "[]" in kind or "vector" in kind or "RVec" in kind


class _Column(Struct, frozen=True, kw_only=True):
    """A column to be written: a branch, or an expression of branches."""

    name: str
    branches: tuple[str, ...]
    expression: Any = None


class Skim:
    """What is written of a tree with branches of these `types`. `columns` are as `resolve` gives
    them, `pruned` as `objects_of` does.
    """

    def __init__(
        self, columns: Sequence[str], types: Mapping[str, str], pruned: Collection[str] = ()
    ) -> None:
        """Raises UsageError for expressions that are none, and counters that would have the name of
        a column.
        """
        self._types = {written_name(name): kind for name, kind in types.items()}
        self._columns = [self._column(text) for text in columns]
        self._pruned = set(pruned)
        self.groups = self._groups()
        # The number of objects that were written is not always the number that was read.
        lists = {c.name for c in self._columns if is_list(self._types.get(c.name, ""))}
        counters = {f"n{name}" for name in (*self.groups.values(), *lists)}
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
        """The columns of a chunk, cut down. Raises CountsDifferError if a column that is to be
        pruned has not as many objects as `objects`.
        """
        found = {}
        for name, whole in self.whole(chunk, values).items():
            mask = None
            if objects is not None and name in self._pruned:
                mask = _matching(name, whole, objects)
            found[name] = _cut(whole, events, mask)
        return found

    def whole(self, chunk: Any, values: Mapping[str, Value]) -> dict[str, Any]:
        """The columns of a chunk, all of them."""
        return {
            column.name: chunk.columns[column.branches[0]]
            if column.expression is None
            else _as_column(column.expression(values, chunk.entries))
            for column in self._columns
        }

    def _column(self, text: str) -> _Column:
        if derived := _DERIVED.fullmatch(text):
            expression = Expression(derived[2], f"{_PLACE} {derived[1]}")
            return _Column(name=derived[1], branches=expression.branches, expression=expression)
        return _Column(name=written_name(text), branches=(text,))

    def _groups(self) -> dict[str, str]:
        """The collection of branches that have a common counter in a TTree."""
        found = {}
        for column in self._columns:
            kind = self._types.get(column.name, "")
            if column.expression is None and kind.endswith("[]"):
                parts = column.name.split("_")
                names = ("_".join(parts[:end]) for end in range(len(parts) - 1, 0, -1))
                group = next((name for name in names if f"n{name}" in self._types), "")
                if group:
                    found[column.name] = group
        return found


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
        `events` (entries,) what passes, `objects` the mask of `where`; if that has one value for
        each event, it selects events too. Raises CountsDifferError.
        """
        if objects is not None and objects.offsets is None:
            events, objects = events & objects.data.astype(bool), None
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
