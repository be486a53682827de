"""Which host gets the next group: shares, limits, memory, patterns. Pure arithmetic.

Owns how many batches a host may have at a time, and the order of hosts. Refuses to know batches,
and what becomes of them.
"""

from collections.abc import Collection, Mapping

from msgspec import Struct

from dask_runner.cluster.interface import HostState
from dask_runner.hostfile import is_selected

# Of the free memory, what batches may take together: the rest is for the disk cache and for users.
_MEMORY_SHARE = 0.8
# A host that sends groups back faster than their files come home must not bury us in them.
_MOST_UNSETTLED = 4


class Rules(Struct, frozen=True, kw_only=True):
    """What the user wants: `hosts` are patterns as for `hostfile.select_hosts` ("": all hosts); at
    most `slots` batches on a host and `max_slots` in all (0: no limit); `memory` in bytes is the
    limit of a batch (0: none).
    """

    hosts: str = ""
    slots: int = 0
    max_slots: int = 0
    memory: int = 0

    def wants(self, host: str) -> bool:
        """True if the patterns admit the host."""
        return is_selected(host, self.hosts)


class Load(Struct, kw_only=True):
    """Groups of this run at a host: those on their way or at work, and those that have ended and
    are not settled yet.
    """

    active: int = 0
    unsettled: int = 0


_IDLE = Load()


class _Taker(Struct, frozen=True, kw_only=True):
    """A host that takes `slots` groups; `alone`: all its slots are ours, so that groups may wait
    there. They begin as soon as any slot is free, also one that is not for us.
    """

    state: HostState
    slots: int
    alone: bool


def memory_slots(state: HostState, batch: int) -> int:
    """How many batches of `batch` bytes the memory of a host has room for, at least one."""
    return max(1, int(_MEMORY_SHARE * state.memory_free / batch))


def limit(state: HostState, rules: Rules, peak: int) -> int:
    """How many batches a host may have at a time. `peak` in bytes is the most that a batch of the
    run has used so far; before that is known (0), what it may use stands for it.
    """
    slots = min(state.share, rules.slots or state.share)
    batch = peak or rules.memory
    if slots and state.auto and state.memory_free and batch:
        slots = min(slots, memory_slots(state, batch))
    return slots


class Placement:
    """The hosts that take groups now, and how many each. `slots` counts those of all of them,
    `load` the groups at each host.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._takers: dict[str, _Taker] = {}
        self._restricted = False
        self.slots = 0
        self.load: dict[str, Load] = {}

    def update(
        self,
        hosts: Mapping[str, HostState],
        *,
        peak: int = 0,
        excluded: Collection[str] = (),
        suspects: Collection[str] = (),
    ) -> None:
        """Take in the hosts as they are now: those `excluded` get nothing, and `suspects` one group
        at a time.
        """
        self._takers = {}
        for name, state in hosts.items():
            if not state.worker or state.refusal or name in excluded:
                continue
            most = limit(state, self._rules, peak)
            if most > 0 and name in suspects:
                self._takers[name] = _Taker(state=state, slots=1, alone=False)
            elif most > 0:
                self._takers[name] = _Taker(state=state, slots=most, alone=most == state.slots)
        self.slots = sum(taker.slots for taker in self._takers.values())
        self._restricted = 0 < self._rules.max_slots < self.slots
        if self._restricted:
            self.slots = self._rules.max_slots

    def takers(self) -> Collection[str]:
        """The hosts that take batches, though maybe not at this moment."""
        return self._takers.keys()

    def choose(self, *, ahead: int = 1, avoid: Collection[str] = ()) -> HostState | None:
        """The host with the most room for another group, relative to its slots; not one of `avoid`
        unless there are no others. None if none has room now. `ahead` groups may be on the way for
        each slot.
        """
        if self._restricted and self._active() >= self._rules.max_slots:
            return None
        only = [name for name in self._takers if name not in avoid] if avoid else []
        best, most = None, (0.0, 0)
        for name in only or self._takers:
            taker = self._takers[name]
            room = self._room(name, taker, ahead)
            if room > 0 and (room / taker.slots, room) > most:
                best, most = taker.state, (room / taker.slots, room)
        return best

    def _room(self, name: str, taker: _Taker, ahead: int) -> int:
        load = self.load.get(name, _IDLE)
        waiting = ahead if taker.alone and not self._restricted else 1
        room = taker.slots * waiting - load.active
        return min(room, _MOST_UNSETTLED * taker.slots - load.active - load.unsettled)

    def _active(self) -> int:
        return sum(load.active for load in self.load.values())
