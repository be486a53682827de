"""Who is alive afterwards: nobody, whoever was killed (fault matrix rows 10 and 11)."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from execution_rig import RUN, Rig, act, alive, new_pool, pids_in, until

from dask_runner.batch import FailureKind, OutcomeStatus
from dask_runner.execution import marker, process_tree

CLUSTER = f"test-{os.getpid()}"


@pytest.fixture
def pool(tmp_path):
    pool = new_pool(tmp_path / "scratch")
    yield pool
    pool.close()
    # Slots whose zygote was killed have nobody who waits for them.
    until(lambda: not process_tree.processes_with(marker.CLUSTER, CLUSTER), "an empty host", 10)
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.fixture
def rig(pool, tmp_path):
    return Rig(pool, tmp_path)


def none_alive(pids):
    until(lambda: not any(map(alive, pids)), f"survivors of {pids}", 10)


def all_marked(pids, name, value):
    """In the moment of an exec, a process shows no environment: hence patience."""

    def find():
        found = set(process_tree.processes_with(name, value))
        return found if set(pids) < found else None

    return until(find, f"marks on {pids}")


@pytest.mark.parametrize(
    ("then", "kind"),
    [("returns", None), ("segfaults", FailureKind.SIGNAL), ("raises", FailureKind.EXCEPTION)],
)
def test_descendants_that_left_are_dead_when_the_outcome_comes(rig, tmp_path, then, kind):
    outcome = rig.one(act("escapes", pids=str(tmp_path / "pids"), then=then))
    assert not any(map(alive, pids_in(tmp_path / "pids", 4)))
    assert (outcome.failure.kind if outcome.failure else None) is kind


def test_descendants_that_left_are_dead_after_a_timeout(rig, tmp_path):
    outcome = rig.one(act("escapes", pids=str(tmp_path / "pids"), then="sleeps"), timeout=0.5)
    assert outcome.failure.kind is FailureKind.TIMEOUT
    assert not any(map(alive, pids_in(tmp_path / "pids", 4)))


def test_many_processes_die(rig):
    started = rig.start(act("forks_madly", processes=128))
    until(lambda: _processes_of_run() >= 128, "128 processes")
    assert rig.pool.cancel(RUN) == 1
    assert started.outcomes()[0].failure.kind is FailureKind.CANCELLED
    assert _processes_of_run() == 0


def _processes_of_run():
    return len(process_tree.processes_with(marker.RUN, RUN))


def test_processes_of_a_run_are_found_by_its_marker(rig, tmp_path):
    started = rig.start(act("escapes", pids=str(tmp_path / "pids"), then="sleeps"))
    pids = pids_in(tmp_path / "pids", 4)
    marked = all_marked(pids, marker.RUN, RUN)
    assert len(marked) == 5  # and the batch process itself
    assert marked < set(process_tree.processes_with(marker.CLUSTER, CLUSTER))
    rig.pool.cancel(RUN)
    started.outcomes()


def test_cancel_kills_only_the_run_and_returns_what_never_ran(rig, tmp_path):
    started = rig.start(
        act("escapes", pids=str(tmp_path / "pids"), then="sleeps"), act("say"), act("say")
    )
    pids = pids_in(tmp_path / "pids", 4)
    assert rig.pool.cancel("20010101T000000Z") == 0
    assert all(map(alive, pids))
    assert rig.pool.cancel(RUN) == 1
    outcomes = started.outcomes()
    assert not any(map(alive, pids))
    assert outcomes[0].failure.kind is FailureKind.CANCELLED
    assert [outcome.status for outcome in outcomes[1:]] == [OutcomeStatus.RETURNED] * 2
    assert not (rig.attempts / "000" / f"000001.{outcomes[1].attempt}").exists()
    assert rig.one(act("say")).status is OutcomeStatus.DONE


def test_a_dead_slot_loses_its_batch_and_nothing_lives_on(rig, tmp_path):
    scratch = tmp_path / "scratch"
    started = rig.start(
        act("say"), act("escapes", pids=str(tmp_path / "pids"), then="sleeps"), act("say")
    )
    pids = pids_in(tmp_path / "pids", 4)
    # The slot speaks of its progress five times a second.
    state = until(lambda: [one for one in rig.pool.states() if one.batch == 1], "batch 1")[0]
    assert list(scratch.glob("*/zygote-*/slot-*/batch-*"))
    os.kill(state.pid, signal.SIGKILL)
    outcomes = started.outcomes()
    assert not any(map(alive, pids)), "an outcome came before everything was dead"
    statuses = [outcome.status for outcome in outcomes]
    assert statuses == [OutcomeStatus.DONE, OutcomeStatus.FAILED, OutcomeStatus.RETURNED]
    assert outcomes[1].failure.kind is FailureKind.LOST
    assert not list(scratch.glob("*/zygote-*/slot-*"))
    assert rig.one(act("say")).status is OutcomeStatus.DONE


def test_an_idle_slot_that_died_is_nobodys_fault(rig):
    rig.one(act("say"))
    (link,) = rig.pool._idle
    os.kill(link.pid, signal.SIGKILL)
    assert rig.one(act("say")).status is OutcomeStatus.DONE


def test_a_dead_zygote_is_replaced_and_the_group_goes_on(rig, tmp_path):
    started = rig.start(act("waits_for", path=str(tmp_path / "go")))
    until((tmp_path / "go.waiting").exists, "the batch")
    (zygote,) = _zygotes()
    os.kill(zygote, signal.SIGKILL)
    until(lambda: not rig.pool._nursery.alive, "notice of the zygote's death")
    assert rig.one(act("say")).status is OutcomeStatus.DONE
    assert _zygotes() != [zygote]
    (tmp_path / "go").touch()
    assert started.outcomes()[0].status is OutcomeStatus.DONE


def _zygotes():
    found = []
    for pid in process_tree.processes_with(marker.CLUSTER, CLUSTER):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            parent = Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[1]
        except OSError:
            continue  # it has just ended
        if b"dask_runner.execution.zygote" in words and int(parent) == os.getpid():
            found.append(pid)
    return found


def test_a_slot_dies_after_its_zygote(rig, tmp_path):
    started = rig.start(act("escapes", pids=str(tmp_path / "pids"), then="sleeps"))
    pids = pids_in(tmp_path / "pids", 4)
    (zygote,) = _zygotes()
    os.kill(zygote, signal.SIGKILL)
    until(lambda: not rig.pool._nursery.alive, "notice of the zygote's death")
    rig.pool.cancel(RUN)
    assert started.outcomes()[0].failure.kind is FailureKind.CANCELLED
    assert not any(map(alive, pids))


def test_closing_the_pool_ends_all(rig, tmp_path):
    started = rig.start(act("escapes", pids=str(tmp_path / "pids"), then="sleeps"))
    pids = pids_in(tmp_path / "pids", 4)
    rig.pool.close()
    none_alive(pids)
    (outcome,) = started.outcomes()
    assert outcome.status is OutcomeStatus.RETURNED, "its agent ended: no fault of the batch"


def test_other_modules_make_a_new_zygote_and_the_old_one_retires(rig):
    rig.one(act("say"))
    (first,) = _zygotes()
    assert rig.one(act("say"), preload=("json.tool",)).status is OutcomeStatus.DONE
    until(lambda: _zygotes() and first not in _zygotes(), "the first zygote's end")
    (second,) = _zygotes()
    assert rig.one(act("say"), preload=("json.tool",)).status is OutcomeStatus.DONE
    assert _zygotes() == [second]


WORKER = """
    import sys, threading
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from execution_rig import Rig, act, new_pool
    pool = new_pool(Path({folder!r}, "scratch"), cluster={cluster!r})
    rig = Rig(pool, Path({folder!r}))
    rig.one(act("escapes", pids={pids!r}, then="sleeps"))
