"""The commands that dispatch batches: generate, run, command, rerun. What they take is here; what
they do with it is in `driving`.
"""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from dask_runner.cli import driving, options
from dask_runner.errors import UsageError


def generate(
    *,
    events: Annotated[
        int | None,
        typer.Option("-b", "--batch-size", "--batch_size", min=1, help="Events in a file."),
    ] = None,
    files: Annotated[int | None, typer.Option("-n", "--files", min=1, help="Files.")] = None,
    evnt_dir: Annotated[
        Path | None, typer.Option("--evnt-dir", "--evnt_dir", help="Folder for the files.")
    ] = None,
    run_number: Annotated[
        int | None, typer.Option("--run-number", min=1, help="Sample of the table of run numbers.")
    ] = None,
    mh: Annotated[float | None, typer.Option(help="Mass of the heavy scalar in GeV.")] = None,
    ms: Annotated[float | None, typer.Option(help="Mass of the long-lived scalar in GeV.")] = None,
    ctau: Annotated[float | None, typer.Option(help="Mean proper decay length in mm.")] = None,
    process: Annotated[int | None, typer.Option(help="1: gluon fusion, 3: with a W boson.")] = None,
    pythia_card: Annotated[
        Path | None, typer.Option("--pythia-card", help="A Pythia command file instead.")
    ] = None,
    extend: Annotated[
        bool, typer.Option("--extend", help="Add files to those in the folder.")
    ] = False,
    ship: options.Ship = None,
    dry: options.Dry = False,
    label: options.Label = "",
    first: options.First = None,
    detach: options.Detach = False,
    quiet: options.Quiet = False,
    slots: options.Slots = None,
    max_slots: options.MaxSlots = None,
    hosts: options.Hosts = "",
    cluster: options.ClusterName = None,
    accept_numerics: options.AcceptNumerics = False,
    seed: options.Seed = None,
    attempts: options.Attempts = None,
    timeout: options.Timeout = None,
    memory: options.Memory = None,
    runs: options.Runs = None,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """Generate events: -n files of -b events, the same events whatever -b and -n."""
    loaded = options.settings_for(
        settings,
        {
            "generate.batch_size": events,
            "generate.files": files,
            "generate.evnt_dir": _text(evnt_dir),
            "generate.run_number": run_number,
            "generate.mh": mh,
            "generate.ms": ms,
            "generate.ctau": ctau,
            "generate.process": process,
            "generate.pythia_card": _text(pythia_card),
            "cluster.name": cluster,
            **_run_overrides(slots, seed, attempts, timeout, memory),
        },
        runs=runs,
    )
    from dask_runner.workloads.generate import Generate

    workload = Generate.from_settings(loaded.settings, extend=extend)
    manner = driving.Manner(
        label=label,
        first=first,
        detach=detach,
        quiet=quiet,
        dry=dry,
        json=json,
        target=options.target(loaded, hosts, max_slots, accept_numerics=accept_numerics),
    )
    outputs = Path(loaded.settings.generate.evnt_dir)
    driving.dispatch(workload, loaded, manner, outputs=outputs, ship=ship)


def run(
    *,
    batch_size: Annotated[
        int | None,
        typer.Option("-b", "--batch-size", "--batch_size", min=1, help="Events in a batch."),
    ] = None,
    evnt_dir: Annotated[
        Path | None, typer.Option("--evnt-dir", "--evnt_dir", help="Folder of EVNT files.")
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="PATH_OR_URL",
            help="An input instead of those of --evnt-dir, URL#sha256=HEX is checked; repeat.",
        ),
    ] = None,
    pattern: Annotated[
        list[str] | None, typer.Option("--pattern", help="Names of input files; may be repeated.")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option("--keep", help="Format to keep (AOD, NTUP ...); repeat.")
    ] = None,
    output_dir: options.Output = None,
    skip_bad_inputs: Annotated[
        bool, typer.Option("--skip-bad-inputs", help="Leave out inputs that cannot be read.")
    ] = False,
    ship: options.Ship = None,
    dry: options.Dry = False,
    label: options.Label = "",
    first: options.First = None,
    detach: options.Detach = False,
    quiet: options.Quiet = False,
    slots: options.Slots = None,
    max_slots: options.MaxSlots = None,
    hosts: options.Hosts = "",
    cluster: options.ClusterName = None,
    accept_numerics: options.AcceptNumerics = False,
    seed: options.Seed = None,
    attempts: options.Attempts = None,
    timeout: options.Timeout = None,
    memory: options.Memory = None,
    runs: options.Runs = None,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """Simulate, digitize and reconstruct events of EVNT files, in batches of -b."""
    if inputs and (evnt_dir or pattern):
        raise UsageError("--input names all inputs: without --evnt-dir and --pattern")
    loaded = options.settings_for(
        settings,
        {
            "run.batch_size": batch_size,
            "generate.evnt_dir": _text(evnt_dir),
            "reconstruct.patterns": tuple(pattern) if pattern else None,
            "reconstruct.keep": tuple(keep) if keep else None,
            "cluster.name": cluster,
            **_run_overrides(slots, seed, attempts, timeout, memory),
        },
        runs=runs,
    )
    from dask_runner.workloads.reconstruct import Reconstruct

    workload = Reconstruct.from_settings(loaded.settings, inputs or ())
    manner = driving.Manner(
        label=label,
        first=first,
        detach=detach,
        quiet=quiet,
        dry=dry,
        json=json,
        target=options.target(loaded, hosts, max_slots, accept_numerics=accept_numerics),
    )
    driving.dispatch(
        workload,
        loaded,
        manner,
        outputs=output_dir,
        ship=ship,
        skip_bad_inputs=skip_bad_inputs,
    )


def command(
    *,
    words: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="The program.")],
    number: Annotated[
        int | None, typer.Option("-n", "--number", min=1, help="Number of batches.")
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option("--output", help="Name of an output, with placeholders; may be repeated."),
    ] = None,
    setup: Annotated[
        Path | None, typer.Option("--setup", help="Shell file sourced before the program.")
    ] = None,
    parameters: Annotated[
        str,
        typer.Option("--parameters", help="A CSV file whose columns are placeholders; - is stdin."),
    ] = "",
    merge_command: Annotated[
        str, typer.Option("--merge-command", help="How `merge` joins: {inputs} {output}.")
    ] = "",
    output_dir: options.Output = None,
    ship: options.Ship = None,
    dry: options.Dry = False,
    label: options.Label = "",
    first: options.First = None,
    detach: options.Detach = False,
    quiet: options.Quiet = False,
    slots: options.Slots = None,
    max_slots: options.MaxSlots = None,
    hosts: options.Hosts = "",
    cluster: options.ClusterName = None,
    accept_numerics: options.AcceptNumerics = False,
    seed: options.Seed = None,
    attempts: options.Attempts = None,
    timeout: options.Timeout = None,
    memory: options.Memory = None,
    runs: options.Runs = None,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """Run any program as batches: `command -n 200 -- ./my_job.sh {index} {seed} {output}`."""
    loaded = options.settings_for(
        settings,
        {
            "cluster.name": cluster,
            **_run_overrides(slots, seed, attempts, timeout, memory),
        },
        runs=runs,
    )
    from dask_runner.workloads.command import Command

    workload = Command.from_options(
        words=words,
        number=number,
        outputs=output or [],
        setup=setup,
        parameters=parameters,
        merge_command=merge_command,
        seed=loaded.settings.run.seed,
        shipped=bool(ship),
    )
    manner = driving.Manner(
        label=label,
        first=first,
        detach=detach,
        quiet=quiet,
        dry=dry,
        json=json,
        target=options.target(loaded, hosts, max_slots, accept_numerics=accept_numerics),
    )
    driving.dispatch(workload, loaded, manner, outputs=output_dir, ship=ship)


