"""`--until`: a run of trials that is extended until its conditions hold.

Owns what a goal costs, as far as that can be told, and which points need more trials. Refuses to
know how an extension is made (`trial_runs`).
"""

from collections.abc import Callable, Collection, Sequence

import msgspec
from msgspec import Struct

from dask_runner.errors import UsageError
from dask_runner.identity import whoami
from dask_runner.manifest import Extension, RunState
from dask_runner.opening import Target
from dask_runner.progress import duration
from dask_runner.seeds import canonical_point
from dask_runner.settings import Settings
from dask_runner.stats.forecast import forecast
from dask_runner.trial_results import load, workload_of
from dask_runner.trial_runs import Planned, TrialRequest, check_same, grown, named_points
from dask_runner.trials.conditions import MOST, Condition, looked_at, next_number, parse
from dask_runner.trials.loading import TrialData
from dask_runner.trials.points import Demand, Point, parse_counts


class Goal(Struct, frozen=True, kw_only=True):
    """`--until`: the conditions, what is asked for, the same with only the first trials, and the
    most trials of a point.
    """

    conditions: tuple[Condition, ...]
    request: TrialRequest
    first: TrialRequest
    most: int

    def check(self, fields: Collection[str]) -> None:
        """Raises UsageError if a condition is about a field that trials do not have."""
        for condition in self.conditions:
            condition.check(fields)

    def of_the_run(self) -> "Goal":
        """The same for all of the run, whatever has become of the files it was made from."""
        request = TrialRequest(batch_size=self.request.batch_size)
        return msgspec.structs.replace(self, request=request)


def goal(request: TrialRequest, conditions: Sequence[str]) -> Goal:
    """Raises UsageError for what is no condition, or a limit that is not one number."""
    parsed = tuple(parse(text) for text in conditions)
    most = _most(request)
    first = msgspec.structs.replace(request, counts=(str(next_number(0, most)),))
    return Goal(conditions=parsed, request=request, first=first, most=most)


def _most(request: TrialRequest) -> int:
    if not request.counts:
        return MOST
    if len(request.counts) > 1 or {":", "+"} & set(request.counts[0]):
        raise UsageError("--until: -n is one number, the most trials of a point")
    return parse_counts(request.counts, [{}])[0].trials


def prophecies(wanted: Goal, planned: Planned) -> tuple[str, ...]:
    """What a goal will cost, where that can be told before there are any trials."""
    lines = []
    for condition in wanted.conditions:
        if trials := condition.expected_trials():
            points = len(planned.workload.demands)
            each = planned.forecast.cpu / planned.forecast.trials
            slots = planned.forecast.cpu / max(planned.forecast.wall, 1e-9)
            cost = forecast(trials * points, each, slots=max(1, round(slots)))
            lines.append(
                f"{condition.text} takes {trials:.2g} trials at each of {points} points: "
                f"{duration(cost.cpu)} of CPU, {duration(cost.wall)} on {round(slots)} slots"
            )
            if trials > wanted.most:
                lines.append(f"  but -n allows {wanted.most}: it will not be reached")
    return tuple(lines)


def more(
    wanted: Goal, settings: Settings, target: Target, say: Callable[[str], None], state: RunState
) -> Extension:
    """What has to be added to the run, none if all conditions hold (or -n is reached), at the
    points that are asked for; all of the run if none is.

    Raises UsageError for another model, seed or NumPy than the run was made with.
    """
    check_same(state, wanted.request, settings)
    trials = load([state.folder.path])
    points = named_points(wanted.request, workload_of(state).model) or trials.points
    demands = unsatisfied(trials, points, wanted.conditions, wanted.most)
    text = "--until " + " and ".join(condition.text for condition in wanted.conditions)
    if not demands:
        return Extension(batches=(), text=text, who=whoami())
    say(f"{text}: {len(demands)} points need more, up to {max(d.trials for d in demands)} trials")
    return grown(
        state, demands, text=text, request=wanted.request, settings=settings, target=target
    )


def unsatisfied(
    trials: TrialData, points: Sequence[Point], conditions: Sequence[Condition], most: int
) -> list[Demand]:
    """The points where a condition does not hold yet, with the number of trials at which they are
    looked at next. Points that have `most` trials are left.
    """
    there = {canonical_point(point): its for point, its in trials}
    demands = []
    for point in points:
        its = there.get(canonical_point(point))
        have = 0 if its is None else len(its)
        if its is not None:
            seen = its.first_trials(looked_at(have, most))
            if all(condition.holds(seen) for condition in conditions):
                continue
        wanted = next_number(have, most)
        if wanted > have:
            demands.append(Demand(point=point, trials=wanted))
    return demands
