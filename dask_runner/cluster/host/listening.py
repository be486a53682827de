"""Where a Dask process of ours listens, and where it tells others to find it.

Refuses to guess: the address comes from the driver, who knows how the host is reached. Dask's own
guess is wrong on hosts whose name resolves to loopback, or that have no default route.
"""

import sys

from msgspec import Struct

from dask_runner.cluster.dask_address import free_port, tls_address


class Listening(Struct, frozen=True, kw_only=True):
    """`host` and `port` to listen at (0: any), and `contact`, the Dask address that others use
    ("": the same).
    """

    host: str
    port: int = 0
    contact: str = ""


def worker_listening(bind: str, *, contact: str, contact_port: int) -> Listening:
    """For a worker; `contact` and `contact_port` as in AgentConfig."""
    host = bindable(bind)
    if host != bind:
        contact = contact or bind
    if not contact:
        return Listening(host=host)
    if contact_port:
        return Listening(host=host, contact=tls_address(contact, contact_port))
    # The address is told before Dask listens, so the port must be known by then.
    port = free_port(host)
    return Listening(host=host, port=port, contact=tls_address(contact, port))


def bindable(address: str) -> str:
    """The address, or the one for all interfaces if no interface of this host has it: a host
    behind address translation is reached at an address that it does not know.
    """
    try:
        free_port(address)
    except OSError as error:
        anywhere = "::" if ":" in address else "0.0.0.0"  # noqa: S104  # TLS keeps strangers out
        sys.stderr.write(f"cannot listen at {address} ({error}); listening at {anywhere}\n")
        sys.stderr.flush()
        return anywhere
    return address