def rerun(
    timestamp: options.Timestamp,
    *,
    batch: Annotated[
        list[int] | None, typer.Option("--batch", help="Only this batch; may be repeated.")
    ] = None,
    cause: Annotated[
        str, typer.Option("--cause", help="Only batches that failed with this kind or fingerprint.")
    ] = "",
    accept_changed_inputs: Annotated[
        bool, typer.Option("--accept-changed-inputs", help="Go on with inputs that have changed.")
    ] = False,
    break_lock: Annotated[
        bool, typer.Option("--break-lock", help="Take the lock of a driver on another host.")
    ] = False,
    dry: options.Dry = False,
    label: options.Label = "",
    first: options.First = None,
    detach: options.Detach = False,
    quiet: options.Quiet = False,
    slots: options.Slots = None,
    max_slots: options.MaxSlots = None,
    hosts: options.Hosts = "",
    cluster: options.ClusterName = None,
    accept_numerics: options.AcceptNumerics = False,
    attempts: options.Attempts = None,
    timeout: options.Timeout = None,
    memory: options.Memory = None,
    runs: options.Runs = None,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """Do what is not done of a run: failed, pending and lost batches, with the same seeds."""
    path = options.run_path(timestamp, runs, settings)
    loaded = options.settings_for(settings, {"cluster.name": cluster}, runs=runs)
    from dask_runner.pipeline import RerunRequest, Selection

    overrides = {
        key.partition(".")[2]: value
        for key, value in _run_overrides(slots, None, attempts, timeout, memory).items()
        if value is not None
    }
    request = RerunRequest(
        selection=Selection(batches=tuple(batch or ()), cause=cause, first=first),
        accept_changed_inputs=accept_changed_inputs,
        break_lock=break_lock,
        overrides=overrides,
        argv=options.argv(),
        label=label,
        target=options.target(loaded, hosts, max_slots, accept_numerics=accept_numerics),
    )
    if dry:
        from dask_runner.pipeline import dry_rerun

        driving.show_dry_run(dry_rerun(path, request), json=json)
    if detach:
        driving.detach(path, request, json=json)
    driving.rerun(path, request, quiet=quiet, json=json)


def _run_overrides(
    slots: int | None,
    seed: int | None,
    attempts: int | None,
    timeout: float | None,
    memory: int | None,
) -> dict[str, Any]:
    return {
        "run.slots": slots,
        "run.seed": seed,
        "run.attempts": attempts,
        "run.timeout": timeout,
        "run.memory": memory,
    }


def _text(path: Path | None) -> str | None:
    return None if path is None else os.fspath(path)
