"""One SSH connection for each host: names, bastions, host keys and logins as the user's ssh has
them, at most a few handshakes at a time, and an error that says what to do.

Refuses to ask for passwords, to connect without checking the host's key, and to try a login twice.
"""

import asyncio
import os
import random
import re
import shlex
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, Final

import asyncssh
from asyncssh.public_key import get_default_certificate_algs, get_default_public_key_algs

from dask_runner.cluster.ssh import host_keys
from dask_runner.cluster.ssh.config import Hop, Route, read_route
from dask_runner.cluster.ssh.dial import dial
from dask_runner.cluster.ssh.errors import (
    ConnectError,
    DroppedError,
    bad_key,
    dropped,
    through,
)
from dask_runner.cluster.ssh.host_keys import KnownKey, ShownKey
from dask_runner.cluster.ssh.login_errors import Attempt, login_failed, login_timeout, tunnel_failed
from dask_runner.hostfile import Host

__all__ = ["ConnectError", "Connector", "is_local", "python_of", "remote_command"]

_TRIES: Final = 6
_BACKOFF: Final = 0.4
# A bastion that refused us for good is not asked again for each of the hosts behind it.
_REMEMBER: Final = 30.0
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_SETUP: Final = 'words=("$@"); set --; . "$0" >&2 </dev/null && exec "${words[@]}"'
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# csh takes `!` and line ends even in quotes, and what is not ASCII as its locale says.
_PLAIN: Final = re.compile(r"[ -~]*")


def is_local(host: Host) -> bool:
    """True if the host is this machine by name, and is not to be reached by SSH."""
    return host.address in _LOCAL and not host.user and not host.port


def python_of(host: Host) -> str:
    """The absolute path of the Python on the host."""
    return host.python or sys.executable


def remote_command(
    host: Host, words: Sequence[str], *, environment: Mapping[str, str] = MappingProxyType({})
) -> str:
    """A command line that runs `words` on the host, whatever the login shell is: sh, bash, csh,
    tcsh, fish. With the hostfile's `setup`, bash sources that file before; what it prints goes to
    stderr.
    """
    for name in environment:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of a variable")
    assigned = [f"{name}={value}" for name, value in environment.items()]
    setup = []
    if host.setup:
        setup = ["/bin/bash", "--noprofile", "--norc", "-c", _SETUP, host.setup]
    command = "exec " + shlex.join(["/usr/bin/env", *assigned, *setup, *words])
    if "!" not in command and _PLAIN.fullmatch(command):
        return command
    octal = "".join(f"\\0{byte:03o}" for byte in os.fsencode(command))
    return f"exec /bin/sh -c 'eval \"$(printf %b \"$0\")\"' '{octal}'"


