"""The commands that dispatch batches: generate, run, command, rerun (and drive, their detached
form).
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dask_runner import run_folder
from dask_runner.cli import options
from dask_runner.cli.console import err, escape, out, print_json, report
from dask_runner.errors import (
    EXIT_BAD_INPUT,
    EXIT_DONE,
    EXIT_FAILED_BATCHES,
    EXIT_INTERRUPTED,
    ClusterError,
)

if TYPE_CHECKING:
    from dask_runner.control import Control
    from dask_runner.pipeline import RunRequest
    from dask_runner.settings import LoadedSettings
    from dask_runner.summary import Summary

_DETACH_TIMEOUT = 30.0


class Manner:
    """How a command dispatches: what all of them take."""

    def __init__(
        self,
        *,
        label: str = "",
        first: int | None = None,
        detach: bool = False,
        quiet: bool = False,
        dry: bool = False,
        json: bool = False,
    ) -> None:
        self.label = label
        self.first = first
        self.detach = detach
        self.quiet = quiet
        self.dry = dry
        self.json = json


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
    dry: options.Dry = False,
    label: options.Label = "",
    first: options.First = None,
    detach: options.Detach = False,
    quiet: options.Quiet = False,
    slots: options.Slots = None,
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
            **_run_overrides(slots, seed, attempts, timeout, memory),
        },
        runs=runs,
    )
    from dask_runner.workloads.generate import Generate

    workload = Generate.from_settings(loaded.settings, extend=extend)
    manner = Manner(label=label, first=first, detach=detach, quiet=quiet, dry=dry, json=json)
    _dispatch(workload, loaded, manner, outputs=Path(loaded.settings.generate.evnt_dir))


def run(
    *,
    batch_size: Annotated[
        int | None,
        typer.Option("-b", "--batch-size", "--batch_size", min=1, help="Events in a batch."),
    ] = None,
    evnt_dir: Annotated[
        Path | None, typer.Option("--evnt-dir", "--evnt_dir", help="Folder of EVNT files.")
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
    dry: options.Dry = False,
    label: options.Label = "",
    first: options.First = None,
    detach: options.Detach = False,
    quiet: options.Quiet = False,
    slots: options.Slots = None,
    seed: options.Seed = None,
    attempts: options.Attempts = None,
    timeout: options.Timeout = None,
    memory: options.Memory = None,
    runs: options.Runs = None,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """Simulate, digitize and reconstruct events of EVNT files, in batches of -b."""
    loaded = options.settings_for(
        settings,
        {
            "run.batch_size": batch_size,
            "generate.evnt_dir": _text(evnt_dir),
            "reconstruct.patterns": tuple(pattern) if pattern else None,
            "reconstruct.keep": tuple(keep) if keep else None,
            **_run_overrides(slots, seed, attempts, timeout, memory),
        },
        runs=runs,
    )
    from dask_runner.workloads.reconstruct import Reconstruct

    workload = Reconstruct.from_settings(loaded.settings)
    manner = Manner(label=label, first=first, detach=detach, quiet=quiet, dry=dry, json=json)
    _dispatch(workload, loaded, manner, outputs=output_dir, skip_bad_inputs=skip_bad_inputs)


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
    dry: options.Dry = False,
    label: options.Label = "",
    first: options.First = None,
    detach: options.Detach = False,
    quiet: options.Quiet = False,
    slots: options.Slots = None,
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
        settings, _run_overrides(slots, seed, attempts, timeout, memory), runs=runs
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
    )
    manner = Manner(label=label, first=first, detach=detach, quiet=quiet, dry=dry, json=json)
    _dispatch(workload, loaded, manner, outputs=output_dir)


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
    accept_numerics: Annotated[
        bool,
        typer.Option("--accept-numerics", help="Go on though this machine computes other bits."),
    ] = False,
    break_lock: Annotated[
        bool, typer.Option("--break-lock", help="Take the lock of a driver on another host.")
    ] = False,
    dry: options.Dry = False,
    first: options.First = None,
    detach: options.Detach = False,
    quiet: options.Quiet = False,
    slots: options.Slots = None,
    attempts: options.Attempts = None,
    timeout: options.Timeout = None,
    memory: options.Memory = None,
    runs: options.Runs = None,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """Do what is not done of a run: failed, pending and lost batches, with the same seeds."""
    loaded = options.settings_for(settings, {}, runs=runs)
    path = run_folder.find(Path(loaded.settings.storage.runs), timestamp)
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
        accept_numerics=accept_numerics,
        overrides=overrides,
        argv=options.argv(),
    )
    if dry:
        from dask_runner.pipeline import dry_rerun

        _show_dry_run(dry_rerun(path, request), json=json)
    if detach:
        _detach(path, request, json=json)
    _rerun(path, request, quiet=quiet, json=json)


def drive(path: Path, request: Annotated[str, typer.Argument()]) -> None:
    """Drive a run that was planned by a detaching command."""
    import msgspec

    from dask_runner.pipeline import RerunRequest

    _rerun(path, msgspec.json.decode(request, type=RerunRequest), quiet=False, json=False)


def _rerun(path: Path, request: Any, *, quiet: bool, json: bool) -> None:
    from dask_runner import pipeline
    from dask_runner.control import Control
    from dask_runner.progress import choose

    err.print(f"run [bold]{escape(path.name)}[/]")
    control = Control()
    with control.signals():
        progress = choose(err, quiet)
        summary = pipeline.rerun(path, request, control=control, progress=progress)
    _finish(summary, control, json=json)


def _dispatch(
    workload: Any,
    loaded: "LoadedSettings",
    manner: Manner,
    *,
    outputs: Path | None,
    skip_bad_inputs: bool = False,
) -> None:
    """Plan and dispatch; detached or dry if wanted so."""
    from dask_runner.pipeline import RunRequest

    request = RunRequest(
        workload=workload,
        settings=loaded.settings,
        outputs=outputs,
        label=manner.label,
        first=manner.first,
        argv=options.argv(),
        import_path=(),
        skip_bad_inputs=skip_bad_inputs,
    )
    if manner.dry:
        from dask_runner.pipeline import dry_run

        _show_dry_run(dry_run(request), json=manner.json)
    if manner.detach:
        _create_and_detach(request, manner)
    _run(request, manner)


def _run(request: "RunRequest", manner: Manner) -> None:
    from dask_runner import pipeline
    from dask_runner.control import Control
    from dask_runner.progress import choose

    control = Control()
    with control.signals():
        folder, manifest = pipeline.create(request)
        with manifest:
            err.print(f"run [bold]{escape(folder.timestamp)}[/] in {escape(str(folder.path))}")
            progress = choose(err, manner.quiet)
            summary = pipeline.run(
                folder, manifest, first=request.first, control=control, progress=progress
            )
    _finish(summary, control, json=manner.json)


def _create_and_detach(request: "RunRequest", manner: Manner) -> None:
    from dask_runner import pipeline

    folder, manifest = pipeline.create(request)
    # The background driver takes the lock anew: a lock does not survive fork and exec.
    manifest.close()
    selection = pipeline.Selection(first=request.first)
    resume = pipeline.RerunRequest(selection=selection, argv=request.argv, resume=True)
    _detach(folder.path, resume, json=manner.json)


def _detach(path: Path, request: Any, *, json: bool) -> None:
    """Start the driver in a session of its own and wait until it holds the run's lock."""
    import msgspec

    from dask_runner.manifest import lock_holder

    folder = run_folder.RunFolder.at(path)
    with folder.driver_log.open("ab") as log:
        driver = subprocess.Popen(
            [
                # -P: no module is imported from the folder that the user happens to be in.
                *(sys.executable, "-P", "-m", "dask_runner", "drive"),
                os.fspath(path.absolute()),
                msgspec.json.encode(request).decode(),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + _DETACH_TIMEOUT
    while driver.poll() is None and time.monotonic() < deadline:
        holder = lock_holder(folder)
        if holder is not None and holder.pid == driver.pid:
            break
        time.sleep(0.05)
    if driver.poll() not in {None, EXIT_DONE, EXIT_FAILED_BATCHES}:
        raise ClusterError(
            f"the background driver ended at once (exit code {driver.returncode})",
            hint=f"it says why in {folder.driver_log}",
        )
    if json:
        print_json({"run": path.name, "pid": driver.pid, "log": os.fspath(folder.driver_log)})
    else:
        out.print(f"run {escape(path.name)} goes on in the background (pid {driver.pid})")
        err.print(f"look: dask-runner attach {path.name}    end: dask-runner cancel {path.name}")
    raise typer.Exit(EXIT_DONE)


def _finish(summary: "Summary", control: "Control", *, json: bool) -> None:
    """Show the summary; exit with what it means."""
    report(summary, json=json)
    raise typer.Exit(exit_code(summary, interrupted=control.draining))


def exit_code(summary: "Summary", *, interrupted: bool = False) -> int:
    """What a run's state is as an exit code."""
    if interrupted and summary.pending:
        return EXIT_INTERRUPTED
    return EXIT_FAILED_BATCHES if summary.failed else EXIT_DONE


def _show_dry_run(result: Any, *, json: bool) -> None:
    from dask_runner.reports.dry_run import render_dry_run

    if json:
        print_json(result)
    else:
        out.print(render_dry_run(result))
    raise typer.Exit(EXIT_BAD_INPUT if result.problems else EXIT_DONE)


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
