"""The hosts as a run uses them: those that the user wants, and that compute the run's bits.

Owns who came, went and came back since the last look, and which host is refused for its numerics.
Refuses to judge what hosts do with batches.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from dask_runner.cluster.interface import Cluster, HostState
from dask_runner.errors import ClusterError, UsageError
from dask_runner.execution.numerics import short
from dask_runner.hostfile import select_names


class Bits:
    """Which bits the run's hosts have to compute: `reference` is the hash of a numerics self-test
    ("": not known yet), `origin` whose it is. `accept`: others are welcome too.
    """

    def __init__(self, reference: str = "", origin: str = "", *, accept: bool) -> None:
        self.reference = reference
        self.origin = origin
        self._accept = accept

    def agree(self, hosts: Iterable[HostState]) -> None:
        """Without a reference, what most of these hosts compute is it."""
        known = [state for state in hosts if state.numerics]
        if not known or self.reference:
            return
        counts = Counter(state.numerics for state in known)
        self.reference = counts.most_common(1)[0][0]
        self.origin = next(state.name for state in known if state.numerics == self.reference)

    def refusal(self, state: HostState) -> str:
        """Why the host cannot work on the run; "" if it can."""
        return self.difference(state) if self.differs(state) and not self._accept else ""

    def accepted(self, state: HostState) -> bool:
        """True if the host works on the run only because the user has said so."""
        return self._accept and self.differs(state)

    def difference(self, state: HostState) -> str:
        """In what the host differs."""
        return (
            f"it computes other bits ({short(state.numerics)}) than {self.origin} "
            f"({short(self.reference)}), where the run began"
        )

    def differs(self, state: HostState) -> bool:
        return bool(state.numerics) and state.numerics != self.reference


class Roster:
    """The hosts now, and what has changed since the last look: `joined` for the first time, came
    `back` with a new worker, `lost` their worker; `refused` just now for the bits that they
    compute, `accepted` in spite of them.
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
        self.accepted: list[str] = []

    def look(self) -> bool:
        """Take in the hosts as they are now. True if anything is different."""
        self.joined, self.back, self.lost = [], [], []
        self.refused, self.accepted = [], []
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
        self._bits.agree([state])
        refusal = self._bits.refusal(state)
        if refusal:
            self.refusals[state.name] = refusal
            self.refused.append(state.name)
        elif not self.refusals.pop(state.name, "") and self._bits.accepted(state):
            self.accepted.append(state.name)

    def difference(self, host: str) -> str:
        """In what the bits that the host computes differ from the run's."""
        return self._bits.difference(self.hosts[host])


def wanted_hosts(cluster: Cluster, pattern: str) -> dict[str, HostState]:
    """The hosts of the cluster that the user wants. Raises ClusterError if some of the patterns
    have none: most likely a slip.
    """
    hosts = cluster.hosts()
    try:
        wanted = select_names(list(hosts), pattern)
    except UsageError as error:
        raise ClusterError(f"cluster {cluster.name}: {error.message}", hint=error.hint) from error
    return {name: state for name, state in hosts.items() if name in wanted}
