"""Divides batches that would take too long, while the run is going on.

Owns what is learned of the cost of work, and when a batch that has not been sent is divided: it
would take more than twice the time that is wanted, or slots would stand idle at the end. Works only
for workloads that can divide a batch; their results must not depend on it.

What a batch takes before its events or trials (PREPARE_SECONDS) each part takes again: no part is
made whose own work is shorter.
"""

from collections.abc import Sequence
from math import ceil
from typing import Any, Protocol, runtime_checkable

from msgspec import Struct

from dask_runner.batch import Batch, Outcome
from dask_runner.manifest import Manifest, Split
from dask_runner.workloads.interface import PREPARE_SECONDS

# A batch that is estimated at more than this many times the wanted time is divided.
_TOLERANCE = 2.0
# At the end of a run parts may be shorter, but not than this (s).
_SHORTEST = 2.0
_SMOOTHING = 0.3


class _Cost(Struct, frozen=True, kw_only=True):
    """In s: for each event or trial, and for each batch before them."""

    each: float
    prepare: float


@runtime_checkable
class Divisible(Protocol):
    """A workload that can divide a batch."""

    def cost_key(self, batch: Batch) -> str:
        """Equal for batches whose events or trials cost about the same."""

    def divide(self, batch: Batch, size: int, *, first_index: int) -> list[Batch]:
        """The batch as batches of at most `size` events or trials, numbered from `first_index`."""


class Dividing:
    """`target` in s is what a batch should take."""

    def __init__(self, manifest: Manifest, workload: Any, *, target: float) -> None:
        self._manifest = manifest
        self._workload = workload if isinstance(workload, Divisible) and target > 0 else None
        self._target = target
        self._costs: dict[str, _Cost] = {}

    @property
    def active(self) -> bool:
        """False if the workload's batches cannot be divided."""
        return self._workload is not None

    def learn(self, outcome: Outcome) -> None:
        """Take in what a batch has cost that is done."""
        if self._workload is None:
            return
        batch = self._manifest.state.batches[outcome.batch]
        prepare = min(outcome.wall, outcome.counters.get(PREPARE_SECONDS, 0.0))
        found = _Cost(each=(outcome.wall - prepare) / max(1, batch.count), prepare=prepare)
        key = self._workload.cost_key(batch)
        before = self._costs.get(key, found)
        self._costs[key] = _Cost(
            each=_smooth(before.each, found.each), prepare=_smooth(before.prepare, found.prepare)
        )

    def cut(self, indices: Sequence[int], *, idle: int, waiting: int) -> list[int]:
        """The same batches, or what replaces them: the parts of those that were divided. `idle` are
        the slots without work, `waiting` the batches that nobody has, these among them.
        """
        if self._workload is None:
            return list(indices)
        found: list[int] = []
        for index in indices:
            found += self._cut(index, idle=idle, waiting=waiting)
        return found

    def _cut(self, index: int, *, idle: int, waiting: int) -> list[int]:
        assert self._workload is not None
        batch = self._manifest.state.batches[index]
        cost = self._costs.get(self._workload.cost_key(batch))
        if cost is None or batch.count < 2:  # noqa: PLR2004  # one cannot be divided
            return [index]
        work = wanted = cost.each * batch.count
        if cost.prepare + work > _TOLERANCE * self._target:
            wanted = self._target - cost.prepare
        if idle > waiting:
            # The last ones: all slots should end together.
            wanted = min(wanted, max(_SHORTEST, work * waiting / idle))
        wanted = max(wanted, cost.prepare)
        parts = min(batch.count, ceil(work / wanted)) if wanted > 0 else 1
        if parts < 2:  # noqa: PLR2004
            return [index]
        first = len(self._manifest.state.batches)
        pieces = self._workload.divide(batch, ceil(batch.count / parts), first_index=first)
        self._manifest.record(Split(batch=index, parts=tuple(pieces)))
        return [piece.index for piece in pieces]


def _smooth(before: float, now: float) -> float:
    return before + _SMOOTHING * (now - before)
