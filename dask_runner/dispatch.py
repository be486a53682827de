"""Sends batches to the cluster in a sliding window and records each outcome as it comes.

Owns the order of batches and the decision to try again. One thread does all of it: Dask's threads
only put what they hear into a queue. Refuses to know what a batch does.
"""

import logging
import queue
import threading
import time
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError
from typing import Any

import msgspec
from msgspec import Struct

from dask_runner.batch import (
    Attempt,
    Failure,
    FailureKind,
    Outcome,
    OutcomeStatus,
    WorkloadSpec,
)
from dask_runner.cluster.interface import Cluster
from dask_runner.control import Control
from dask_runner.errors import ClusterError
from dask_runner.execution.task import Group, Limits, decode_outcomes, encode_group
from dask_runner.execution.worker import cancel_run, run_group
from dask_runner.grouping import Grouping
from dask_runner.manifest import Manifest, Note, Started
from dask_runner.progress import Progress, Snapshot
from dask_runner.publish import Publisher

_log = logging.getLogger(__name__)

_TICK = 0.2
# A group's last streamed outcomes may arrive just after its end; then they count as lost.
_SETTLE = 5.0
_STOP_TIMEOUT = 10.0
_FETCH_TIMEOUT = 30
_LATEST = 3


class Policy(Struct, frozen=True, kw_only=True):
    """How attempts are made: `attempts` failures end a batch; `timeout_factor` times the median
    batch is the limit where `limits` has none.
    """

    attempts: int
    timeout_factor: float
    largest_group: int = 0
    limits: Limits
    versions: dict[str, str]
    preload: tuple[str, ...] = ()


def _grouping(cluster: Cluster, policy: Policy) -> Grouping:
    # With a process for each batch, groups share the way to the host all the same.
    largest = 0 if policy.largest_group == 1 else policy.largest_group
    return Grouping(sum(cluster.hosts.values()), largest=largest)


def _why_lost(future: Any) -> str:
    """Why a group's task has no result. Dask's words about a dead worker are about its keys; an
    exception is a defect of ours on the host, and must be seen.
    """
    if future.status == "error":
        try:
            error = future.exception(timeout=_FETCH_TIMEOUT)
        except (OSError, TimeoutError, CancelledError) as lost:
            return f"the worker that ran it was lost: {lost}"
        if type(error).__name__ != "KilledWorker":
            return f"the worker that ran it failed: {type(error).__name__}: {error}"
    return "the worker that ran it was lost"


class _Flight:
    """A group on its way: the attempts that have no outcome yet, by batch."""

    def __init__(self, attempts: Sequence[Attempt]) -> None:
        self.waiting = {attempt.batch.index: attempt.number for attempt in attempts}
        self.single = len(attempts) == 1
        self.future: Any = None
        self.ended: float | None = None
        self.lost = ""


