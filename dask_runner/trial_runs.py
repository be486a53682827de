"""Runs of trials: made from what the user says, extended, and continued until they are precise.

Owns what of a command line or a call becomes the workload. Refuses to dispatch: `pipeline` does.
"""

import inspect
import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from dask_runner import model_files, shipping
from dask_runner.errors import RunnerError, UsageError
from dask_runner.files import sha256
from dask_runner.host_imports import as_on_hosts, copied
from dask_runner.identity import whoami
from dask_runner.manifest import Extension, RunState, Verdict
from dask_runner.opening import Target
from dask_runner.progress import duration
from dask_runner.prospect import Prospects
from dask_runner.seeds import Value, canonical_point
from dask_runner.settings import Settings
from dask_runner.stats.forecast import Forecast, forecast
from dask_runner.trial_results import workload_of
from dask_runner.trials import models, sizing
from dask_runner.trials.model import Model, describe_point
from dask_runner.trials.models import ModelSpec
from dask_runner.trials.pilot import PilotResult, check_points, measure
from dask_runner.trials.points import Demand, Point, parse_counts, parse_grid
from dask_runner.versions import versions
from dask_runner.workloads.trials import Trials, wanted_ranges

# Seconds for preparing points that the pilot does not try.
_PREPARING = 0.5


class TrialRequest(Struct, frozen=True, kw_only=True):
    """What is wanted: `model` by name, or as FILE.py:function; `grid`, `fixed` and `counts` as
    --grid, --set and -n say them, or `points` in place of the first two; `options` are of a
    built-in model (config, workspace ...); `batch_size` in trials, 0 if by time. `ship` and
    `import_path` are what the batches get.
    """

    model: str = ""
    points: tuple[Point, ...] = ()
    grid: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()
    options: dict[str, Any] = {}
    batch_size: int = 0
    ship: tuple[Path, ...] = ()
    import_path: tuple[str, ...] = ()

    def all_points(self) -> list[Point]:
        """The points that are named; only one without parameters if none is."""
        return list(self.points) or parse_grid(self.grid, self.fixed)


class Planned(Struct, frozen=True, kw_only=True):
    """A workload, all that has to be sent along, and what it will cost."""

    workload: Any
    ship: tuple[Path, ...] = ()
    pilot: PilotResult
    forecast: Forecast


def plan(request: TrialRequest, settings: Settings, target: Target) -> Planned:
    """Load the model, try it, and divide the work. Raises UsageError or BadInputError for whatever
    is wrong with the model, the grid or the numbers, before anything is started.
    """
    points = request.all_points()
    if not request.counts:
        raise UsageError("how many trials? -n NUMBER for each point")
    name, file = _name_and_file(request.model)
    ship = tuple(dict.fromkeys(path.expanduser().absolute() for path in (*file, *request.ship)))
    with copied(ship) as copy, as_on_hosts(copy, request.import_path):
        model = _load(name, request.options, points)
        demands = parse_counts(request.counts, _spread(model, points))
        planned = _planned(
            models.spec_of(name, model),
            model,
            demands,
            batch_size=request.batch_size,
            settings=settings,
            target=target,
        )
    return msgspec.structs.replace(planned, ship=ship)


def _spread(model: Model, points: list[Point]) -> list[Point]:
    """The points as the model completes them: some have an axis that need not be named."""
    spread: Callable[[list[Point]], list[Point]] | None = getattr(model, "spread", None)
    return points if spread is None else spread(points)


def named_points(request: TrialRequest, spec: ModelSpec) -> list[Point]:
    """The points that are asked for of a run of this model; none if none is named."""
    if not names_points(request):
        return []
    points = request.all_points()
    # A user's model has no such axis, and what it imports is not here.
    return _spread(models.load(spec), points) if spec.name in models.MODELS else points


def _planned(
    spec: ModelSpec,
    model: Model,
    demands: Sequence[Demand],
    *,
    fields: Mapping[str, str] | None = None,
    batch_size: int,
    settings: Settings,
    target: Target,
) -> Planned:
    """`fields` are those that a run has already."""
    points = [demand.point for demand in demands]
    check_points(model, spec.name, points)
    pilot = measure(model, spec.name, points, settings.run.seed)
    if spec.name in models.MODELS:
        _prepare(model, spec.name, points)
    if fields is not None:
        _check_fields(pilot.fields, fields)
        pilot = msgspec.structs.replace(pilot, fields=dict(fields))
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
    return Planned(workload=workload, pilot=pilot, forecast=expected)


