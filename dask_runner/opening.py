"""What a session of dispatch is opened with: settings, limits and cluster, and what is noted of it.

Refuses to dispatch.
"""

import os
import socket
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from dask_runner.cluster.asking import status_of
from dask_runner.cluster.attached import SshCluster
from dask_runner.cluster.interface import Cluster, ClusterConfig, HostState
from dask_runner.cluster.local import LocalCluster
from dask_runner.cluster.session import find_session
from dask_runner.control import Control
from dask_runner.errors import ClusterError
from dask_runner.execution.numerics import cached_selftest, short
from dask_runner.execution.task import Limits
from dask_runner.manifest import Header, Note, NoteKind, RunState
from dask_runner.placement import Rules
from dask_runner.roster import Bits
from dask_runner.settings import Settings

_MEGABYTE = 1_000_000
_KILOBYTE = 1000
_SHOWN = 20


class Target(Struct, frozen=True, kw_only=True):
    """What to dispatch to, as the user says now: the name of a cluster ("": the one that is up,
    `local`: none but this machine), patterns of `hosts` ("": all), the most batches at a time in
    all (0: no limit), how files come there: `staging` and `cache` as in the settings, and whether
    hosts are welcome that compute other bits.
    """

    cluster: str = ""
    hosts: str = ""
    max_slots: int = 0
    staging: str = "auto"
    cache: str = ""
    accept_numerics: bool = False


def effective_settings(header: Header, overrides: dict[str, Any]) -> Settings:
    """The settings the run was made with, with the run section's `overrides` on top."""
    settings = msgspec.convert(header.settings, Settings)
    return msgspec.structs.replace(settings, run=msgspec.structs.replace(settings.run, **overrides))


def limits(settings: Settings) -> Limits:
    """The limits of a batch process, in the units of `execution`."""
    values = settings.run
    return Limits(
        timeout=values.timeout,
        memory=values.memory * _MEGABYTE,
        nice=values.nice,
        idle_io=values.idle_io,
        log_cap=values.log_cap * _KILOBYTE,
    )


def rules(settings: Settings, target: Target) -> Rules:
    """How many batches may go where."""
    return Rules(
        hosts=target.hosts,
        slots=settings.run.slots,
        max_slots=target.max_slots,
        memory=settings.run.memory * _MEGABYTE,
    )


def open_cluster(
    settings: Settings, preload: tuple[str, ...], header: Header, target: Target
) -> Cluster:
    """The cluster of that name, or ("") the one that is up; if there is none, or the name is
    `local`, one on this machine. Raises ClusterError as `find_session`.
    """
    session = find_session(target.cluster)
    if session is not None:
        return SshCluster(session, ClusterConfig(run=header.timestamp))
    config = ClusterConfig(
        run=header.timestamp,
        slots=settings.run.slots,
        scratch=settings.storage.scratch,
        import_path=header.import_path,
        preload=preload,
    )
    return LocalCluster(config)


def host_lines(settings: Settings, target: Target) -> tuple[str, ...]:
    """The hosts that a run would have now, as lines of a hostfile."""
    session = find_session(target.cluster)
    if session is None:
        return (f"{socket.gethostname()} slots={settings.run.slots or os.cpu_count()}",)
    wants = rules(settings, target).wants
    hosts = [host for host in status_of(session).hosts if wants(host.name)]
    return tuple(f"{host.name} slots={host.slots}" for host in hosts)


def describe_cluster(cluster: Cluster, hosts: Mapping[str, HostState], target: Target) -> str:
    """Which cluster is used, in a line."""
    ready = [state for state in hosts.values() if state.worker]
    slots = sum(state.slots for state in ready)
    if not isinstance(cluster, SshCluster):
        why = "" if target.cluster else "no cluster is up (dask-runner up): "
        return f"{why}using this machine, {slots} slots"
    number = f"{len(ready)} host{'' if len(ready) == 1 else 's'}"
    left = f" ({len(hosts) - len(ready)} more not up)" if len(ready) < len(hosts) else ""
    return f"using cluster {cluster.title}: {number}, {slots} slots{left}"


def check_numerics(
    state: RunState, cluster: Cluster, hosts: Mapping[str, HostState], *, accept: bool
) -> Bits:
    """The bits that this run's hosts have to compute: those that it was made with; of a new run
    those that this machine computes, or, if no host does and others are accepted, most hosts.

    Raises ClusterError if no host that is up does.
    """
    made_with = _made_with(state)
    if made_with is not None:
        bits = Bits(*made_with, accept=accept)
    elif isinstance(cluster, SshCluster):
        bits = Bits(cached_selftest(), socket.gethostname(), accept=accept)
    else:
        bits = Bits(accept=accept)
    known = [host for host in hosts.values() if host.numerics]
    if accept and made_with is None and known and all(map(bits.differs, known)):
        bits = Bits(accept=accept)
    bits.agree(known)
    if known and all(map(bits.refusal, known)):
        found = ", ".join(f"{host.name} ({short(host.numerics)})" for host in known[:_SHOWN])
        raise ClusterError(
            f"all hosts that are up compute other bits than {bits.origin} "
            f"({short(bits.reference)}), where the run began: {found}",
            hint="another processor, C library or environment (`dask-runner hosts check` looks); "
            "--accept-numerics goes on all the same, and the manifest keeps it on record",
        )
    return bits


def _made_with(state: RunState) -> tuple[str, str] | None:
    """The bits of the run so far, and whose they are; None if nothing has run yet."""
    for note in state.notes:
        if note.kind not in {NoteKind.CLUSTER, NoteKind.JOINED}:
            continue
        if reference := note.data.get("reference"):
            return reference["numerics"], reference["host"]
        # The first host of a record without one.
        for host, numerics in note.data.get("numerics", {}).items():
            if numerics:
                return numerics, host
    return None


def cluster_note(cluster: Cluster, hosts: Mapping[str, HostState], bits: Bits) -> Note:
    """The begin of a session's dispatch, with what later sessions compare the bits of hosts with,
    and the hosts that are accepted though they compute others.
    """
    ready = [state for state in hosts.values() if state.worker]
    data: dict[str, Any] = {
        "name": cluster.name,
        "address": cluster.address,
        "hosts": {state.name: state.slots for state in ready},
        "numerics": {state.name: state.numerics for state in ready if not bits.refusal(state)},
    }
    if bits.reference:
        data["reference"] = {"host": bits.origin, "numerics": bits.reference}
    if accepted := [state.name for state in ready if bits.accepted(state)]:
        data["accepted_numerics"] = accepted
    return Note(
        kind=NoteKind.CLUSTER, text=f"cluster {cluster.name} at {cluster.address}", data=data
    )


def end_note(control: Control, staging: Mapping[str, str]) -> Note:
    """The end of a session's dispatch, with where the files of each host were. Where it is missing,
    the driver was killed.
    """
    reason = control.reason if control.draining else ""
    data: dict[str, Any] = {"interrupted_by": reason}
    if staging:
        data["staging"] = dict(staging)
    return Note(kind=NoteKind.ENDED, text="dispatch ended", data=data)
