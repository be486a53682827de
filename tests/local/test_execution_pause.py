"""Batches that stand still: all their processes, without their limits in time, and still mortal."""

import os
import time
from pathlib import Path

import pytest
from execution_rig import RUN, Rig, act, alive, new_pool, pids_in, until

from dask_runner.batch import FailureKind, OutcomeStatus
from dask_runner.execution import marker, process_tree
from dask_runner.execution.lease import Lease

CLUSTER = f"test-{os.getpid()}"


@pytest.fixture
def rig(tmp_path):
    pool = new_pool(tmp_path / "scratch")
    yield Rig(pool, tmp_path)
    pool.close()
    until(lambda: not process_tree.processes_with(marker.CLUSTER, CLUSTER), "an empty host", 10)


def of_run():
    return process_tree.processes_with(marker.RUN, RUN)


def all_stopped():
    pids = of_run()
    return bool(pids) and all(process_tree.state(pid) in "TtZX" for pid in pids)


def test_all_descendants_stand_still_and_go_on(rig, tmp_path):
    started = rig.start(act("escapes", pids=str(tmp_path / "pids"), then="sleeps"))
    pids = pids_in(tmp_path / "pids", 4)
    rig.pool.pause(True)
    until(lambda: all(process_tree.state(pid) == "T" for pid in pids), "a standstill")
    until(all_stopped, "a standstill of all")
    rig.pool.pause(False)
    until(lambda: not any(process_tree.state(pid) == "T" for pid in of_run()), "life")
    assert all(map(alive, pids))
    rig.pool.cancel(RUN)
    assert started.outcomes()[0].failure.kind is FailureKind.CANCELLED


def test_a_tree_that_forks_while_it_is_stopped_stands_still_too(rig):
    started = rig.start(act("forks_madly", processes=256))
    until(lambda: len(of_run()) > 8, "some processes")
    rig.pool.pause(True)
    until(all_stopped, "a standstill")
    count = len(of_run())
    rig.pool.pause(True)
    assert all_stopped()
    assert len(of_run()) == count
    assert rig.pool.cancel(RUN) == 1
    assert started.outcomes()[0].failure.kind is FailureKind.CANCELLED
    assert of_run() == []
    rig.pool.pause(False)


def test_the_timeout_does_not_run_meanwhile_and_runs_on_afterwards(rig, tmp_path):
    go = tmp_path / "go"
    started = rig.start(act("waits_for", path=str(go)), timeout=1.5)
    until((tmp_path / "go.waiting").exists, "the batch")
    rig.pool.pause(True)
    until(all_stopped, "a standstill")
    paused = time.monotonic()
    until(lambda: time.monotonic() > paused + 2.5, "longer than the timeout")
    assert all_stopped()
    go.touch()
    rig.pool.pause(False)
    assert started.outcomes()[0].status is OutcomeStatus.DONE
    outcome = rig.one(act("sleeps"), timeout=0.5)
    assert outcome.failure.kind is FailureKind.TIMEOUT


def test_the_rest_of_the_timeout_is_left_after_a_pause(rig, tmp_path):
    started = rig.start(act("waits_for", path=str(tmp_path / "never")), timeout=1.0)
    until((tmp_path / "never.waiting").exists, "the batch")
    rig.pool.pause(True)
    until(all_stopped, "a standstill")
    paused = time.monotonic()
    until(lambda: time.monotonic() > paused + 1.5, "longer than the timeout")
    rig.pool.pause(False)
    assert started.outcomes()[0].failure.kind is FailureKind.TIMEOUT


def test_new_groups_wait_and_can_be_cancelled(rig, tmp_path):
    trace = tmp_path / "trace"
    rig.pool.pause(True)
    waiting = rig.start(act("writes", name=str(trace)))
    until(lambda: rig.pool._running, "the group")
    assert rig.pool.cancel(RUN) == 1
    (outcome,) = waiting.outcomes()
    assert outcome.status is OutcomeStatus.RETURNED
    again = rig.start(act("writes", name=str(trace)))
    until(lambda: rig.pool._running, "the group")
    began = time.monotonic()
    until(lambda: trace.exists() or time.monotonic() > began + 1, "a while")
    assert not trace.exists()
    rig.pool.pause(False)
    assert again.outcomes()[0].status is OutcomeStatus.DONE
    assert trace.exists()


def test_a_lease_ends_what_stands_still(tmp_path):
    lease = Lease(2.0)
    pool = new_pool(tmp_path / "scratch", lease=lease.path)
    try:
        rig = Rig(pool, tmp_path)
        started = rig.start(act("escapes", pids=str(tmp_path / "pids"), then="sleeps"))
        pids = pids_in(tmp_path / "pids", 4)
        pool.pause(True)
        until(lambda: all(process_tree.state(pid) == "T" for pid in pids), "a standstill")
        assert started.outcomes()[0].status is OutcomeStatus.RETURNED
        assert not any(map(alive, pids))
    finally:
        pool.close()
        lease.close()


def test_closing_the_pool_ends_what_stands_still_and_what_waits(rig, tmp_path):
    started = rig.start(act("escapes", pids=str(tmp_path / "pids"), then="sleeps"))
    pids = pids_in(tmp_path / "pids", 4)
    rig.pool.pause(True)
    waiting = rig.start(act("say"))
    until(lambda: len(rig.pool._running) == 2, "both groups")
    until(lambda: all(process_tree.state(pid) == "T" for pid in pids), "a standstill")
    rig.pool.close()
    # Whoever closes the pool wants it so: no batch is to blame.
    assert started.outcomes()[0].status is OutcomeStatus.RETURNED
    assert waiting.outcomes()[0].status is OutcomeStatus.RETURNED
    until(lambda: not any(map(alive, pids)), "the end of the batches", 10)


def test_outputs_of_a_batch_that_stood_still_are_whole(rig, tmp_path):
    from dask_runner.batch import PlannedOutput

    go = tmp_path / "go"
    started = rig.start(
        act("waits_for", path=str(go)),
        act("writes", PlannedOutput(name="out.txt")),
    )
    until((tmp_path / "go.waiting").exists, "the batch")
    for _ in range(20):
        rig.pool.pause(True)
        rig.pool.pause(False)
    go.touch()
    assert [outcome.status for outcome in started.outcomes()] == [OutcomeStatus.DONE] * 2
    assert Path(go).exists()
