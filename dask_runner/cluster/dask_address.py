"""Dask's addresses, and ports that are free."""

import socket


def tls_address(host: str, port: int) -> str:
    """A Dask address."""
    return f"tls://[{host}]:{port}" if ":" in host else f"tls://{host}:{port}"


def port_of(address: str) -> int:
    """The port of a Dask address."""
    return int(address.rpartition(":")[2])


def free_port(address: str) -> int:
    """A port that nobody listens at now. Raises OSError if the address is not this machine's."""
    family, kind, _, _, place = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        probe.bind(place)
        return int(probe.getsockname()[1])
