"""A manifest's state as numbers: counts, rates, timings, causes, hosts, outputs, what to do next.

Pure: what it says follows from the state alone, and all of it is JSON. Refuses to print.
"""

import os
import shlex
from array import array
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from msgspec import Struct

from dask_runner.batch import FailureKind, Outcome
from dask_runner.files import path_to_text, text_to_path
from dask_runner.manifest import NoteKind, RunState, Verdict
from dask_runner.seeds import canonical_point
from dask_runner.workloads import counted

# The points of a run of trials that are named for their failed trials.
_POINTS_NAMED = 20
# Seeing which hosts share a failure helps; a list of hundreds does not.
_HOSTS_NAMED = 20


class RunVerdict(StrEnum):
    """What a run is now. INCOMPLETE: batches are pending and nobody is at work on them."""

    DONE = "done"
    FAILED = "failed"
    INCOMPLETE = "incomplete"
    RUNNING = "running"


class Counts(Struct, frozen=True, kw_only=True):
    """Events (or trials) by the verdict of their batches."""

    total: int
    done: int
    failed: int
    pending: int


class Timings(Struct, frozen=True, kw_only=True):
    """Seconds. `span` is from the first record to the last, pauses between reruns included; `wall`
    and `cpu` are summed over all attempts; the others describe the wall time of done batches and
    are None if there are none.
    """

    span: float
    wall: float
    cpu: float
    mean: float | None = None
    median: float | None = None
    p05: float | None = None
    p95: float | None = None
    max: float | None = None


class Rates(Struct, frozen=True, kw_only=True):
    """Per second; None if unknown. `batches` and `events` are over the span, which says nothing
    for a run that paused; `events_per_slot` is over the wall time of all attempts. `efficiency` is
    CPU time over wall time.
    """

    batches: float | None = None
    events: float | None = None
    events_per_slot: float | None = None
    efficiency: float | None = None


class Cause(Struct, frozen=True, kw_only=True):
    """Failed batches with the same fingerprint; `message`, `tail` (the log's end) and the rest are
    of the example, the first of these batches. `log` is its log file, "" if it left none, and
    `read` the command that prints it; `path` is the input at fault, if one is.
    """

    kind: FailureKind
    fingerprint: str
    message: str
    batches: int
    events: int
    hosts: tuple[str, ...]
    example: int
    attempt: int
    log: str
    read: str
    tail: str
    path: str


class HostSummary(Struct, frozen=True, kw_only=True):
    """Attempts on one host by what they ended in; seconds and bytes."""

    host: str
    done: int
    failed: int
    returned: int
    wall: float
    cpu: float
    max_rss: int


class FailingPoint(Struct, frozen=True, kw_only=True):
    """A point of a run of trials where `failed` of the `trials` that are done failed."""

    point: dict[str, Any]
    trials: int
    failed: int


class FailedTrials(Struct, frozen=True, kw_only=True):
    """How many of the trials that are done failed, at how many points; `worst` are those where the
    largest share did.
    """

    failed: int
    points: int
    worst: tuple[FailingPoint, ...]


class Summary(Struct, frozen=True, kw_only=True):
    """A run in numbers. `total`, `done`, `failed` and `pending` count batches; `running` are those
    of the pending ones that are at work now. `unit` is what `events` counts. `rerun` is the command
    that does what is left, "" if nothing is. `failed_trials` is None for what is no run of trials.
    """

    timestamp: str
    label: str
    workload: str
    verdict: RunVerdict
    total: int
    done: int
    failed: int
    pending: int
    running: int
    unit: str
    events: Counts
    created: str
    last: str
    timings: Timings
    rates: Rates
    causes: tuple[Cause, ...]
    hosts: tuple[HostSummary, ...]
    failed_attempts: int
    folder: str
    outputs: str
    output_bytes: int
    rerun: str
    failed_trials: FailedTrials | None = None


def summarize(state: RunState, *, active: bool = False) -> Summary:
    """The numbers of a run. `active`: a driver is at work on it now."""
    header = state.header
    running = len(state.running) if active else 0
    timings = _timings(state)
    hosts = _hosts(state)
    return Summary(
        timestamp=state.folder.timestamp,
        label=state.label,
        workload=header.workload.name,
        verdict=verdict_of(state, active=active),
        total=state.total.batches,
        done=state.done.batches,
        failed=state.failed.batches,
        pending=state.pending.batches,
        running=running,
        unit=counted(header.workload.name),
        events=Counts(
            total=state.total.events,
            done=state.done.events,
            failed=state.failed.events,
            pending=state.pending.events,
        ),
        created=header.created,
        last=state.last_time or header.created,
        timings=timings,
        rates=_rates(state, timings),
        causes=causes(state),
        hosts=hosts,
        failed_attempts=sum(host.failed for host in hosts),
        folder=path_to_text(state.folder.path),
        outputs=path_to_text(state.folder.outputs),
        output_bytes=state.output_bytes,
        rerun=rerun_command(state),
        failed_trials=_failed_trials(state) if header.workload.name == "trials" else None,
    )


