"""What the dispatching commands do: a dry test, a driver here in the terminal, or one in the
background; then the summary, and the exit code.
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
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_runner.control import Control
    from dask_runner.manifest import Extension, Manifest, Note, RunState
    from dask_runner.opening import Target
    from dask_runner.pipeline import RunRequest
    from dask_runner.settings import LoadedSettings
    from dask_runner.summary import Summary

    More = Callable[[RunState], Extension]

_DETACH_TIMEOUT = 30.0
# Of the background driver's last words, in characters.
_TAIL = 2000


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
        target: "Target",
        overrides: "dict[str, Any] | None" = None,
    ) -> None:
        self.target = target
        # Of the run section of the settings that a run was made with.
        self.overrides = overrides or {}
        self.label = label
        self.first = first
        self.detach = detach
        self.quiet = quiet
        self.dry = dry
        self.json = json


def drive(path: Path, request: Annotated[str, typer.Argument()]) -> None:
    """Drive a run that was planned by a detaching command."""
    import msgspec

    from dask_runner.pipeline import RerunRequest

    rerun(path, msgspec.json.decode(request, type=RerunRequest), quiet=False, json=False)


def rerun(path: Path, request: Any, *, quiet: bool, json: bool) -> None:
    from dask_runner import pipeline
    from dask_runner.control import Control
    from dask_runner.progress import choose

    err.print(f"run [bold]{escape(path.name)}[/]")
    control = Control()
    with control.signals():
        progress = choose(err, quiet)
        summary = pipeline.rerun(path, request, control=control, progress=progress)
    _finish(summary, control, json=json)


def dispatch(
    workload: Any,
    loaded: "LoadedSettings",
    manner: Manner,
    *,
    outputs: Path | None,
    ship: "list[Path] | None" = None,
    skip_bad_inputs: bool = False,
    more: "More | None" = None,
    notes: "tuple[Note, ...]" = (),
) -> None:
    """Plan and dispatch; detached or dry if wanted so. `more` gives further work when that is
    done, until it gives none. `notes` go into the manifest before anything is done.
    """
    from dask_runner.pipeline import RunRequest

    request = RunRequest(
        workload=workload,
        settings=loaded.settings,
        outputs=outputs,
        label=manner.label,
        first=manner.first,
        argv=options.argv(),
        ship=tuple(ship or ()),
        skip_bad_inputs=skip_bad_inputs,
        target=manner.target,
        notes=notes,
    )
    if manner.dry:
        from dask_runner.pipeline import dry_run

        show_dry_run(dry_run(request), json=manner.json)
    if manner.detach:
        _create_and_detach(request, manner, until=more is not None)
    _run(request, manner, more)


def extended(path: Path, manner: Manner, *, more: "More | None" = None) -> None:
    """Do what a run was extended by."""
    from dask_runner import pipeline
    from dask_runner.control import Control

    request = pipeline.RerunRequest(
        selection=pipeline.Selection(first=manner.first),
        overrides=manner.overrides,
        argv=options.argv(),
        target=manner.target,
        label=manner.label,
    )
    if manner.detach and more is None:
        detach(path, request, json=manner.json)
    if manner.detach:
        go_on_detached(path, json=manner.json)
    control = Control()
    with control.signals():
        summary = _rerun(path, request, control, manner)
        summary = _go_on(path, summary, control, manner, more)
    _finish(summary, control, json=manner.json)


def _rerun(path: Path, request: Any, control: "Control", manner: Manner) -> "Summary":
    from dask_runner import pipeline
    from dask_runner.progress import choose

    progress = choose(err, manner.quiet)
    return pipeline.rerun(path, request, control=control, progress=progress)


def _go_on(
    path: Path, summary: "Summary", control: "Control", manner: Manner, more: "More | None"
) -> "Summary":
    """Extend and do it, for as long as all is well and there is more to do."""
    from dask_runner import pipeline

    while more is not None and not (control.draining or summary.failed or summary.pending):
        if not pipeline.extend(path, more):
            break
        request = pipeline.RerunRequest(
            overrides=manner.overrides, argv=options.argv(), target=manner.target
        )
        summary = _rerun(path, request, control, manner)
    return summary


def _run(request: "RunRequest", manner: Manner, more: "More | None") -> None:
    from dask_runner import pipeline
    from dask_runner.control import Control
    from dask_runner.progress import choose

    control = Control()
    with control.signals():
        folder, manifest = pipeline.create(request)
        with manifest:
            err.print(f"run [bold]{escape(folder.timestamp)}[/] in {escape(str(folder.path))}")
            _say_what_is_left_out(manifest)
            progress = choose(err, manner.quiet)
            summary = pipeline.run(
                folder,
                manifest,
                first=request.first,
                target=request.target,
                control=control,
                progress=progress,
            )
        summary = _go_on(folder.path, summary, control, manner, more)
    _finish(summary, control, json=manner.json)


def _say_what_is_left_out(manifest: "Manifest") -> None:
    """Inputs that --skip-bad-inputs has left out: nothing else tells of them."""
    for note in manifest.state.notes:
        for problem in note.data.get("problems", ()):
            err.print(f"left out: {problem}", markup=False)


def _create_and_detach(request: "RunRequest", manner: Manner, *, until: bool) -> None:
    from dask_runner import pipeline

    folder, manifest = pipeline.create(request)
    _say_what_is_left_out(manifest)
    # The background driver takes the lock anew: a lock does not survive fork and exec.
    manifest.close()
    if until:
        go_on_detached(folder.path, json=manner.json)
    selection = pipeline.Selection(first=request.first)
    resume = pipeline.RerunRequest(
        selection=selection, argv=request.argv, resume=True, target=request.target
    )
    detach(folder.path, resume, json=manner.json)


def detach(path: Path, request: Any, *, json: bool) -> None:
    """Do a rerun in a session of its own; returns when it holds the run's lock."""
    import msgspec

    words = ["drive", os.fspath(path.absolute()), msgspec.json.encode(request).decode()]
    _in_background(path, words, json=json)


