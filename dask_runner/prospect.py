"""What a run would be given now: hosts, slots and how their numbers come about, the time it takes.

Asks a cluster that is up for its status, and changes nothing there. Refuses to dispatch.
"""

import math
import os
import socket

from msgspec import Struct

from dask_runner.cluster.asking import status_of
from dask_runner.cluster.interface import HostState
from dask_runner.cluster.session import find_session
from dask_runner.cluster.status import HostStatus, Phase
from dask_runner.hostfile import select_names
from dask_runner.opening import Target, rules
from dask_runner.pilot import Pilot
from dask_runner.placement import Rules, limit
from dask_runner.settings import Settings

_STAGING = {
    "auto": "looked at for each host: nothing is copied where the folders here are seen",
    "shared": "nothing is copied: the hosts see the folders here",
    "sftp": "inputs are copied to the hosts, outputs back",
}


class HostRoom(Struct, frozen=True, kw_only=True):
    """A host and its slots for the run, 0 if it takes no batches; `how` the number comes about."""

    host: str
    slots: int
    how: str


class Prospect(Struct, frozen=True, kw_only=True):
    """What the run would run on: `cluster` is "" for this machine alone. `seconds` is how long it
    takes all slots, 0 if that is not known.
    """

    cluster: str
    hosts: tuple[HostRoom, ...]
    slots: int
    staging: str
    pilot: Pilot | None = None
    seconds: float = 0.0


class Prospects:
    """The hosts as they are now."""

    def __init__(self, settings: Settings, target: Target) -> None:
        """Raises ClusterError as `find_session`, UsageError for a pattern without any host."""
        self._settings = settings
        self._rules = rules(settings, target)
        self._accept = target.accept_numerics
        session = find_session(target.cluster)
        self._cluster = "" if session is None else session.name
        self._staging = target.staging
        if session is not None and target.staging == "auto":
            self._staging = session.session().staging
        found = [] if session is None else status_of(session).hosts
        names = select_names([host.name for host in found], target.hosts)
        self._hosts = [host for host in found if host.name in names]

    @property
    def remote(self) -> bool:
        """True if it is a cluster that is up."""
        return bool(self._cluster)

    @property
    def auto(self) -> bool:
        """True if the memory that a batch needs decides about slots of hosts that are up."""
        return any(host.auto and host.phase is Phase.UP for host in self._hosts)

    def tell(self, batches: int, pilot: Pilot | None) -> Prospect:
        """What `batches` batches would be given, if they are like the pilot."""
        rooms = self._rooms(0 if pilot is None else pilot.max_rss)
        slots = sum(room.slots for room in rooms)
        slots = min(slots, self._rules.max_slots or slots)
        known = pilot is not None and pilot.useful and slots
        rounds = math.ceil(batches / slots) if slots else 0
        return Prospect(
            cluster=self._cluster,
            hosts=tuple(rooms),
            slots=slots,
            staging=_STAGING[self._staging] if self._cluster else "",
            pilot=pilot,
            seconds=rounds * pilot.wall if known and pilot else 0.0,
        )

    def _rooms(self, peak: int) -> list[HostRoom]:
        if self._cluster:
            return [self._room(host, peak) for host in self._hosts]
        asked = self._settings.run.slots
        how = "--slots or run.slots" if asked else "one for each core"
        return [HostRoom(host=socket.gethostname(), slots=asked or os.cpu_count() or 1, how=how)]

    def _room(self, host: HostStatus, peak: int) -> HostRoom:
        if host.other_bits and not self._accept:
            return HostRoom(host=host.name, slots=0, how=host.other_bits)
        return _room(host, self._rules, peak)


def _room(host: HostStatus, rules: Rules, peak: int) -> HostRoom:
    if host.phase is not Phase.UP or host.refusal:
        why = host.refusal or f"{host.phase}{': ' if host.reason else ''}{host.reason}"
        return HostRoom(host=host.name, slots=0, how=why)
    state = HostState(
        name=host.name,
        slots=host.slots,
        share=host.slots,
        auto=host.auto,
        memory_free=host.memory_room,
    )
    how = "auto: cores less one" if host.auto else "as the hostfile or `up --slots` says"
    slots = limit(state, rules, peak)
    batch = peak or rules.memory
    if slots < host.slots and rules.slots == slots:
        how = f"--slots or run.slots; the host has {host.slots}"
    elif slots < host.slots:
        what = "of the pilot" if peak else "that a batch may use (--memory)"
        how = (
            f"auto: 0.8 of {host.memory_room / 1e9:.1f} GB free over {batch / 1e6:.0f} MB {what}; "
            f"the host has {host.slots}"
        )
    return HostRoom(host=host.name, slots=slots, how=how)
