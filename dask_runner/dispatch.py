"""Sends batches to the hosts of a cluster, in groups, and takes in what becomes of them.

Owns the order of what happens: look at the hosts, send, listen, close what is over. One thread does
all of it; others only put what they hear into a queue. Refuses to know what a batch does.
"""

import logging
import queue
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

from dask_runner.backlog import Backlog
from dask_runner.batch import Outcome, WorkloadSpec
from dask_runner.blame import Blame
from dask_runner.cluster.interface import Cluster, HostState
from dask_runner.control import Control
from dask_runner.dividing import Dividing
from dask_runner.errors import ClusterError, HostGoneError, RunnerError
from dask_runner.execution.task import decode_outcomes
from dask_runner.flights import Flight, Flights
from dask_runner.grouping import Grouping
from dask_runner.intake import Intake
from dask_runner.manifest import Manifest
from dask_runner.orders import Orders, Policy
from dask_runner.placement import Placement
from dask_runner.progress import Progress, Snapshot
from dask_runner.publish import Publisher
from dask_runner.roster import Bits
from dask_runner.staging import Room, Staging
from dask_runner.transport import Events, GroupEnd, Transport
from dask_runner.watch import Watch
from dask_runner.workloads import counted

_log = logging.getLogger(__name__)

_TICK = 0.2
_STOP_TIMEOUT = 10.0


