"""The command `trials`: what it takes. What becomes of it is in `trial_runs`, and what is concluded
from trials in the commands of `conclusions`.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dask_runner.cli import driving, options
from dask_runner.cli.console import err, escape
from dask_runner.cli.manners import How, dispatching
from dask_runner.errors import UsageError

if TYPE_CHECKING:
    from dask_runner.settings import LoadedSettings
    from dask_runner.trial_runs import TrialRequest

Grid = Annotated[
    list[str] | None,
    typer.Option(
        "--grid",
        metavar="NAME=VALUES",
        help="Points: mass=2000:7000:500 (both ends), n=0,1,2:10:2, 'a=1,2;b=3,4' together, "
        "@points.csv; several --grid multiply.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A parameter of all points; repeat."),
]
Counts = Annotated[
    list[str] | None,
    typer.Option(
        "-n",
        "--trials",
        metavar="NUMBER",
        help="Trials of each point in all; 'n_sig=0:100000' for some points; repeat. +N adds N "
        "(with --extend).",
    ),
]


@dispatching
def trials(
    *,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="counting, gaussian, spectrum, pyhf, point-source, coincidence; or yours: "
            "package.module:function, ./file.py:function.",
        ),
    ] = "",
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file of a built-in model.")
    ] = None,
    items: Annotated[
        Path | None,
        typer.Option("--items", help="coincidence: a file with the path of a map on each line."),
    ] = None,
    workspace: Annotated[
        Path | None, typer.Option("--workspace", help="pyhf: the workspace, JSON.")
    ] = None,
    patch: Annotated[
        list[Path] | None, typer.Option("--patch", help="pyhf: a JSON patch; repeat.")
    ] = None,
    measurement: Annotated[
        str, typer.Option("--measurement", help="pyhf: the measurement of the workspace.")
    ] = "",
    test_stat: Annotated[str, typer.Option("--test-stat", help="pyhf: qtilde, q or q0.")] = "",
    grid: Grid = None,
    fixed: Set = None,
    counts: Counts = None,
    batch_size: Annotated[
        int,
        typer.Option(
            "-b",
            "--batch-size",
            min=0,
            help="Trials in a batch (0: by time, about 30 s).",
        ),
    ] = 0,
    extend: Annotated[
        str, typer.Option("--extend", metavar="TIMESTAMP", help="Add trials or points to a run.")
    ] = "",
    until: Annotated[
        list[str] | None,
        typer.Option(
            "--until",
            metavar="CONDITION",
            help="Go on until 'relative_error(limit, 0.5) < 0.01' holds at each point; -n is the "
            "most.",
        ),
    ] = None,
    trial_timeout: Annotated[
        float | None, typer.Option("--trial-timeout", min=0, help="Wall time of a trial in s.")
    ] = None,
    max_failed_share: Annotated[
        float | None,
        typer.Option(
            "--max-failed-share", min=0, max=1, help="Failed trials that a batch may have."
        ),
    ] = None,
    output_dir: options.Output = None,
    ship: options.Ship = None,
    seed: options.Seed = None,
    goes_on: Annotated[
        bool, typer.Option("--goes-on", hidden=True, help="With what made the run of --extend.")
    ] = False,
    how: How,
) -> None:
    """Throw toy trials of a model over a grid of points."""
    loaded = how.load(
        {
            "trials.trial_timeout": trial_timeout,
            "trials.max_failed_share": max_failed_share,
            "run.seed": seed,
        }
    )
    from dask_runner.trial_runs import TrialRequest

    if not model and not extend:
        raise UsageError("which model? --model NAME", hint="dask-runner trials --help")
    request = TrialRequest(
        model=model,
        grid=tuple(grid or ()),
        fixed=tuple(fixed or ()),
        counts=tuple(counts or ()),
        options={
            "config": config,
            "items": items,
            "workspace": workspace,
            "patches": tuple(patch or ()),
            "measurement": measurement,
            "test_stat": test_stat,
        },
        batch_size=batch_size,
        ship=tuple(ship or ()),
    )
    manner = how.manner(loaded, of_run=bool(extend))
    if extend:
        path = how.run_path(extend)
        loaded = _with_seed_of(path, loaded) if seed is None else loaded
        if not goes_on:
            _refuse_the_runs_own(
                {
                    **request.options,
                    "output_dir": output_dir,
                    "ship": ship,
                    "trial_timeout": trial_timeout,
                    "max_failed_share": max_failed_share,
                }
            )
        _extend(path, request, loaded, manner, until=until or [], goes_on=goes_on)
    elif until:
        _until(request, loaded, manner, conditions=until, outputs=output_dir)
    else:
        _new(request, loaded, manner, outputs=output_dir)


def _refuse_the_runs_own(given: dict[str, Any]) -> None:
    for name, value in given.items():
        if value is not None and value not in ("", ()):
            option = {"patches": "patch"}.get(name, name).replace("_", "-")
            raise UsageError(
                f"--extend: --{option} stays as the run was made with", hint=f"leave --{option} out"
            )


def _new(
    request: "TrialRequest",
    loaded: "LoadedSettings",
    manner: driving.Manner,
    *,
    outputs: Path | None,
) -> None:
    from dask_runner import trial_runs

    planned = trial_runs.plan(request, loaded.settings, manner.target)
    if not manner.dry:
        _say(planned.workload.notes)
    driving.dispatch(planned.workload, loaded, manner, outputs=outputs, ship=[*planned.ship])


def _until(
    request: "TrialRequest",
    loaded: "LoadedSettings",
    manner: driving.Manner,
    *,
    conditions: list[str],
    outputs: Path | None,
) -> None:
    """The first trials of each point, then more where the conditions do not hold."""
    from dask_runner import trial_goals, trial_runs

    goal = trial_goals.goal(request, conditions)
    planned = trial_runs.plan(goal.first, loaded.settings, manner.target)
    goal.check(planned.workload.fields)
    rest = goal.of_the_run()
    _say((*planned.workload.notes, *trial_goals.prophecies(goal, planned)))
    driving.dispatch(
        planned.workload,
        loaded,
        manner,
        outputs=outputs,
        ship=[*planned.ship],
        more=partial(trial_goals.more, rest, loaded.settings, manner.target, err.print),
    )


def _extend(
    path: Path,
    request: "TrialRequest",
    loaded: "LoadedSettings",
    manner: driving.Manner,
    *,
    until: list[str],
    goes_on: bool,
) -> None:
    from dask_runner import pipeline, trial_goals, trial_runs
    from dask_runner.manifest import read_state
    from dask_runner.trial_results import workload_of

    state = read_state(path)
    _say(trial_runs.differences(state))
    make = partial(trial_runs.extension, request, loaded.settings, manner.target)
    if until:
        goal = trial_goals.goal(request, until)
        goal = goal.of_the_run() if goes_on else goal
        trial_runs.check_same(state, goal.request, loaded.settings)
        goal.check(workload_of(state).fields)
        more = partial(trial_goals.more, goal, loaded.settings, manner.target, err.print)
        if not manner.dry:
            # What is pending is done first: conditions are about what there is then.
            driving.extended(path, manner, more=more)
        make = more
    if manner.dry:
        extension = make(state)
        err.print(
            f"run {escape(path.name)} would get {len(extension.batches)} batches with "
            f"{sum(batch.count for batch in extension.batches)} trials"
        )
        raise typer.Exit
    number = pipeline.extend(path, make)
    err.print(f"run {escape(path.name)}: {number} new batches")
    driving.extended(path, manner)


def _with_seed_of(path: Path, loaded: "LoadedSettings") -> "LoadedSettings":
    from msgspec.structs import replace

    from dask_runner.manifest import read_state

    settings = loaded.settings
    run = replace(settings.run, seed=read_state(path).header.seed)
    return replace(loaded, settings=replace(settings, run=run))


def _say(notes: tuple[str, ...]) -> None:
    for note in notes:
        err.print(note, markup=False)