def _prepare(model: Model, name: str, points: Sequence[Point]) -> None:
    """Find points that make no sense among those that the pilot has left out, as far as there is
    time.
    """
    deadline = time.monotonic() + _PREPARING
    for point in points:
        if time.monotonic() > deadline:
            return
        try:
            model.sampler(point)
        except RunnerError as error:
            raise UsageError(
                f"model {name} at {describe_point(point)}: {error.message}", hint=error.hint
            ) from error


def _check_fields(found: Mapping[str, str], there: Mapping[str, str]) -> None:
    """The pilot of a few trials may see integers where others have fractions."""
    if found.keys() != there.keys() or not all(
        np.can_cast(found[name], there[name], "same_kind") for name in found
    ):
        raise UsageError(f"the model now gives the fields {found}, the run has {dict(there)}")


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
    model_files.check(workload.model.files)
    shipped = shipping.shipped_folder(state.header, state.folder)
    with as_on_hosts(shipped, state.header.import_path):
        planned = _planned(
            workload.model,
            models.load(workload.model),
            demands,
            fields=workload.fields,
            batch_size=request.batch_size,
            settings=settings,
            target=target,
        )
    ranges = wanted_ranges(live_batches(state), demands, planned.workload.sizes)
    batches = workload.batches(ranges, first_index=len(state.batches))
    return Extension(batches=tuple(batches), text=text, who=whoami())


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


def differences(state: RunState) -> tuple[str, ...]:
    """What is not as it was when the run was made, and may change last digits."""
    made_with, here = state.header.versions.get("scipy"), versions().get("scipy")
    if made_with is None or made_with == here:
        return ()
    warning = (
        f"warning: run {state.folder.timestamp} was made with SciPy {made_with}, here is {here}: "
        "what a model computes with it may differ in its last digits"
    )
    return (warning,)


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
    points = named_points(request, workload.model) or [one.point for one in there.values()]
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


def names_points(request: TrialRequest) -> bool:
    return bool(request.points or request.grid or request.fixed)


def make_points(
    grid: Mapping[str, Iterable[Value]] | Sequence[str], fixed: Mapping[str, Value]
) -> tuple[Point, ...]:
    """The product of the values of each parameter, or the points of texts as of --grid, with the
    fixed parameters in front. Raises UsageError for what is no value of a parameter.
    """
    first = {name: _value(name, value) for name, value in fixed.items()}
    if isinstance(grid, Mapping):
        axes = [[(name, _value(name, value)) for value in values] for name, values in grid.items()]
        points = [dict(parts) for parts in itertools.product(*axes)]
    else:
        points = parse_grid(grid)
    twice = [name for name in first if any(name in point for point in points)]
    if twice:
        raise UsageError(f"the parameter {twice[0]} is in grid and in fixed")
    if len({canonical_point(point) for point in points}) < len(points):
        raise UsageError("grid has the same point twice")
    if not points:
        raise UsageError("grid has no points")
    return tuple({**first, **point} for point in points)


def _value(name: str, value: Any) -> Value:
    if isinstance(value, np.generic):
        value = value.item()
    if not name.isidentifier():
        raise UsageError(f"{name!r} is no name of a parameter")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise UsageError(f"{name}={value!r}: a parameter is a number or a text")
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{name}={value}: not a finite number")
    return value


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


def _load(name: str, options: dict[str, Any], points: Sequence[Point]) -> Model:
    given = {key: value for key, value in options.items() if value}
    if ":" not in name:
        make = models.builtin(name).from_options
        _refuse_foreign(name, given, make)
        made: Model = make(points=points, **given)
        return made
    if given:
        raise UsageError(
            f"model {name}: --{next(iter(given))} is for built-in models",
            hint="--set NAME=VALUE gives a parameter of your function",
        )
    return models.load_users(name)


def _refuse_foreign(name: str, given: Mapping[str, Any], make: Callable[..., Model]) -> None:
    """Options of other models. A model that takes any says itself what it makes of them."""
    known = inspect.signature(make).parameters
    if any(one.kind is one.VAR_KEYWORD for one in known.values()):
        return
    for option in given:
        if option not in known:
            word = {"patches": "patch"}.get(option, option).replace("_", "-")
            raise UsageError(f"model {name} takes no --{word}")


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
