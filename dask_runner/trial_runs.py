"""Runs of trials: made from what the user says, extended, and continued until they are precise.

Owns what of a command line or a call becomes the workload. Refuses to dispatch: `pipeline` does.
"""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from dask_runner.errors import UsageError
from dask_runner.files import sha256
from dask_runner.identity import whoami
from dask_runner.manifest import Extension, RunState, Verdict
from dask_runner.opening import Target
from dask_runner.progress import duration
from dask_runner.prospect import Prospects
from dask_runner.settings import Settings
from dask_runner.stats.forecast import Forecast, forecast
from dask_runner.trial_results import load, workload_of
from dask_runner.trials import models, sizing
from dask_runner.trials.conditions import MOST, Condition, looked_at, next_number, parse
from dask_runner.trials.loading import TrialData
from dask_runner.trials.model import Model, describe_point
from dask_runner.trials.models import ModelSpec
from dask_runner.trials.pilot import PilotResult, check_points, measure
from dask_runner.trials.points import Demand, Point, parse_counts, parse_grid
from dask_runner.workloads.trials import Trials, wanted_ranges


class TrialRequest(Struct, frozen=True, kw_only=True):
    """What is wanted: `model` by name, or as FILE.py:function; `grid`, `fixed` and `counts` as
    --grid, --set and -n say them; `options` are of a built-in model (config, workspace ...);
    `batch_size` in trials, 0 if by time.
    """

    model: str
    grid: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()
    options: dict[str, Any] = {}
    batch_size: int = 0


class Planned(Struct, frozen=True, kw_only=True):
    """A workload, the files that have to be sent along for its model, and what it will cost."""

    workload: Any
    ship: tuple[Path, ...] = ()
    pilot: PilotResult
    forecast: Forecast


def plan(request: TrialRequest, settings: Settings, target: Target) -> Planned:
    """Load the model, try it, and divide the work. Raises UsageError or BadInputError for whatever
    is wrong with the model, the grid or the numbers, before anything is started.
    """
    points = parse_grid(request.grid, request.fixed)
    if not request.counts:
        raise UsageError("how many trials? -n NUMBER for each point")
    demands = parse_counts(request.counts, points)
    name, ship = _name_and_file(request.model)
    model = _load(name, ship, request.options, points)
    spec = models.spec_of(name, model)
    return _planned(
        spec,
        model,
        demands,
        ship=ship,
        batch_size=request.batch_size,
        settings=settings,
        target=target,
    )


def _planned(
    spec: ModelSpec,
    model: Model,
    demands: Sequence[Demand],
    *,
    ship: tuple[Path, ...] = (),
    batch_size: int,
    settings: Settings,
    target: Target,
) -> Planned:
    points = [demand.point for demand in demands]
    check_points(model, spec.name, points)
    pilot = measure(model, spec.name, points, settings.run.seed)
    slots = max(1, Prospects(settings, target).tell(len(demands), None).slots)
    workload = Trials(
        model=spec,
        seed=settings.run.seed,
        demands=tuple(demands),
        sizes=sizing.batch_sizes(
            demands, pilot, slots=slots, fixed=batch_size, target=settings.trials.batch_seconds
        ),
        fields=pilot.fields,
        trial_timeout=settings.trials.trial_timeout,
        max_failed=settings.trials.max_failed_share,
        notes=(),
    )
    cost = sum(pilot.seconds(k) * demand.trials for k, demand in enumerate(demands))
    trials = sum(demand.trials for demand in demands)
    expected = forecast(trials, cost / trials, slots=slots)
    notes = (*_notes(expected, slots, pilot, points), *getattr(model, "notes", ()))
    workload = msgspec.structs.replace(workload, notes=notes)
    return Planned(workload=workload, ship=ship, pilot=pilot, forecast=expected)


def extension(
    request: TrialRequest, settings: Settings, target: Target, state: RunState
) -> Extension:
    """The batches that a run of trials lacks to what is asked for now.

    Raises UsageError for another model, seed or NumPy than the run was made with.
    """
    check_same(state, request, settings)
    demands = _extended_demands(state, workload_of(state), request)
    return grown(
        state,
        demands,
        text=f"-n {' '.join(request.counts)}",
        request=request,
        settings=settings,
        target=target,
    )


