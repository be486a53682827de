"""A part of the trials of a point, and which of them have failed.

Owns the rules of when too many failed trials fail the batch, and which errors are no trial's.
"""

import errno
import re
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from dask_runner.batch import BatchFailedError, FailureKind
from dask_runner.seeds import Value
from dask_runner.trials.model import describe_point
from dask_runner.trials.tables import FailedTrials

_VARYING: Final = re.compile(r"0x[0-9a-fA-F]+|[+-]?\d[\d.]*(?:[eE][+-]?\d+)?")
# Fewer failed trials than this never fail a batch: of a batch of twelve, two say nothing ...
FEWEST_FAILED: Final = 10
# ... unless all fail, of at least so many: that is rather the host.
_ALL_FAILED: Final = 3
# What is told of failed trials is bounded, for it goes back with the outcome; the table has all.
_CAUSES: Final = 50
_NAMED: Final = 1000
_OTHER_CAUSES: Final = "other causes"
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


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
        most = max(FEWEST_FAILED - 1, int(self.max_failed * self.count))
        all_count = self.count >= _ALL_FAILED and self.max_failed < 1
        return min(most, self.count - 1) if all_count else most


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
        failed, count = len(self.trials), self._job.count
        number = f"all {count}" if failed == count else f"{failed} of up to {count}"
        raise BatchFailedError(
            FailureKind.EXCEPTION,
            f"{number} trials at {describe_point(self._job.point)} failed, more than the share "
            f"{self._job.max_failed:g} that is accepted; first trial {trials[0]}: {message}",
            cause=f"too many failed trials: {cause}",
        )

    def grouped(self) -> tuple[FailedTrials, ...]:
        """The causes, most frequent first; the rarest together if there are very many."""
        causes = [(cause, *found) for cause, found in self._by_cause.items()]
        causes.sort(key=lambda one: (-len(one[2]), min(one[2])))
        rest = causes[_CAUSES:]
        groups = [_group(*one) for one in causes[:_CAUSES]]
        if rest:
            trials = [trial for _, _, some in rest for trial in some]
            groups.append(_group(_OTHER_CAUSES, rest[0][1], trials))
        return tuple(groups)


def _group(cause: str, message: str, trials: list[int]) -> FailedTrials:
    return FailedTrials(
        cause=cause, message=message, count=len(trials), trials=tuple(sorted(trials)[:_NAMED])
    )


def host_trouble(error: BaseException) -> FailureKind | None:
    """What the batch fails with if a trial raises this, None if that is a result of the trial: a
    missing file or library, no memory or no space are the host's, and another one may do better.
    """
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError) or number == errno.ENOMEM:
        return FailureKind.MEMORY
    if number in _FULL:
        return FailureKind.DISK_FULL
    return FailureKind.EXCEPTION if isinstance(error, ImportError | OSError) else None


def check_names(result: Mapping[str, Any], fields: Mapping[str, str]) -> None:
    """Raises ValueError unless a result has the planned fields."""
    if result.keys() != fields.keys():
        missing = sorted(fields.keys() - result.keys())
        extra = sorted(result.keys() - fields.keys())
        words = [f"no {', '.join(missing)}"] if missing else []
        words += [f"unexpected {', '.join(extra)}"] if extra else []
        raise ValueError(f"a trial's fields: {'; '.join(words)}")
