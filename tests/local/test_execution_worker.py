"""The pool behind a real Dask worker: task, stream of outcomes, status, cancel."""

import threading

import pytest
from distributed import Client, LocalCluster
from execution_rig import RUN, Rig, act, until
from workloads_for_tests import FOLDER

from dask_runner.batch import FailureKind, OutcomeStatus
from dask_runner.errors import ClusterError
from dask_runner.execution import worker
from dask_runner.execution.task import decode_outcomes, encode_group


@pytest.fixture(scope="module")
def client():
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0",
            protocol="inproc", memory_limit=0,
        ) as cluster,
        Client(cluster) as client,
    ):  # fmt: skip
        yield client


@pytest.fixture
def rig(client, tmp_path):
    config = worker.PoolConfig(
        slots=2, host="dask", scratch=str(tmp_path), import_path=(FOLDER,),
        preload=("workloads_for_tests",), cluster="worker-test",
    )  # fmt: skip
    client.run(worker.start_pool, config)
    yield Rig(None, tmp_path)
    client.run(worker.stop_pool)


def test_outcomes_are_streamed_to_the_topic_and_the_rest_is_returned(client, rig, tmp_path):
    streamed, changed = [], threading.Event()

    def note(event):
        _, message = event
        streamed.extend(decode_outcomes(message))
        changed.set()

    client.subscribe_topic("topic", note)
    group = rig.group(
        act("say", counters={"n": 2}), act("say"), act("waits_for", path=str(tmp_path / "go")),
        workload="workloads_for_tests:ActInGroup",
    )  # fmt: skip
    future = client.submit(worker.run_group, encode_group(group), pure=False)
    until(lambda: len(streamed) == 2, "two streamed outcomes")
    (states,) = client.run(worker.slot_states).values()
    assert [(state["run"], state["batch"]) for state in states] == [(RUN, 2)]
    (tmp_path / "go").touch()
    rest = decode_outcomes(future.result(timeout=30))
    assert [outcome.batch for outcome in streamed] == [0, 1]
    assert streamed[0].counters == {"n": 2}
    assert [(outcome.batch, outcome.status) for outcome in rest] == [(2, OutcomeStatus.DONE)]
    assert rest[0].host == "dask"
    client.unsubscribe_topic("topic")


def test_a_run_is_cancelled_from_the_client(client, rig, tmp_path):
    go = tmp_path / "never"
    group = rig.group(act("waits_for", path=str(go)))
    future = client.submit(worker.run_group, encode_group(group), pure=False)
    until((tmp_path / "never.waiting").exists, "the batch")
    assert list(client.run(worker.cancel_groups, RUN).values()) == [1]
    (outcome,) = decode_outcomes(future.result(timeout=30))
    assert outcome.failure.kind is FailureKind.CANCELLED


def test_nothing_a_payload_does_reaches_dask(client, rig):
    acts = [act("segfaults"), act("exits"), act("spoils_the_pipes"), act("raises_rudely")]
    data = [encode_group(rig.group(one)) for one in acts]
    futures = client.map(worker.run_group, data, pure=False)
    for future in futures:
        (outcome,) = decode_outcomes(future.result(timeout=30))
        assert outcome.status is OutcomeStatus.FAILED


def test_a_worker_has_one_pool(client, rig):
    config = worker.PoolConfig(slots=1, host="again")
    with pytest.raises(ClusterError, match="has a pool"):
        client.run(worker.start_pool, config)


def test_a_worker_that_ends_sends_groups_back_and_blames_nobody(client, rig):
    client.run(worker.stop_pool)
    late = encode_group(rig.group(act("say"), act("say")))
    future = client.submit(worker.run_group, late, pure=False)
    outcomes = decode_outcomes(future.result(timeout=30))
    assert [outcome.status for outcome in outcomes] == [OutcomeStatus.RETURNED] * 2


def test_without_a_pool_the_error_says_so():
    with pytest.raises(ClusterError, match="no pool"):
        worker.slot_states()
    worker.stop_pool()
