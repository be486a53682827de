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

    `worker` is the Dask address of its worker, "" while it has none; it is new after each restart,
    and what was sent to an old one is lost, its processes dead; `cut_off` says that it did not die
    of itself, but with its agent or its lease. `share` of its `slots` are for this
    run. `refusal` is why it takes no new batch now ("" if it does). `auto` says that the number of
    slots was not fixed by the user, so that the memory that batches turn out to use limits it:
    `memory_free` in bytes is what was free before anything ran.
    `local` is True if the host is this machine, with this machine's files.
    """

    name: str
    slots: int
    share: int
    worker: str = ""
    cut_off: bool = False
    numerics: str = ""
    refusal: str = ""
    auto: bool = False
    memory_free: int = 0
    local: bool = False


class Transfer(Protocol):
    """A way to hosts for what does not pass through Dask: files. All calls return at once.

    `ask` has the host's agent do an operation (cluster/host/operations.py) and gives its value;
    `push` copies a local file or folder to a path on the host; `fetch` copies a file or folder of
    the host to a local path. Futures raise ClusterError with the cause.
    """

    def ask(self, host: str, operation: str, arguments: dict[str, Any]) -> "Future[Any]": ...

    def push(self, host: str, source: Path, target: str) -> "Future[None]": ...

    def fetch(self, host: str, source: str, target: Path) -> "Future[None]": ...


class Cluster(Protocol):
    """A cluster that is up; a context manager that leaves nothing of ours behind."""

    @property
    def name(self) -> str: ...

    @property
    def address(self) -> str: ...

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
        """Show in `status` what the run found out about a host ("": it is good again)."""

    def cancel(self, run: str) -> None:
        """Kill all batch processes of the run, wherever they are."""

    def client(self) -> Any:
        """A connected `distributed.Client`. Raises ClusterError if the scheduler is gone."""

    def failure(self) -> str:
        """Why the cluster is lost for good; empty while it is not."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...
