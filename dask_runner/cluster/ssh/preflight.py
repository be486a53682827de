"""Examines hosts before they are used: a connection, a script, and what its answer means.

All hosts at once, each bounded in time; what is wrong with one is in its report and touches no
other's. Changes nothing on the hosts.
"""

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal

from dask_runner.cluster.ssh.connector import ConnectError, Connector, is_local
from dask_runner.cluster.ssh.host_keys import key_type
from dask_runner.cluster.ssh.probe import OldPythonError, Request, probe_local, probe_remote
from dask_runner.cluster.ssh.report import Check, HostFacts, HostReport
from dask_runner.cluster.ssh.verdicts import (
    Expected,
    judge,
    judge_lasting,
    judge_python,
    refuse_twins,
)
from dask_runner.errors import ClusterError
from dask_runner.hostfile import Host
from dask_runner.versions import versions

__all__ = [
    "Check",
    "Expected",
    "HostFacts",
    "HostReport",
    "examine",
    "examine_all",
    "expecting",
    "look_closer",
    "refuse_twins",
]

# One start of a Python on a machine that has much to do; the self-test imports everything.
_PATIENCE: Final = 30.0
_THOROUGH_PATIENCE: Final = 150.0
_SELFTEST_PATIENCE: Final = 120.0
_CLOSE_PATIENCE: Final = 2.0
_CLOSER_PATIENCE: Final = 60.0
_CLOSER: Final = Request(scratch="", packages=(), token="", thorough=True)
_STAGES: Final = ("config", "name", "port", "host-key", "login")


@asynccontextmanager
async def expecting(
    *,
    scratch: str = "",
    scratch_floor: int = 0,
    staging: Literal["auto", "shared", "sftp"] = "auto",
    folder: Path | None = None,
    numerics: str = "",
) -> AsyncIterator[Expected]:
    """What hosts are compared with. While this is open, a port of ours answers their calls, and
    `folder` (None: not asked) has a file by which they can tell that they see it.
    """
    token = secrets.token_hex(16)
    with _probe_file(folder, token) as probe:
        server = await _listen(token)
        try:
            yield Expected(
                versions=versions(),
                token=token,
                numerics=numerics,
                scratch=scratch,
                scratch_floor=scratch_floor,
                staging=staging,
                probe=probe,
                call_port=server.sockets[0].getsockname()[1] if server else 0,
            )
        finally:
            if server is not None:
                server.close()


async def examine(
    host: Host, connector: Connector, expected: Expected, *, thorough: bool = False
) -> tuple[HostReport, Any]:
    """The report of a host, and its open connection, which is the caller's to close; None where
    there is none (not reached, or this machine). Raises nothing for what is wrong with the host.
    """
    connection, checks = None, [Check(name="login", verdict="ok", text="this machine")]
    if not is_local(host):
        try:
            connection = await connector.connect(host)
        except ConnectError as error:
            return _not_reached(host, error), None
        checks = _reached(connection)
    try:
        facts = await _facts(host, connection, expected, thorough=thorough)
    except OldPythonError as error:
        checks.append(judge_python(host, error.version, expected))
        return HostReport(host=host.address, checks=tuple(checks)), connection
    except ClusterError as error:
        checks.append(_failure("python", error))
        return HostReport(host=host.address, checks=tuple(checks)), connection
    except BaseException:
        if connection is not None:
            connection.abort()
        raise
    checks += judge(host, facts, expected, thorough=thorough)
    return HostReport(host=host.address, checks=tuple(checks), facts=facts), connection


async def examine_all(
    hosts: Sequence[Host], connector: Connector, expected: Expected
) -> list[HostReport]:
    """The thorough reports of all hosts, in their order; every connection is closed again."""

    async def one(host: Host) -> HostReport:
        report, connection = await examine(host, connector, expected, thorough=True)
        if connection is not None:
            connection.close()
            # A host may have been cut off meanwhile.
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_PATIENCE):
                    await connection.wait_closed()
            connection.abort()
        return report

    return refuse_twins(await asyncio.gather(*(one(host) for host in hosts)))


async def look_closer(host: Host, connection: Any) -> list[Check]:
    """What may end or hinder a host's processes in time: tickets, a full home. Raises ClusterError
    if it does not answer.
    """
    facts = await probe_remote(host, connection, _CLOSER, patience=_CLOSER_PATIENCE)
    return judge_lasting(host, facts)


async def _facts(host: Host, connection: Any, expected: Expected, *, thorough: bool) -> HostFacts:
    request = Request(
        scratch=host.scratch or expected.scratch,
        packages=tuple(name for name in expected.versions if name not in {"python", "dask-runner"}),
        token=expected.token,
        probe=expected.probe,
        call_port=expected.call_port,
        thorough=thorough,
        selftest=bool(expected.numerics),
        patience=_SELFTEST_PATIENCE,
    )
    patience = _THOROUGH_PATIENCE if thorough else _PATIENCE
    if connection is None:
        return await asyncio.to_thread(probe_local, host, request, patience=patience)
    return await probe_remote(host, connection, request, patience=patience)


def _not_reached(host: Host, error: ConnectError) -> HostReport:
    """The stages that went well, then the one that did not."""
    passed = _STAGES[1 : _STAGES.index(error.stage)]
    checks = [Check(name=stage, verdict="ok", text="") for stage in passed]
    checks.append(_failure(error.stage, error))
    return HostReport(host=host.address, checks=tuple(checks), final=error.final)


def _reached(connection: Any) -> list[Check]:
    address = connection.get_extra_info("peername")[0]
    key = connection.get_server_host_key()
    return [
        Check(name="name", verdict="ok", text=address or "through a bastion"),
        Check(name="port", verdict="ok", text=str(connection.get_extra_info("port") or "")),
        Check(name="host-key", verdict="ok", text=key_type(key)),
        Check(name="login", verdict="ok", text=str(connection.get_extra_info("username") or "")),
    ]


def _failure(name: str, error: ClusterError) -> Check:
    return Check(name=name, verdict="fail", text=error.message, fix=error.hint)


async def _listen(token: str) -> asyncio.Server | None:
    """A port on all addresses at which whoever calls gets the token, and nothing else."""

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            writer.write(token.encode())
            await writer.drain()
        writer.close()

    try:
        if socket.has_dualstack_ipv6():
            end = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        else:
            end = socket.create_server(("", 0))
    except OSError:
        return None
    return await asyncio.start_server(answer, sock=end)


@contextmanager
def _probe_file(folder: Path | None, token: str) -> Iterator[str]:
    """The path of a file with the token, gone afterwards; "" where none can be written."""
    if folder is None:
        yield ""
        return
    path = folder.absolute() / f".dask-runner-probe-{secrets.token_hex(8)}"
    try:
        path.write_text(token)
    except OSError:
        yield ""
        return
    try:
        yield str(path)
    finally:
        path.unlink(missing_ok=True)
