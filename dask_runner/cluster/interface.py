"""What a cluster is to the driver: a Dask client, and the hosts with their slots."""

from collections.abc import Mapping
from typing import Any, Protocol, Self

from msgspec import Struct


class ClusterConfig(Struct, frozen=True, kw_only=True):
    """What every kind of cluster is started with: `slots` for each host (0: one for each core),
    the hosts' scratch folder, folders put first on the batches' import path, and the modules that
    the warm process imports.
    """

    slots: int = 0
    scratch: str = ""
    import_path: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()


class Cluster(Protocol):
    """A started cluster; a context manager that leaves nothing behind."""

    @property
    def name(self) -> str: ...

    @property
    def address(self) -> str: ...

    @property
    def hosts(self) -> Mapping[str, int]:
        """Slots by the host's name, for the hosts that are up."""

    @property
    def numerics(self) -> Mapping[str, str]:
        """The hash of its numerics self-test by the host's name: which bits it computes."""

    def client(self) -> Any:
        """A connected `distributed.Client`. Raises ClusterError if the scheduler is gone."""

    def failure(self) -> str:
        """Why the cluster is lost for good; empty while it is not."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...