class Dispatcher:
    """One session of dispatch: from a cluster that is up to the last outcome."""

    def __init__(
        self,
        *,
        manifest: Manifest,
        publisher: Publisher,
        cluster: Cluster,
        staging: Staging,
        events: Events,
        spec: WorkloadSpec,
        workload: Any = None,
        bits: Bits,
        policy: Policy,
        control: Control,
        progress: Progress,
    ) -> None:
        self._manifest = manifest
        self._cluster = cluster
        self._staging = staging
        self._control = control
        self._progress = progress
        self._run = manifest.state.header.timestamp
        self._events = events
        self._placement = Placement(policy.rules)
        self._flights = Flights(self._placement.load)
        self._backlog = Backlog()
        self._blame = Blame(policy.attempts)
        # With a process for each batch, groups share the way to the host all the same.
        largest = 0 if policy.largest_group == 1 else policy.largest_group
        self._grouping = Grouping(largest=largest)
        self._dividing = Dividing(manifest, workload, target=policy.target)
        self._orders = Orders(manifest, spec, policy, self._grouping, driver=cluster.driver)
        self._transport = Transport(cluster, self._orders.topic, events)
        self._watch = Watch(
            manifest=manifest,
            cluster=cluster,
            rules=policy.rules,
            placement=self._placement,
            blame=self._blame,
            backlog=self._backlog,
            flights=self._flights,
            bits=bits,
        )
        self._intake = Intake(
            manifest=manifest,
            publisher=publisher,
            flights=self._flights,
            backlog=self._backlog,
            blame=self._blame,
            takers=self._placement.takers,
            good_again=self._watch.good_again,
            announce=self._watch.announce,
            unreachable=self._watch.unreachable,
            staging=staging,
            events=self._events,
            learn=self._learn,
        )
        self._handlers = self._listeners()
        self._began = time.monotonic()
        self._shown = 0.0

    def _listeners(self) -> dict[str, Callable[[Any], None]]:
        """Who takes which kind of event."""
        return {
            "stream": self._on_stream,
            "end": self._on_end,
            "collected": self._intake.collected,
            "room": self._on_room,
            "client": self._on_client,
            "defect": self._on_defect,
            "note": self._manifest.record,
        }

    def run(self, indices: Iterable[int]) -> None:
        """Bring the batches `indices` to an outcome, or as many as the user lets us.

        Raises ClusterError if the cluster is lost, StorageError if nothing can be recorded.
        """
        self._backlog.put_back(indices)
        self._transport.open()
        self._control.dispatching = True
        try:
            while self._wanted():
                self._look()
                self._fill()
                self._take()
                self._settle()
                # A background fsync may have failed while nothing new came to be recorded.
                self._manifest.check()
                self._check_cluster()
                self._watch.standstill("" if self._flights else self._waiting())
                self._show()
            if self._control.stopping:
                self._stop()
            self._show(force=True)
        finally:
            self._staging.close()
            self._transport.close()
            self._last_notes()

    def _learn(self, outcome: Outcome) -> None:
        self._grouping.learn(outcome.wall)
        if self._dividing.active:
            self._dividing.learn(outcome)
            # What can be divided returns its results: see `workloads.trials`.
            self._grouping.learn_returned(sum(output.bytes for output in outcome.outputs))

    def _wanted(self) -> bool:
        if self._control.stopping:
            return False
        return bool(self._flights) or (bool(self._backlog) and not self._control.draining)

    def _check_cluster(self) -> None:
        if reason := self._cluster.failure():
            raise ClusterError(
                f"the cluster was lost: {reason}",
                hint=f"`dask-runner rerun {self._run}` does what is left",
            )

    def _look(self) -> None:
        """See what has become of the cluster since the last time."""
        if self._transport.lost:
            self._drop_client()
        self._watch.look(self._intake.peak)
        self._grouping.slots = self._placement.slots
        waiting = 0 if self._control.draining else len(self._backlog)
        self._watch.demand(waiting + len(self._flights))

    def _drop_client(self) -> None:
        """The scheduler, or the way to it, is lost, and with it all that was sent."""
        self._transport.drop()
        self._watch.disconnected()
        # If it is only the way, batches are still running, and nobody could be told of their end.
        self._cluster.cancel()
        for flight in self._flights:
            if flight.submitted:
                self._flights.strand(flight)

    def _fill(self) -> None:
        """Send groups for as long as there is room."""
        while self._transport.ready and not self._control.draining and self._backlog:
            if found := self._backlog.take_again(self._choose):
                self._send([found[0]], found[1])
                continue
            host = self._choose() if self._backlog.fresh else None
            if host is None:
                return
            size = self._grouping.size(self._backlog.fresh)
            self._send(self._take_fresh(1 if self._watch.on_trial(host.name) else size), host)

    def _take_fresh(self, size: int) -> list[int]:
        """The next batches for a group; what is divided first goes back, but for so many."""
        waiting = self._backlog.fresh
        idle = max(0, self._placement.slots - self._flights.active)
        indices = self._backlog.take(size)
        parts = self._dividing.cut(indices, idle=idle, waiting=waiting)
        if len(parts) > len(indices):
            self._backlog.put_back(parts[size:])
        return parts[:size]

    def _choose(self, avoid: Collection[str] = ()) -> HostState | None:
        return self._placement.choose(ahead=self._grouping.ahead(), avoid=avoid)

    def _send(self, indices: Sequence[int], host: HostState) -> None:
        flight = self._orders.flight(indices, host)
        self._flights.add(flight)
        room = self._staging.room(host, flight.attempts)
        if room.done():
            self._submit(flight, room)
        else:
            room.add_done_callback(lambda room: self._events.put(("room", (flight.key, room))))

    def _submit(self, flight: Flight, prepared: Future[Room]) -> None:
        """The group's files are there, or cannot be brought there."""
        try:
            room = prepared.result()
        except RunnerError as error:
            self._no_room(flight, error)
            return
        self._watch.reached(flight.host)
        if not self._transport.ready:
            self._flights.strand(flight)
            return
        flight.generation = self._transport.generation
        order = self._orders.encoded(flight, room)
        try:
            flight.future = self._transport.submit(flight.key, order, flight.worker)
        except ClusterError as error:
            _log.info("%s", error)
            self._drop_client()
            self._flights.strand(flight)
        else:
            flight.submitted = True

    def _no_room(self, flight: Flight, error: RunnerError) -> None:
        """Who is at fault that a group's files are not on its host?"""
        if isinstance(error, HostGoneError):
            self._watch.unreachable(flight.host, error.message)
        elif isinstance(error, ClusterError):
            # Perhaps those were the last words of a host that is known to be lost by now.
            self._look()
            if flight.gone is not None:
                return
            self._blame.accuse(flight.host, f"no files can be brought there: {error.message}")
        self._intake.refuse(flight, error)
        self._flights.end(flight)

    def _take(self) -> None:
        """Wait for news, then take in all that has come."""
        try:
            kind, value = self._events.get(timeout=_TICK)
        except queue.Empty:
            return
        while True:
            self._handlers[kind](value)
            try:
                kind, value = self._events.get_nowait()
            except queue.Empty:
                break
        self._intake.accept()

    def _on_defect(self, error: Exception) -> None:
        raise error

    def _on_client(self, value: tuple[int, Any]) -> None:
        self._transport.take(*value)
        self._watch.connected(value[0])

    def _on_room(self, value: tuple[str, Future[Room]]) -> None:
        flight = self._flights.get(value[0])
        if flight is not None and flight.gone is None:
            self._submit(flight, value[1])

    def _on_stream(self, value: bytes) -> None:
        self._intake.hear(decode_outcomes(value))

    def _on_end(self, end: GroupEnd) -> None:
        """Take in the outcomes that a group's task returned, and release its future."""
        flight = self._flights.get(end.key)
        if flight is None or flight.ended is not None or flight.stranded is not None:
            return
        if end.stranded:
            # Dask connects again by itself, and nobody can see that it has: what was sent goes on,
            # but is not waited for any more.
            self._drop_client()
            return
        flight.lost, flight.finished, flight.unfetched = end.lost, end.finished, end.unfetched
        self._flights.end(flight)
        flight.future.release()
        flight.future = None
        if end.result:
            self._intake.hear(decode_outcomes(end.result))

    def _settle(self) -> None:
        """Close the groups that are over."""
        now = time.monotonic()
        generation = self._transport.generation if self._transport.ready else None
        for flight in self._flights.ending:
            if not flight.over(now, generation=generation):
                continue
            self._intake.give_up(flight)
            if flight.waiting:
                continue  # files are still on their way
            self._grouping.group_ended(well=not flight.lost and flight.ended is not None)
            if flight.future is not None:
                flight.future.release()
            self._flights.remove(flight)
            self._staging.finish(flight.host, flight.attempts)

    def _stop(self) -> None:
        """End what runs now and take in what can still be told about it."""
        self._cluster.cancel()
        deadline = time.monotonic() + _STOP_TIMEOUT
        while self._flights and time.monotonic() < deadline:
            self._watch.look(self._intake.peak)
            self._take()
            self._settle()

    def _last_notes(self) -> None:
        """What was found out by those who are closed now."""
        while not self._events.empty():
            kind, value = self._events.get_nowait()
            if kind == "note":
                self._manifest.record(value)

    def _waiting(self) -> str:
        """What everything waits for; "" if it does not."""
        return self._watch.waiting() if self._transport.ready else "the scheduler is lost"

    def _show(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self._shown < _TICK:
            return
        self._shown = now
        state = self._manifest.state
        running = self._flights.batches
        self._progress.update(
            Snapshot(
                done=state.done.batches,
                failed=state.failed.batches,
                running=running,
                pending=state.pending.batches - running,
                events_done=state.done.events,
                events_total=state.total.events,
                elapsed=now - self._began,
                unit=counted(state.header.workload.name),
                hosts=self._watch.busy(),
                troubles=self._watch.troubles(),
                waiting=self._waiting(),
                latest_failures=tuple(self._intake.latest),
                draining=self._control.draining,
            )
        )
