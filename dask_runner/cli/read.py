"""The commands that only look: runs, status, show, logs, errors. They take no lock."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dask_runner.cli import options
from dask_runner.cli.console import err, out, report, writing
from dask_runner.errors import UsageError

if TYPE_CHECKING:
    from dask_runner.reports.attempt_log import LogReader
    from dask_runner.reports.listing import Watch

_WATCH_INTERVAL = 2.0

Index = Annotated[int, typer.Argument(min=0, help="The batch: its index.")]


def runs(
    *,
    runs: options.Runs = None,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """List all runs with label, verdict and size, newest last."""
    from dask_runner.reports.listing import run_list

    report(run_list(_runs_folder(runs, settings)), json=json)


def status(
    timestamp: Annotated[
        str | None,
        typer.Argument(help="A run.", show_default="the cluster and all active runs together"),
    ] = None,
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again every 2 s.")] = False,
    runs: options.Runs = None,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """Show the cluster and the active runs, or the numbers of one run."""
    from dask_runner.reports.listing import Watch

    if watch and json:
        raise UsageError("--watch and --json exclude each other", hint="poll with --json")
    folder = _runs_folder(runs, settings)
    view = Watch(folder, None if timestamp is None else _find(folder, timestamp))
    if watch:
        _watch(view)
    else:
        report(view.look(), json=json)


def show(
    timestamp: options.Timestamp,
    batch: Annotated[int | None, typer.Argument(min=0, help="A batch: its index.")] = None,
    *,
    runs: options.Runs = None,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """Show all about a run, or all about one of its batches with every attempt."""
    from dask_runner.manifest import read_state
    from dask_runner.reports.detail import batch_detail, run_detail
    from dask_runner.reports.listing import driver_of
    from dask_runner.run_folder import RunFolder

    folder = RunFolder.at(options.run_path(timestamp, runs, settings))
    driver = driver_of(folder)
    state = read_state(folder.manifest)
    view: Any = (
        run_detail(state, driver)
        if batch is None
        else batch_detail(state, batch, active=driver is not None)
    )
    report(view, json=json)


def logs(
    timestamp: options.Timestamp,
    batch: Index,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the attempt has ended.")
    ] = False,
    attempt: Annotated[
        int | None,
        typer.Option("--attempt", min=1, help="Which attempt.", show_default="the latest"),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="All bytes as they are; repetition is not folded.")
    ] = False,
    runs: options.Runs = None,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """Print the log of a batch; lines that repeat are folded, with their count."""
    from dask_runner.reports.attempt_log import LogReader

    if follow and json:
        raise UsageError("--follow and --json do not go together", hint="leave one of them out")
    reader = LogReader(options.run_path(timestamp, runs, settings), batch, attempt)
    if json:
        report(reader.text(every_line=raw), json=True)
        return
    try:
        _print_log(reader, follow=follow, raw=raw)
    except KeyboardInterrupt:
        if not follow:
            raise


def errors(
    timestamp: options.Timestamp = "last",
    *,
    runs: options.Runs = None,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """Show why batches failed, by cause, with the end of an example's log."""
    from dask_runner.manifest import read_state
    from dask_runner.reports.detail import errors_of

    path = options.run_path(timestamp, runs, settings)
    report(errors_of(read_state(path)), json=json)


def _runs_folder(runs: Path | None, settings: Path | None) -> Path:
    return Path(options.settings_for(settings, {}, runs=runs).settings.storage.runs)


def _find(runs: Path, timestamp: str) -> Path:
    from dask_runner.run_folder import find

    return find(runs, timestamp)


def _watch(view: "Watch") -> None:
    """Redraw until the run is over or the user has seen enough."""
    from rich.live import Live

    from dask_runner.reports.listing import is_over
    from dask_runner.reports.terminal import render

    try:
        with Live(console=out, auto_refresh=False) as live:
            while True:
                now = view.look()
                live.update(render(now), refresh=True)
                if is_over(now):
                    return
                time.sleep(_WATCH_INTERVAL)
    except KeyboardInterrupt:
        return


def _print_log(reader: "LogReader", *, follow: bool, raw: bool) -> None:
    from dask_runner.reports.attempt_log import whole_lines
    from dask_runner.reports.log_view import fold, lines_of, shown

    log = reader.find()
    if log is not None and not raw:
        others = "; the file is shared with other batches of its group" if log.shared else ""
        err.print(f"attempt {log.attempt} ({log.status}): {log.path}{others}", markup=False)
    with writing():
        if raw:
            for chunk in reader.follow() if follow else reader.read():
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
            return
        # A whole log is folded at once, a growing one by what is new at each look.
        parts = ([part] for part in whole_lines(reader.follow())) if follow else [reader.read()]
        for part in parts:
            for line in shown(fold(lines_of(part))):
                sys.stdout.write(line + "\n")
            sys.stdout.flush()
