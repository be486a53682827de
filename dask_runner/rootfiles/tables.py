"""Trees as plain numpy: one-value columns, and jagged collections that share their offsets.

Owns the shape of data between a file and the physics code. Knows no file.
"""

from typing import Any, Self

import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray

Column = NDArray[Any]


class Jagged(Struct, frozen=True, kw_only=True):
    """Any number of items per entry: those of entry i are `offsets[i]:offsets[i + 1]`."""

    offsets: NDArray[np.int64]
    columns: dict[str, Column]

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    @property
    def counts(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    @property
    def entry(self) -> NDArray[np.int64]:
        """For each item, the entry that it belongs to."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.counts)

    def where(self, mask: NDArray[np.bool_]) -> Self:
        """The items with a true mask."""
        kept = np.concatenate(([0], np.cumsum(mask, dtype=np.int64)))
        return type(self)(
            offsets=kept[self.offsets], columns={k: v[mask] for k, v in self.columns.items()}
        )

    def slice(self, first: int, stop: int) -> Self:
        lo, hi = self.offsets[first], self.offsets[stop]
        return type(self)(
            offsets=self.offsets[first : stop + 1] - lo,
            columns={name: column[lo:hi] for name, column in self.columns.items()},
        )


def branch_name(group: str, column: str) -> str:
    """The branch of a column of a collection: `jet_pt`; of a nameless one, that of the collection
    itself.
    """
    return f"{group}_{column}" if column else group


def column_name(group: str, branch: str) -> str:
    """The inverse."""
    return "" if branch == group else branch.removeprefix(f"{group}_")


class Table(Struct, frozen=True, kw_only=True):
    """A tree: one value per entry in each of `columns`, many in each of `jagged`."""

    entries: int
    columns: dict[str, Column]
    jagged: dict[str, Jagged] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    def slice(self, first: int, stop: int) -> Self:
        if (first, stop) == (0, self.entries):
            return self
        return type(self)(
            entries=stop - first,
            columns={name: column[first:stop] for name, column in self.columns.items()},
            jagged={name: jagged.slice(first, stop) for name, jagged in self.jagged.items()},
        )


def offsets_of(counts: NDArray[Any]) -> NDArray[np.int64]:
    """The offsets of a collection with these many items per entry."""
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def concatenated(tables: list[Table]) -> Table:
    """Tables with the same columns, one after the other."""
    first = tables[0]
    if len(tables) == 1:
        return first
    return Table(
        entries=sum(table.entries for table in tables),
        columns={
            name: np.concatenate([table.columns[name] for table in tables])
            for name in first.columns
        },
        jagged={name: _joined([table.jagged[name] for table in tables]) for name in first.jagged},
    )


def _joined(parts: list[Jagged]) -> Jagged:
    return Jagged(
        offsets=offsets_of(np.concatenate([part.counts for part in parts])),
        columns={
            name: np.concatenate([part.columns[name] for part in parts])
            for name in parts[0].columns
        },
    )
