"""Why a host cannot be connected to: at which stage, and whether trying again may help."""

from typing import Literal

from dask_runner.cluster.ssh.host_keys import ShownKey
from dask_runner.errors import ClusterError

Stage = Literal["config", "name", "port", "host-key", "login"]


class ConnectError(ClusterError):
    """A host could not be connected to. `stage` is the step that failed; if `final`, nothing but
    the user can change it, and it is never tried again by itself. `key` is what was shown by the
    host (or by a bastion before it) whose key is not known.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        stage: Stage,
        final: bool = False,
        key: ShownKey | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.stage = stage
        self.final = final
        self.key = key


class DroppedError(Exception):
    """The server hung up before the login began: it has too many of us, most likely. Its argument
    is what it said, if anything.
    """


def wrong_config(host: str, reason: str, hint: str) -> ConnectError:
    return ConnectError(f"{host}: {reason}", hint=hint, stage="config", final=True)


def dropped(host: str, tries: int, words: str) -> ConnectError:
    said = f" ({words})" if words else ""
    return ConnectError(
        f"{host}: its sshd hung up before the login, {tries} times in a row{said}",
        hint="it takes no more logins at a time (MaxStartups), or shuts us out for a while "
        "(PerSourcePenalties, fail2ban): wait, or lower cluster.handshakes; its own log says which",
        stage="port",
    )


def bad_key(key: ShownKey) -> ConnectError:
    """The host's key is not the one that it should be."""
    if key.state == "unknown":
        return ConnectError(
            f"{key.host}: its host key ({key.type} {key.fingerprint}) is not known",
            hint="compare it with what the host's owner says, then: dask-runner hosts trust (keys "
            "are always checked, whatever StrictHostKeyChecking says)",
            stage="host-key",
            final=True,
            key=key,
        )
    if key.state == "revoked":
        return ConnectError(
            f"{key.host}: its host key ({key.type} {key.fingerprint}) is revoked in {key.place}",
            hint="nobody may use this key any more; ask the host's owner",
            stage="host-key",
            final=True,
            key=key,
        )
    return ConnectError(
        f"{key.host}: its host key has CHANGED: it shows {key.type} {key.fingerprint}, but "
        f"{key.place} has another one for {key.name}",
        hint="somebody may be listening in. Only if the host's owner confirms the new key: "
        f"ssh-keygen -f {key.place.partition(' of ')[2]} -R '{key.name}', then dask-runner hosts "
        "trust",
        stage="host-key",
        final=True,
        key=key,
    )


def through(host: str, bastion: str, error: ConnectError) -> ConnectError:
    """The same error, met at the bastion that is before a host."""
    return ConnectError(
        f"{host}: cannot pass its bastion {bastion}: {error.message}",
        hint=error.hint,
        stage=error.stage,
        final=error.final,
        key=error.key,
    )
