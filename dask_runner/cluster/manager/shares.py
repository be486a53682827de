"""How the slots of a cluster are divided between the runs that use it. Pure arithmetic."""

from collections.abc import Mapping

from msgspec import Struct

# Slots of each host, by run.
Deal = dict[str, dict[str, int]]


class Wish(Struct, frozen=True, kw_only=True):
    """What a run could use now: so many `slots`, on these `hosts` (None: on any)."""

    slots: int
    hosts: frozenset[str] | None = None

    def takes(self, host: str) -> bool:
        return self.hosts is None or host in self.hosts


def shares(slots: Mapping[str, int], wishes: Mapping[str, Wish]) -> Deal:
    """The slots of each host for each run, as `{run: {host: slots}}`.

    Slot by slot, each goes to the run that has fewest (max-min fairness), and none gets more than
    it wishes as long as another one wants it. What is left then is dealt out in the same way, so
    that a run whose wish grows need not wait to be told. A run that is alone gets all it may use.
    """
    dealt: Deal = {run: dict.fromkeys(slots, 0) for run in wishes}
    free = dict(slots)
    _deal(free, dealt, wishes, {run: wish.slots for run, wish in wishes.items()}, slots)
    _deal(free, dealt, wishes, dict.fromkeys(wishes, sum(slots.values())), slots)
    return dealt


def _deal(
    free: dict[str, int],
    dealt: Deal,
    wishes: Mapping[str, Wish],
    most: Mapping[str, int],
    slots: Mapping[str, int],
) -> None:
    """Deal free slots until each run has `most`, or nothing is left that it may use."""
    has = {run: sum(by_host.values()) for run, by_host in dealt.items()}
    hungry = {run for run in wishes if has[run] < most[run]}
    rivals = {host: sum(wishes[run].takes(host) for run in wishes) for host in slots}
    while hungry:
        run = min(hungry, key=lambda name: (has[name], name))
        host = min(
            (host for host, left in free.items() if left and wishes[run].takes(host)),
            # Where few others may go; then where it has least, so that it has slots everywhere.
            key=lambda name: (
                rivals[name],
                dealt[run][name] / slots[name],
                -free[name] / slots[name],
            ),
            default="",
        )
        if not host:
            hungry.discard(run)
            continue
        free[host] -= 1
        dealt[run][host] += 1
        has[run] += 1
        if has[run] >= most[run]:
            hungry.discard(run)
