"""How a host is reached by the user's ssh configuration: name, port, jumps, keys, known hosts.

~/.ssh/config and /etc/ssh/ssh_config are honoured; user and port of the hostfile win. Refuses a
configuration that others may write, or that would switch the checking of host keys off.
"""

import logging
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import asyncssh
import msgspec
from msgspec import Struct

from dask_runner.cluster.ssh.errors import wrong_config
from dask_runner.cluster.ssh.host_keys import DEFAULT_PORT

_log = logging.getLogger(__name__)

SYSTEM_CONFIG: Final = Path("/etc/ssh/ssh_config")
_USER_KNOWN_HOSTS: Final = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
_SYSTEM_KNOWN_HOSTS: Final = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
_DEFAULT_KEYS: Final = ("id_ed25519", "id_ecdsa", "id_rsa", "id_ed25519_sk", "id_ecdsa_sk")
_DEPTH: Final = 8
_JUMP = re.compile(
    r"(?:ssh://)?(?:(?P<user>[^@]+)@)?(?:\[(?P<ipv6>[^\]]+)\]|(?P<name>[^\[\]:@]+))(?::(?P<port>\d+))?/?"
)


class Hop(Struct, frozen=True, kw_only=True):
    """A machine to log in to, as it was asked for. `host` is what messages call it, `user` and
    `port` are "" and 0 if the ssh configuration says them.
    """

    host: str
    address: str
    user: str = ""
    port: int = 0


class Route(Struct, frozen=True, kw_only=True):
    """How a hop is reached: `jumps` first, then `name` and `port`; or by a proxy command.

    `known_as` and `known_port` are what its key is recorded under, in `known_hosts`; a new key goes
    into the first of those. `keys` are the files with private keys. `family` and `local` are for
    the socket.
    """

    hop: Hop
    name: str
    port: int
    user: str
    jumps: tuple[Hop, ...]
    proxy_command: Any
    known_as: str
    known_port: int
    known_hosts: tuple[Path, ...]
    keys: tuple[Path, ...]
    has_identity_files: bool
    has_key_algorithms: bool
    gssapi: bool
    family: int
    local: tuple[str, int] | None
    config: tuple[Path, ...]

    def options(self) -> dict[str, Any]:
        """What asyncssh needs to take the same configuration."""
        return {
            "config": list(self.config),
            "host": self.hop.address,
            **({"port": self.hop.port} if self.hop.port else {}),
            **({"username": self.hop.user} if self.hop.user else {}),
        }


def read_route(hop: Hop, *, via: tuple[Hop, ...] | None = None, depth: int = 0) -> Route:
    """Read the configuration for a hop; blocks for as long as the files take. Raises ConnectError.

    `via` are the jumps before it, if they are decided already.
    """
    if depth > _DEPTH:
        raise wrong_config(
            hop.host, "its ProxyJump goes round in circles", "correct it in ~/.ssh/config"
        )
    files = _config_files(hop)
    options = _options(hop, files)
    config = options.config
    alias = options.host_key_alias
    expand = _expander(hop, options)
    return Route(
        hop=hop,
        name=options.host,
        port=options.port,
        user=options.username,
        jumps=_jumps(hop, options, depth) if via is None else via,
        proxy_command=None if via or config.get("ProxyJump") else options.proxy_command,
        known_as=alias or options.host,
        known_port=DEFAULT_PORT if alias else options.port,
        known_hosts=_known_hosts(hop, config, expand),
        keys=_keys(config),
        has_identity_files=bool(config.get("IdentityFile")),
        has_key_algorithms=config.get("HostKeyAlgorithms") is not None,
        gssapi=bool(config.get("GSSAPIAuthentication", True)),
        family=int(options.family),
        local=options.local_addr,
        config=files,
    )


