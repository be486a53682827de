"""The chain's file formats: what an event carries from step to step, and how files are joined.

Every file has a tree `events` with one entry for each event, in which the columns NORMALISATION
travel from generation to the end: any range, slice or union of events can be normalised.
docs/chain.md documents all columns.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct, field

from dask_runner import rootfiles
from dask_runner.errors import BadInputError
from dask_runner.rootfiles import Jagged, Table

TREE = "events"
JETS = "jets"
FORMATS = ("EVNT", "HITS", "RDO", "AOD", "NTUP")
IDENTITY = ("run", "event")
NORMALISATION = ("weight", "tries", "sigma_sum")
CARRIED = IDENTITY + NORMALISATION
FORMAT_VERSION = 1

# Small batches read ranges of these files; the others are read as a whole.
_EVNT_BASKET = 25
_BASKET = 100


class EventData(Struct, frozen=True, kw_only=True):
    """Events of one format in memory. `jets` is the second tree of NTUP."""

    format: str
    events: Table
    jets: Table | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def entries(self) -> int:
        return self.events.entries

    def next(self, format_name: str, events: Table, jets: Table | None = None) -> "EventData":
        """The same events in the next format."""
        return EventData(format=format_name, events=events, jets=jets, metadata=self.metadata)

    def carried(self) -> dict[str, rootfiles.Column]:
        """The columns that every format has."""
        return {name: self.events[name] for name in CARRIED}

    def jagged(self, name: str) -> Jagged:
        return self.events.jagged[name]


def read(path: Path, *, first: int = 0, count: int | None = None) -> EventData:
    """The events [first, first + count) of a file of ours."""
    events, metadata = rootfiles.read_with_metadata(path, TREE, first=first, count=count)
    format_name = metadata.get("format", "")
    if format_name not in FORMATS:
        raise BadInputError(f"{path}: not a file of this chain (no format in its metadata)")
    jets = None
    if format_name == "NTUP":
        counts = rootfiles.read(path, TREE, columns=("n_jets",))["n_jets"]
        ends = rootfiles.offsets_of(counts)
        lo, hi = int(ends[first]), int(ends[first + events.entries])
        jets = rootfiles.read(path, JETS, first=lo, count=hi - lo)
    kept = {key: value for key, value in metadata.items() if key not in _DERIVED}
    return EventData(format=format_name, events=events, jets=jets, metadata=kept)


def write(path: Path, data: EventData) -> None:
    """Write the events to a new file, with what normalises them in its metadata."""
    trees = {TREE: data.events}
    if data.jets is not None:
        trees[JETS] = data.jets
    metadata = data.metadata | {
        "format": data.format,
        "format_version": FORMAT_VERSION,
        **normalisation(data.events.columns),
    }
    basket = _EVNT_BASKET if data.format == "EVNT" else _BASKET
    rootfiles.write(path, trees, metadata, basket=basket)


_DERIVED = ("cross_section_pb", "tries", "accepted", "sum_of_weights", "sigma_sum_pb")


def normalisation(columns: dict[str, rootfiles.Column]) -> dict[str, float]:
    """What normalises a set of events, however they were put together.

    The sums are exact (fsum), so they do not depend on the order or grouping of events.
    """
    tries = int(np.sum(columns["tries"], dtype=np.int64))
    sigma_sum = math.fsum(columns["sigma_sum"].tolist())
    return {
        "cross_section_pb": sigma_sum / tries if tries else 0.0,
        "sigma_sum_pb": sigma_sum,
        "tries": tries,
        "accepted": len(columns["event"]),
        "sum_of_weights": math.fsum(columns["weight"].tolist()),
    }


def merge(
    parts: Sequence[Path], target: Path, metadata: dict[str, Any] | None = None
) -> tuple[int, str]:
    """Join files of one format, in this order. Returns the number of events and the content hash.

    Refuses files whose events do not add up, and an event that is there twice.
    """
    if not parts:
        raise BadInputError(f"{target}: nothing to merge")
    expected = 0
    columns: dict[str, list[rootfiles.Column]] = {name: [] for name in CARRIED}
    first = rootfiles.read_metadata(parts[0])
    for part in parts:
        table = rootfiles.read(part, TREE, columns=CARRIED)
        expected += table.entries
        for name in CARRIED:
            columns[name].append(table[name])
    joined = {name: np.concatenate(values) for name, values in columns.items()}
    _refuse_twice(joined, target)
    kept = {key: value for key, value in first.items() if key not in _DERIVED}
    written = rootfiles.concatenate(parts, target, kept | normalisation(joined) | (metadata or {}))
    if written[TREE] != expected:
        raise BadInputError(f"{target}: {written[TREE]} events written, {expected} expected")
    return expected, rootfiles.content_hash(target)


def _refuse_twice(columns: dict[str, rootfiles.Column], target: Path) -> None:
    pairs = np.stack([columns["run"].astype(np.int64), columns["event"]], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    twice = found[counts > 1]
    if len(twice):
        run, event = twice[0]
        raise BadInputError(
            f"{target}: {len(twice)} events are there twice, the first is {event} of run {run}",
            hint="were two input files made with the same seed and event numbers?",
        )
