"""Decisions of dispatch on outcomes that no real host can be made to give at will.

The manifest and the publisher are real; the cluster is a stand-in that answers as it is told.
"""

import hashlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import CancelledError
from concurrent.futures import Future as ConcurrentFuture
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dask_runner import flights
from dask_runner.batch import (
    Attempt,
    Batch,
    Failure,
    FailureKind,
    LogSlice,
    Outcome,
    OutcomeStatus,
    OutputFile,
    PlannedOutput,
    WorkloadSpec,
)
from dask_runner.cluster.interface import HostState
from dask_runner.control import Control
from dask_runner.dispatch import Dispatcher
from dask_runner.errors import (
    BadInputError,
    ClusterError,
    HostGoneError,
    StorageError,
    UsageError,
)
from dask_runner.execution.task import Group, Limits, decode_group, encode_outcomes
from dask_runner.manifest import Done, Header, Manifest, Started, Verdict, records
from dask_runner.orders import Policy
from dask_runner.pipeline import Selection, select
from dask_runner.placement import Rules
from dask_runner.progress import QuietProgress, Snapshot
from dask_runner.publish import Publisher
from dask_runner.roster import Bits
from dask_runner.run_folder import RunFolder
from dask_runner.staging import Room, Staging
from dask_runner.transport import Events, put_note

Answer = Callable[[Group], list[Outcome] | None]


class Task:
    """A future whose end is known at once; None as outcomes: its worker died."""

    def __init__(self, outcomes: list[Outcome] | None) -> None:
        self.status = "error" if outcomes is None else "finished"
        self._data = encode_outcomes(outcomes or [])

    def add_done_callback(self, function: Callable[["Task"], None]) -> None:
        function(self)

    def result(self, timeout: float) -> bytes:
        return self._data

    def exception(self, timeout: float) -> Exception:
        return type("KilledWorker", (Exception,), {})("group-1", "worker")

    def release(self) -> None:
        self.status = "released"


class Held(Task):
    """A future that ends when the test says so, or never."""

    def __init__(self) -> None:
        super().__init__([])
        self.status = "pending"

    def add_done_callback(self, function: Callable[[Task], None]) -> None:
        self._tell = function

    def end(self, status: str = "finished", outcomes: list[Outcome] | None = None) -> None:
        self.status = status
        self._data = encode_outcomes(outcomes or [])
        self._tell(self)


class Client:
    """Gives each group to the cluster's answer; what `late` says is streamed before every one."""

    def __init__(self, cluster: "StandIn") -> None:
        self.cluster = cluster
        self.late: list[Outcome] = []
        self.status = "running"

    def subscribe_topic(self, topic: str, handler: Callable[[Any], None]) -> None:
        self.handler = handler

    def submit(self, function: Any, data: bytes, *, workers: list[str], **options: Any) -> Task:
        group = decode_group(data)
        if self.late:
            self.handler((0, encode_outcomes(self.late)))
        return self.cluster.take(group, workers[0])

    def close(self, timeout: float) -> None:
        self.status = "closed"


def host(name: str, slots: int = 1, **more: Any) -> HostState:
    return HostState(
        **{"name": name, "slots": slots, "share": slots, "worker": f"{name}:1", **more}
    )


