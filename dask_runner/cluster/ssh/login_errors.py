"""What was tried at a login, and what its failure means for the user."""

import asyncio
import os
from collections.abc import Sequence
from typing import Any, Final

import asyncssh

from dask_runner.cluster.ssh.config import Route
from dask_runner.cluster.ssh.errors import ConnectError, wrong_config
from dask_runner.cluster.ssh.host_keys import (
    KnownKey,
    ShownKey,
    State,
    judge,
    key_type,
    recorded_name,
)

_AGENT_PATIENCE: Final = 2.0
_BANNER: Final = 300
_TOO_MANY: Final = "Too many authentication failures"


class Attempt(asyncssh.SSHClient):  # type: ignore[misc]  # asyncssh is untyped for mypy here
    """One connection in the making: it lets no key pass that is not recorded, and remembers what
    happened.
    """

    def __init__(self, route: Route) -> None:
        self.route = route
        self.banner = ""
        self.methods: tuple[str, ...] = ()
        self._connection: Any = None
        self._key: Any = None

    def connection_made(self, conn: Any) -> None:
        self._connection = conn

    def validate_host_public_key(self, host: str, addr: str, port: int, key: Any) -> bool:  # noqa: ARG002
        # Also called for keys that changed; what is good was in known_hosts already.
        self._key = key
        return False

    def validate_host_ca_key(self, host: str, addr: str, port: int, key: Any) -> bool:  # noqa: ARG002
        self._key = key
        return False

    def auth_banner_received(self, msg: str, lang: str) -> None:  # noqa: ARG002
        self.banner = " ".join(msg.split())[:_BANNER]

    def public_key_auth_requested(self) -> None:
        """Called when there are no more keys: the only moment to see what else would do."""
        self.methods = tuple(self._connection.get_server_auth_methods())

    @property
    def greeted(self) -> bool:
        return self._connection is not None and bool(
            self._connection.get_extra_info("server_version")
        )

    @property
    def key_accepted(self) -> bool:
        return self._connection is not None and self._connection.get_server_host_key() is not None

    def shown(self, entries: Sequence[KnownKey]) -> ShownKey | None:
        """The key that the server showed, judged by what is recorded; None if none was seen."""
        key = self._key or self._connection.get_server_host_key()
        if key is None:
            return None
        state: State
        state, place = ("known", "") if self.key_accepted else judge(entries, key)
        route = self.route
        return ShownKey(
            host=route.hop.host,
            name=recorded_name(route.known_as, route.known_port),
            type=key_type(key),
            fingerprint=key.get_fingerprint(),
            key=key.export_public_key("openssh").decode().strip(),
            state=state,
            file=str(route.known_hosts[0]),
            place=place,
        )


async def login_failed(attempt: Attempt, error: Exception) -> ConnectError:
    """Any failure after the server's greeting that has to do neither with time nor with its key."""
    route = attempt.route
    host = route.hop.host
    if isinstance(error, asyncssh.PermissionDenied):
        return await _denied(attempt)
    if _TOO_MANY in str(error):
        return ConnectError(
            f"{host}: login as {route.user} refused: {_TOO_MANY.lower()}; each key that is offered "
            "counts",
            hint=f"say which key is for it in ~/.ssh/config: Host {route.hop.address}, "
            "IdentityFile ~/.ssh/KEY, IdentitiesOnly yes",
            stage="login",
            final=True,
        )
    if isinstance(error, asyncssh.ConnectionLost | ConnectionError) and attempt.key_accepted:
        return ConnectError(
            f"{host}: hung up during the login as {route.user}" + _said(attempt),
            hint=f"its own log says why (journalctl -u ssh); try: {_by_hand(route)}",
            stage="login",
        )
    if isinstance(error, asyncssh.ConnectionLost | ConnectionError):
        return ConnectError(
            f"{host}: hung up while the encryption was agreed on",
            hint="perhaps no method of ours suits it (Ciphers, HostKeyAlgorithms ... in "
            f"~/.ssh/config, crypto policy of the system); try: {_by_hand(route)}",
            stage="port",
        )
    if isinstance(error, ValueError | OSError):
        keys = ", ".join(str(path) for path in route.keys) or "none"
        return wrong_config(
            host,
            f"the login cannot be tried: {error} (keys: {keys})",
            f"look at these files, and: {_by_hand(route)}",
        )
    return ConnectError(
        f"{host}: port {route.port} does not speak SSH as we do: {error}",
        hint=f"is it sshd that listens there? try: {_by_hand(route)}",
        stage="port",
        final=True,
    )


