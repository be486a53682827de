"""Groups: blame when their process dies, boundaries of logs, streams, folders, isolation."""

import itertools
import json
import os
import signal
import stat
from pathlib import Path

import pytest
from execution_rig import FOLDER, RUN, Rig, act, new_pool, until
from workloads_for_tests import NOOP

from dask_runner.batch import FailureKind, OutcomeStatus, PlannedOutput
from dask_runner.execution.slot import remove_tree

DONE, FAILED, RETURNED = OutcomeStatus.DONE, OutcomeStatus.FAILED, OutcomeStatus.RETURNED


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    pool = new_pool(tmp_path_factory.mktemp("scratch"))
    yield pool
    pool.close()


@pytest.fixture
def rig(pool, tmp_path):
    return Rig(pool, tmp_path)


@pytest.mark.parametrize("run", [Rig.run, Rig.grouped])
@pytest.mark.parametrize(
    ("last", "limits", "kind"),
    [
        (act("segfaults"), {}, FailureKind.SIGNAL),
        (act("exits", rudely=True), {}, FailureKind.EXIT_CODE),
        (act("sleeps"), {"timeout": 0.4}, FailureKind.TIMEOUT),
        (act("eats", megabytes=200), {"memory": 100_000_000}, FailureKind.MEMORY),
    ],
    ids=lambda value: value["parameters"]["act"] if "parameters" in value else None,
)
def test_only_the_batch_that_ran_is_blamed(rig, run, last, limits, kind):
    fine = [act("say", text=f"batch {k}\n", counters={"events": k}) for k in range(5)]
    outcomes = run(rig, *fine, last, *fine, **limits)
    assert [outcome.status for outcome in outcomes] == [DONE] * 5 + [FAILED] + [RETURNED] * 5
    assert [outcome.batch for outcome in outcomes] == list(range(11))
    assert outcomes[5].failure.kind is kind
    for k in range(5):
        assert outcomes[k].counters == {"events": k}
        assert rig.body(outcomes[k]) == b"batch %d\n" % k
    assert all(outcome.log is None and outcome.wall == 0 for outcome in outcomes[6:])


def test_a_failed_batch_does_not_stop_the_group(rig):
    acts = [act("say"), act("raises"), act("exits"), act("say")]
    outcomes = rig.grouped(*acts)
    assert [outcome.status for outcome in outcomes] == [DONE, FAILED, FAILED, DONE]


def test_boundaries_in_a_group_log_are_exact(rig):
    texts = ["", "a", "", "\n", "no newline", "x" * 70_000, "", "\0" * 17, "last"]
    outcomes = rig.grouped(*[act("say", text=text) for text in texts])
    for text, outcome in zip(texts, outcomes, strict=True):
        if text:
            assert rig.body(outcome) == text.encode()
        else:
            assert outcome.log is None, "a silent batch needs no log"
    paths = {outcome.log.path for outcome in outcomes if outcome.log}
    assert paths == {f"groups/000000.{outcomes[0].attempt}.log"}
    ends = [(one.log.offset, one.log.length) for one in outcomes if one.log]
    assert all(a[0] + a[1] == b[0] for a, b in itertools.pairwise(ends))


def test_a_silent_batch_that_fails_has_a_log_that_says_so(rig):
    (outcome,) = rig.grouped(act("exits", rudely=True))
    assert b"[dask-runner: exit-code: the process ended with exit code 3" in rig.log(outcome)
    assert b'# batch: {"index":0' in rig.log(outcome)


def test_a_flood_in_a_group_is_capped_for_its_batch(rig):
    outcomes = rig.grouped(
        act("say", text="before"), act("floods", megabytes=20), act("say", text="after"),
        log_cap=10_000,
    )  # fmt: skip
    assert [rig.body(outcomes[0]), rig.body(outcomes[2])] == [b"before", b"after"]
    assert outcomes[1].log.dropped > 19_000_000
    assert rig.body(outcomes[1]).endswith(b"last line\n")


