"""What is known of a host before it is used, and what speaks for or against using it."""

from typing import Literal

from msgspec import Struct

Verdict = Literal["ok", "warn", "fail"]


class Check(Struct, frozen=True, kw_only=True):
    """One thing that was looked at. `text` is what was found, `fix` what to do about it."""

    name: str
    verdict: Verdict
    text: str
    fix: str = ""


class DoubtfulPath(Struct, frozen=True, array_like=True):
    """A place from which Python takes code, and who (anybody, owner, group) could change it."""

    path: str
    kind: str
    reason: str


class LastingFacts(Struct, frozen=True, kw_only=True):
    """What decides how long processes last, and their files: `tokens` are the words of klist (None
    without it), read at the host's `local_time`; `kills_at_logout` is what systemd does.
    `server_address` is the host's as it is reached by SSH, "" where it is not. Bytes.
    """

    home: str
    home_free: int = 0
    tokens: str | None = None
    local_time: str = ""
    kills_at_logout: bool = False
    server_address: str = ""


class HostFacts(LastingFacts, frozen=True, kw_only=True):
    """A host as its Python sees it. Memory and disk in bytes.

    `client_address` is ours as the host sees it. `clock_offset` is how far its clock is ahead, in
    s, give or take `clock_error`. `shared` is yes, no, read-only (seen, but nothing can be written)
    or other (a file of that name that is not ours), "" if it was not asked. `numerics`, `users` and
    what lasting facts are more than `home` are known only after a thorough examination.
    """

    hostname: str
    boot_id: str
    pid_namespace: str
    python: str
    executable: str
    versions: dict[str, str]
    cores: int
    memory_total: int
    memory_free: int
    load: float
    uid: int
    user: str
    cache: str
    scratch: str
    scratch_free: int
    scratch_error: str
    shared: str
    doubtful_paths: tuple[DoubtfulPath, ...] = ()
    client_address: str = ""
    reaches_us: bool = False
    reached: bool = False
    clock_offset: float = 0.0
    clock_error: float = 0.0
    numerics: str = ""
    numerics_error: str = ""
    users: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """The same for two names only if they are one machine (or one container)."""
        return f"{self.boot_id} {self.pid_namespace}"


class HostReport(Struct, frozen=True, kw_only=True):
    """All checks of a host, in the order in which they were made; those after one that nothing
    can follow are missing. If `final`, only the user can change the result.
    """

    host: str
    checks: tuple[Check, ...]
    facts: HostFacts | None = None
    final: bool = False

    @property
    def ok(self) -> bool:
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.verdict == "fail")

    @property
    def reachable(self) -> bool:
        """True if this machine and the host reach each other's ports without SSH."""
        return self.facts is not None and self.facts.reaches_us and self.facts.reached

    def why(self) -> str:
        """What speaks against the host."""
        return "; ".join(check.text for check in self.failed)

    def fix(self) -> str:
        """What to do about it."""
        return "; ".join(check.fix for check in self.failed if check.fix)


class TrustedHost(Struct, frozen=True, kw_only=True):
    """What became of a host's key. `result` is known, recorded, declined, changed, revoked or
    failed; `file` is where it is recorded, `text` and `fix` say what is wrong.
    """

    host: str
    result: str
    type: str = ""
    fingerprint: str = ""
    file: str = ""
    text: str = ""
    fix: str = ""