def login_timeout(attempt: Attempt, timeout: float) -> ConnectError:
    route = attempt.route
    if attempt.key_accepted:
        return ConnectError(
            f"{route.hop.host}: the login as {route.user} took longer than {timeout:g} s",
            hint=f"its name service or home folder may be slow; try: {_by_hand(route)}, or raise "
            "cluster.connect_timeout",
            stage="login",
        )
    way = f" through {route.jumps[-1].host}" if route.jumps else ""
    return ConnectError(
        f"{route.hop.host}: no SSH greeting from port {route.port} of {route.name}{way} within "
        f"{timeout:g} s",
        hint=f"is the host up? try: {_by_hand(route)}",
        stage="port",
    )


def tunnel_failed(route: Route, error: Any) -> ConnectError:
    """A bastion could not, or would not, connect us to the host behind it."""
    bastion = route.jumps[-1].host
    if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
        hint = f"sshd of {bastion} must allow it: AllowTcpForwarding yes (or local)"
    else:
        hint = f"is it up? try on {bastion}: ping {route.name}"
    return ConnectError(
        f"{route.hop.host}: {bastion} cannot connect to port {route.port} of {route.name}: "
        f"{error.reason}",
        hint=hint,
        stage="port",
    )


async def _denied(attempt: Attempt) -> ConnectError:
    route = attempt.route
    agent = await _agent_keys()
    locked = [path for path in route.keys if _is_locked(path)]
    free = [path for path in route.keys if path not in locked]
    tried = [f"key {path}" for path in free]
    if agent:
        tried.append(f"{agent} of the agent")
    if _has_gssapi() and route.gssapi:
        tried.append("Kerberos")
    accepts = f"; it accepts {', '.join(attempt.methods)}" if attempt.methods else ""
    return ConnectError(
        f"{route.hop.host}: login as {route.user} refused (tried {', '.join(tried) or 'nothing'}"
        f"{accepts})" + _said(attempt),
        hint=_advice(route, attempt.methods, locked=[str(path) for path in locked], tried=tried),
        stage="login",
        final=True,
    )


def _advice(
    route: Route, methods: Sequence[str], *, locked: Sequence[str], tried: Sequence[str]
) -> str:
    target = f"{route.user}@{route.hop.address}"
    port = f"-p {route.port} " if route.hop.port else ""
    jump = f"-o ProxyJump={','.join(hop.address for hop in route.jumps)} " if route.jumps else ""
    copy = f"ssh-copy-id {port}{jump}{target}"
    if locked:
        return (
            f"{locked[0]} has a passphrase, which is never asked for here: ssh-add {locked[0]}, "
            f"and if the host does not know the key: {copy}"
        )
    advice = copy if tried else f"there is no key to offer: ssh-keygen -t ed25519, then {copy}"
    if any(method.startswith("gssapi") for method in methods):
        advice += "; or kinit"
        if not _has_gssapi():
            advice += ", which needs pip install 'dask-runner[gssapi]'"
    return f"{advice}; passwords are never asked for"


async def _agent_keys() -> str:
    """How many keys the agent has, as words; "" for none."""
    if not os.environ.get("SSH_AUTH_SOCK"):
        return ""
    try:
        async with asyncio.timeout(_AGENT_PATIENCE), asyncssh.connect_agent() as agent:
            count = len(await agent.get_keys())
    except (OSError, ValueError, asyncssh.Error):  # TimeoutError is an OSError
        return ""
    return f"{count} key{'s' * (count != 1)}" if count else ""


def _is_locked(path: Any) -> bool:
    try:
        asyncssh.read_private_key(path)
    except asyncssh.KeyImportError as error:
        return "assphrase" in str(error)
    except OSError:
        return False
    return False


def _has_gssapi() -> bool:
    from asyncssh.gss import gss_available  # noqa: PLC0415  (rarely asked)

    return bool(gss_available)


def _said(attempt: Attempt) -> str:
    return f"; it says: {attempt.banner}" if attempt.banner else ""


def _by_hand(route: Route) -> str:
    port = f"-p {route.port} " if route.hop.port else ""
    user = f"{route.user}@" if route.hop.user else ""
    return f"ssh {port}{user}{route.hop.address}"