class Connector:
    """Opens connections, and keeps the bastions that several hosts share until `close`.

    `handshakes` is how many may go on at the same time (in all, and with each server), `timeout`
    in s how long a server may take to answer and then to let us in.
    """

    def __init__(self, *, handshakes: int = 8, timeout: float = 10.0) -> None:
        self._timeout = timeout
        self._slots = asyncio.Semaphore(handshakes)
        self._servers: dict[tuple[str, int], asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(handshakes)
        )
        self._bastions: dict[tuple[Hop, ...], asyncio.Task[Any]] = {}

    async def connect(self, host: Host) -> Any:
        """An `asyncssh.SSHClientConnection` that is logged in. Raises ConnectError."""
        return await self._reach(_hop(host), self._login)

    async def show_key(self, host: Host) -> ShownKey:
        """The key that the host (or the first bastion before it whose key is not known) shows, and
        what is recorded of it; nobody is logged in. Raises ConnectError if it is not reached.
        """
        try:
            shown: ShownKey = await self._reach(_hop(host), self._look)
        except ConnectError as error:
            if error.key is not None:
                return error.key
            raise
        return shown

    async def close(self) -> None:
        """Close the bastions' connections; hosts that were reached through them are cut off."""
        tasks = list(self._bastions.values())
        self._bastions.clear()
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, asyncssh.SSHClientConnection):
                result.abort()
                await result.wait_closed()

    async def _reach(self, hop: Hop, end: "_End", *, via: tuple[Hop, ...] | None = None) -> Any:
        """Go through the bastions to a hop, and do `end` there."""
        route = await asyncio.to_thread(read_route, hop, via=via)
        words = ""
        for tried in range(_TRIES):
            if tried:
                # Jittered, so that those who were turned away together do not return together.
                await asyncio.sleep(_BACKOFF * tried * random.uniform(0.5, 1.5))
            bastion = await self._bastion(route) if route.jumps else None
            try:
                return await end(route, bastion)
            except DroppedError as error:
                words = str(error)
        raise dropped(hop.host, _TRIES, words)

    async def _bastion(self, route: Route) -> Any:
        """The connection to the last jump before a host: opened once for all."""
        jumps = route.jumps
        task = self._bastions.get(jumps)
        if task is None or _is_spent(task):
            task = asyncio.ensure_future(self._reach(jumps[-1], self._login, via=jumps[:-1]))
            self._bastions[jumps] = task
            task.add_done_callback(lambda task: self._forget_later(jumps, task))
        try:
            return await asyncio.shield(task)
        except ConnectError as error:
            raise through(route.hop.host, jumps[-1].host, error) from error

    def _forget_later(self, jumps: tuple[Hop, ...], task: "asyncio.Task[Any]") -> None:
        if task.cancelled() or task.exception() is None:
            return

        def forget() -> None:
            if self._bastions.get(jumps) is task:
                del self._bastions[jumps]

        error = task.exception()
        final = isinstance(error, ConnectError) and error.final
        asyncio.get_running_loop().call_later(_REMEMBER if final else 0.0, forget)

    async def _login(self, route: Route, bastion: Any) -> Any:
        return await self._open(Attempt(route), bastion, _credentials(route))

    async def _look(self, route: Route, bastion: Any) -> ShownKey:
        attempt = Attempt(route)
        try:
            connection = await self._open(attempt, bastion, _NO_CREDENTIALS)
        except ConnectError:
            if not attempt.key_accepted:
                raise
        else:
            connection.abort()
        shown = attempt.shown(())
        assert shown is not None
        return shown

    async def _open(self, attempt: Attempt, bastion: Any, credentials: dict[str, Any]) -> Any:
        route = attempt.route
        entries = host_keys.lookup(route.known_hosts, route.known_as, route.known_port)
        async with self._servers[route.name, route.port]:
            connection = None
            if bastion is None and route.proxy_command is None:
                connection = await dial(
                    route.hop.host,
                    route.name,
                    route.port,
                    timeout=self._timeout,
                    family=route.family,
                    local=route.local,
                )
            try:
                async with self._slots, self._translated(attempt, entries):
                    return await asyncssh.connect(
                        **route.options(),
                        **credentials,
                        **_host_key_options(route, entries),
                        **_ALWAYS,
                        sock=connection,
                        tunnel=bastion,
                        proxy_command=None if bastion else route.proxy_command,
                        client_factory=lambda: attempt,
                    )
            except BaseException:
                if connection is not None:
                    connection.close()
                raise

    @asynccontextmanager
    async def _translated(
        self, attempt: Attempt, entries: Sequence[KnownKey]
    ) -> AsyncIterator[None]:
        """What asyncssh raises in here, as errors of ours; bounded in time."""
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except TimeoutError:
            raise login_timeout(attempt, self._timeout) from None
        except asyncssh.HostKeyNotVerifiable as error:
            raise _bad_key(attempt, entries, error) from None
        except asyncssh.ChannelOpenError as error:
            raise tunnel_failed(attempt.route, error) from None
        except (asyncssh.Error, OSError, ValueError) as error:
            lost = isinstance(error, asyncssh.ConnectionLost | ConnectionError)
            if lost and not attempt.greeted:
                raise DroppedError("") from error
            raise await login_failed(attempt, error) from None


_End = Callable[[Route, Any], Awaitable[Any]]

_NO_CREDENTIALS: Final = {
    "client_keys": None,
    "public_key_auth": False,
    "gss_auth": False,
    "host_based_auth": False,
}
_ALWAYS: Final = {
    # Kerberos could vouch for the host in place of its key, and nobody would look at the key.
    "gss_kex": False,
    "x509_trusted_certs": None,
    "password_auth": False,
    "kbdint_auth": False,
    "connect_timeout": None,
    "canonicalize_hostname": False,
    # It closed a connection that had healed; the lease is what finds dead hosts.
    "keepalive_interval": 0,
    "agent_forwarding": False,
    "x11_forwarding": False,
    "request_pty": False,
    "command": None,
    # One byte that is not UTF-8 would end the connection.
    "encoding": None,
}


def _hop(host: Host) -> Hop:
    return Hop(host=host.address, address=host.address, user=host.user, port=host.port)


def _is_spent(task: "asyncio.Task[Any]") -> bool:
    """True if a bastion's connection has ended."""
    if not task.done() or task.cancelled():
        return task.done()
    return task.exception() is None and bool(task.result().is_closed())


def _credentials(route: Route) -> dict[str, Any]:
    keys = [str(path) for path in route.keys] if route.has_identity_files else ()
    # Passphrases are not asked for; the agent may have the key.
    return {"client_keys": keys, "ignore_encrypted": True}


def _host_key_options(route: Route, entries: Sequence[KnownKey]) -> dict[str, Any]:
    """The keys to trust, and which kind the server should show: one that is recorded, if it has
    it, but any other rather than none, so that a changed key is seen.
    """
    trusted = {
        marker: [entry.key for entry in entries if entry.marker == marker]
        for marker in ("", "cert-authority", "revoked")
    }
    options: dict[str, Any] = {"known_hosts": tuple(trusted.values())}
    if not route.has_key_algorithms:
        known = [name for key in trusted[""] for name in key.sig_algorithms]
        certified = get_default_certificate_algs() if trusted["cert-authority"] else []
        names = dict.fromkeys([*certified, *known, *get_default_public_key_algs()])
        options["server_host_key_algs"] = [name.decode() for name in names]
    return options


def _bad_key(attempt: Attempt, entries: Sequence[KnownKey], error: Exception) -> ConnectError:
    shown = attempt.shown(entries)
    if shown is not None and shown.state != "known":
        return bad_key(shown)
    # A certificate that has expired or is for another name.
    return ConnectError(
        f"{attempt.route.hop.host}: its host certificate is not valid: {error}",
        hint="ask who runs the host",
        stage="host-key",
        final=True,
    )