class StandIn:
    """Hosts that answer as they are told: `answer` gets each group and the name of its host."""

    name = "stand-in"
    address = "nowhere"
    generation = 0
    transfer = None

    def __init__(self, answer: Callable[..., Any], *hosts: HostState) -> None:
        self.answer = answer
        self.states = {state.name: state for state in hosts or [host("a")]}
        self.connected = Client(self)
        self.clients = [self.connected]
        self.groups: list[Group] = []
        self.places: list[str] = []
        self.announced: list[tuple[str, str]] = []
        self.demands: list[int] = []
        self.cancelled: list[str] = []
        self.driver = "20010101T000000Z/a-driver"
        self.refusals = 0
        self.lost = ""

    def take(self, group: Group, worker: str) -> Task:
        name = worker.partition(":")[0]
        if self.states[name].worker != worker:
            return Held()  # as in Dask: it waits for that worker for ever
        self.groups.append(group)
        self.places.append(name)
        answer = self.answer(group, name) if len(self.states) > 1 else self.answer(group)
        if answer is None:
            self.restart(name)
        return answer if isinstance(answer, Task) else Task(answer)

    def restart(self, name: str) -> None:
        """Another worker there."""
        number = int(self.states[name].worker.partition(":")[2])
        self.change(name, worker=f"{name}:{number + 1}")

    def change(self, name: str, **changes: Any) -> None:
        self.states = {**self.states, name: msgspec.structs.replace(self.states[name], **changes)}

    def hosts(self) -> Mapping[str, HostState]:
        return self.states

    def demand(self, slots: int, hosts: Collection[str]) -> None:
        self.demands.append(slots)

    def announce(self, host: str, text: str) -> None:
        self.announced.append((host, text))

    def cancel(self) -> None:
        self.cancelled.append(self.driver)

    def client(self) -> Client:
        if self.clients:
            return self.clients.pop()
        if self.refusals:
            self.refusals -= 1
            raise ClusterError("nobody listens there")
        self.connected = Client(self)
        return self.connected

    def failure(self) -> str:
        return self.lost


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Nothing of what is waited for comes late here."""
    monkeypatch.setattr(flights, "_GONE", 0.7)
    monkeypatch.setattr(flights, "SETTLE", 0.3)


@pytest.fixture
def manifest(tmp_path: Path):
    path = tmp_path / "20261120T225745Z"
    path.mkdir()
    header = Header(
        timestamp=path.name, workload=WorkloadSpec(name="command", configuration={}), seed=1
    )
    batches = [Batch(index=i, workload="command") for i in range(6)]
    with Manifest.create(RunFolder.at(path), header, (), batches) as manifest:
        yield manifest


def dispatch(
    manifest: Manifest,
    cluster: StandIn,
    *,
    attempts: int = 3,
    progress: QuietProgress | None = None,
    control: Control | None = None,
    staging: Any = None,
    bits: Bits | None = None,
    **rules: Any,
) -> None:
    events: Events = queue.SimpleQueue()
    note = partial(put_note, events)
    Dispatcher(
        manifest=manifest,
        publisher=Publisher(manifest.folder, manifest),
        cluster=cluster,
        staging=staging or Staging(mode="auto", folder=manifest.folder, transfer=None, note=note),
        events=events,
        spec=manifest.state.header.workload,
        bits=bits or Bits(accept=False),
        policy=Policy(
            attempts=attempts,
            timeout_factor=0,
            limits=Limits(),
            rules=Rules(**rules),
            versions={},
        ),
        control=control or Control(),
        progress=progress or QuietProgress(),
    ).run(range(len(manifest.state.batches)))


def good(group: Group) -> list[Outcome]:
    return [
        Outcome(batch=a.batch.index, attempt=a.number, status=OutcomeStatus.DONE)
        for a in group.attempts
    ]


def slowly(outcomes: list[Outcome]) -> Held:
    """They come after a moment."""
    task = Held()
    threading.Timer(0.05, task.end, kwargs={"outcomes": outcomes}).start()
    return task


def failing(kind: FailureKind, fingerprint: Callable[[int], str], *, final: bool = False) -> Answer:
    """Batch 2 fails, the others are done."""

    def answer(group: Group) -> list[Outcome]:
        outcomes = []
        for outcome in good(group):
            if outcome.batch == 2:
                failure = Failure(
                    kind=kind,
                    message="it failed",
                    fingerprint=fingerprint(outcome.attempt),
                    final=final,
                )
                outcome = Outcome(  # noqa: PLW2901
                    batch=2, attempt=outcome.attempt, status=OutcomeStatus.FAILED, failure=failure
                )
            outcomes.append(outcome)
        return outcomes

    return answer


def attempts_at(cluster: StandIn, index: int) -> list[int]:
    return [
        attempt.number
        for group in cluster.groups
        for attempt in group.attempts
        if attempt.batch.index == index
    ]


@pytest.mark.parametrize(
    ("kind", "same", "final", "expected"),
    [
        (FailureKind.BAD_INPUT, True, False, 1),
        (FailureKind.LOG_ERROR, True, False, 1),
        (FailureKind.EXIT_CODE, True, True, 1),
        (FailureKind.EXIT_CODE, True, False, 2),
        (FailureKind.EXIT_CODE, False, False, 3),
        (FailureKind.SIGNAL, False, False, 3),
        (FailureKind.LOST, True, False, 3),
    ],
)
def test_only_failures_that_may_pass_elsewhere_are_tried_again(
    manifest, kind, same, final, expected
):
    answer = failing(kind, lambda n: "same" if same else f"other {n}", final=final)
    cluster = StandIn(answer)
    dispatch(manifest, cluster)
    assert attempts_at(cluster, 2) == list(range(1, expected + 1))
    assert manifest.state.verdict(2) is Verdict.FAILED
    assert manifest.state.done.batches == 5


def test_row_25_late_and_duplicate_outcomes_are_noted_and_ignored(manifest):
    cluster = StandIn(good)
    cluster.connected.late = [
        Outcome(batch=0, attempt=7, status=OutcomeStatus.DONE),
        Outcome(batch=0, attempt=1, status=OutcomeStatus.DONE),
    ]
    dispatch(manifest, cluster)
    assert manifest.state.done.batches == 6
    kinds = {note.kind for note in manifest.state.notes}
    assert kinds == {"late-outcome"}


def test_after_a_lost_group_each_of_its_batches_goes_alone_and_the_guilty_one_is_found(manifest):
    def answer(group: Group) -> list[Outcome] | None:
        return None if any(a.batch.index == 4 for a in group.attempts) else good(group)

    cluster = StandIn(answer)
    dispatch(manifest, cluster)
    assert manifest.state.verdict(4) is Verdict.FAILED
    assert manifest.state.failure(4).kind is FailureKind.LOST
    assert manifest.state.done.batches == 5
    after = [group for group in cluster.groups if group.attempts[0].batch.index == 4]
    assert all(len(group.attempts) == 1 for group in after[1:])


def test_returned_batches_are_sent_again_and_cost_no_attempt(manifest):
    returned = []

    def answer(group: Group) -> list[Outcome]:
        outcomes = good(group)
        if not returned:
            returned.append(outcomes[0].batch)
            first = Outcome(batch=outcomes[0].batch, attempt=1, status=OutcomeStatus.RETURNED)
            outcomes[0] = first
        return outcomes

    cluster = StandIn(answer)
    dispatch(manifest, cluster, attempts=1)
    assert manifest.state.done.batches == 6
    assert attempts_at(cluster, returned[0]) == [1, 2]


def test_a_lost_cluster_ends_dispatch_with_its_reason(manifest):
    cluster = StandIn(good)
    cluster.lost = "its agent died"
    with pytest.raises(ClusterError, match="its agent died"):
        dispatch(manifest, cluster)
    assert cluster.connected.status == "closed"


def test_the_attempt_is_in_the_manifest_before_it_is_sent(manifest):
    seen = []

    def answer(group: Group) -> list[Outcome]:
        content = manifest.folder.manifest.read_bytes()
        pairs = ",".join(f"[{a.batch.index},{a.number}]" for a in group.attempts)
        seen.append(f'"attempts":[{pairs}]'.encode() in content)
        return good(group)

    dispatch(manifest, StandIn(answer))
    assert seen
    assert all(seen)


def test_a_commit_that_fails_in_the_background_ends_dispatch_though_nothing_is_recorded(
    manifest, monkeypatch
):
    class Silent(Task):
        """At work, for ever."""

        def add_done_callback(self, function: Callable[["Task"], None]) -> None:
            # The batch has been sent: from here on nothing is appended.
            monkeypatch.setattr(manifest._journal, "error", StorageError("cannot make durable"))

    cluster = StandIn(good)
    monkeypatch.setattr(cluster.connected, "submit", lambda *_, **__: Silent([]))
    with pytest.raises(StorageError, match="cannot make durable"):
        dispatch(manifest, cluster)
    assert cluster.connected.status == "closed"


@pytest.mark.parametrize("error", [CancelledError(), TimeoutError(), OSError("no route")])
def test_a_result_that_cannot_be_fetched_counts_as_lost(manifest, monkeypatch, error):
    def fail(_self: Task, timeout: float) -> bytes:
        raise error

    monkeypatch.setattr(Task, "result", fail)
    dispatch(manifest, StandIn(good), attempts=1)
    assert {manifest.state.failure(index).kind for index in range(6)} == {FailureKind.LOST}


def test_what_is_selected_for_a_rerun(manifest):
    done = [Outcome(batch=i, attempt=1, status=OutcomeStatus.DONE) for i in range(6) if i != 4]
    manifest.record(Started(attempts=tuple((i, 1) for i in range(6)), group="1"), *done)
    manifest.record(Done(attempts=tuple((outcome.batch, 1) for outcome in done)))
    state = manifest.state
    assert select(state, Selection()) == [4]
    assert select(state, Selection(), lost=[1]) == [1, 4]
    assert select(state, Selection(first=1), lost=[1]) == [1]
    assert select(state, Selection(batches=(1, 2)), lost=[1]) == [1]
    with pytest.raises(UsageError, match="no batch 6"):
        select(state, Selection(batches=(6,)))


# ---------------------------------------------------------------- several hosts


def failed(group: Group, *batches: int) -> list[Outcome]:
    """These batches of the group fail, or all; the others are done."""
    failure = Failure(kind=FailureKind.EXIT_CODE, message="it failed", fingerprint="f")
    return [
        msgspec.structs.replace(outcome, status=OutcomeStatus.FAILED, failure=failure)
        if not batches or outcome.batch in batches
        else outcome
        for outcome in good(group)
    ]


def notes(manifest: Manifest, kind: str) -> list[dict[str, Any]]:
    return [note.data for note in manifest.state.notes if note.kind == kind]


@pytest.fixture
def longer(tmp_path: Path):
    path = tmp_path / "longer"
    path.mkdir()
    header = Header(
        timestamp=path.name, workload=WorkloadSpec(name="command", configuration={}), seed=1
    )
    batches = [Batch(index=i, workload="command") for i in range(60)]
    with Manifest.create(RunFolder.at(path), header, (), batches) as manifest:
        yield manifest


def test_every_group_goes_to_the_worker_of_a_host_by_name(longer):
    cluster = StandIn(lambda group, name: good(group), host("a"), host("b", 3))
    dispatch(longer, cluster)
    assert longer.state.done.batches == 60
    assert set(cluster.places) == {"a", "b"}
    content = longer.folder.manifest.read_text()
    assert '"host":"a"' in content
    assert '"host":"b"' in content


def test_only_the_hosts_that_the_user_wants_get_batches(longer):
    cluster = StandIn(lambda group, name: good(group), host("tev1"), host("tev2"), host("lab"))
    dispatch(longer, cluster, hosts="tev*,!tev2")
    assert set(cluster.places) == {"tev1"}


def test_no_more_groups_at_a_time_than_the_user_wants(longer):
    running: set[int] = set()
    most = []

    def answer(group: Group, name: str) -> Held:
        task = Held()
        running.add(id(task))
        most.append(len(running))

        def end() -> None:
            running.discard(id(task))
            task.end(outcomes=good(group))

        threading.Timer(0.02, end).start()
        return task

    dispatch(longer, StandIn(answer, host("a", 8), host("b", 8)), max_slots=3)
    assert longer.state.done.batches == 60
    assert max(most) == 3


def test_a_failed_batch_is_tried_on_another_host(longer):
    def answer(group: Group, name: str) -> list[Outcome]:
        return failed(group, 0) if name == "a" else good(group)

    cluster = StandIn(answer, host("a", 4), host("b", 1))
    dispatch(longer, cluster)
    assert longer.state.done.batches == 60
    assert attempts_at(cluster, 0) == [1, 2]


def test_row_29_a_batch_that_fails_the_same_way_on_two_hosts_is_named_as_the_culprit(longer):
    def answer(group: Group, name: str) -> list[Outcome]:
        return failed(group, 7)

    cluster = StandIn(answer, host("a"), host("b"), host("c"))
    progress = Shown()
    dispatch(longer, cluster, attempts=5, progress=progress)
    assert longer.state.verdict(7) is Verdict.FAILED
    assert attempts_at(cluster, 7) == [1, 2]
    assert "the batch's own" in progress.last.latest_failures[-1]
    (note,) = notes(longer, "poison")
    assert (note["batch"], len(note["hosts"])) == (7, 2)
    ((host_named, text),) = cluster.announced
    assert (host_named, text[:27]) == ("", "batch 7 fails the same way ")
    assert not notes(longer, "quarantine")


class Shown(QuietProgress):
    def __init__(self) -> None:
        self.snapshots: list[Snapshot] = []

    def update(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)

    @property
    def last(self) -> Snapshot:
        return self.snapshots[-1]


def test_row_28_a_host_that_fails_everything_is_put_aside_and_no_batch_suffers(longer):
    def answer(group: Group, name: str) -> list[Outcome]:
        return failed(group) if name == "bad" else good(group)

    cluster = StandIn(answer, host("bad", 4), host("x", 2), host("y", 2))
    progress = Shown()
    dispatch(longer, cluster, attempts=2, progress=progress)
    assert longer.state.done.batches == 60
    (note,) = notes(longer, "quarantine")
    assert note["host"] == "bad"
    assert note["fingerprints"] == ["f"]
    assert [name for name, text in cluster.announced if text] == ["bad"]
    assert "quarantine" in progress.last.troubles["bad"]
    after = cluster.places.index("bad") + 20
    assert "bad" not in cluster.places[after:]


def test_row_28_two_bad_hosts_of_three(longer):
    def answer(group: Group, name: str) -> list[Outcome]:
        return good(group) if name == "x" else failed(group)

    cluster = StandIn(answer, host("bad", 2), host("worse", 2), host("x", 2))
    dispatch(longer, cluster, attempts=3)
    assert longer.state.done.batches == 60
    assert {note["host"] for note in notes(longer, "quarantine")} == {"bad", "worse"}


def test_batches_that_fail_everywhere_put_no_host_aside(longer):
    cluster = StandIn(lambda group, name: failed(group), host("a", 2), host("b", 2))
    dispatch(longer, cluster)
    assert longer.state.failed.batches == 60
    assert not notes(longer, "quarantine")
    assert len(notes(longer, "poison")) == 1, "a cause is named once"
    assert len(cluster.announced) == 1


def test_a_lost_host_blames_nobody_and_what_it_had_goes_elsewhere(longer):
    gone: list[str] = []

    def answer(group: Group, name: str) -> Any:
        if name == "b" and not gone:
            gone.append(name)
            threading.Timer(0.1, cluster.change, args=("b",), kwargs={"worker": ""}).start()
            return Held()
        return good(group)

    cluster = StandIn(answer, host("a"), host("b"))
    dispatch(longer, cluster, attempts=1)
    assert longer.state.done.batches == 60
    (note,) = notes(longer, "lost-host")
    assert (note["host"], note["number"]) == ("b", 1)


def test_a_host_that_joins_late_or_comes_back_is_used_and_noted(longer):
    started = []

    def answer(group: Group, name: str) -> Any:
        if len(started) == 0:
            cluster.states = {**cluster.states, "late": host("late", 2)}
        if len(started) == 10:
            cluster.change("b", worker="b:2")
        started.append(name)
        task = Held()
        threading.Timer(0.02, task.end, kwargs={"outcomes": good(group)}).start()
        return task

    cluster = StandIn(answer, host("a"), host("b", worker=""))
    dispatch(longer, cluster)
    assert {"a", "b", "late"} == set(started)
    assert {note["host"] for note in notes(longer, "host-joined")} == {"late", "b"}


def test_a_batch_under_which_hosts_are_lost_again_and_again_fails_in_the_end(longer):
    def answer(group: Group, name: str) -> Any:
        if any(attempt.batch.index == 5 for attempt in group.attempts):
            cluster.restart(name)
            return Held()
        return good(group)

    cluster = StandIn(answer, host("a", 2), host("b", 2))
    dispatch(longer, cluster)
    assert longer.state.done.batches == 59
    assert longer.state.failure(5).kind is FailureKind.LOST
    assert len(attempts_at(cluster, 5)) == 6


def test_a_new_scheduler_costs_no_batch_an_attempt(longer):
    restarted = []

    def answer(group: Group, name: str) -> Any:
        if len(cluster.groups) == 5:
            restarted.append(Held())
            threading.Timer(0.05, restart).start()
            return restarted[0]
        return good(group)

    def restart() -> None:
        cluster.connected.status = "connecting"
        cluster.refusals = 1
        restarted[0].end("cancelled")
        cluster.generation = 1
        cluster.states = {name: host(name, worker=f"{name}:2") for name in cluster.states}

    cluster = StandIn(answer, host("a"), host("b"))
    progress = Shown()
    dispatch(longer, cluster, attempts=1, progress=progress)
    assert longer.state.done.batches == 60
    assert len(notes(longer, "cluster-restarted")) == 1
    assert not notes(longer, "lost-host"), "that all workers are new is no news of a host"
    assert any("scheduler" in snapshot.waiting for snapshot in progress.snapshots)


def test_a_client_that_is_lost_alone_is_replaced_and_what_it_sent_is_ended(longer):
    lost = []

    def answer(group: Group, name: str) -> Any:
        if len(cluster.groups) == 5:
            lost.append(Held())
            threading.Timer(0.05, break_off).start()
            return lost[0]
        return good(group)

    def break_off() -> None:
        cluster.connected.status = "connecting"
        lost[0].end("cancelled")

    cluster = StandIn(answer, host("a"), host("b"))
    dispatch(longer, cluster, attempts=1)
    assert longer.state.done.batches == 60
    assert cluster.cancelled == [cluster.driver]


def test_a_host_with_other_bits_is_refused_also_if_it_joins_late(longer):
    def answer(group: Group, name: str) -> list[Outcome]:
        if len(cluster.groups) == 3:
            cluster.states = {**cluster.states, "odd": host("odd", 4, numerics="2")}
        return good(group)

    cluster = StandIn(answer, host("a", numerics="1"), host("b", numerics="1"))
    dispatch(longer, cluster)
    assert "odd" not in cluster.places
    (note,) = notes(longer, "host-refused")
    assert (note["host"], note["numerics"]) == ("odd", "2")
    assert "other bits" in dict(cluster.announced)["odd"]
    assert dict(cluster.announced)["odd"].count("(") == 2, "both are named"


def test_a_host_with_other_bits_that_is_accepted_works_and_that_is_shown(longer):
    cluster = StandIn(
        lambda group, name: good(group), host("a", numerics="1"), host("odd", numerics="2")
    )
    dispatch(longer, cluster, bits=Bits("1", "desk", accept=True))
    assert "odd" in cluster.places
    assert not notes(longer, "host-refused")
    assert dict(cluster.announced)["odd"] == (
        "it computes other bits (2) than desk (1), where the run began; accepted on request"
    )


def test_the_cluster_is_told_what_the_run_could_use_and_only_when_that_changes(longer):
    def answer(group: Group, name: str) -> Any:
        if all(attempt.batch.index != 59 for attempt in group.attempts):
            return good(group)
        # The last one takes longer than a look.
        task = Held()
        threading.Timer(0.5, lambda: task.end(outcomes=good(group))).start()
        return task

    cluster = StandIn(answer, host("a", 4, share=1), host("b", 4))
    dispatch(longer, cluster)
    assert cluster.demands[0] == 8
    assert cluster.demands[-1] < 8
    assert all(a != b for a, b in zip(cluster.demands, cluster.demands[1:], strict=False))


class SlowFiles:
    """Files that take their way: futures that a thread completes."""

    def __init__(self, fail: dict[str, Exception] | None = None) -> None:
        self.fail = fail or {}
        self.finished: list[int] = []
        self.closed = False

    def _later(self, value: Any, error: Exception | None = None) -> ConcurrentFuture[Any]:
        future: ConcurrentFuture[Any] = ConcurrentFuture()

        def end() -> None:
            future.set_exception(error) if error else future.set_result(value)

        threading.Timer(0.02, end).start()
        return future

    def room(self, host: HostState, attempts: Any) -> ConcurrentFuture[Any]:
        room = Room(attempts_folder=f"/on/{host.name}", paths={"in": "/cache/in"}, shipped="/s")
        return self._later(room, self.fail.get(f"room {host.name}"))

    def collect(self, host: str, outcome: Outcome, here=()) -> ConcurrentFuture[None]:
        return self._later(None, self.fail.pop(f"collect {outcome.batch}", None))

    def finish(self, host: str, attempts: Any) -> ConcurrentFuture[None]:
        self.finished += [attempt.batch.index for attempt in attempts]
        return self._later(None)

    def close(self) -> None:
        self.closed = True


def test_groups_wait_for_their_files_and_batches_for_their_outputs(manifest):
    files = SlowFiles()
    cluster = StandIn(lambda group, name: good(group), host("a"), host("b"))
    dispatch(manifest, cluster, staging=files)
    assert manifest.state.done.batches == 6
    assert {group.attempts_folder for group in cluster.groups} <= {"/on/a", "/on/b"}
    assert cluster.groups[0].paths == {"in": "/cache/in"}
    assert cluster.groups[0].shipped == "/s"
    assert sorted(files.finished) == list(range(6))
    assert files.closed


def test_a_host_to_which_no_files_can_be_brought_is_put_aside(longer):
    files = SlowFiles({"room b": ClusterError("no space left on b")})
    cluster = StandIn(lambda group, name: good(group), host("a"), host("b"))
    dispatch(longer, cluster, attempts=1, staging=files)
    assert longer.state.done.batches == 60
    assert set(cluster.places) == {"a"}
    (note,) = notes(longer, "quarantine")
    assert note["host"] == "b"


def test_a_single_host_without_room_for_files_ends_in_failed_batches(manifest):
    files = SlowFiles({"room a": ClusterError("no space left on a")})
    cluster = StandIn(good)
    dispatch(manifest, cluster, staging=files)
    assert manifest.state.failed.batches == 6
    assert "no space left" in manifest.state.failure(0).message


def test_outputs_that_cannot_be_brought_here_are_made_again(longer):
    files = SlowFiles({"collect 3": ClusterError("the connection was lost")})
    cluster = StandIn(lambda group, name: good(group), host("a"), host("b"))
    dispatch(longer, cluster, staging=files)
    assert longer.state.done.batches == 60
    assert attempts_at(cluster, 3) == [1, 2]


def test_an_input_that_is_not_here_is_a_bad_input_of_its_batch(manifest):
    class Files(SlowFiles):
        def room(self, host: HostState, attempts: Any) -> ConcurrentFuture[Any]:
            if any(attempt.batch.index == 2 for attempt in attempts):
                return self._later(None, BadInputError("in.root: gone"))
            return super().room(host, attempts)

    dispatch(manifest, StandIn(good), staging=Files())
    assert manifest.state.failure(2).kind is FailureKind.BAD_INPUT
    assert manifest.state.done.batches == 5


@pytest.mark.parametrize("where", ["room a", "collect 3"])
def test_row_8_our_own_full_disk_ends_dispatch_and_no_batch_is_to_blame(longer, where):
    files = SlowFiles({where: StorageError("cannot write here: No space left on device")})
    cluster = StandIn(lambda group, name: good(group), host("a"), host("b"))
    with pytest.raises(StorageError, match="No space left"):
        dispatch(longer, cluster, staging=files)
    assert not longer.state.failed.batches
    assert files.closed


def test_the_second_request_ends_what_runs_on_all_hosts(longer):
    control = Control()

    def answer(group: Group, name: str) -> Any:
        if len(cluster.groups) == 4:
            control.request("SIGINT")
            control.request("SIGINT")
        return Held()

    cluster = StandIn(answer, host("a", 2), host("b", 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dask_runner.dispatch._STOP_TIMEOUT", 0.3)
        dispatch(longer, cluster, control=control)
    assert cluster.cancelled == [cluster.driver]


@pytest.mark.parametrize(("scheduler_first", "guilty"), [(True, True), (False, False)])
def test_a_batch_is_blamed_for_its_worker_only_if_that_died_and_was_not_cut_off(
    longer, scheduler_first, guilty
):
    held: list[Held] = []

    def answer(group: Group, name: str) -> Any:
        if name != "b" or held:
            return good(group)
        held.append(Held())
        threading.Timer(0.05, end).start()
        return held[0]

    def end() -> None:
        steps = [lambda: held[0].end("error"), lambda: cluster.restart("b")]
        for step in steps if scheduler_first else reversed(steps):
            step()
            wait.wait(0.5)  # the hosts are looked at five times a second

    wait = threading.Event()
    cluster = StandIn(answer, host("a"), host("b"))
    dispatch(longer, cluster, attempts=1)
    assert longer.state.failed.batches == guilty


# ---------------------------------------------------------------- hosts that do not answer


class Unreachable(SlowFiles):
    """Files of hosts of which some do not answer when a group's files are to be brought there."""

    def __init__(self, *errors: Exception, host: str = "b") -> None:
        super().__init__()
        self.errors = [*errors]
        self.host = host
        self.asked: list[float] = []

    def room(self, host: HostState, attempts: Any) -> ConcurrentFuture[Any]:
        if host.name == self.host:
            self.asked.append(time.monotonic())
            if self.errors:
                return self._later(None, self.errors.pop(0))
        return super().room(host, attempts)