def grown(
    state: RunState,
    demands: Sequence[Demand],
    *,
    text: str,
    request: TrialRequest,
    settings: Settings,
    target: Target,
) -> Extension:
    """The batches that a run lacks to these demands; `text` says why they are wanted."""
    workload = workload_of(state)
    planned = _planned(
        workload.model,
        models.load(workload.model),
        demands,
        batch_size=request.batch_size,
        settings=settings,
        target=target,
    )
    if planned.pilot.fields != workload.fields:
        raise UsageError(
            f"the model now gives the fields {planned.pilot.fields}, the run has {workload.fields}"
        )
    ranges = wanted_ranges(live_batches(state), demands, planned.workload.sizes)
    batches = workload.batches(ranges, first_index=len(state.batches))
    return Extension(batches=tuple(batches), text=text, who=whoami())


class Goal(Struct, frozen=True, kw_only=True):
    """`--until`: the conditions, what is asked for, and the same with only the first trials."""

    conditions: tuple[Condition, ...]
    request: TrialRequest
    first: TrialRequest


def goal(request: TrialRequest, conditions: Sequence[str]) -> Goal:
    """Raises UsageError for what is no condition, or a limit that is not one number."""
    parsed = tuple(parse(text) for text in conditions)
    most = _most(request)
    first = msgspec.structs.replace(request, counts=(str(next_number(0, most)),))
    return Goal(conditions=parsed, request=request, first=first)


def _most(request: TrialRequest) -> int:
    if not request.counts:
        return MOST
    if len(request.counts) > 1 or not request.counts[0].replace("e", "").isdigit():
        raise UsageError("--until: -n is one number, the most trials of a point")
    return int(float(request.counts[0]))


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
            if trials > _most(wanted.request):
                lines.append(f"  but -n allows {_most(wanted.request)}: it will not be reached")
    return tuple(lines)


def more(
    wanted: Goal, settings: Settings, target: Target, say: Callable[[str], None], state: RunState
) -> Extension:
    """What has to be added to the run, none if all conditions hold (or -n is reached)."""
    trials = load([state.folder.path])
    most = {workload_of(state).point_key(point): _most(wanted.request) for point in trials.points}
    demands = unsatisfied(state, trials, wanted.conditions, most)
    text = "--until " + " and ".join(condition.text for condition in wanted.conditions)
    if not demands:
        return Extension(batches=(), text=text, who=whoami())
    say(f"{text}: {len(demands)} points need more, up to {max(d.trials for d in demands)} trials")
    return grown(
        state, demands, text=text, request=wanted.request, settings=settings, target=target
    )


def unsatisfied(
    state: RunState, trials: TrialData, conditions: Sequence[Condition], most: Mapping[str, int]
) -> list[Demand]:
    """The points where a condition does not hold yet, with the number of trials at which they are
    looked at next; `most` trials by point's key. Points that have most are left.
    """
    workload, demands = workload_of(state), []
    for point, there in trials:
        have = len(there)
        limit = most.get(workload.point_key(point), MOST)
        seen = there.first_trials(looked_at(have, limit))
        if all(condition.holds(seen) for condition in conditions):
            continue
        wanted = next_number(have, limit)
        if wanted > have:
            demands.append(Demand(point=point, trials=wanted))
    return demands


def live_batches(state: RunState) -> list[Any]:
    """The batches that count: not those that were divided."""
    return [b for b in state.batches if state.verdict(b.index) is not Verdict.SUPERSEDED]


def check_same(state: RunState, request: TrialRequest, settings: Settings) -> None:
    """Refuse to mix what does not belong together."""
    workload, name = workload_of(state), state.folder.timestamp
    if request.model and _name_and_file(request.model)[0] != workload.model.name:
        raise UsageError(
            f"run {name} is of model {workload.model.name}, not of {request.model}",
            hint="an extension is of the same model: leave --model out",
        )
    if settings.run.seed != workload.seed:
        raise UsageError(
            f"run {name} has seed {workload.seed}, not {settings.run.seed}",
            hint="an extension has the same seed: leave --seed out",
        )
    made_with = state.header.versions.get("numpy")
    if made_with is not None and made_with != np.__version__:
        raise UsageError(
            f"run {name} was made with NumPy {made_with}, here is {np.__version__}: the streams of "
            "random numbers may differ",
            hint=f"pip install numpy=={made_with}, or start a new run with another --seed",
        )
    _check_same_file(request, workload)


