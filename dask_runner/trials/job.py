"""A part of the trials of a point, and which of them have failed.

Owns the rule of when too many failed trials fail the batch.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from dask_runner.batch import BatchFailedError, FailureKind
from dask_runner.seeds import Value
from dask_runner.trials.model import describe_point
from dask_runner.trials.tables import FailedTrials

_VARYING: Final = re.compile(r"0x[0-9a-fA-F]+|[+-]?\d[\d.]*(?:[eE][+-]?\d+)?")
# Fewer failed trials than this never fail a batch: of a batch of three, one says nothing.
FEWEST_FAILED: Final = 10


class Job(Struct, frozen=True, kw_only=True):
    """Trials `first` to `first + count - 1` of a point. `timeout` in s for each trial of a scalar
    model, 0 is none; with more than the share `max_failed` of failed trials the batch fails.
    """

    model: str
    seed: int
    point: dict[str, Value]
    first: int
    count: int
    fields: dict[str, str]
    timeout: float = 0.0
    max_failed: float = 1.0

    @property
    def most_failed(self) -> int:
        """How many failed trials are still accepted."""
        return max(FEWEST_FAILED - 1, int(self.max_failed * self.count))


class Failures:
    """The failed trials of a job, by cause."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._by_cause: dict[str, tuple[str, list[int]]] = {}
        self.trials: set[int] = set()

    def add(self, trial: int, message: str) -> None:
        """Raises BatchFailedError when there are too many."""
        if trial in self.trials:
            return  # told again by a child that came back to it
        cause = _VARYING.sub("#", message)
        self.trials.add(trial)
        self._by_cause.setdefault(cause, (message, []))[1].append(trial)
        if len(self.trials) > self._job.most_failed:
            self._give_up()

    def _give_up(self) -> None:
        cause, (message, trials) = max(self._by_cause.items(), key=lambda item: len(item[1][1]))
        raise BatchFailedError(
            FailureKind.EXCEPTION,
            f"{len(self.trials)} of up to {self._job.count} trials at "
            f"{describe_point(self._job.point)} failed, more than the share "
            f"{self._job.max_failed:g} that is accepted; first trial {trials[0]}: {message}",
            cause=f"too many failed trials: {cause}",
        )

    def grouped(self) -> tuple[FailedTrials, ...]:
        groups = [
            FailedTrials(cause=cause, message=message, trials=tuple(sorted(trials)))
            for cause, (message, trials) in self._by_cause.items()
        ]
        return tuple(sorted(groups, key=lambda one: (-len(one.trials), one.trials)))


def check_names(result: Mapping[str, Any], fields: Mapping[str, str]) -> None:
    """Raises ValueError unless a result has the planned fields."""
    if result.keys() != fields.keys():
        missing = sorted(fields.keys() - result.keys())
        extra = sorted(result.keys() - fields.keys())
        words = [f"no {', '.join(missing)}"] if missing else []
        words += [f"unexpected {', '.join(extra)}"] if extra else []
        raise ValueError(f"a trial's fields: {'; '.join(words)}")