def test_the_only_host_is_asked_again_and_again_and_no_batch_pays_for_it(manifest):
    files = Unreachable(*[HostGoneError("a is not up (lost)")] * 3, host="a")
    cluster = StandIn(good, host("a"))
    progress = Shown()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dask_runner.pauses._SHORTEST", 0.25)
        dispatch(manifest, cluster, attempts=1, staging=files, progress=progress)
    assert manifest.state.done.batches == 6
    waited = [b - a for a, b in itertools.pairwise(files.asked)]
    assert all(seconds >= 0.25 * 2**n for n, seconds in enumerate(waited[:3])), waited
    assert any("a: no answer: a is not up" in shown.waiting for shown in progress.snapshots)


def test_many_groups_that_get_no_answer_at_once_are_one_pause(longer):
    files = Unreachable(*[HostGoneError("b is not up (lost)")] * 4)
    cluster = StandIn(lambda group, name: slowly(good(group)), host("a"), host("b", 4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dask_runner.pauses._SHORTEST", 0.2)
        patch.setattr("dask_runner.pauses._LONGEST", 0.2)
        dispatch(longer, cluster, attempts=1, staging=files)
    assert longer.state.done.batches == 60
    assert not notes(longer, "quarantine")
    assert "b" in cluster.places


@pytest.mark.parametrize("kind", [HostGoneError, ClusterError])
def test_a_host_that_is_cut_off_while_files_are_brought_there_is_good_when_it_is_back(longer, kind):
    waiting: list[tuple[Held, list[Outcome]]] = []

    def answer(group: Group, name: str) -> Held:
        """The first host does not end its batches before the other one has had some."""
        if name == "b":
            while waiting:
                task, outcomes = waiting.pop()
                task.end(outcomes=outcomes)
        elif "b" not in cluster.places:
            waiting.append((Held(), good(group)))
            return waiting[-1][0]
        return slowly(good(group))

    cluster = StandIn(answer, host("a"), host("b"))

    class Cut(SlowFiles):
        cut = False

        def room(self, host: HostState, attempts: Any) -> ConcurrentFuture[Any]:
            if host.name != "b" or self.cut:
                return super().room(host, attempts)
            self.cut = True
            future: ConcurrentFuture[Any] = ConcurrentFuture()

            def end() -> None:
                cluster.change("b", worker="")
                future.set_exception(kind("b: its agent ended before it answered"))
                threading.Timer(0.4, cluster.change, args=("b",), kwargs={"worker": "b:2"}).start()

            threading.Timer(0.1, end).start()
            return future

    dispatch(longer, cluster, attempts=1, staging=Cut())
    assert longer.state.done.batches == 60
    assert not notes(longer, "quarantine")
    assert "b" in cluster.places


def test_a_host_that_is_lost_with_outputs_blames_nobody(longer):
    files = SlowFiles({"collect 3": HostGoneError("the connection was lost")})
    cluster = StandIn(lambda group, name: good(group), host("a"), host("b"))
    dispatch(longer, cluster, attempts=1, staging=files)
    assert longer.state.done.batches == 60
    assert attempts_at(cluster, 3) == [1, 2]
    assert not notes(longer, "quarantine")


def test_outputs_that_arrive_as_others_are_the_fault_of_their_host(longer):
    def answer(group: Group, name: str) -> Any:
        where.update({attempt.batch.index: name for attempt in group.attempts})
        return slowly(good(group))

    where: dict[int, str] = {}
    files = SlowFiles({"collect 3": ClusterError("arrived here with other content")})
    cluster = StandIn(answer, host("a"), host("b"))
    dispatch(longer, cluster, attempts=1, staging=files)
    assert longer.state.done.batches == 60
    (note,) = notes(longer, "quarantine")
    assert {note["host"], where[3]} == {"a", "b"}, "it was done by the other one"


@pytest.mark.parametrize("error", [CancelledError(), TimeoutError(), OSError(), KeyError("x")])
def test_a_result_that_is_lost_on_its_way_costs_no_attempt(manifest, error):
    class Lost(Task):
        def result(self, timeout: float) -> bytes:
            raise error

    def answer(group: Group) -> Any:
        return Lost(good(group)) if len(cluster.groups) <= 3 else good(group)

    cluster = StandIn(answer)
    dispatch(manifest, cluster, attempts=1)
    assert manifest.state.done.batches == 6


def test_when_dask_has_connected_again_unseen_what_runs_is_ended_before_it_runs_again(manifest):
    held: list[Held] = []

    def answer(group: Group) -> Any:
        if held:
            told.append([*cluster.cancelled])
            return good(group)
        held.append(Held())
        threading.Timer(0.1, held[0].end, args=("cancelled",)).start()
        return held[0]

    told: list[list[str]] = []
    cluster = StandIn(answer, host("a", 2))
    first = cluster.connected
    dispatch(manifest, cluster, attempts=1)
    assert manifest.state.done.batches == 6
    assert cluster.cancelled == [cluster.driver]
    assert first.status == "closed"
    assert cluster.connected is not first
    assert told[-1] == cluster.cancelled


def test_a_client_that_is_closed_when_a_group_is_sent_is_replaced(manifest):
    cluster = StandIn(good)
    first = cluster.connected

    def submit(*_: Any, **__: Any) -> Task:
        first.status = "closed"
        raise RuntimeError("Tried sending message after closing")

    first.submit = submit  # type: ignore[method-assign]
    dispatch(manifest, cluster, attempts=1)
    assert manifest.state.done.batches == 6
    assert cluster.connected is not first


def test_a_defect_in_a_thread_ends_dispatch(manifest):
    cluster = StandIn(lambda group: Held())
    threading.Timer(0.1, setattr, args=(cluster.connected, "status", "connecting")).start()

    def client() -> Client:
        if cluster.clients:
            return cluster.clients.pop()
        raise KeyError("a defect")

    cluster.client = client  # type: ignore[method-assign]
    with pytest.raises(KeyError, match="a defect"):
        dispatch(manifest, cluster)


def test_a_worker_with_the_address_of_the_one_before_is_another_one(longer):
    held: list[Held] = []

    def answer(group: Group, name: str) -> Any:
        if name == "b" and not held:
            held.append(Held())
            threading.Timer(0.1, cluster.change, args=("b",), kwargs={"start": 2}).start()
            return held[0]
        return good(group)

    cluster = StandIn(answer, host("a"), host("b", start=1))
    dispatch(longer, cluster, attempts=1)
    assert longer.state.done.batches == 60
    (note,) = notes(longer, "lost-host")
    assert (note["host"], note["number"]) == ("b", 1)
    assert [note["host"] for note in notes(longer, "host-joined")] == ["b"]


def test_that_nothing_runs_for_long_is_noted_once_and_its_end_too(manifest, monkeypatch, caplog):
    monkeypatch.setattr("dask_runner.watch._STILL", 0.3)

    def answer(group: Group) -> list[Outcome]:
        if len(cluster.groups) == 1:
            cluster.change("a", refusal="drained by the user")
            threading.Timer(1.0, cluster.change, args=("a",), kwargs={"refusal": ""}).start()
        return good(group)

    cluster = StandIn(answer, host("a"))
    progress = Shown()
    dispatch(manifest, cluster, progress=progress, attempts=1)
    assert manifest.state.done.batches == 6
    first, second = [note for note in manifest.state.notes if note.kind == "standstill"]
    assert "a: drained by the user" in first.text
    assert first.data["hosts"] == {"a": "drained by the user"}
    assert "run again" in second.text
    assert any("(a: drained by the user)" in shown.waiting for shown in progress.snapshots)
    assert "nothing has run" in caplog.text


# ---------------------------------------------------------------- what hosts say


@pytest.fixture
def planned(tmp_path: Path):
    """Batches with an output, and one that may be missing."""
    path = tmp_path / "planned"
    path.mkdir()
    header = Header(
        timestamp=path.name, workload=WorkloadSpec(name="command", configuration={}), seed=1
    )
    outputs = [
        (PlannedOutput(name=f"{i}.txt"), PlannedOutput(name=f"{i}.extra", optional=True))
        for i in range(6)
    ]
    batches = [Batch(index=i, workload="command", outputs=outputs[i]) for i in range(6)]
    with Manifest.create(RunFolder.at(path), header, (), batches) as manifest:
        yield manifest


def made(manifest: Manifest, attempt: Attempt, *names: str) -> Outcome:
    """The attempt is done, with these files in its folder."""
    folder = manifest.folder.attempt(attempt.batch.index, attempt.number)
    folder.mkdir(parents=True)
    outputs = []
    for name in names:
        (folder / name).write_bytes(b"abc")
        digest = hashlib.sha256(b"abc").hexdigest()
        outputs.append(OutputFile(name=name, bytes=3, sha256=digest))
    return Outcome(
        batch=attempt.batch.index,
        attempt=attempt.number,
        status=OutcomeStatus.DONE,
        outputs=tuple(outputs),
        log=LogSlice(path=f"{folder.parent.name}/{folder.name}/log.txt"),
    )


@pytest.mark.parametrize(
    "names", [(), ("2.extra",), ("2.txt", "2.txt"), ("2.txt", "3.txt"), ("2.txt", "../victim")]
)
def test_a_batch_is_done_with_its_planned_outputs_and_no_others(planned, names):
    def answer(group: Group, name: str) -> list[Outcome]:
        outcomes = []
        for a in group.attempts:
            own = f"{a.batch.index}.txt", f"{a.batch.index}.extra"
            liar = a.batch.index == 2 and not liars
            if liar:
                liars.append(name)
            outcome = made(planned, a, *(names if liar else own[: 1 + a.batch.index % 2]))
            outcomes.append(outcome)
        return outcomes

    liars: list[str] = []
    victim = planned.folder.attempt(2, 1).parent / "victim"
    victim.parent.mkdir(parents=True)
    victim.write_bytes(b"abc")
    cluster = StandIn(answer, host("a"), host("b"))
    dispatch(planned, cluster)
    assert planned.state.done.batches == 6
    assert attempts_at(cluster, 2) == [1, 2]
    assert victim.exists()
    failures = [r for r in records(planned.folder.manifest) if getattr(r, "failure", None)]
    assert [(r.batch, r.failure.fingerprint) for r in failures] == [(2, "outputs not as planned")]
    assert {note["host"] for note in notes(planned, "quarantine")} <= {*liars}


def test_a_log_is_only_where_the_host_was_told_to_write_it(manifest):
    def answer(group: Group) -> list[Outcome]:
        paths = {0: "000/000000.1/log.txt", 1: "groups/000001.1.log"}
        return [
            msgspec.structs.replace(
                outcome, log=LogSlice(path=paths.get(outcome.batch, "../../../etc/passwd"))
            )
            for outcome in good(group)
        ]

    dispatch(manifest, StandIn(answer))
    assert manifest.state.done.batches == 6
    logs = {r.batch: r.log for r in records(manifest.folder.manifest) if isinstance(r, Outcome)}
    assert [logs[index] is not None for index in range(6)] == [True, True, *[False] * 4]
