"""Dask's connections through SSH, for hosts that cannot be reached otherwise.

A host behind a bastion or a firewall: its worker finds the scheduler at a port of its own loopback
interface, and is found at one of ours; the bytes, TLS as ever, go through its SSH connection.
"""

import asyncio
from contextlib import suppress

import asyncssh

from dask_runner.cluster.dask_address import port_of, tls_address
from dask_runner.cluster.manager.site import Place, Site
from dask_runner.cluster.ssh.addresses import ANY, LOOPBACK
from dask_runner.cluster.ssh.preflight import HostReport
from dask_runner.errors import ClusterError

_CHUNK = 1 << 16


class Tunnel:
    """Both ways for one host; `worker_port` is where its worker listens there, once known,
    `scheduler_port` the scheduler's, to which it leads.
    """

    def __init__(self, connection: asyncssh.SSHClientConnection) -> None:
        self.worker_port = 0
        self.scheduler_port = 0
        self._connection = connection
        self._listener: asyncssh.SSHListener | None = None
        self._server: asyncio.Server | None = None

    async def open(self, scheduler_host: str, scheduler_port: int) -> Place:
        """Start listening on both sides. Raises ClusterError if the host's sshd does not let us."""
        self.scheduler_port = scheduler_port
        try:
            self._listener = await self._connection.forward_remote_port(
                LOOPBACK, 0, scheduler_host, scheduler_port
            )
        except (OSError, asyncssh.Error) as error:
            raise ClusterError(
                f"its ports cannot be reached, and its sshd forwards none: {error}",
                hint="open the ports between the hosts, or AllowTcpForwarding yes there",
            ) from error
        self._server = await asyncio.start_server(self._relay, LOOPBACK, 0)
        return Place(
            bind=LOOPBACK,
            scheduler=tls_address(LOOPBACK, self._listener.get_port()),
            contact=LOOPBACK,
            contact_port=self._server.sockets[0].getsockname()[1],
        )

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        if self._server is not None:
            self._server.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection to the worker, until either side ends."""
        try:
            there, back = await self._connection.open_connection(
                LOOPBACK, self.worker_port, encoding=None
            )
        except (OSError, asyncssh.Error):
            writer.close()
            return
        await asyncio.gather(_pump(reader, back), _pump(there, writer))


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError, asyncssh.Error):
        while data := await source.read(_CHUNK):
            target.write(data)
            await target.drain()
    with suppress(OSError, asyncssh.Error):
        target.close()


async def place_of(
    site: Site, report: HostReport, connection: asyncssh.SSHClientConnection | None
) -> tuple[Place, Tunnel | None]:
    """Where the host's worker listens and finds the scheduler; with a tunnel where there is no
    other way.
    """
    facts = report.facts
    assert facts is not None
    if report.host == site.settings.cluster.scheduler:
        if not report.reachable:
            raise ClusterError(
                "it is to have the scheduler, but its ports cannot be reached from here",
                hint="choose another --scheduler, or leave it out: this machine has it then",
            )
        bind = facts.server_address if connection is not None else site.bind
        if bind == ANY:
            raise ClusterError(
                "the hosts see it at several addresses",
                hint="leave out --scheduler: this machine has it then, at all of them",
            )
        return Place(bind=bind, scheduler=""), None
    await site.scheduler_ready.wait()
    if connection is None:
        # This machine: reached where everybody reaches it.
        return Place(bind=site.here, scheduler=site.client_address), None
    # The scheduler listens at addresses of one family.
    if report.reachable and _same_family(site.scheduler_host, facts.client_address):
        scheduler = site.scheduler_seen_at(facts.client_address)
        return Place(bind=facts.server_address, scheduler=scheduler), None
    tunnel = Tunnel(connection)
    address = site.client_address
    host = address.removeprefix("tls://").rpartition(":")[0].strip("[]")
    return await tunnel.open(host, port_of(address)), tunnel


def _same_family(first: str, second: str) -> bool:
    return (":" in first) == (":" in second)
