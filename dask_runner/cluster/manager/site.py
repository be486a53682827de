"""What all hosts of one cluster share: names, keys, settings, where the scheduler is.

Owns how a host's agent is configured, and the addresses by which its parts find each other.
"""

import asyncio
import secrets
import socket
from collections.abc import Callable

from msgspec import Struct

from dask_runner.cluster.channel import AgentConfig, Politeness
from dask_runner.cluster.credentials import Credentials
from dask_runner.cluster.dask_address import tls_address
from dask_runner.cluster.session import SessionFolder
from dask_runner.cluster.ssh.addresses import ANY, LOOPBACK
from dask_runner.cluster.ssh.connector import Connector
from dask_runner.files import current_umask, path_to_text
from dask_runner.hostfile import AUTO, Host
from dask_runner.settings import Settings

_GIGABYTE = 1_000_000_000
_MEGABYTE = 1_000_000


class Place(Struct, frozen=True, kw_only=True):
    """Where a host's worker listens (`bind`), where it finds the scheduler, and where others find
    it, if not where it listens: `contact` and `contact_port`.
    """

    bind: str
    scheduler: str
    contact: str = ""
    contact_port: int = 0


class Site:
    """The cluster as its hosts see it. `scheduler_host` is where the scheduler listens, ANY for all
    addresses of this machine; `scheduler_port` is 0 until it is known.
    """

    def __init__(
        self,
        *,
        name: str,
        settings: Settings,
        folder: SessionFolder,
        credentials: Credentials,
        connector: Connector,
        on_change: Callable[[], None],
    ) -> None:
        self.name = name
        # A plus is in no name, so it is clear which cluster is meant by one.
        self.cluster = f"{name}+{socket.gethostname()}+{secrets.token_hex(4)}"
        self.settings = settings
        self.folder = folder
        self.credentials = credentials
        self.connector = connector
        self.changed = on_change
        self.on_scheduler: Callable[[str, int], None] = lambda _address, _dashboard: None
        # Where a scheduler on this machine listens so that all hosts reach it.
        self.bind = ""
        self.scheduler_host = ""
        self.scheduler_port = 0
        self.scheduler_ready = asyncio.Event()
        # What bits this machine computes; "" until that is known.
        self.numerics = ""

    @property
    def lease(self) -> float:
        return self.settings.cluster.lease

    @property
    def here(self) -> str:
        """The address by which this machine reaches the scheduler, if that is on it too."""
        return LOOPBACK if self.scheduler_host == ANY else self.scheduler_host

    @property
    def client_address(self) -> str:
        """Where clients on this machine find the scheduler; "" before its port is known."""
        return tls_address(self.here, self.scheduler_port) if self.scheduler_port else ""

    def scheduler_seen_at(self, ours: str) -> str:
        """Where a host finds the scheduler that reaches this machine at the address `ours`."""
        host = ours if self.scheduler_host == ANY else self.scheduler_host
        return tls_address(host, self.scheduler_port)

    def environment(self, host: str) -> dict[str, str]:
        """The markers by which anybody finds our processes, set where /proc shows them."""
        return {"DASK_RUNNER_CLUSTER": self.cluster, "DASK_RUNNER_HOST": host}

    def slots(self, host: Host, cores: int) -> tuple[int, bool]:
        """How many slots a host with so many cores has, and whether memory may limit them too."""
        wanted = host.slots or self.settings.run.slots or AUTO
        if wanted == AUTO:
            # A core is kept free for whoever sits there.
            return max(1, cores - 1), True
        return wanted, False

    def config(self, host: Host, *, slots: int, place: Place) -> AgentConfig:
        """The configuration of the host's agent."""
        settings = self.settings.cluster
        return AgentConfig(
            nonce=secrets.token_hex(16),
            cluster=self.cluster,
            host=host.address,
            bind=place.bind,
            slots=slots,
            umask=current_umask(),
            scheduler=place.scheduler,
            scheduler_port=0 if place.scheduler else self.scheduler_port,
            contact=place.contact,
            contact_port=place.contact_port,
            scratch=host.scratch or path_to_text(self.settings.storage.scratch),
            lease=settings.lease,
            nice=host.nice,
            memory=host.memory * _MEGABYTE,
            memory_ceiling=settings.memory_ceiling,
            scratch_floor=settings.scratch_floor * _MEGABYTE,
            cache=settings.cache,
            cache_limit=int(settings.cache_limit * _GIGABYTE),
            dashboard=settings.dashboard,
            politeness=Politeness(
                quiet_hours=settings.quiet_hours,
                user_idle=settings.user_idle,
                load=settings.load,
            ),
            credentials=self.credentials,
        )