def go_on_detached(path: Path, *, json: bool) -> None:
    """Go on in the background with the command that was given, as an extension of its run."""
    words = [word for word in sys.argv[1:] if word not in {"--detach", "--json"}]
    if not any(word.partition("=")[0] == "--extend" for word in words):
        words.append("--goes-on")
    # Of an option that is given twice, the last one counts.
    words += ["--extend", path.name, "--runs", os.fspath(path.parent)]
    _in_background(path, words, json=json)


def _in_background(path: Path, words: list[str], *, json: bool) -> None:
    """Start a driver in a session of its own and wait until it holds the run's lock."""
    from dask_runner.manifest import lock_holder

    folder = run_folder.RunFolder.at(path)
    with folder.driver_log.open("ab") as log:
        driver = subprocess.Popen(
            # -P: no module is imported from the folder that the user happens to be in.
            [sys.executable, "-P", "-m", "dask_runner", *words],
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
        said = folder.driver_log.read_text(errors="replace")[-_TAIL:]
        err.print(f"the background driver ended at once; {folder.driver_log} says:", markup=False)
        err.print(said, markup=False)
        raise typer.Exit(driver.returncode)
    if json:
        print_json({"run": path.name, "pid": driver.pid, "log": os.fspath(folder.driver_log)})
    else:
        out.print(f"run {escape(path.name)} goes on in the background (pid {driver.pid})")
        err.print(f"look: dask-runner attach {path.name}    end: dask-runner cancel {path.name}")
    raise typer.Exit(EXIT_DONE)


def _finish(summary: "Summary", control: "Control", *, json: bool) -> None:
    """Show the summary; exit with what it means."""
    report(summary, json=json)
    _warn_of_failed_trials(summary)
    raise typer.Exit(exit_code(summary, interrupted=control.draining))


def _warn_of_failed_trials(summary: "Summary") -> None:
    """A run of trials may be done and have failed trials all the same."""
    if summary.workload != "trials":
        return
    from dask_runner.files import text_to_path
    from dask_runner.manifest import read_state
    from dask_runner.trial_results import summarize_trials

    for warning in summarize_trials(read_state(text_to_path(summary.folder))).warnings:
        err.print(f"warning: {warning}", markup=False)


def exit_code(summary: "Summary", *, interrupted: bool = False) -> int:
    """What a run's state is as an exit code."""
    if interrupted and summary.pending:
        return EXIT_INTERRUPTED
    return EXIT_FAILED_BATCHES if summary.failed else EXIT_DONE


def show_dry_run(result: Any, *, json: bool) -> None:
    from dask_runner.reports.dry_run import render_dry_run

    if json:
        print_json(result)
    else:
        out.print(render_dry_run(result))
    raise typer.Exit(EXIT_BAD_INPUT if result.problems else EXIT_DONE)
