"""The hosts as a run uses them: those that the user wants, and that compute the run's bits.

Owns who came, went and came back since the last look, and which host is refused for its numerics.
Refuses to judge what hosts do with batches.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from dask_runner.cluster.interface import Cluster, HostState
from dask_runner.errors import ClusterError

_log = logging.getLogger(__name__)


class Bits:
    """Which bits the run's hosts compute: the hash of the numerics self-test of those that worked
    on it first. `accept`: others are welcome too.
    """

    def __init__(self, known: Iterable[str], *, accept: bool) -> None:
        self.reference = next(iter(known), "")
        self._accept = accept

    def agree(self, found: Iterable[str]) -> None:
        """Without an earlier reference, what most of these hosts compute is it."""
        counts = Counter(numerics for numerics in found if numerics)
        if counts and not self.reference:
            self.reference = counts.most_common(1)[0][0]

    def refusal(self, state: HostState) -> str:
        """Why the host cannot work on the run; "" if it can."""
        if not state.numerics or not self.differs(state):
            return ""
        if self._accept:
            return ""
        return "the numerics self-test gives other bits than on the hosts where this run began"

    def differs(self, state: HostState) -> bool:
        return bool(state.numerics) and state.numerics != self.reference


class Roster:
    """The hosts now, and what has changed since the last look: `joined` for the first time, came
    `back` with a new worker, `lost` their worker; `refused` just now, with the reason.
    """

    def __init__(self, cluster: Cluster, wants: Callable[[str], bool], bits: Bits) -> None:
        self._cluster = cluster
        self._wants = wants
        self._bits = bits
        self._raw: Mapping[str, HostState] = {}
        self._known: dict[str, tuple[str, int] | None] = {}
        self.hosts: dict[str, HostState] = {}
        self.refusals: dict[str, str] = {}
        self.joined: list[HostState] = []
        self.back: list[HostState] = []
        self.lost: list[str] = []
        self.refused: list[str] = []

    def look(self) -> bool:
        """Take in the hosts as they are now. True if anything is different."""
        self.joined, self.back, self.lost, self.refused = [], [], [], []
        raw = self._cluster.hosts()
        if raw is self._raw or raw == self._raw:
            return False
        self._raw = raw
        self.hosts = {name: state for name, state in raw.items() if self._wants(name)}
        for name in [name for name in self._known if name not in self.hosts]:
            self._lose(name)
        for state in self.hosts.values():
            self._compare(state)
        return True

    def life(self, host: str) -> tuple[str, int] | None:
        """What tells the host's worker now from all others; None if it has none."""
        state = self.hosts.get(host)
        return None if state is None else state.life

    def cut_off(self, host: str) -> bool:
        """Whether the host's last worker ended with its agent or lease."""
        state = self.hosts.get(host)
        return state is not None and state.cut_off

    def _compare(self, state: HostState) -> None:
        before = self._known.get(state.name)
        if before == state.life:
            return
        if before is not None:
            self._lose(state.name)
        if state.life is None:
            return
        (self.back if state.name in self._known else self.joined).append(state)
        self._known[state.name] = state.life
        self._check(state)

    def _lose(self, name: str) -> None:
        if self._known[name] is not None:
            self.lost.append(name)
        self._known[name] = None

    def _check(self, state: HostState) -> None:
        self._bits.agree([state.numerics])
        refusal = self._bits.refusal(state)
        if refusal:
            self.refusals[state.name] = refusal
            self.refused.append(state.name)
        elif self.refusals.pop(state.name, "") or not self._bits.differs(state):
            return
        else:
            _log.warning("%s computes other bits; accepted on request", state.name)


def wanted_hosts(cluster: Cluster, wants: Callable[[str], bool]) -> dict[str, HostState]:
    """The hosts of the cluster that the user wants. Raises ClusterError if there are none."""
    hosts = cluster.hosts()
    wanted = {name: state for name, state in hosts.items() if wants(name)}
    if not wanted:
        raise ClusterError(
            f"no host of cluster {cluster.name} matches --hosts",
            hint=f"its hosts are {', '.join(hosts) or 'none yet'}",
        )
    return wanted
