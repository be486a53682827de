"""A cluster as `status` and `up` show it: hosts, runs, what goes on and what went wrong."""

from enum import StrEnum

from msgspec import Struct

from dask_runner.cluster.channel import SlotReport


class Phase(StrEnum):
    """Where a host is in its life. LEFT_OUT: it did not pass the checks; it is tried again, unless
    that is up to the user. LOST: not heard of for longer than its lease; dialled again and again.
    """

    WAITING = "waiting"
    CONNECTING = "connecting"
    STARTING = "starting"
    UP = "up"
    LOST = "lost"
    LEFT_OUT = "left out"
    DRAINING = "draining"
    DRAINED = "drained"
    ENDED = "ended"


class HostStatus(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One host. Memory and disk in bytes, `since` seconds in this phase. `refusal` is why it takes
    no new batch, `announced` what runs found out about it; `errors` are the latest, oldest first.
    `memory_room` is what batches may take together, as it was before any ran. `other_bits` says
    in what its numerics differ from this machine's ("": not at all, or not known).
    """

    name: str
    phase: Phase
    since: float
    reason: str = ""
    hint: str = ""
    slots: int = 0
    auto: bool = False
    load: float = 0.0
    cores: int = 0
    memory_free: int = 0
    memory_total: int = 0
    memory_room: int = 0
    scratch_free: int = 0
    users: tuple[str, ...] = ()
    python: str = ""
    version: str = ""
    numerics: str = ""
    other_bits: str = ""
    tunnelled: bool = False
    refusal: str = ""
    paused: str = ""
    announced: tuple[str, ...] = ()
    running: tuple[SlotReport, ...] = ()
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    log: str = ""


def why_not(host: HostStatus) -> str:
    """Why a host is not up, with the fix."""
    fix = f" ({host.hint})" if host.hint else ""
    return f"{host.name}: {host.reason or host.phase}{fix}"


class RunStatus(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run that is attached; `slots` are those it has now, `demand` those it could use;
    `announced` is what it found out about its batches.
    """

    run: str
    pid: int
    demand: int
    slots: int
    announced: tuple[str, ...] = ()


class ClusterStatus(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A whole cluster; `settled` is False as long as a host has neither come up nor failed.
    `warnings` are about this machine.
    """

    name: str
    cluster: str
    pid: int
    machine: str
    up_for: float
    scheduler: str
    address: str
    settled: bool
    hosts: tuple[HostStatus, ...]
    runs: tuple[RunStatus, ...] = ()
    dashboard: int = 0
    failure: str = ""
    events: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    hostfile: str = ""

    @property
    def ready(self) -> int:
        """Hosts that work."""
        return sum(host.phase is Phase.UP for host in self.hosts)

    @property
    def slots(self) -> int:
        return sum(host.slots for host in self.hosts if host.phase is Phase.UP)