def _config_files(hop: Hop) -> tuple[Path, ...]:
    own = Path("~/.ssh/config").expanduser()
    files = []
    try:
        status = own.stat()
    except OSError:
        pass
    else:
        if status.st_uid not in {0, os.geteuid()} or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise wrong_config(
                hop.host,
                f"{own} may be written to by others, who could have anything run in your name",
                f"look at it, then: chmod go-w {own}",
            )
        files.append(own)
    return (*files, SYSTEM_CONFIG) if os.access(SYSTEM_CONFIG, os.R_OK) else tuple(files)


def _options(hop: Hop, files: tuple[Path, ...]) -> Any:
    """The options in force, without reading any key."""
    given: dict[str, Any] = {"host": hop.address, "client_keys": None, "x509_trusted_certs": None}
    if hop.port:
        given["port"] = hop.port
    if hop.user:
        given["username"] = hop.user
    try:
        options = asyncssh.SSHClientConnectionOptions(config=list(files), **given)
        if options.config.has_match_final():
            options.update(reload=True, final=True)
    except (ValueError, OSError, asyncssh.Error) as error:
        raise wrong_config(
            hop.host,
            f"the ssh configuration is not understood: {error}",
            "correct that line; `ssh -G` shows what ssh makes of it",
        ) from error
    return options


def _jumps(hop: Hop, options: Any, depth: int) -> tuple[Hop, ...]:
    """All machines to go through, also those that are before the first one named."""
    text = options.config.get("ProxyJump")
    if not isinstance(text, str) or text.lower() == "none":
        return ()
    hops = []
    for part in text.split(","):
        match = _JUMP.fullmatch(part.strip())
        if match is None:
            raise wrong_config(
                hop.host,
                f"ProxyJump {text}: {part!r} is not [user@]host[:port]",
                "correct it in ~/.ssh/config",
            )
        address = match["ipv6"] or match["name"]
        hops.append(
            Hop(
                host=address,
                address=address,
                user=match["user"] or "",
                port=int(match["port"] or 0),
            )
        )
    # `Host *` with a ProxyJump is meant for all but the bastion itself.
    if hops[-1].address in {hop.address, options.host} and hops[-1].port in {0, options.port}:
        return ()
    before = read_route(msgspec.structs.replace(hops[0], host=hop.host), depth=depth + 1)
    return (*before.jumps, *hops)


def _keys(config: Any) -> tuple[Path, ...]:
    """The private keys that exist; a configured one that does not is left out, as ssh does."""
    named = config.get("IdentityFile") or [f"~/.ssh/{name}" for name in _DEFAULT_KEYS]
    paths = [Path(str(name)).expanduser() for name in named]
    return tuple(path for path in paths if path.exists())


def _known_hosts(hop: Hop, config: Any, expand: Callable[[str], str]) -> tuple[Path, ...]:
    named = config.get("UserKnownHostsFile")
    own = _USER_KNOWN_HOSTS if named is None else tuple(named)
    paths = [Path(expand(name)).expanduser() for name in own]
    bad = next((path for path in paths if path.exists() and not path.is_file()), None)
    if not paths or bad is not None:
        raise wrong_config(
            hop.host,
            f"the ssh configuration says UserKnownHostsFile {bad or 'none'}, so that no host key "
            "would ever be checked; that is refused",
            "take this line out for the hosts of the hostfile; `dask-runner hosts trust` records "
            "their keys in ~/.ssh/known_hosts",
        )
    system = config.get("GlobalKnownHostsFile")
    shared = _SYSTEM_KNOWN_HOSTS if system is None else tuple(system)
    return (*paths, *(Path(expand(name)).expanduser() for name in shared))


def _expander(hop: Hop, options: Any) -> Callable[[str], str]:
    """What the % marks of ssh_config stand for, as far as they make sense in a file's name."""
    values = {
        "%": "%",
        "d": str(Path.home()),
        "h": options.host,
        "i": str(os.getuid()),
        "k": options.host_key_alias or options.host,
        "n": hop.address,
        "p": str(options.port),
        "r": options.username,
        "u": options.client_username,
    }

    def expand(text: str) -> str:
        return re.sub("%(.)", lambda match: values.get(match[1], match[0]), text)

    return expand
