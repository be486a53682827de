"""What a cluster is to the driver: a Dask client, the hosts with their slots, a way for files."""

from collections.abc import Collection, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, Self

from msgspec import Struct


class ClusterConfig(Struct, frozen=True, kw_only=True):
    """What a run wants of a cluster. The local one is started with all of it: `slots` (0: one for
    each core), the scratch folder, folders put first on the batches' import path, and the modules
    that the warm process imports. One that is up already is only told `run`, the run's timestamp.
    """

    run: str = ""
    slots: int = 0
    scratch: str = ""
    import_path: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()


class HostState(Struct, frozen=True, kw_only=True):
    """A host of the cluster as a run sees it now.

    `worker` is the Dask address of its worker, "" while it has none. Another worker may have the
    same address, but never the same `start`; what was sent to an old one is lost, its processes
    dead; `cut_off` says that it did not die of itself, but with its agent or its lease. `share` of
    its `slots` are for this run. `refusal` is why it takes no new batch now ("" if it does).
    `auto` says that the number of slots was not fixed by the user, so that the memory that batches
    turn out to use limits it: `memory_free` in bytes is what was free before anything ran.
    `local` is True if the host is this machine, with this machine's files.
    """

    name: str
    slots: int
    share: int
    worker: str = ""
    start: int = 0
    cut_off: bool = False
    numerics: str = ""
    refusal: str = ""
    auto: bool = False
    memory_free: int = 0
    local: bool = False

    @property
    def life(self) -> tuple[str, int] | None:
        """What tells its worker from all others; None while it has none."""
        return (self.worker, self.start) if self.worker else None


class Transfer(Protocol):
    """A way to hosts for what does not pass through Dask: files. All calls return at once.

    `holder` is the name under which hosts keep files for this driver, no other has it; `staging` is
    how the cluster's user wants files to be brought there. `ask` has the host's agent do an
    operation (cluster/host/operations.py) and gives its value; `push` copies a local file to a path
    on the host; `fetch` copies a regular file of the host, of `limit` bytes at most, to a local
    path. Futures raise ClusterError with the cause, if the host said so; HostGoneError if it did
    not answer; StorageError if this machine cannot write.
    """

    @property
    def holder(self) -> str: ...

    @property
    def staging(self) -> str: ...

    def ask(self, host: str, operation: str, arguments: dict[str, Any]) -> "Future[Any]": ...

    def push(self, host: str, source: Path, target: str) -> "Future[None]": ...

    def fetch(self, host: str, source: str, target: Path, limit: int) -> "Future[None]": ...


class Cluster(Protocol):
    """A cluster that is up; a context manager that leaves nothing of ours behind."""

    @property
    def name(self) -> str: ...

    @property
    def address(self) -> str: ...

    @property
    def driver(self) -> str:
        """A name that no other driver has: timestamps of runs in different folders may be equal."""

    @property
    def generation(self) -> int:
        """Grows when the scheduler was started anew: whatever was sent before is lost, and a new
        client is needed.
        """

    @property
    def transfer(self) -> Transfer | None:
        """None if all hosts have the driver's files."""

    def hosts(self) -> Mapping[str, HostState]:
        """The hosts by name, as they are now; also those that have no worker at the moment."""

    def demand(self, slots: int, hosts: Collection[str]) -> None:
        """How many slots this run could use now, and on which hosts: where several share the
        cluster, each gets no more than it asks for, and only where it can use it.
        """

    def announce(self, host: str, text: str) -> None:
        """Show in `status` what the run found out about a host ("": it is good again), or, for the
        host "", about its batches.
        """

    def cancel(self) -> None:
        """Kill all batch processes of this driver, wherever they are."""

    def client(self) -> Any:
        """A connected `distributed.Client`. Raises ClusterError if the scheduler is gone."""

    def failure(self) -> str:
        """Why the cluster is lost for good; empty while it is not."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...