def test_outcomes_stream_while_the_group_runs(rig, tmp_path):
    go = tmp_path / "go"
    acts = [act("say", counters={"n": 1}), act("say"), act("waits_for", path=str(go)), act("say")]
    group = rig.group(*acts, workload="workloads_for_tests:ActInGroup")
    seen = []

    def stream(data):
        from dask_runner.execution.task import decode_outcomes

        seen.extend(decode_outcomes(data))
        if len(seen) == 2:
            go.touch()

    from dask_runner.execution.task import decode_outcomes, encode_group

    rest = decode_outcomes(rig.pool.run(encode_group(group), stream))
    assert [outcome.batch for outcome in seen + rest] == [0, 1, 2, 3]
    assert len(seen) >= 2
    assert seen[0].counters == {"n": 1}


def test_outcomes_with_outputs_wait_for_the_end(rig):
    planned = PlannedOutput(name="out.txt")
    acts = [act("writes", planned), act("sleeps", seconds=0.5), act("writes", planned)]
    outcomes = rig.run(*acts)
    assert rig.streamed == []
    assert [len(outcome.outputs) for outcome in outcomes] == [1, 0, 1]


def test_thousands_of_batches_in_order(rig):
    outcomes = rig.run(*[act("say", text="")] * 3000, workload=NOOP)
    assert [outcome.batch for outcome in outcomes] == list(range(3000))
    assert {outcome.status for outcome in outcomes} == {DONE}
    assert list(rig.attempts.iterdir()) == [], "batches that say nothing leave nothing"


def test_status_shows_what_runs(rig, tmp_path):
    go = tmp_path / "go"
    started = rig.start(act("say"), act("waits_for", path=str(go)), first=40)
    (state,) = until(lambda: [one for one in rig.pool.states() if one.batch == 41], "batch 41")
    assert (state.run, state.rss > 10_000_000) == (RUN, True)
    assert 0 < state.seconds < 30
    go.touch()
    started.outcomes()
    assert rig.pool.states() == []


def test_a_payload_is_isolated(rig, tmp_path):
    into = tmp_path / "seen.json"
    outcome = rig.one(act("looks_around", into=str(into)), nice=7, idle_io=True, memory=10**9)
    assert outcome.status is DONE
    seen = json.loads(into.read_text())
    # 0-2, the two pipes, and the folder that is being listed when asked.
    others = {number: to for number, to in seen["descriptors"].items() if int(number) > 2}
    assert all(to.startswith("pipe:") for to in others.values())
    assert len(others) == 2
    assert "socket" not in str(seen["descriptors"])
    assert seen["descriptors"]["0"] == "/dev/null"
    assert seen["in_program"] == ["0", "1", "2", "3"], "programs get none of ours"
    assert (seen["nice"], seen["io_class"], seen["group"]) == (7, 3, True)
    assert seen["session"] != os.getsid(0)
    assert seen["session"] in {link.pid for link in rig.pool._idle}, "the slot's session"
    assert (seen["scratch_mode"], seen["core_limit"], seen["stdin"]) == (0o700, 0, "")
    assert seen["handlers"] == [1, 1, 1]
    folder = rig.attempts / f"000/000000.{outcome.attempt}"
    assert seen["cwd"] == str(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    environment = seen["environment"]
    assert environment["DASK_RUNNER_RUN"] == RUN
    assert environment["DASK_RUNNER_BATCH"] == "000000"
    assert environment["DASK_RUNNER_ATTEMPT"] == str(outcome.attempt)
    assert environment["TMPDIR"] == environment["DASK_RUNNER_SCRATCH"]
    assert list(Path(environment["TMPDIR"]).iterdir()) == []
    assert environment["OMP_NUM_THREADS"] == "1"


def test_priorities_follow_the_group(rig, tmp_path):
    for nice, idle, io_class in ((19, True, 3), (0, False, 0), (5, True, 3)):
        into = tmp_path / f"{nice}.json"
        rig.one(act("looks_around", into=str(into)), nice=nice, idle_io=idle)
        seen = json.loads(into.read_text())
        assert (seen["nice"], seen["io_class"]) == (nice, io_class)
        assert seen["autogroup"] == str(nice), "to other sessions, the session must be nice"


def test_scratch_is_removed_whatever_is_in_it(rig, tmp_path):
    scratch = tmp_path / "elsewhere"
    scratch.mkdir()
    outcome = rig.one(act("litters_scratch"), scratch=str(scratch))
    assert outcome.status is DONE
    assert list(scratch.iterdir()) == []
    assert Path("/etc/passwd").exists()


def test_removing_a_tree_opens_closed_folders(tmp_path):
    folder = tmp_path / "top" / "closed"
    folder.mkdir(parents=True)
    (folder / "file").write_text("x")
    folder.chmod(0)
    remove_tree(tmp_path / "top")
    assert not (tmp_path / "top").exists()
    remove_tree(tmp_path / "top")


def test_more_groups_than_slots_wait(rig):
    started = [rig.start(act("sleeps", seconds=0.1), number=2000 + k) for k in range(5)]
    assert [one.outcomes()[0].status for one in started] == [DONE] * 5
    assert len(rig.pool._idle) <= 2


def test_a_waiting_group_can_be_cancelled(rig, tmp_path):
    running = [rig.start(act("sleeps"), number=3000 + k) for k in range(2)]
    until(lambda: len(rig.pool.states()) == 2, "two groups")
    waiting = rig.start(act("say"), number=3002)
    until(lambda: len(rig.pool._running) == 3, "a third group")
    assert rig.pool.cancel(RUN) == 3
    assert [one.outcomes()[0].failure.kind for one in running] == [FailureKind.CANCELLED] * 2
    assert waiting.outcomes()[0].status is RETURNED


def test_modules_that_start_threads_are_not_preloaded(tmp_path, caplog):
    module = tmp_path / "threads_at_import.py"
    module.write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    )
    pool = new_pool(
        tmp_path / "scratch", preload=("threads_at_import",), import_path=(str(tmp_path), FOLDER)
    )
    try:
        assert Rig(pool, tmp_path).one(act("say")).status is DONE
    finally:
        pool.close()
    assert "start threads" in caplog.text


