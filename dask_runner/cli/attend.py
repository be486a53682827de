"""The commands for a run that somebody else drives: attach, wait, cancel."""

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dask_runner.cli import options
from dask_runner.cli.console import err, escape, out, print_json, report
from dask_runner.cli.driving import exit_code
from dask_runner.errors import EXIT_INTERRUPTED, ClusterError, UsageError

if TYPE_CHECKING:
    from dask_runner.manifest import LockHolder
    from dask_runner.progress import Progress
    from dask_runner.run_folder import RunFolder

_INTERVAL = 0.5
_CANCEL_TIMEOUT = 60.0
_SIGNAL_INTERVAL = 2.0

Wanted = Annotated[
    str, typer.Argument(help="The run: its timestamp, a unique prefix of it, or `last`.")
]


def attach(
    timestamp: Wanted = "last",
    *,
    runs: options.Runs = None,
    settings: options.SettingsFile = None,
) -> None:
    """Follow a run until it ends. Ctrl-C leaves the run alone."""
    from dask_runner.progress import choose

    folder = _folder(timestamp, runs, settings)
    try:
        _follow(folder, choose(err, False))
    except KeyboardInterrupt:
        err.print(f"detached; the run goes on. `dask-runner cancel {folder.timestamp}` ends it")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    _end(folder, json=False)


def wait(
    timestamp: Wanted = "last",
    *,
    runs: options.Runs = None,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """Wait until nobody drives the run any more; exit as the run did."""
    folder = _folder(timestamp, runs, settings)
    while _driver(folder) is not None:
        time.sleep(_INTERVAL)
    _end(folder, json=json)


def cancel(
    timestamp: Wanted = "last",
    *,
    drain: Annotated[
        bool, typer.Option("--drain", help="Let the running batches end first.")
    ] = False,
    runs: options.Runs = None,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """End a run that is being driven, here or detached. `rerun` does what is left."""
    folder = _folder(timestamp, runs, settings)
    holder = _driver(folder)
    if holder is None:
        raise UsageError(f"nobody drives run {folder.timestamp}")
    if holder.alive is None:
        # On another machine, or in another container of this one: here its pid is somebody else's.
        raise UsageError(
            f"the driver of run {folder.timestamp} is process {holder.pid} on {holder.host}",
            hint=f"go there and cancel it: dask-runner cancel {folder.timestamp}",
        )
    _end_driver(holder.pid)
    if not drain:
        # The first signal drains, the second stops. Two that arrive while the driver is busy count
        # as one: see below.
        time.sleep(_INTERVAL)
    deadline = time.monotonic() + _CANCEL_TIMEOUT
    signalled = 0.0
    while _driver(folder) == holder:
        if not drain and time.monotonic() - signalled > _SIGNAL_INTERVAL:
            signalled = time.monotonic()
            _end_driver(holder.pid)
        if not drain and time.monotonic() > deadline:
            raise ClusterError(
                f"process {holder.pid} still runs after {_CANCEL_TIMEOUT:.0f} s",
                hint=f"nothing is lost with it: kill -9 {holder.pid}",
            )
        time.sleep(_INTERVAL / 10)
    if json:
        print_json({"run": folder.timestamp, "pid": holder.pid, "drained": drain})
    else:
        out.print(f"run {escape(folder.timestamp)} ended")


def _folder(timestamp: str, runs: Path | None, settings: Path | None) -> "RunFolder":
    from dask_runner.run_folder import RunFolder

    return RunFolder.at(options.run_path(timestamp, runs, settings))


def _driver(folder: "RunFolder") -> "LockHolder | None":
    """Who drives the run; None if nobody does (a driver of another host counts as alive)."""
    from dask_runner.manifest import lock_holder

    holder = lock_holder(folder)
    return None if holder is None or holder.alive is False else holder


def _end_driver(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return  # it has just ended by itself
    except PermissionError as error:
        raise UsageError(
            f"process {pid}, which drives the run, belongs to another user",
            hint="ask them to cancel it",
        ) from error


def _follow(folder: "RunFolder", progress: "Progress") -> None:
    from dask_runner.manifest import Follower
    from dask_runner.progress import snapshot

    follower = Follower(folder.manifest)
    began = time.monotonic()
    with progress:
        while True:
            alive = _driver(folder) is not None
            progress.update(snapshot(follower.poll(), elapsed=time.monotonic() - began))
            if not alive:
                return
            time.sleep(_INTERVAL)


def _end(folder: "RunFolder", *, json: bool) -> None:
    from dask_runner.manifest import read_state
    from dask_runner.summary import summarize

    state = read_state(folder.manifest)
    summary = summarize(state)
    report(summary, json=json)
    raise typer.Exit(exit_code(summary, interrupted=state.interrupted))
