"""What dispatch does about hosts: uses those that come, gives up those that go, distrusts the bad.

Each of it is noted in the manifest, and what concerns a host is announced to the cluster. Refuses
to touch outcomes.
"""

import logging
import time
from typing import Any

from dask_runner.backlog import Backlog
from dask_runner.blame import Blame, Verdict
from dask_runner.cluster.interface import Cluster, HostState
from dask_runner.flights import Flights
from dask_runner.manifest import Manifest, Note, NoteKind
from dask_runner.pauses import Pauses
from dask_runner.placement import Placement, Rules
from dask_runner.progress import duration
from dask_runner.roster import Bits, Roster

_log = logging.getLogger(__name__)

# A host under quarantine is used again if there has been no other for so many seconds.
_LONELY = 60.0
# That nothing runs is noted after so many seconds.
_STILL = 60.0
_SHOWN = 20
_REASONS = 3


class Watch:
    """Keeps `placement` up to date."""

    def __init__(
        self,
        *,
        manifest: Manifest,
        cluster: Cluster,
        rules: Rules,
        placement: Placement,
        blame: Blame,
        backlog: Backlog,
        flights: Flights,
        bits: Bits,
    ) -> None:
        self._manifest = manifest
        self._cluster = cluster
        self._rules = rules
        self._placement = placement
        self._blame = blame
        self._backlog = backlog
        self._flights = flights
        self._roster = Roster(cluster, rules.wants, bits)
        self._pauses = Pauses()
        self._known: tuple[Any, ...] = ()
        self._reasons: dict[str, str] = {}
        self._restarting: set[str] = set()
        self._lonely: float | None = None
        self._demand: tuple[int, tuple[str, ...]] | None = None
        self._trials: set[str] = set()
        self._generation = cluster.generation
        self._began = False
        self._still: float | None = None
        self._told = False

    def look(self, peak: int) -> None:
        """Take in what has changed; `peak` in bytes is the most memory that a batch has used."""
        if self._cluster.generation != self._generation:
            self._restarted()
        changed = self._roster.look()
        if changed:
            self._notice()
        if self._blame.suspects:
            for verdict in self._blame.judge(self._placement.takers()):
                self._distrust(verdict)
        if self._reasons:
            self._look_at_quarantine()
        paused = frozenset(self._pauses.now())
        known = (self._blame.revision, peak, paused)
        if changed or known != self._known:
            self._known = known
            self._placement.update(
                self._roster.hosts,
                peak=peak,
                excluded={*self._roster.refusals, *self._blame.quarantined(), *paused},
                suspects={*self._blame.suspects, *self._blame.on_probation()},
            )

    def disconnected(self) -> None:
        """The scheduler, or the way to it, is lost. Workers end with their scheduler: that is no
        news about any host.
        """
        self._restarting |= {name for name, state in self._roster.hosts.items() if state.worker}

    def connected(self, generation: int) -> None:
        """There is a client again; of the same scheduler, it was only the way."""
        if generation == self._generation:
            self._restarting.clear()

    def demand(self, groups: int) -> None:
        """Tell the cluster what we could use: no more than it has, and no more than is wanted."""
        out = {*self._roster.refusals, *self._blame.quarantined()}
        hosts = [state for name, state in self._roster.hosts.items() if name not in out]
        slots = sum(state.slots for state in hosts)
        wanted = min(groups, slots, self._rules.max_slots or slots)
        demand = (wanted, tuple(state.name for state in hosts))
        if demand != self._demand:
            self._demand = demand
            self._cluster.demand(*demand)

    def waiting(self) -> str:
        """What is waited for, with the first hosts' reasons; "" if there are hosts that take
        batches.
        """
        if self._placement.takers():
            return ""
        reasons = [f"{host}: {reason}" for host, reason in self.troubles().items()]
        more = f"; and {len(reasons) - _REASONS} more" if len(reasons) > _REASONS else ""
        words = f" ({'; '.join(reasons[:_REASONS])}{more})" if reasons else ""
        return f"no host takes batches now{words}"

    def on_trial(self, host: str) -> bool:
        """True if the next batch decides about the host: it gets one at a time."""
        return host in self._blame.suspects or host in self._blame.on_probation()

    def unreachable(self, host: str, reason: str) -> None:
        """A host did not answer. That is nobody's fault, and may have passed in a moment."""
        self._pauses.begin(host, reason)

    def reached(self, host: str) -> None:
        """A host has answered."""
        self._pauses.end(host)

    def standstill(self, reason: str) -> None:
        """`reason` is why nothing runs and nothing can be sent; "" if that is not so. There is no
        limit: what is missing may be back on Monday. But who looks must see it.
        """
        now = time.monotonic()
        if not reason:
            if self._told:
                text = f"batches run again, after {duration(now - (self._still or now))}"
                self._manifest.record(Note(kind=NoteKind.STANDSTILL, text=text))
            self._still, self._told = None, False
            return
        self._still = now if self._still is None else self._still
        if self._told or now - self._still < _STILL:
            return
        self._told = True
        text = (
            f"nothing has run for {duration(now - self._still)}: {reason}; the run goes on as soon "
            "as a host takes batches"
        )
        _log.warning("%s (`dask-runner hosts add`, or Ctrl-C ends it)", text)
        self._manifest.record(
            Note(kind=NoteKind.STANDSTILL, text=text, data={"hosts": self.troubles()})
        )

    def good_again(self, host: str) -> None:
        """A batch has passed on a host under quarantine."""
        self._reasons.pop(host, None)
        self._cluster.announce(host, "")
        self._note(NoteKind.TRUSTED, f"{host} is good again: a batch passed there", host)

    def announce(self, text: str) -> None:
        """Something was found out about batches, which whoever looks should see."""
        _log.warning("%s", text)
        self._cluster.announce("", text)

    def busy(self) -> dict[str, tuple[int, int]]:
        """Busy slots and all slots of each host that has a worker, or had groups."""
        load = self._placement.load
        return {
            name: (min(load[name].active, state.slots) if name in load else 0, state.slots)
            for name, state in self._roster.hosts.items()
            if state.worker
        }

    def troubles(self) -> dict[str, str]:
        """Why a host takes no batches now."""
        found = {}
        paused = self._pauses.now()
        for name, state in self._roster.hosts.items():
            if name in self._reasons:
                found[name] = f"quarantine: {self._reasons[name]}"
            elif name in self._roster.refusals:
                found[name] = self._roster.refusals[name]
            elif not state.worker:
                found[name] = "not up"
            elif state.refusal:
                found[name] = state.refusal
            elif name in paused:
                found[name] = f"no answer: {paused[name]}"
        return found

    def _restarted(self) -> None:
        """All workers will be started anew, those that have not ended with the old scheduler."""
        self._generation = self._cluster.generation
        self.disconnected()
        text = "the scheduler was started anew; what had been sent is sent again"
        self._manifest.record(
            Note(kind=NoteKind.RESTARTED, text=text, data={"generation": self._generation})
        )

    def _notice(self) -> None:
        for host in self._roster.lost:
            self._lost(host)
        for state in self._roster.joined:
            # Those that are there when dispatch begins are in the note of its begin.
            if self._began:
                self._joined(state, f"{state.name} joined")
        for state in self._roster.back:
            if state.name in self._restarting:
                self._restarting.discard(state.name)
            else:
                self._joined(state, f"{state.name} is back")
        for host in self._roster.refused:
            self._refuse(host)
        for host in self._roster.accepted:
            text = f"{self._roster.difference(host)}; accepted on request"
            _log.warning("%s: %s", host, text)
            self._cluster.announce(host, text)
        self._began = True

    def _lost(self, host: str) -> None:
        life = self._roster.life(host)
        cut_off = self._roster.cut_off(host)
        batches = []
        for flight in self._flights:
            if flight.host == host and flight.life != life and flight.gone is None:
                batches += [*flight.unheard]
                self._flights.gone(flight, cut_off=cut_off)
        if host in self._restarting:
            return
        text = f"the worker on {host} is gone, with {len(batches)} batches"
        self._note(NoteKind.LOST_HOST, text, host, batches=batches[:_SHOWN], number=len(batches))

    def _joined(self, state: HostState, text: str) -> None:
        self._pauses.end(state.name)
        self._note(
            NoteKind.JOINED,
            text,
            state.name,
            slots=state.slots,
            numerics={state.name: state.numerics},
        )

    def _refuse(self, host: str) -> None:
        reason = self._roster.refusals[host]
        _log.warning("%s gets no batches: %s", host, reason)
        self._cluster.announce(host, reason)
        numerics = self._roster.hosts[host].numerics
        self._note(NoteKind.REFUSED, f"{host}: {reason}", host, numerics=numerics)

    def _distrust(self, verdict: Verdict) -> None:
        host = verdict.host
        text = f"{verdict.text}; no batches for {duration(verdict.seconds)}"
        self._reasons[host] = verdict.text
        _log.warning("%s is under quarantine: %s", host, text)
        self._cluster.announce(host, f"quarantine: {text}")
        self._note(
            NoteKind.QUARANTINE,
            f"{host} is under quarantine: {text}",
            host,
            batches=[*verdict.batches],
            fingerprints=[*verdict.fingerprints],
            again=[*verdict.acquitted[:_SHOWN]],
        )
        self._backlog.pardon(host, self._blame.avoided)
        for batch in verdict.acquitted:
            self._backlog.again(batch, self._blame.avoided(batch))

    def _look_at_quarantine(self) -> None:
        for host in self._trials - {*self._blame.on_probation()}:
            self._trials.discard(host)
            if host in self._reasons:
                seconds = duration(self._blame.quarantined()[host])
                text = f"{host} stays under quarantine: it failed again; no batches for {seconds}"
                self._note(NoteKind.QUARANTINE, text, host)
        for host in self._blame.probation():
            self._trials.add(host)
            text = f"{host} is under quarantine, but gets one batch now to show that it is good"
            self._note(NoteKind.QUARANTINE, text, host, trial=True)
        if any(
            state.worker and name not in self._reasons and name not in self._roster.refusals
            for name, state in self._roster.hosts.items()
        ):
            self._lonely = None
            return
        now = time.monotonic()
        self._lonely = now if self._lonely is None else self._lonely
        if now - self._lonely < _LONELY:
            return
        for host in self._blame.amnesty():
            self._reasons.pop(host, None)
            self._cluster.announce(host, "")
            self._note(NoteKind.TRUSTED, f"{host} is used again: there is no other host", host)

    def _note(self, kind: NoteKind, text: str, host: str, **data: object) -> None:
        self._manifest.record(Note(kind=kind, text=text, data={"host": host, **data}))