"""


def test_slots_that_all_die_at_once_are_a_verdict_and_no_endless_loop(rig, pool, monkeypatch):
    begin = pool._nursery.new_slot
    died = []

    def stillborn():
        link = begin()
        os.kill(link.pid, signal.SIGKILL)
        died.append(link.pid)
        return link

    monkeypatch.setattr(pool._nursery, "new_slot", stillborn)
    outcome = rig.one(act("say"))
    assert outcome.failure.kind is FailureKind.LOST
    assert "cannot start batch processes" in outcome.failure.message
    assert len(died) == 10
    monkeypatch.undo()
    assert rig.one(act("say")).failure is None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_worker_leaves_nobody(tmp_path, number):
    cluster = f"worker-{os.getpid()}"
    code = WORKER.format(
        tests=str(Path(__file__).parent.parent),
        folder=str(tmp_path),
        pids=str(tmp_path / "pids"),
        cluster=cluster,
    )
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)]) as worker:
        try:
            pids = pids_in(tmp_path / "pids", 4)
            all_marked(pids, marker.CLUSTER, cluster)
        finally:
            worker.send_signal(number)
    until(lambda: not process_tree.processes_with(marker.CLUSTER, cluster), "an empty host", 15)
    assert not any(map(alive, pids))
    until(lambda: not list((tmp_path / "scratch").iterdir()), "removed scratch folders")
