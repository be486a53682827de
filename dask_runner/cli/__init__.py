"""The command line: arguments in, exit code out. The only place that prints or exits.

One module for each family of commands. Nothing heavy is imported before a command runs.
"""

import errno
import sys
from pathlib import Path
from typing import Annotated, NoReturn, TextIO, cast

import typer

from dask_runner.cli import (
    attend,
    cluster,
    coincidence,
    conclusions,
    configure,
    dispatching,
    driving,
    finish,
    fleet,
    histogram,
    hosts,
    read,
    skyscan,
    trials,
)
from dask_runner.cli.console import (
    ForgivingStream,
    configure_logging,
    err,
    print_error,
    silence,
    writing,
)
from dask_runner.errors import EXIT_INTERRUPTED, RunnerError, StorageError, UsageError
from dask_runner.version import __version__

app = typer.Typer(
    name="dask-runner",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Independent batches of physics work over department machines.",
)

# Of a disk, wherever it was met and not translated.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM}

_START = "Start"
_CLUSTER = "Cluster"
_WORK = "Work"
_LOOK = "Look"
_CONCLUDE = "Conclude"
_END = "Finish"

app.command("init", rich_help_panel=_START)(configure.init)
app.command("settings", rich_help_panel=_START)(configure.settings)
app.command("up", rich_help_panel=_CLUSTER)(cluster.up)
app.command("down", rich_help_panel=_CLUSTER)(cluster.down)
app.command("manage", hidden=True)(cluster.manage)
app.command("generate", rich_help_panel=_WORK)(dispatching.generate)
app.command("run", rich_help_panel=_WORK)(dispatching.run)
app.command("command", rich_help_panel=_WORK)(dispatching.command)
app.command("trials", rich_help_panel=_WORK)(trials.trials)
app.command("skyscan", rich_help_panel=_WORK)(skyscan.skyscan)
app.command("histogram", rich_help_panel=_WORK)(histogram.histogram)
app.command("rerun", rich_help_panel=_WORK)(dispatching.rerun)
app.command("drive", hidden=True)(driving.drive)
app.command("runs", rich_help_panel=_LOOK)(read.runs)
app.command("status", rich_help_panel=_LOOK)(read.status)
app.command("show", rich_help_panel=_LOOK)(read.show)
app.command("logs", rich_help_panel=_LOOK)(read.logs)
app.command("errors", rich_help_panel=_LOOK)(read.errors)
app.command("attach", rich_help_panel=_LOOK)(attend.attach)
app.command("wait", rich_help_panel=_LOOK)(attend.wait)
app.command("cancel", rich_help_panel=_WORK)(attend.cancel)
app.command("limits", rich_help_panel=_CONCLUDE)(conclusions.limits)
app.command("cls", rich_help_panel=_CONCLUDE)(conclusions.cls)
app.command("sensitivity", rich_help_panel=_CONCLUDE)(conclusions.sensitivity)
app.command("distribution", rich_help_panel=_CONCLUDE)(conclusions.distribution)
app.command("skymap", rich_help_panel=_CONCLUDE)(skyscan.skymap)
app.command("hottest", rich_help_panel=_CONCLUDE)(skyscan.hottest)
app.command("export", rich_help_panel=_CONCLUDE)(conclusions.export)
app.add_typer(coincidence.app, name="coincidence", rich_help_panel=_CONCLUDE)
app.command("verify", rich_help_panel=_END)(finish.verify)
app.command("merge", rich_help_panel=_END)(finish.merge)
app.command("replay", rich_help_panel=_END)(finish.replay)
app.command("clean", rich_help_panel=_END)(finish.clean)
fleet.register(hosts.app)
hosts.app.command("add")(cluster.add)
hosts.app.command("drain")(cluster.drain)
app.add_typer(hosts.app, name="hosts", rich_help_panel=_CLUSTER)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"dask-runner {__version__}\n")
        raise typer.Exit


@app.callback()
def common(
    *,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False,
    version: Annotated[  # noqa: ARG001  (acts in its callback)
        bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")
    ] = False,
) -> None:
    configure_logging(verbose=verbose)
    try:
        Path.cwd()
    except FileNotFoundError:
        raise UsageError("this folder was removed", hint="go to one that is there: cd") from None


def main() -> None:
    """Run the command of `sys.argv` and exit with its code."""
    sys.stderr = cast("TextIO", ForgivingStream(sys.stderr))
    try:
        with writing():
            app()
    except RunnerError as error:
        _fail(error)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        # What still waits for that disk would fail again at the very end.
        silence(1)
        _fail(StorageError(str(error), hint="look at the disk's space and the permissions there"))
    except KeyboardInterrupt:
        err.print("interrupted")
        sys.exit(EXIT_INTERRUPTED)


def _fail(error: RunnerError) -> NoReturn:
    print_error(error)
    sys.exit(error.exit_code)
