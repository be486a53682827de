"""Decisions of dispatch on outcomes that no real host can be made to give at will.

The manifest and the publisher are real; the cluster is a stand-in that answers as it is told.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from dask_runner.batch import Batch, Failure, FailureKind, Outcome, OutcomeStatus, WorkloadSpec
from dask_runner.control import Control
from dask_runner.dispatch import Dispatcher, Policy
from dask_runner.errors import ClusterError, StorageError, UsageError
from dask_runner.execution.task import Group, Limits, decode_group, encode_outcomes
from dask_runner.manifest import Done, Header, Manifest, Started, Verdict
from dask_runner.pipeline import Selection, select
from dask_runner.progress import QuietProgress
from dask_runner.publish import Publisher
from dask_runner.run_folder import RunFolder

Answer = Callable[[Group], list[Outcome] | None]


class Future:
    def __init__(self, outcomes: list[Outcome] | None) -> None:
        self.status = "error" if outcomes is None else "finished"
        self._data = encode_outcomes(outcomes or [])

    def add_done_callback(self, function: Callable[["Future"], None]) -> None:
        function(self)

    def result(self, timeout: float) -> bytes:
        return self._data

    def exception(self, timeout: float) -> Exception:
        return type("KilledWorker", (Exception,), {})("group-1", "worker")

    def release(self) -> None:
        self.status = "released"


class Client:
    """Answers each group at once; what `late` says is streamed before every answer."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.groups: list[Group] = []
        self.late: list[Outcome] = []

    def subscribe_topic(self, topic: str, handler: Callable[[Any], None]) -> None:
        self.handler = handler

    def submit(self, function: Any, data: bytes, **options: Any) -> Future:
        group = decode_group(data)
        self.groups.append(group)
        if self.late:
            self.handler((0, encode_outcomes(self.late)))
        return Future(self.answer(group))

    def close(self, timeout: float) -> None:
        self.closed = True


class StandIn:
    name = "stand-in"
    address = "nowhere"
    hosts: Mapping[str, int] = {"a": 1}

    def __init__(self, answer: Answer) -> None:
        self.connected = Client(answer)
        self.lost = ""

    def client(self) -> Client:
        return self.connected

    def failure(self) -> str:
        return self.lost


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


def dispatch(manifest: Manifest, cluster: StandIn, *, attempts: int = 3) -> None:
    Dispatcher(
        manifest=manifest,
        publisher=Publisher(manifest.folder, manifest),
        cluster=cluster,
        spec=manifest.state.header.workload,
        attempts_folder=str(manifest.folder.attempts),
        policy=Policy(attempts=attempts, timeout_factor=0, limits=Limits(), versions={}),
        control=Control(),
        progress=QuietProgress(),
    ).run(range(6))


def good(group: Group) -> list[Outcome]:
    return [
        Outcome(batch=a.batch.index, attempt=a.number, status=OutcomeStatus.DONE)
        for a in group.attempts
    ]


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
        for group in cluster.connected.groups
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
    after = [group for group in cluster.connected.groups if group.attempts[0].batch.index == 4]
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
    assert cluster.connected.closed


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
    class Silent(Future):
        """At work, for ever."""

        def add_done_callback(self, function: Callable[["Future"], None]) -> None:
            # The batch has been sent: from here on nothing is appended.
            monkeypatch.setattr(manifest._journal, "error", StorageError("cannot make durable"))

    cluster = StandIn(good)
    monkeypatch.setattr(cluster.connected, "submit", lambda *_, **__: Silent([]))
    with pytest.raises(StorageError, match="cannot make durable"):
        dispatch(manifest, cluster)
    assert cluster.connected.closed


@pytest.mark.parametrize("error", [CancelledError(), TimeoutError(), OSError("no route")])
def test_a_result_that_cannot_be_fetched_counts_as_lost(manifest, monkeypatch, error):
    def fail(_self: Future, timeout: float) -> bytes:
        raise error

    monkeypatch.setattr(Future, "result", fail)
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