class Dispatcher:
    """One session of dispatch: from a connected client to the last outcome."""

    def __init__(
        self,
        *,
        manifest: Manifest,
        publisher: Publisher,
        cluster: Cluster,
        spec: WorkloadSpec,
        attempts_folder: str,
        policy: Policy,
        control: Control,
        progress: Progress,
    ) -> None:
        self._manifest = manifest
        self._publisher = publisher
        self._cluster = cluster
        self._spec = spec
        self._attempts_folder = attempts_folder
        self._policy = policy
        self._control = control
        self._progress = progress
        self._run = manifest.state.header.timestamp
        self._events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._todo: deque[int] = deque()
        self._again: deque[int] = deque()
        self._flights: dict[str, _Flight] = {}
        self._flight_of: dict[int, str] = {}
        self._fingerprints: dict[int, list[str]] = {}
        self._latest: deque[str] = deque(maxlen=_LATEST)
        self._grouping = _grouping(cluster, policy)
        self._groups = 0
        self._began = time.monotonic()
        self._shown = 0.0

    def run(self, indices: Iterable[int]) -> None:
        """Bring the batches `indices` to an outcome, or as many as the user lets us.

        Raises ClusterError if the cluster is lost, StorageError if nothing can be recorded.
        """
        self._todo = deque(array("q", indices))
        client = self._cluster.client()
        self._control.dispatching = True
        topic = f"dask-runner-{self._run}"
        try:
            client.subscribe_topic(topic, lambda event: self._events.put(("stream", event[1])))
            while self._wanted():
                self._fill(client, topic)
                self._take()
                self._settle()
                # A background fsync may have failed while nothing new came to be recorded.
                self._manifest.check()
                if reason := self._cluster.failure():
                    raise ClusterError(
                        f"the cluster was lost: {reason}",
                        hint=f"`dask-runner rerun {self._run}` does what is left",
                    )
                self._show()
            if self._control.stopping:
                self._stop(client)
            self._show(force=True)
        finally:
            client.close(timeout=2)

    def _wanted(self) -> bool:
        if self._control.stopping:
            return False
        if self._flights:
            return True
        return bool(self._todo or self._again) and not self._control.draining

    def _fill(self, client: Any, topic: str) -> None:
        """Send groups until the window is full."""
        while not self._control.draining and len(self._flights) < self._grouping.window():
            if self._again:
                indices = [self._again.popleft()]
            elif self._todo:
                size = self._grouping.size(len(self._todo))
                indices = [self._todo.popleft() for _ in range(min(size, len(self._todo)))]
            else:
                return
            self._send(client, topic, indices)

    def _send(self, client: Any, topic: str, indices: Sequence[int]) -> None:
        state = self._manifest.state
        attempts = tuple(
            Attempt(batch=state.batches[index], number=state.attempts(index) + 1)
            for index in indices
        )
        self._groups += 1
        key = f"group-{self._run}-{self._groups}-{attempts[0].batch.index}.{attempts[0].number}"
        # Written before it is sent: an attempt folder is never used twice, whoever dies.
        self._manifest.record(
            Started(
                attempts=tuple((a.batch.index, a.number) for a in attempts), group=str(self._groups)
            )
        )
        flight = _Flight(attempts)
        self._flights[key] = flight
        for attempt in attempts:
            self._flight_of[attempt.batch.index] = key
        group = Group(
            run=self._run,
            topic=topic,
            workload=self._spec,
            attempts_folder=self._attempts_folder,
            attempts=attempts,
            limits=self._limits(),
            versions=self._policy.versions,
            preload=self._policy.preload,
            alone=self._policy.largest_group == 1,
        )
        flight.future = client.submit(run_group, encode_group(group), key=key, pure=False)
        flight.future.add_done_callback(lambda _future: self._events.put(("end", key)))

    def _limits(self) -> Limits:
        limits = self._policy.limits
        if limits.timeout:
            return limits
        timeout = self._grouping.timeout(self._policy.timeout_factor)
        return msgspec.structs.replace(limits, timeout=timeout)

    def _take(self) -> None:
        """Wait for news, then take in all that has come."""
        try:
            kind, value = self._events.get(timeout=_TICK)
        except queue.Empty:
            return
        outcomes: list[Outcome] = []
        while True:
            if kind == "stream":
                outcomes += decode_outcomes(value)
            else:
                outcomes += self._end_of_group(value)
            try:
                kind, value = self._events.get_nowait()
            except queue.Empty:
                break
        self._accept(outcomes)

    def _end_of_group(self, key: str) -> list[Outcome]:
        """The outcomes that a group's task returned; releases its future."""
        flight = self._flights.get(key)
        if flight is None or flight.ended is not None:
            return []
        flight.ended = time.monotonic()
        outcomes: list[Outcome] = []
        if flight.future.status == "finished":
            try:
                outcomes = decode_outcomes(flight.future.result(timeout=_FETCH_TIMEOUT))
            except (OSError, TimeoutError, CancelledError) as error:
                flight.lost = f"its result could not be fetched: {error}"
        else:
            flight.lost = _why_lost(flight.future)
        flight.future.release()
        flight.future = None
        return outcomes

    def _accept(self, outcomes: Iterable[Outcome]) -> None:
        """Record outcomes, publish the good ones, decide about the others."""
        fresh = [outcome for outcome in map(self._mine, outcomes) if outcome is not None]
        if not fresh:
            return
        self._manifest.record(*fresh)
        good = [outcome for outcome in fresh if outcome.status is OutcomeStatus.DONE]
        refused = self._publisher.publish(good) if good else []
        for outcome in good:
            self._grouping.learn(outcome.wall)
        for outcome in [*fresh, *refused]:
            if outcome.status is OutcomeStatus.RETURNED:
                # Unheard of since its worker died: alone, so that the guilty one is found.
                unknown = outcome.failure is not None
                (self._again if unknown else self._todo).append(outcome.batch)
            elif outcome.status is OutcomeStatus.FAILED:
                self._failed(outcome)

    def _mine(self, outcome: Outcome) -> Outcome | None:
        """The outcome if it is awaited; a cancelled attempt is nobody's fault."""
        flight = self._flights.get(self._flight_of.get(outcome.batch, ""))
        if flight is None or flight.waiting.get(outcome.batch) != outcome.attempt:
            self._manifest.record(
                Note(
                    kind="late-outcome",
                    text="an outcome that nobody waits for came, and was ignored",
                    data={"batch": outcome.batch, "attempt": outcome.attempt},
                )
            )
            return None
        del flight.waiting[outcome.batch]
        del self._flight_of[outcome.batch]
        if outcome.failure is not None and outcome.failure.kind is FailureKind.CANCELLED:
            return msgspec.structs.replace(outcome, status=OutcomeStatus.RETURNED)
        return outcome

    def _failed(self, outcome: Outcome) -> None:
        failure = outcome.failure
        assert failure is not None
        self._latest.append(f"batch {outcome.batch}: {failure.kind}: {failure.message[:120]}")
        if not failure.may_pass_elsewhere:
            return
        seen = self._fingerprints.setdefault(outcome.batch, [])
        # The same failure twice is the batch's own, whichever host it meets next.
        poison = failure.fingerprint in seen and failure.kind is not FailureKind.LOST
        seen.append(failure.fingerprint)
        if len(seen) < self._policy.attempts and not poison:
            self._again.append(outcome.batch)

    def _settle(self) -> None:
        """Close the groups that ended; what they never told is lost, or nobody's fault."""
        for key in [key for key, flight in self._flights.items() if flight.ended is not None]:
            flight = self._flights[key]
            assert flight.ended is not None
            if flight.waiting:
                if not flight.lost and time.monotonic() - flight.ended < _SETTLE:
                    continue
                self._accept(self._unheard(flight))
            self._grouping.group_ended(well=not flight.lost)
            del self._flights[key]

    def _unheard(self, flight: _Flight) -> list[Outcome]:
        message = flight.lost or "its group ended without an outcome for it"
        # Of a group nobody knows which batch was at work: each goes again, alone.
        status = OutcomeStatus.FAILED if flight.single else OutcomeStatus.RETURNED
        failure = Failure(kind=FailureKind.LOST, message=message, fingerprint="lost")
        return [
            Outcome(batch=index, attempt=number, status=status, failure=failure)
            for index, number in flight.waiting.items()
        ]

    def _stop(self, client: Any) -> None:
        """End what runs now and take in what can still be told about it."""
        # A worker that does not answer must not hold us: closing the cluster ends it anyway.
        threading.Thread(target=client.run, args=(cancel_run, self._run), daemon=True).start()
        deadline = time.monotonic() + _STOP_TIMEOUT
        while self._flights and time.monotonic() < deadline:
            self._take()
            self._settle()

    def _show(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self._shown < _TICK:
            return
        self._shown = now
        state = self._manifest.state
        busy = len(self._flights)
        hosts: dict[str, tuple[int, int]] = {}
        for name, slots in self._cluster.hosts.items():
            hosts[name] = (min(busy, slots), slots)
            busy -= hosts[name][0]
        self._progress.update(
            Snapshot(
                done=state.done.batches,
                failed=state.failed.batches,
                running=len(self._flight_of),
                pending=state.pending.batches - len(self._flight_of),
                events_done=state.done.events,
                events_total=state.total.events,
                elapsed=now - self._began,
                hosts=hosts,
                latest_failures=tuple(self._latest),
                draining=self._control.draining,
            )
        )
