"""The commands for the hosts themselves: check, trust."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dask_runner.cli import options
from dask_runner.cli.console import err, escape, report
from dask_runner.errors import EXIT_CLUSTER

if TYPE_CHECKING:
    from dask_runner.cluster.ssh.connector import Connector
    from dask_runner.cluster.ssh.host_keys import ShownKey
    from dask_runner.cluster.ssh.report import HostReport, TrustedHost
    from dask_runner.hostfile import Host
    from dask_runner.settings import Settings

app = typer.Typer(no_args_is_help=True, help="The hosts of a hostfile, as one.")

Hostfile = Annotated[
    Path | None, typer.Option("--hostfile", help="The hosts.", show_default="cluster.hostfile")
]
Pattern = Annotated[
    str,
    typer.Option("--hosts", help="Only these: shell patterns with commas; !PATTERN: not these."),
]

_MEGABYTE = 1_000_000


@app.command()
def check(
    *,
    hostfile: Hostfile = None,
    hosts: Pattern = "",
    folder: Annotated[
        Path | None,
        typer.Option(help="Folder that the hosts may share.", show_default="storage.runs"),
    ] = None,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """Look whether the hosts can be used, and say what to do if not. Changes nothing there."""
    from dask_runner.reports.host_checks import host_checks

    loaded = options.settings_for(settings, {"cluster.hostfile": _text(hostfile)}).settings
    reports = asyncio.run(_check(loaded, _hosts(loaded, hosts), folder))
    report(host_checks(loaded.cluster.hostfile, reports), json=json)
    if not all(found.ok for found in reports):
        raise typer.Exit(EXIT_CLUSTER)


@app.command()
def trust(
    *,
    hostfile: Hostfile = None,
    hosts: Pattern = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Record without asking.")] = False,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """Show the keys of hosts that are not known yet, and record them. Never one that changed."""
    from dask_runner.reports.host_checks import HostKeys

    loaded = options.settings_for(settings, {"cluster.hostfile": _text(hostfile)}).settings
    found = _trust(loaded, _hosts(loaded, hosts), yes=yes)
    report(HostKeys(hostfile=loaded.cluster.hostfile, hosts=tuple(found)), json=json)
    if not all(host.result in {"known", "recorded"} for host in found):
        raise typer.Exit(EXIT_CLUSTER)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _hosts(settings: "Settings", pattern: str) -> "tuple[Host, ...]":
    from dask_runner.hostfile import load_hosts, select_hosts

    return select_hosts(load_hosts(Path(settings.cluster.hostfile)), pattern)


def _connector(settings: "Settings") -> "Connector":
    from dask_runner.cluster.ssh.connector import Connector

    cluster = settings.cluster
    return Connector(handshakes=cluster.handshakes, timeout=cluster.connect_timeout)


async def _check(
    settings: "Settings", hosts: "tuple[Host, ...]", folder: Path | None
) -> "list[HostReport]":
    from dask_runner.cluster.ssh.preflight import examine_all, expecting
    from dask_runner.execution.numerics import cached_selftest

    err.print(f"looking at {len(hosts)} hosts ...")
    connector = _connector(settings)
    storage, cluster = settings.storage, settings.cluster
    try:
        async with expecting(
            scratch=storage.scratch,
            scratch_floor=cluster.scratch_floor * _MEGABYTE,
            staging=cluster.staging,
            folder=_nearest(folder or Path(storage.runs)),
            numerics=await asyncio.to_thread(cached_selftest),
        ) as expected:
            return await examine_all(hosts, connector, expected)
    finally:
        await connector.close()


def _nearest(folder: Path) -> Path:
    """The folder, or the one above it that is there already: nothing is made for a look."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def _trust(settings: "Settings", hosts: "tuple[Host, ...]", *, yes: bool) -> "list[TrustedHost]":
    """Show, ask and record until nothing new appears: behind each bastion there may be more."""
    from dask_runner.cluster.ssh import trusting
    from dask_runner.cluster.ssh.host_keys import record

    recorded: set[str] = set()
    while True:
        found = asyncio.run(trusting.look(hosts, lambda: _connector(settings)))
        unknown = trusting.unknown_keys(found)
        if not unknown:
            return trusting.results(found, recorded)
        _show(unknown)
        names = ", ".join(dict.fromkeys(key.file for key in unknown))
        question = f"Record {'this key' if len(unknown) == 1 else 'these keys'} in {names}?"
        if not (yes or _agreed(question)):
            return trusting.results(found, recorded)
        record(unknown)
        recorded |= {key.name for key in unknown}


def _show(keys: "list[ShownKey]") -> None:
    err.print("These hosts are not known yet. Compare with what their owner says:")
    for key in keys:
        err.print(f"  {escape(key.name)}  {key.type}  {key.fingerprint}", soft_wrap=True)


def _agreed(question: str) -> bool:
    """False also where nobody can answer."""
    try:
        return typer.confirm(question, default=False, err=True)
    except typer.Abort:
        err.print("\nnobody answers: --yes records without asking")
        return False
