"""What a session of dispatch is opened with: settings, limits and cluster, and what is noted of it.

Refuses to dispatch.
"""

import logging
from typing import Any

import msgspec

from dask_runner.cluster import CLUSTERS, Cluster, ClusterConfig
from dask_runner.control import Control
from dask_runner.errors import ClusterError
from dask_runner.execution.task import Limits
from dask_runner.manifest import Header, Note, NoteKind, RunState
from dask_runner.settings import Settings
from dask_runner.workloads.interface import Workload

_log = logging.getLogger(__name__)

_MEGABYTE = 1_000_000
_KILOBYTE = 1000


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


def open_cluster(settings: Settings, workload: Workload, header: Header) -> Cluster:
    """The cluster to dispatch to; until there is another, the one on this machine."""
    config = ClusterConfig(
        slots=settings.run.slots,
        scratch=settings.storage.scratch,
        import_path=header.import_path,
        preload=workload.preload,
    )
    return CLUSTERS["local"](config)


def check_numerics(state: RunState, cluster: Cluster, *, accept: bool) -> None:
    """Raise ClusterError if a host computes other bits than those that worked on this run."""
    seen = [
        known
        for note in state.notes
        if note.kind == NoteKind.CLUSTER
        for known in note.data.get("numerics", {}).items()
    ]
    first = next(iter([*seen, *cluster.numerics.items()]))
    others = [host for host, found in cluster.numerics.items() if found != first[1]]
    if others and not accept:
        raise ClusterError(
            f"{', '.join(others)}: the numerics self-test gives other bits than on {first[0]}, "
            "where this run began",
            hint="another processor, C library or package? --accept-numerics goes on all the same, "
            "and the manifest keeps it on record",
        )
    for host in others:
        _log.warning("%s computes other bits than %s; accepted on request", host, first[0])


def cluster_note(cluster: Cluster) -> Note:
    """The begin of a session's dispatch."""
    return Note(
        kind=NoteKind.CLUSTER,
        text=f"cluster {cluster.name} at {cluster.address}",
        data={
            "name": cluster.name,
            "address": cluster.address,
            "hosts": dict(cluster.hosts),
            "numerics": dict(cluster.numerics),
        },
    )


def end_note(control: Control) -> Note:
    """The end of a session's dispatch. Where it is missing, the driver was killed."""
    reason = control.reason if control.draining else ""
    return Note(kind=NoteKind.ENDED, text="dispatch ended", data={"interrupted_by": reason})
