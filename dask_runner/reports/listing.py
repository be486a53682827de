"""Many runs, or the state of the active ones: what `runs` and `status` say.

Reads manifests and lock files, takes no lock. Refuses to lay anything out.
"""

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from dask_runner.cluster.asking import cluster_states
from dask_runner.cluster.status import ClusterStatus
from dask_runner.errors import ManifestError
from dask_runner.files import path_to_text
from dask_runner.manifest import Follower, RunState, lock_holder, read_state
from dask_runner.progress import hosts_of
from dask_runner.run_folder import RunFolder, list_runs
from dask_runner.summary import RunVerdict, Summary, seconds_between, summarize, verdict_of


class RunLine(Struct, frozen=True, kw_only=True):
    """A run in one line. `output_bytes` is the size of its published files."""

    timestamp: str
    label: str
    verdict: RunVerdict
    workload: str
    batches: int
    done: int
    failed: int
    pending: int
    events: int
    output_bytes: int
    created: str
    last: str


class UnreadableRun(Struct, frozen=True, kw_only=True):
    """A run whose manifest or lock file cannot be read, and why."""

    timestamp: str
    problem: str


class RunList(Struct, frozen=True, kw_only=True):
    """All runs of a folder, newest last."""

    folder: str
    runs: tuple[RunLine, ...]
    unreadable: tuple[UnreadableRun, ...]


class Driver(Struct, frozen=True, kw_only=True):
    """The process that writes a run's manifest; not `certain`: it cannot be seen from here."""

    host: str
    pid: int
    user: str
    since: str
    certain: bool


class HostSlots(Struct, frozen=True, kw_only=True):
    host: str
    slots: int
    busy: int


class ClusterView(Struct, frozen=True, kw_only=True):
    """The cluster that the driver opened."""

    name: str
    address: str
    hosts: tuple[HostSlots, ...]


class RunningBatch(Struct, frozen=True, kw_only=True):
    """A batch that was sent to a host; `seconds` since then. `host` is "" until it is known."""

    batch: int
    attempt: int
    host: str
    started: str
    seconds: float


class RunStatus(Struct, frozen=True, kw_only=True):
    """One run now. `driver` and `cluster` are None, and `running` is empty, if nobody drives it."""

    summary: Summary
    driver: Driver | None
    cluster: ClusterView | None
    running: tuple[RunningBatch, ...]


class Status(Struct, frozen=True, kw_only=True):
    """The clusters that are up, and all active runs of a folder with their clusters."""

    folder: str
    clusters: tuple[ClusterStatus, ...] = ()
    runs: tuple[RunStatus, ...]
    unreadable: tuple[UnreadableRun, ...]


def driver_of(folder: RunFolder) -> Driver | None:
    """Who drives the run; a driver on another machine counts, since it may be alive."""
    holder = lock_holder(folder)
    if holder is None or holder.alive is False:
        return None
    return Driver(
        host=holder.host,
        pid=holder.pid,
        user=holder.user,
        since=holder.since,
        certain=bool(holder.alive),
    )


def run_list(runs: Path) -> RunList:
    """Every run of the folder `runs`; one that is damaged does not hide the others."""
    lines: list[RunLine] = []
    unreadable: list[UnreadableRun] = []
    for name in list_runs(runs):
        try:
            lines.append(_run_line(RunFolder.at(runs / name)))
        except ManifestError as error:
            unreadable.append(UnreadableRun(timestamp=name, problem=error.message))
    return RunList(
        folder=path_to_text(runs.absolute()), runs=tuple(lines), unreadable=tuple(unreadable)
    )


def _run_line(folder: RunFolder) -> RunLine:
    # The lock first: a run that ends in between is then called running, not incomplete.
    active = driver_of(folder) is not None
    state = read_state(folder.manifest)
    return RunLine(
        timestamp=folder.timestamp,
        label=state.label,
        verdict=verdict_of(state, active=active),
        workload=state.header.workload.name,
        batches=state.total.batches,
        done=state.done.batches,
        failed=state.failed.batches,
        pending=state.pending.batches,
        events=state.total.events,
        output_bytes=state.output_bytes,
        created=state.header.created,
        last=state.last_time or state.header.created,
    )


def run_status(state: RunState, driver: Driver | None, *, now: str) -> RunStatus:
    """The state of one run at the time `now`."""
    active = driver is not None
    return RunStatus(
        summary=summarize(state, active=active),
        driver=driver,
        cluster=_cluster(state) if active else None,
        running=tuple(_running(state, now)) if active else (),
    )


def _cluster(state: RunState) -> ClusterView | None:
    notes = [note for note in state.notes if note.kind == "cluster"]
    if not notes:
        return None
    return ClusterView(
        name=str(notes[-1].data.get("name", "")),
        address=str(notes[-1].data.get("address", "")),
        hosts=tuple(
            HostSlots(host=name, slots=slots, busy=busy)
            for name, (busy, slots) in hosts_of(state).items()
        ),
    )


def _running(state: RunState, now: str) -> Iterator[RunningBatch]:
    for index, running in sorted(state.running.items()):
        yield RunningBatch(
            batch=index,
            attempt=running.attempt,
            host=running.host,
            started=running.started,
            seconds=seconds_between(running.started, now),
        )


class Watch:
    """The status of one run, or of all that are active, again and again: reads only what is new."""

    def __init__(
        self, runs: Path, only: Path | None = None, *, now: Callable[[], str] | None = None
    ) -> None:
        self._runs = runs
        self._only = only
        self._now = now or _utc_now
        self._followers: dict[Path, Follower] = {}

    def look(self) -> RunStatus | Status:
        """The status now."""
        if self._only is not None:
            folder = RunFolder.at(self._only)
            return self._run(folder, driver_of(folder))
        runs: list[RunStatus] = []
        unreadable: list[UnreadableRun] = []
        for name in list_runs(self._runs):
            try:
                folder = RunFolder.at(self._runs / name)
                driver = driver_of(folder)
                if driver is not None:
                    runs.append(self._run(folder, driver))
            except ManifestError as error:
                unreadable.append(UnreadableRun(timestamp=name, problem=error.message))
        return Status(
            folder=path_to_text(os.fspath(self._runs.absolute())),
            clusters=tuple(cluster_states()),
            runs=tuple(runs),
            unreadable=tuple(unreadable),
        )

    def _run(self, folder: RunFolder, driver: Driver | None) -> RunStatus:
        follower = self._followers.setdefault(folder.path, Follower(folder.manifest))
        return run_status(follower.poll(), driver, now=self._now())


def is_over(status: RunStatus | Status) -> bool:
    """True if watching this any longer shows nothing new."""
    return isinstance(status, RunStatus) and status.driver is None


def _utc_now() -> str:
    return datetime.now(UTC).isoformat()