def test_what_imports_print_is_not_on_the_workers_stdout(tmp_path, capfd):
    (tmp_path / "prints.py").write_text("print('hello from an import', flush=True)\n")
    new_pool(tmp_path / "scratch", preload=("prints",), import_path=(str(tmp_path),)).close()
    said = capfd.readouterr()
    assert ("hello from an import" in said.out, "hello from an import" in said.err) == (False, True)


def test_a_host_that_cannot_start_slots_says_so(tmp_path, monkeypatch):
    pool = new_pool(tmp_path / "scratch")
    try:
        rig = Rig(pool, tmp_path)
        monkeypatch.setattr("dask_runner.execution.nursery.sys.executable", "/bin/false")
        outcomes = rig.run(act("say"), act("say"), preload=("json.tool",))
        assert [outcome.status for outcome in outcomes] == [FAILED, RETURNED]
        assert outcomes[0].failure.kind is FailureKind.LOST
        assert "testhost cannot start batch processes" in outcomes[0].failure.message
        monkeypatch.undo()
        assert rig.one(act("say")).status is DONE
    finally:
        pool.close()


def test_a_closed_pool_starts_nothing(tmp_path):
    pool = new_pool(tmp_path / "scratch")
    pool.close()
    rig = Rig(pool, tmp_path)
    assert rig.one(act("say"), preload=("json.tool",)).status is RETURNED
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_module_that_cannot_be_preloaded_is_said(tmp_path, caplog):
    pool = new_pool(tmp_path / "scratch", preload=("no_such_module",))
    try:
        assert Rig(pool, tmp_path).one(act("say")).status is DONE
    finally:
        pool.close()
    assert "cannot preload no_such_module: ModuleNotFoundError" in caplog.text


def test_a_batch_may_handle_term_and_still_has_timed_out(rig):
    outcome = rig.one(act("dies", number=int(signal.SIGSTOP)), timeout=0.3, grace=0.2)
    assert outcome.failure.kind is FailureKind.TIMEOUT
