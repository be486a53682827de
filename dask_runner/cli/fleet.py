"""The commands for hosts as one: ps, exec, tail, kill, push, pull; and the sweep of `down`."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from dask_runner.cli import options
from dask_runner.cli.console import print_json, writing
from dask_runner.cli.fleet_words import (
    exit_code,
    say_copied,
    say_endings,
    say_failures,
    say_killed,
    show_processes,
)
from dask_runner.cli.prefixing import PrefixedOutput
from dask_runner.errors import EXIT_CLUSTER, EXIT_DONE, UsageError
from dask_runner.hostfile import Host, load_hosts, select_hosts

if TYPE_CHECKING:
    from dask_runner.cluster.fleet.commands import Ending, Filter
    from dask_runner.cluster.ssh.connector import Connector
    from dask_runner.settings import Settings

T = TypeVar("T")

Hostfile = Annotated[
    Path | None, typer.Option("--hostfile", help="The hosts.", show_default="cluster.hostfile")
]
Pattern = Annotated[
    str,
    typer.Option("--hosts", help="Only these: shell patterns with commas; !PATTERN: not these."),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace what is there.")]
Lines = Annotated[int, typer.Option("--lines", "-n", min=0, help="Lines to begin with.")]
Wait = Annotated[
    float, typer.Option("--timeout", min=0, help="End it on a host after so many s (0: never).")
]

_LARGEST_INPUT = 1 << 28


class _Fleet:
    """The chosen hosts and the settings for reaching them."""

    def __init__(self, hostfile: Path | None, pattern: str, settings: Path | None) -> None:
        override = None if hostfile is None else os.fspath(hostfile)
        loaded = options.settings_for(settings, {"cluster.hostfile": override})
        self.settings: Settings = loaded.settings
        self.hosts = select_hosts(load_hosts(Path(self.settings.cluster.hostfile)), pattern)

    def run(self, action: "Callable[[Sequence[Host], Connector], Awaitable[T]]") -> T:
        """Do it with a connector, which is closed at the end."""
        from dask_runner.cluster.ssh.connector import Connector

        async def with_connector() -> T:
            cluster = self.settings.cluster
            connector = Connector(handshakes=cluster.handshakes, timeout=cluster.connect_timeout)
            try:
                return await action(self.hosts, connector)
            finally:
                await connector.close()

        return asyncio.run(with_connector())


def ps(
    *,
    cluster: Annotated[str, typer.Option("--cluster", help="Only of this cluster.")] = "",
    run: Annotated[str, typer.Option("--run", help="Only of this run (its timestamp).")] = "",
    hostfile: Hostfile = None,
    hosts: Pattern = "",
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """The processes of our clusters on each host."""
    from dask_runner.cluster.fleet import commands as fleet

    wanted = fleet.Filter(cluster=cluster, run=run)
    found = _Fleet(hostfile, hosts, settings).run(
        lambda hosts, connector: fleet.processes(hosts, connector, wanted)
    )
    if json:
        print_json(found)
    else:
        show_processes((one.host, process) for one in found for process in one.processes)
    say_failures(found)
    raise typer.Exit(exit_code(not one.failure for one in found))


def execute(
    words: Annotated[list[str], typer.Argument(metavar="CMD [ARG]...", help="Command.")],
    *,
    shell: Annotated[
        bool, typer.Option("--shell", help="CMD is one line for the login shell of each host.")
    ] = False,
    stdin: Annotated[
        bool, typer.Option("--stdin", help="Give each what comes on stdin here.")
    ] = False,
    timeout: Wait = 0.0,
    hostfile: Hostfile = None,
    hosts: Pattern = "",
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """Run a command on all hosts, in the home folder there. Words arrive as they are given here: no
    shell reads them. When this ends, also by Ctrl-C, nothing of it goes on there; what a command
    that has ended by itself left in the background does. The exit code is the highest of all
    hosts; 6: a host was not reached, 124: it took too long.
    """
    from dask_runner.cluster.fleet import commands as fleet

    if shell and len(words) != 1:
        raise UsageError("--shell takes one line", hint="put it in quotes: --shell -- 'a | b'")
    data = _read_stdin() if stdin else None
    _stream(
        _Fleet(hostfile, hosts, settings),
        lambda hosts, connector, output: fleet.execute(
            hosts, connector, words, output=output, shell=shell, data=data, timeout=timeout
        ),
        json=json,
    )


def tail(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE | TIMESTAMP BATCH | agent", help="File on the hosts, or a running batch."
        ),
    ],
    *,
    lines: Lines = 10,
    follow: Annotated[bool, typer.Option(help="Go on until Ctrl-C.")] = True,
    hostfile: Hostfile = None,
    hosts: Pattern = "",
    settings: options.SettingsFile = None,
) -> None:
    """Follow a file on all hosts, the log of a running batch on the host that has it, or what the
    agents and workers of the cluster that is up say (`agent`; a file of that name is `./agent`).
    """
    from dask_runner.cluster.fleet import commands as fleet

    chosen = _Fleet(hostfile, hosts, settings)
    if what == ["agent"]:
        logs = fleet.agent_logs(chosen.hosts, chosen.settings.cluster.name)
        _stream(
            chosen,
            lambda _, connector, output: fleet.tail_logs(
                logs, connector, output=output, lines=lines, follow=follow
            ),
        )
    if len(what) == 1:
        _stream(
            chosen,
            lambda hosts, connector, output: fleet.tail_file(
                hosts, connector, what[0], output=output, lines=lines, follow=follow
            ),
        )
    run, batch = _attempt(what)
    _stream(
        chosen,
        lambda hosts, connector, output: fleet.tail_attempt(
            hosts, connector, run, batch, output=output, lines=lines, follow=follow
        ),
        nothing=f"batch {batch} of run {run} runs on none of these hosts",
    )


def kill(
    *,
    cluster: Annotated[
        str, typer.Option("--cluster", help="Those of this cluster: name or marker.")
    ] = "",
    run: Annotated[str, typer.Option("--run", help="Those of this run (its timestamp).")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Those of all our clusters.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    hostfile: Hostfile = None,
    hosts: Pattern = "",
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """End processes of our clusters: SIGTERM, then SIGKILL, until none is left. Asks before it ends
    those of a cluster that is up. Exit code 6 if any survives.
    """
    from dask_runner.cluster.fleet import commands as fleet

    if not (cluster or run or everything):
        raise UsageError(
            "which processes?",
            hint="--cluster NAME, --run TIMESTAMP or --all; `dask-runner hosts ps` shows them",
        )
    wanted = fleet.Filter(cluster=cluster, run=run)
    chosen = _Fleet(hostfile, hosts, settings)
    if not yes:
        _ask_first(chosen, wanted)
    killed = chosen.run(lambda hosts, connector: fleet.kill(hosts, connector, wanted))
    if json:
        print_json(killed)
    else:
        say_killed(killed)
    say_failures(killed)
    raise typer.Exit(exit_code(one.good for one in killed))


def push(
    local: Annotated[Path, typer.Argument(help="File or folder here.")],
    remote: Annotated[
        str, typer.Argument(help="Its name there; with / at the end the folder that it goes into.")
    ],
    *,
    force: Force = False,
    hostfile: Hostfile = None,
    hosts: Pattern = "",
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """Copy a file or a folder to all hosts. Nothing there is replaced without --force."""
    from dask_runner.cluster.fleet import files as fleet_files

    copied = _Fleet(hostfile, hosts, settings).run(
        lambda hosts, connector: fleet_files.push(hosts, connector, local, remote, force=force)
    )
    say_copied(copied, json=json)


def pull(
    remote: Annotated[str, typer.Argument(help="File or folder on the hosts.")],
    local: Annotated[Path, typer.Argument(help="Folder here: each host gets one in it.")],
    *,
    force: Force = False,
    hostfile: Hostfile = None,
    hosts: Pattern = "",
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """Copy a file or a folder from all hosts to LOCAL/HOST/. Nothing here is replaced without
    --force.
    """
    from dask_runner.cluster.fleet import files as fleet_files

    copied = _Fleet(hostfile, hosts, settings).run(
        lambda hosts, connector: fleet_files.pull(hosts, connector, remote, local, force=force)
    )
    say_copied(copied, json=json)


def sweep(
    *, hostfile: Path | None, settings: Path | None, json: bool, everything: bool = False
) -> None:
    """What `down --sweep` does on the hosts and here. Exits with 6 if it could not do all."""
    from dask_runner.cluster.fleet import commands as fleet

    chosen = _Fleet(hostfile, "", settings)
    killed = chosen.run(
        lambda hosts, connector: fleet.sweep_hosts(
            hosts, connector, scratch=chosen.settings.storage.scratch, everything=everything
        )
    )
    if json:
        print_json(killed)
    else:
        say_killed(killed)
    say_failures(killed)
    if not all(one.good for one in killed):
        raise typer.Exit(EXIT_CLUSTER)


def _stream(
    chosen: _Fleet,
    action: "Callable[[Sequence[Host], Connector, Any], Awaitable[list[Ending]]]",
    *,
    json: bool = False,
    nothing: str = "",
) -> None:
    """Show what comes from the hosts as it comes (or all of it as JSON at the end), and exit."""
    from dask_runner.cluster.fleet import commands as fleet

    said: dict[tuple[str, bool], bytearray] = {}
    shown = PrefixedOutput([host.address for host in chosen.hosts])

    def collect(host: str, is_error: bool, data: bytes) -> None:
        # What is shown is not kept: it may never end.
        said.setdefault((host, is_error), bytearray()).extend(data if json else b"")
        if not json:
            shown.write(host, is_error, data)

    with writing():
        try:
            endings = chosen.run(lambda hosts, connector: action(hosts, connector, collect))
        finally:
            with suppress(BrokenPipeError):
                shown.close()
    if json:
        print_json([_as_json(ending, said) for ending in endings])
    elif nothing and not said and fleet.worst(endings) == EXIT_DONE:
        raise UsageError(nothing, hint="`dask-runner logs` shows those of batches that have ended")
    else:
        say_endings(endings)
    raise typer.Exit(fleet.worst(endings))


def _as_json(ending: "Ending", said: dict[tuple[str, bool], bytearray]) -> dict[str, Any]:
    texts = [
        said.get((ending.host, is_error), bytearray()).decode("utf-8", "backslashreplace")
        for is_error in (False, True)
    ]
    return {
        "host": ending.host,
        "code": ending.code,
        "reason": ending.reason,
        "stdout": texts[0],
        "stderr": texts[1],
    }


def _read_stdin() -> bytes:
    data = sys.stdin.buffer.read(_LARGEST_INPUT + 1)
    if len(data) > _LARGEST_INPUT:
        raise UsageError(
            f"more than {_LARGEST_INPUT >> 20} MB on stdin",
            hint="copy it to the hosts first: dask-runner hosts push",
        )
    return data


def _attempt(words: list[str]) -> tuple[str, int]:
    if len(words) != 2 or not words[1].isdecimal():  # noqa: PLR2004
        raise UsageError(
            "FILE, or TIMESTAMP BATCH", hint="`dask-runner hosts ps` shows what runs where"
        )
    return words[0], int(words[1])


def _ask_first(chosen: _Fleet, wanted: "Filter") -> None:
    from dask_runner.cluster.fleet import commands as fleet

    found = chosen.run(lambda hosts, connector: fleet.processes(hosts, connector, wanted))
    living = [(one.host, process) for one in found for process in one.processes if process.up]
    if not living:
        return
    clusters = ", ".join(sorted({process.cluster for _, process in living}))
    hosts = len({host for host, _ in living})
    question = f"{len(living)} processes on {hosts} hosts are of a cluster that is up: {clusters}"
    if not sys.stdin.isatty():
        raise UsageError(question, hint="--yes ends them")
    if not typer.confirm(f"{question}. End them?", err=True):
        raise typer.Exit(EXIT_DONE)


def register(app: typer.Typer) -> None:
    """Add the commands to `dask-runner hosts`."""
    app.command("ps")(ps)
    # Behind the command's first word every option is the command's own.
    app.command("exec", context_settings={"allow_interspersed_args": False})(execute)
    app.command("tail")(tail)
    app.command("kill")(kill)
    app.command("push")(push)
    app.command("pull")(pull)
