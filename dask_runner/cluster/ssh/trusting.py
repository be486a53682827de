"""Which host keys are new: asks all hosts for theirs, and says what became of each.

Refuses to log in to a host, and to record anything: the user decides, host_keys.record writes.
"""

import asyncio
from collections.abc import Callable, Sequence

from msgspec import Struct

from dask_runner.cluster.ssh.connector import Connector, is_local
from dask_runner.cluster.ssh.errors import ConnectError, bad_key
from dask_runner.cluster.ssh.host_keys import ShownKey
from dask_runner.cluster.ssh.report import TrustedHost
from dask_runner.hostfile import Host


class Seen(Struct, frozen=True, kw_only=True):
    """What was seen of a host: the key (of it, or of a bastion before it), or why there is none."""

    host: str
    key: ShownKey | None = None
    error: ConnectError | None = None


async def look(hosts: Sequence[Host], connector: Callable[[], Connector]) -> list[Seen]:
    """The keys of all hosts as they are now, in their order."""
    # A new one each time: it must not remember bastions that were refused before.
    fresh = connector()

    async def one(host: Host) -> Seen:
        if is_local(host):
            return Seen(host=host.address)
        try:
            return Seen(host=host.address, key=await fresh.show_key(host))
        except ConnectError as error:
            return Seen(host=host.address, error=error)

    try:
        return await asyncio.gather(*(one(host) for host in hosts))
    finally:
        await fresh.close()


def unknown_keys(found: Sequence[Seen]) -> list[ShownKey]:
    """The keys to ask about, each once."""
    keys = {
        (seen.key.name, seen.key.key): seen.key
        for seen in found
        if seen.key is not None and seen.key.state == "unknown"
    }
    return list(keys.values())


def results(found: Sequence[Seen], recorded: set[str]) -> list[TrustedHost]:
    """What became of each host; `recorded` are the names of the keys that were."""
    return [_result(seen, recorded) for seen in found]


def _result(seen: Seen, recorded: set[str]) -> TrustedHost:
    if seen.error is not None:
        error = seen.error
        return TrustedHost(host=seen.host, result="failed", text=error.message, fix=error.hint)
    key = seen.key
    if key is None:  # this machine, which is not reached by SSH
        return TrustedHost(host=seen.host, result="known")
    result = {"unknown": "declined"}.get(key.state, key.state)
    if result == "known" and key.name in recorded:
        result = "recorded"
    text, fix = "", ""
    if key.host != seen.host:
        text = f"{seen.host}: the key is that of its bastion {key.host}; its own comes after that"
    if result in {"changed", "revoked"}:
        error = bad_key(key)
        text, fix = error.message, error.hint
    return TrustedHost(
        host=seen.host,
        result=result,
        type=key.type,
        fingerprint=key.fingerprint,
        file=key.file,
        text=text,
        fix=fix,
    )