def _check_same_file(request: TrialRequest, workload: Trials) -> None:
    _, ship = _name_and_file(request.model)
    if ship and sha256(ship[0]) != workload.model.sha256:
        raise UsageError(
            f"{ship[0]} is not the file that the run was planned with",
            hint="an extension is of the same model: leave --model out, the run has its copy",
        )


def _extended_demands(state: RunState, workload: Trials, request: TrialRequest) -> list[Demand]:
    """All points of the run, and those of the request's grid, with the numbers that are wanted."""
    there: dict[str, Demand] = {}
    for batch in live_batches(state):
        key = workload.cost_key(batch)
        trials = int(batch.parameters["first"]) + batch.count
        before = there.get(key)
        if before is None or before.trials < trials:
            there[key] = Demand(point=batch.parameters["point"], trials=trials)
    points: list[Point] = (
        parse_grid(request.grid, request.fixed)
        if request.grid or request.fixed
        else [demand.point for demand in there.values()]
    )
    if not request.counts:
        raise UsageError("how many trials? -n NUMBER in all for each point, or -n +NUMBER more")
    more = [text.startswith("+") for text in request.counts]
    if any(more) and len(request.counts) > 1:
        raise UsageError("-n +NUMBER stands alone: it is for all points of the grid")
    counts = [text.removeprefix("+") for text in request.counts]
    demands = parse_counts(counts, points)
    if any(more):
        own = {workload.point_key(one.point): one.trials for one in there.values()}
        demands = [
            msgspec.structs.replace(d, trials=d.trials + own.get(workload.point_key(d.point), 0))
            for d in demands
        ]
    return demands


def _name_and_file(model: str) -> tuple[str, tuple[Path, ...]]:
    """The model's name, and its file if it is given as FILE.py:function."""
    place, colon, function = model.rpartition(":")
    if colon and place.endswith(".py"):
        path = Path(place).expanduser()
        if not path.is_file():
            raise UsageError(f"--model {model}: {path} does not exist")
        if not path.stem.isidentifier():
            raise UsageError(f"--model {model}: {path.name} cannot be imported under its name")
        return f"{path.stem}:{function}", (path.absolute(),)
    return model, ()


def _load(
    name: str, ship: Sequence[Path], options: dict[str, Any], points: Sequence[Point]
) -> Model:
    given = {key: value for key, value in options.items() if value}
    if ":" not in name:
        made: Model = models.builtin(name).from_options(points=points, **given)
        return made
    if given:
        raise UsageError(
            f"model {name}: --{next(iter(given))} is for built-in models",
            hint="--set NAME=VALUE gives a parameter of your function",
        )
    folders = [str(path.parent) for path in ship] or [str(Path.cwd())]
    sys.path[:] = [*folders, *(other for other in sys.path if other not in folders)]
    module = name.partition(":")[0]
    loaded = sys.modules.get(module)
    if ship and loaded is not None and getattr(loaded, "__file__", None) != str(ship[0]):
        del sys.modules[module]
    importlib.invalidate_caches()
    return models.load_users(name)


def _notes(
    expected: Forecast, slots: int, pilot: PilotResult, points: Sequence[Point]
) -> tuple[str, ...]:
    number = f"{len(points)} point{'' if len(points) == 1 else 's'}"
    cost = f"{duration(expected.cpu)} of CPU, {duration(expected.wall)} on {slots} slots"
    size = expected.trials * pilot.row_bytes / 1e6
    return (
        f"{expected.trials} trials at {number}; fields {', '.join(pilot.fields)}",
        f"expected: {cost}, {size:.1f} MB",
        *(
            f"{one.failed} of {one.tried} pilot trials failed at {describe_point(one.point)}: "
            f"{one.message}"
            for one in pilot.costs
            if one.failed
        ),
    )