def verdict_of(state: RunState, *, active: bool = False) -> RunVerdict:
    """What a run is now. `active`: a driver is at work on it."""
    if active:
        return RunVerdict.RUNNING
    if state.pending.batches:
        return RunVerdict.INCOMPLETE
    return RunVerdict.FAILED if state.failed.batches else RunVerdict.DONE


def rerun_command(state: RunState) -> str:
    """The command that does what is not done, for a shell in the current folder."""
    if not (state.pending.batches or state.failed.batches):
        return ""
    return _command(state, "rerun")


def _command(state: RunState, name: str, *arguments: str) -> str:
    words = ["dask-runner", name, state.folder.timestamp, *arguments]
    if state.folder.path.parent != Path("runs").absolute():
        words += ["--runs", os.fspath(state.folder.path.parent)]
    return shlex.join(words)


def causes(state: RunState) -> tuple[Cause, ...]:
    """Why the failed batches failed, the most frequent cause first."""
    groups: dict[tuple[FailureKind, str], _Group] = {}
    for index in state.indices(Verdict.FAILED):
        outcome = state.last_outcome(index)
        if outcome is None or outcome.failure is None:
            continue
        key = outcome.failure.kind, outcome.failure.fingerprint
        if key not in groups:
            groups[key] = _Group(outcome)
        groups[key].add(outcome, state.batches[index].count)
    found = [group.cause(state) for group in groups.values()]
    return tuple(sorted(found, key=lambda cause: (-cause.batches, cause.example)))


class _Group:
    def __init__(self, example: Outcome) -> None:
        self.example = example
        self.batches = 0
        self.events = 0
        self.hosts: set[str] = set()

    def add(self, outcome: Outcome, events: int) -> None:
        self.batches += 1
        self.events += events
        self.hosts.add(outcome.host or "unknown")

    def cause(self, state: RunState) -> Cause:
        outcome, failure = self.example, self.example.failure
        assert failure is not None
        log = "" if outcome.log is None else _log_path(state, outcome.log.path)
        return Cause(
            kind=failure.kind,
            fingerprint=failure.fingerprint,
            message=failure.message,
            batches=self.batches,
            events=self.events,
            hosts=tuple(sorted(self.hosts)[:_HOSTS_NAMED]),
            example=outcome.batch,
            attempt=outcome.attempt,
            log=log,
            read=_command(state, "logs", str(outcome.batch)),
            tail=failure.tail,
            path=failure.path,
        )


def _log_path(state: RunState, name: str) -> str:
    return path_to_text(state.folder.attempts / text_to_path(name))


def _failed_trials(state: RunState) -> FailedTrials:
    """Trials fail in batches that are done."""
    counts: dict[bytes, list[int]] = {}
    points: dict[bytes, dict[str, Any]] = {}
    for index in state.indices(Verdict.DONE):
        batch, outcome = state.batches[index], state.last_outcome(index)
        key = canonical_point(batch.parameters["point"])
        points.setdefault(key, batch.parameters["point"])
        total = counts.setdefault(key, [0, 0])
        total[0] += batch.count
        total[1] += 0 if outcome is None else int(outcome.counters.get("failed_trials", 0))
    failing = [
        FailingPoint(point=points[key], trials=trials, failed=failed)
        for key, (trials, failed) in counts.items()
        if failed
    ]
    failing.sort(key=lambda one: -one.failed / one.trials)
    return FailedTrials(
        failed=sum(one.failed for one in failing),
        points=len(failing),
        worst=tuple(failing[:_POINTS_NAMED]),
    )


def _hosts(state: RunState) -> tuple[HostSummary, ...]:
    return tuple(
        HostSummary(
            host=name or "unknown",
            done=totals.done,
            failed=totals.failed,
            returned=totals.returned,
            wall=totals.wall,
            cpu=totals.cpu,
            max_rss=totals.max_rss,
        )
        for name, totals in sorted(state.hosts.items())
    )


def _timings(state: RunState) -> Timings:
    span = seconds_between(state.first_time, state.last_time) if state.last_time else 0.0
    walls = array("f", sorted(state.done_walls))
    if not walls:
        return Timings(span=span, wall=state.wall, cpu=state.cpu)
    return Timings(
        span=span,
        wall=state.wall,
        cpu=state.cpu,
        mean=sum(walls) / len(walls),
        median=quantile(walls, 0.5),
        p05=quantile(walls, 0.05),
        p95=quantile(walls, 0.95),
        max=walls[-1],
    )


def quantile(ordered: "array[float]", share: float) -> float:
    """The value below which `share` of the ascending values lie, between neighbours linearly."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def _rates(state: RunState, timings: Timings) -> Rates:
    paused = any(note.kind in {NoteKind.RERUN, NoteKind.TAKEOVER} for note in state.notes)
    span = None if paused or timings.span <= 0 else timings.span
    wall = timings.wall if timings.wall > 0 else None
    return Rates(
        batches=None if span is None else state.done.batches / span,
        events=None if span is None else state.done.events / span,
        events_per_slot=None if wall is None else state.done.events / wall,
        efficiency=None if wall is None else timings.cpu / wall,
    )


def seconds_between(earlier: str, later: str) -> float:
    """Between two times of the record; never negative, whatever a clock did in between."""
    return max(
        0.0, (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
    )
