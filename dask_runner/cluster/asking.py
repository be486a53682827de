"""Short questions to clusters that are up: one connection, one request, one answer."""

from collections.abc import Iterator
from typing import Any

import msgspec

from dask_runner.cluster import control, session
from dask_runner.cluster.attached import ControlClient
from dask_runner.cluster.control import Farewell
from dask_runner.cluster.session import SessionFolder
from dask_runner.cluster.status import ClusterStatus
from dask_runner.errors import ClusterError

_DOWN_PATIENCE = 60.0


def ask(folder: SessionFolder, kind: Any, **fields: Any) -> Any:
    """The value of a request: a kind of cluster/control.py, its fields. Raises ClusterError."""
    client = ControlClient(folder)
    try:
        return client.value(kind, **fields)
    finally:
        client.close()


def status_of(folder: SessionFolder) -> ClusterStatus:
    """Raises ClusterError if it has ended meanwhile, or does not answer."""
    return control.decode_status(ask(folder, control.GetStatus))


def cluster_states() -> Iterator[ClusterStatus]:
    """The status of each cluster that is up; one that ends while it is asked is left out."""
    for folder in session.live_sessions():
        try:
            yield status_of(folder)
        except ClusterError:
            if folder.alive:
                raise


def end(folder: SessionFolder) -> Farewell:
    """End a cluster; returns when everything is gone that can be."""
    value = ask(folder, control.Down, patience=_DOWN_PATIENCE)
    return msgspec.convert(value, Farewell)
