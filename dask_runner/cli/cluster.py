"""The commands that start and end a cluster: up, down; and `hosts add`, `hosts drain`."""

import importlib.util
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from dask_runner.cli import options
from dask_runner.cli.console import err, escape, out, print_json, report
from dask_runner.errors import (
    EXIT_CLUSTER,
    EXIT_DONE,
    ClusterError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dask_runner.cluster.control import Farewell
    from dask_runner.cluster.manager.request import UpRequest
    from dask_runner.cluster.ssh.report import Check
    from dask_runner.cluster.status import ClusterStatus

Name = Annotated[
    str | None, typer.Option("--name", help="Name of the cluster.", show_default="main")
]
Hostfile = Annotated[
    Path | None,
    typer.Option("--hostfile", help="The hosts.", show_default="hostfile.txt"),
]

_POLL = 0.1
_SCREEN_PATIENCE = 2.0
# Of the status, before the next one is dropped.
_WAITING = 2
_DETACH_TIMEOUT = 120.0
_TAIL = 3000


def up(
    *,
    hostfile: Hostfile = None,
    slots: Annotated[
        int | None,
        typer.Option(
            "--slots",
            "--nthreads",
            min=1,
            help="Batches at a time on each host.",
            show_default="auto: cores less one",
        ),
    ] = None,
    min_hosts: Annotated[
        int | None, typer.Option("--min-hosts", min=1, help="Hosts that must come up.")
    ] = None,
    hosts: options.Hosts = "",
    name: Name = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Host of the scheduler.", show_default="this machine"),
    ] = None,
    staging: Annotated[
        str | None, typer.Option(help="Files on the hosts: auto, shared or sftp.")
    ] = None,
    dashboard: Annotated[
        bool, typer.Option("--dashboard", help="Dask's dashboard, on loopback; prints the way in.")
    ] = False,
    detach: options.Detach = False,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """Start a cluster on the hosts of a hostfile; Ctrl-C, or `down`, ends all of it."""
    loaded = options.settings_for(
        settings,
        {
            "cluster.hostfile": None if hostfile is None else os.fspath(hostfile),
            "run.slots": slots,
            "cluster.min_hosts": min_hosts,
            "cluster.name": name,
            "cluster.scheduler": scheduler,
            "cluster.staging": staging,
            "cluster.dashboard": dashboard or None,
        },
    )
    from dask_runner.cluster.manager.request import UpRequest
    from dask_runner.cluster.session import DEFAULT_NAME, LOCAL
    from dask_runner.hostfile import load_hosts, select_hosts

    values = loaded.settings.cluster
    if values.dashboard and importlib.util.find_spec("bokeh") is None:
        raise UsageError(
            "Dask's dashboard needs bokeh", hint='pip install "dask-runner[dashboard]"'
        )
    if values.name == LOCAL:
        raise UsageError(f"{LOCAL} is the name of this machine alone", hint="take another --name")
    found = select_hosts(load_hosts(Path(values.hostfile)), hosts)
    request = UpRequest(
        name=values.name or DEFAULT_NAME, hosts=found, settings=loaded.settings, detached=detach
    )
    if detach:
        _detach(request, json=json)
    _foreground(request)


def manage() -> None:
    """Be the manager of a cluster that `up --detach` starts; the request comes on stdin."""
    import msgspec

    from dask_runner.cluster.manager.request import UpRequest
    from dask_runner.cluster.manager.up import bring_up

    request = msgspec.json.decode(sys.stdin.buffer.read(), type=UpRequest)
    bring_up(request, lambda _status: None)


def _foreground(request: "UpRequest") -> None:
    from rich.live import Live

    from dask_runner.cluster.manager.up import bring_up
    from dask_runner.reports.terminal import render

    err.print(f"starting {len(request.hosts)} host(s); Ctrl-C ends the cluster")
    with _log_aside():
        if err.is_terminal:
            with (
                Live(console=err, auto_refresh=False, transient=True) as live,
                _Screen(lambda status: live.update(render(status), refresh=True)) as screen,
            ):
                farewell = bring_up(request, screen.show)
        else:
            with _Screen(_Lines().show) as screen:
                farewell = bring_up(request, screen.show)
    _say_farewell(farewell)


class _Screen:
    """Draws in a thread of its own: a terminal that is not read (Ctrl-S, a laptop that sleeps) must
    not make the manager stand still, and the hosts end for want of its echoes.
    """

    def __init__(self, draw: "Callable[[ClusterStatus], None]") -> None:
        self._draw = draw
        self._news: queue.SimpleQueue[ClusterStatus | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="screen", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._news.put(None)
        self._thread.join(_SCREEN_PATIENCE)

    def show(self, status: "ClusterStatus") -> None:
        if self._news.qsize() < _WAITING:
            self._news.put(status)

    def _run(self) -> None:
        while (status := self._news.get()) is not None:
            self._draw(status)


@contextmanager
def _log_aside() -> "Iterator[None]":
    """Log in a thread of its own, for the same reason."""
    root = logging.getLogger()
    handlers, news = root.handlers[:], queue.SimpleQueue[Any]()
    listener = QueueListener(news, *handlers)
    root.handlers[:] = [QueueHandler(news)]
    listener.start()
    try:
        yield
    finally:
        root.handlers[:] = handlers
        listener.stop()


class _Lines:
    """The status for a log file: a line when a host's state changes, no table that is redrawn."""

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}
        self._warned: set[str] = set()
        self._ready = False

    def show(self, status: "ClusterStatus") -> None:
        for host in status.hosts:
            words = f"{host.phase}{f': {host.reason}' if host.reason else ''}"
            if self._seen.get(host.name) != words:
                self._seen[host.name] = words
                err.print(f"{host.name} {words}", markup=False)
        if status.settled and not self._ready:
            self._ready = True
            err.print(f"cluster {status.name} is up: {status.ready} host(s), {status.slots} slots")
        if not self._ready:
            return
        warnings = [f"{host.name}: {text}" for host in status.hosts for text in host.warnings]
        for text in [*status.warnings, *warnings]:
            if text not in self._warned:
                self._warned.add(text)
                err.print(f"warning: {text}", markup=False)


def _say_farewell(farewell: "Farewell") -> None:
    for host, reason in farewell.unconfirmed.items():
        err.print(f"{host}: its end is not confirmed: {reason}", markup=False)
    err.print(f"ended in {farewell.seconds:.1f} s")
    raise typer.Exit(EXIT_CLUSTER if farewell.unconfirmed else EXIT_DONE)


def _detach(request: "UpRequest", *, json: bool) -> None:
    """Start the manager in a session of its own, and wait until it knows about every host."""
    import msgspec

    from dask_runner.cluster import session

    if any(folder.name == request.name for folder in session.live_sessions()):
        raise ClusterError(
            f"a cluster called {request.name} is up already",
            hint=f"`dask-runner down --name {request.name}` ends it",
        )
    path = session.log_of(request.name)
    with path.open("wb") as log:
        manager = subprocess.Popen(
            # -P: no module is imported from the folder that the user happens to be in.
            [sys.executable, "-P", "-m", "dask_runner", "manage"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    assert manager.stdin is not None
    with manager.stdin, suppress(BrokenPipeError):
        manager.stdin.write(msgspec.json.encode(request))
    # Meanwhile: nothing is waited for that the cluster does not need.
    warnings = _Warnings()
    status = _wait_until_settled(request, manager)
    if status is None:
        # Also if it is still at it: nobody would know of it.
        manager.terminate()
        manager.wait()
        words = path.read_text(errors="replace")[-_TAIL:]
        err.print(words, markup=False, end="")
        raise typer.Exit(manager.returncode or EXIT_CLUSTER)
    report(status, json=json)
    if not json:
        err.print(f"it goes on in the background (pid {manager.pid}); `dask-runner down` ends it")
    warnings.show()
    raise typer.Exit(EXIT_DONE)


class _Warnings:
    """What may end a cluster in the background, or take its files away; `status` has it too."""

    def __init__(self) -> None:
        self._checks: list[Check] = []
        threading.Thread(target=self._look, name="look", daemon=True).start()

    def _look(self) -> None:
        from dask_runner.cluster.ssh.here import look_here

        self._checks = look_here(detached=True)

    def show(self) -> None:
        for check in self._checks:
            if check.verdict == "warn":
                err.print(f"warning: {check.text} ({check.fix})", markup=False)


def _wait_until_settled(
    request: "UpRequest", manager: "subprocess.Popen[bytes]"
) -> "ClusterStatus | None":
    """The status once each host is up or has failed; None if the manager has ended, or has too few
    hosts after a long time.
    """
    from dask_runner.cluster import asking, session

    deadline = time.monotonic() + _DETACH_TIMEOUT
    status = None
    while manager.poll() is None and time.monotonic() < deadline:
        found = [one for one in session.live_sessions() if one.name == request.name]
        if found:
            # One that is about to end says why in its own words.
            with suppress(ClusterError):
                status = asking.status_of(found[0])
            wanted = request.settings.cluster.min_hosts
            if status is not None and status.settled and status.ready >= wanted:
                return status
        time.sleep(_POLL)
    enough = status is not None and status.ready >= request.settings.cluster.min_hosts
    return status if enough and manager.poll() is None else None


def down(
    *,
    name: Name = None,
    sweep: Annotated[
        bool,
        typer.Option("--sweep", help="Also end what earlier clusters have left on the hosts."),
    ] = False,
    hostfile: Hostfile = None,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """End a cluster: all its processes on all its hosts."""
    from dask_runner.cluster import asking, session

    found = session.live_sessions()
    wanted = [folder for folder in found if name in {None, folder.name}]
    if len(wanted) > 1:
        names = ", ".join(folder.name for folder in wanted)
        raise UsageError(f"several clusters are up: {names}", hint="say which: --name NAME")
    if not wanted and not sweep:
        raise ClusterError(
            f"no cluster{f' called {name}' if name else ''} is up",
            hint="`down --sweep` looks for what one may have left on the hosts",
        )
    farewell = asking.end(wanted[0]) if wanted else None
    if farewell is not None and json and not sweep:
        print_json(farewell)
        raise typer.Exit(EXIT_CLUSTER if farewell.unconfirmed else EXIT_DONE)
    if sweep:
        from dask_runner.cli import fleet

        fleet.sweep(hostfile=hostfile, settings=settings, json=json)
    if farewell is not None:
        _say_farewell(farewell)


def add(
    hosts: Annotated[list[str], typer.Argument(help="Hosts, as a line of a hostfile names them.")],
    *,
    name: Name = None,
) -> None:
    """Add hosts to the cluster that is up, or try those again that are left out or drained."""
    from dask_runner.cluster import control

    names = _ask(name, control.Add, hosts="\n".join(hosts))
    out.print(f"dialling {escape(', '.join(names))}; `dask-runner status` shows how it goes")


def drain(
    hosts: Annotated[list[str], typer.Argument(help="Hosts of the cluster.")],
    *,
    name: Name = None,
) -> None:
    """Give hosts no new batches, and leave them when those that run have ended."""
    from dask_runner.cluster import control

    for host in hosts:
        _ask(name, control.Drain, host=host)
        out.print(f"{escape(host)} gets no new batches")


def _ask(name: str | None, kind: Any, **fields: Any) -> Any:
    from dask_runner.cluster import asking, session

    folder = session.find_session(name or "")
    if folder is None:
        raise ClusterError("no cluster is up", hint="`dask-runner up` starts one")
    return asking.ask(folder, kind, **fields)
