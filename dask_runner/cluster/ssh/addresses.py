"""The addresses at which other machines see this one. Sends nothing."""

import asyncio
import socket
from collections.abc import Iterable

from dask_runner.cluster.ssh.dial import resolve
from dask_runner.cluster.ssh.errors import ConnectError

LOOPBACK = "127.0.0.1"
ANY = "0.0.0.0"  # noqa: S104  (all addresses: what listens there asks for our certificates)
_PATIENCE = 3.0
# Of a datagram that is never sent.
_SOME_PORT = 9


async def bind_address(names: Iterable[str]) -> str:
    """Where to listen so that all these hosts can reach it: at the one address that they see this
    machine at; at all addresses if there are several, or nobody knows.
    """
    found = set(await asyncio.gather(*(_seen_from(name) for name in names))) - {""}
    away = {address for address in found if not _is_loopback(address)}
    if found and not away:
        return LOOPBACK
    return away.pop() if len(away) == 1 else ANY


async def _seen_from(name: str) -> str:
    """Our address on the way to a host; "" if its name is only known to ssh's configuration."""
    try:
        found = await resolve(name, name, _SOME_PORT, timeout=_PATIENCE)
    except ConnectError:
        return ""
    family, address = found[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            # Only asks the kernel for the route.
            probe.connect(address)
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"
