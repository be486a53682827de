"""How many trials go into a batch: by what they take, not by count.

Pure arithmetic on the pilot's numbers. Refuses to know how many batches there are per point for any
other reason than time and size: the result of a run does not depend on it.
"""

from collections.abc import Sequence
from math import ceil

from dask_runner.batch import RETURNED_MAX
from dask_runner.trials.pilot import PilotResult
from dask_runner.trials.points import Demand

# Seconds of a batch: long enough that nothing else counts, short enough to be lost with a host.
TARGET = 30.0
# In a run that is short, each slot gets at least so many batches, none shorter than this (s).
_ROUNDS = 4
_SHORTEST = 0.5
# Room for the file's head and what is told of failed trials, which is bounded.
_SPARE = 1_000_000


def batch_sizes(
    demands: Sequence[Demand],
    pilot: PilotResult,
    *,
    slots: int,
    fixed: int = 0,
    target: float = TARGET,
) -> tuple[int, ...]:
    """Trials in a batch for each demand; `fixed` is what the user wants, 0 if by time."""
    most = largest(pilot.row_bytes)
    if fixed:
        return tuple(min(fixed, most) for _ in demands)
    seconds = [max(1e-9, pilot.seconds(place)) for place in range(len(demands))]
    total = sum(one * demand.trials for one, demand in zip(seconds, demands, strict=True))
    share = max(_SHORTEST, total / (_ROUNDS * max(1, slots)))
    # The trials of a batch take no less than what is prepared for them.
    prepare = [pilot.prepare(place) for place in range(len(demands))]
    goals = [max(before, min(target - before, share)) for before in prepare]
    return tuple(
        _even(demand.trials, max(1, min(most, int(goal / one))))
        for one, goal, demand in zip(seconds, goals, demands, strict=True)
    )


def largest(row_bytes: int) -> int:
    """The most trials whose results a batch may return."""
    return max(1, (RETURNED_MAX - _SPARE) // row_bytes)


def _even(trials: int, size: int) -> int:
    """No last batch that is much smaller than the others."""
    return ceil(trials / ceil(trials / size))
