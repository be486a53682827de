"""What a payload may do wrong (fault matrix row 11): the right kind, and the pool goes on."""

import json
import os
import re
import signal

import pytest
from execution_rig import RUN, Rig, act, new_pool

from dask_runner.batch import FailureKind, OutcomeStatus


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    pool = new_pool(tmp_path_factory.mktemp("scratch"))
    yield pool
    pool.close()


@pytest.fixture
def rig(pool, tmp_path):
    rig = Rig(pool, tmp_path)
    yield rig
    assert rig.one(act("say")).status is OutcomeStatus.DONE, "the pool is broken afterwards"


def failure(outcome):
    assert outcome.status is OutcomeStatus.FAILED
    assert outcome.failure is not None
    return outcome.failure


@pytest.mark.parametrize(
    ("one", "kind", "message"),
    [
        (act("raises"), FailureKind.EXCEPTION, "ValueError: event 12 is odd"),
        (act("raises", kind="MemoryError"), FailureKind.MEMORY, "MemoryError: event 12 is odd"),
        (act("raises", kind="BadInputError"), FailureKind.BAD_INPUT, "event 12 is odd"),
        (act("raises", kind="EDQUOT"), FailureKind.DISK_FULL, "Disk quota exceeded"),
        (act("raises", kind="KeyboardInterrupt"), FailureKind.EXCEPTION, "KeyboardInterrupt"),
        (act("raises", kind="RecursionError"), FailureKind.EXCEPTION, "RecursionError"),
        (act("raises_rudely"), FailureKind.EXCEPTION, "RudeError"),
        (act("exits"), FailureKind.EXIT_CODE, "SystemExit: .* 3"),
        (act("exits", code=0), FailureKind.EXIT_CODE, "SystemExit: .* 0"),
        (act("exits", code="sorry"), FailureKind.EXIT_CODE, "sorry"),
        (act("exits", rudely=True), FailureKind.EXIT_CODE, "exit code 3 before"),
        (act("exits", code=0, rudely=True), FailureKind.EXIT_CODE, "exit code 0 before"),
        (act("runs_false"), FailureKind.EXIT_CODE, "'false'.* status 1"),
        (act("segfaults"), FailureKind.SIGNAL, "SIGSEGV"),
        (act("dies", number=signal.SIGKILL), FailureKind.SIGNAL, "SIGKILL"),
        (act("dies", number=signal.SIGABRT), FailureKind.SIGNAL, "SIGABRT"),
        (act("dies", number=signal.SIGTERM), FailureKind.SIGNAL, "SIGTERM"),
        (act("dies", number=signal.SIGBUS), FailureKind.SIGNAL, "SIGBUS"),
        (act("fails", kind="setup", message="no release 21"), FailureKind.SETUP, "no release 21"),
        (act("spoils_the_pipes"), FailureKind.INTERNAL, "pipe of its reports"),
        (act("counts_wrongly"), FailureKind.EXCEPTION, "could not convert string to float"),
        (act("no_such_act"), FailureKind.EXCEPTION, "KeyError: 'no_such_act'"),
    ],
    ids=lambda value: value["parameters"]["act"] if isinstance(value, dict) else None,
)
def test_a_fault_has_its_kind(rig, one, kind, message):
    found = failure(rig.one(one))
    assert found.kind is kind
    assert re.search(message, found.message)
    assert re.fullmatch("[0-9a-f]{12}", found.fingerprint)


def test_a_segfault_leaves_a_traceback_and_no_core(rig):
    outcome = rig.one(act("segfaults"))
    assert "Fatal Python error: Segmentation fault" in failure(outcome).tail
    assert "in segfaults" in failure(outcome).tail
    assert os.listdir((rig.attempts / outcome.log.path).parent) == ["log.txt"]


def test_exit_codes_are_causes_of_their_own(rig):
    codes = [failure(rig.one(act("exits", code=code, rudely=True))) for code in (3, 4, 3)]
    assert [one.exit_code for one in codes] == [3, 4, 3]
    assert codes[0].fingerprint == codes[2].fingerprint != codes[1].fingerprint


def test_a_classified_failure_keeps_what_the_workload_said(rig):
    found = failure(
        rig.one(
            act("fails", kind="exit-code", message="step 2 ended with 38 at event 7",
                cause="step 2", exit_code=38, final=True, path="/data/in.root")
        )
    )  # fmt: skip
    assert (found.exit_code, found.final, found.path) == (38, True, "/data/in.root")
    assert not found.may_pass_elsewhere


def test_the_same_failure_in_two_batches_is_one_cause(rig):
    one, two, other = (
        failure(rig.one(act("raises", message=message)))
        for message in (
            "event 12 of /a/b.root: bad 'x' at 0x7f12",
            "event 999 of /c.root: bad 'yy' at 0xdead",
            "event 12 of /a/b.root: worse 'x' at 0x7f12",
        )
    )
    assert one.fingerprint == two.fingerprint != other.fingerprint


def test_a_timeout_ends_what_ignores_term(rig):
    outcome = rig.one(act("spins", ignore_term=True), timeout=0.4, grace=0.2)
    assert failure(outcome).kind is FailureKind.TIMEOUT
    assert 0.5 < outcome.wall < 10
    assert outcome.cpu > 0.2


def test_a_timeout_counts_for_each_batch_not_for_the_group(rig):
    outcomes = rig.grouped(*[act("sleeps", seconds=0.3)] * 4, timeout=0.9)
    assert [outcome.status for outcome in outcomes] == [OutcomeStatus.DONE] * 4


def test_memory_of_a_forked_tree_is_limited(rig):
    outcome = rig.one(act("eats", megabytes=240, processes=4), memory=150_000_000)
    assert failure(outcome).kind is FailureKind.MEMORY
    assert "150 MB" in failure(outcome).message
    assert outcome.max_rss > 150_000_000


def test_memory_that_is_shared_counts_once(rig):
    outcome = rig.one(act("shares", megabytes=100, processes=4, seconds=1.2), memory=250_000_000)
    assert outcome.status is OutcomeStatus.DONE


def test_memory_that_grows_faster_than_the_sampling(rig):
    found = failure(rig.one(act("eats_fast", gigabytes=3), memory=100_000_000))
    assert found.kind is FailureKind.MEMORY


def test_a_flood_is_capped_and_counted(rig):
    outcome = rig.one(act("floods", megabytes=300), log_cap=1_000_000)
    assert outcome.status is OutcomeStatus.DONE
    body = rig.body(outcome)
    assert body.startswith(b"first line\n")
    assert body.endswith(b"last line\n")
    assert outcome.log.dropped > 299_000_000
    notice = b"\n[dask-runner: %d bytes dropped here]\n" % outcome.log.dropped
    assert notice in body
    assert len(body) == 1_000_000 + len(notice)
    line = (len("the same warning again") + 1) * (65536 // 23)
    assert outcome.log.dropped + 1_000_000 == 300 * 16 * line + len(b"first line\nlast line\n")


def test_a_flood_does_not_grow_the_slot(rig):
    rig.one(act("floods", megabytes=50), log_cap=100_000)
    started = rig.start(act("floods", megabytes=400), log_cap=100_000)
    most = 0
    while started._thread.is_alive():
        for state in rig.pool.states():
            with open(f"/proc/{state.pid}/statm") as file:
                most = max(most, int(file.read().split()[1]) * 4096)
    assert started.outcomes()[0].log.dropped > 399_000_000
    assert 0 < most < 120_000_000


def test_bytes_that_are_not_utf8_are_kept(rig):
    outcome = rig.one(act("says_bytes", hexadecimal="00fffe800a"))
    assert rig.body(outcome) == b"\x00\xff\xfe\x80\n"
    found = failure(rig.one(act("fails_saying_bytes", hexadecimal="c3280a")))
    assert found.tail.startswith("\ufffd(\n")
    assert "\\udcff is not UTF-8" in found.message


def test_output_of_all_layers_is_in_order(rig):
    outcomes = rig.run(*[act("say_three_ways", text=str(k)) for k in range(3)])
    for k, outcome in enumerate(outcomes):
        lines = rig.body(outcome).decode().splitlines()
        assert lines == [f"python {k}", f"c {k}", f"program {k}", f"c late {k}"]


def test_closing_the_output_harms_nobody(rig):
    outcomes = rig.grouped(act("closes_everything"), act("say"))
    assert [outcome.status for outcome in outcomes] == [OutcomeStatus.DONE] * 2


def test_what_a_log_opens_with(rig):
    outcome = rig.one(act("say", text="the output\n"), number=77)
    lines = rig.log(outcome).decode().splitlines()
    head = dict(line[2:].split(": ", 1) for line in lines[:-1])
    assert head["host"].startswith("testhost")
    assert head["user"] == "root"
    assert head["folder"] == str(rig.attempts / "000" / "000000.77")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", head["start"])
    assert head["versions"] == "dask-runner=0.1 numpy=2"
    assert (head["run"], head["attempt"]) == (RUN, "77")
    assert json.loads(head["batch"])["parameters"] == {"act": "say", "text": "the output\n"}
    assert lines[-1] == "the output"


def test_a_folder_is_never_used_twice(rig):
    first = rig.one(act("say"), number=500)
    before = rig.log(first)
    again = failure(rig.one(act("say", text="second\n"), number=500))
    assert again.kind is FailureKind.INTERNAL
    assert "exists already" in again.message
    assert rig.log(first) == before


def test_usage_is_measured_with_children(rig):
    outcome = rig.one(act("burns", cpu=0.2, in_program=0.2))
    assert 0.4 <= outcome.cpu < 2
    assert outcome.wall >= 0.3
    assert outcome.max_rss > 5_000_000


def test_each_process_draws_its_own_numbers(rig, tmp_path):
    for _ in range(2):
        rig.one(act("draws", into=str(tmp_path / "drawn")), preload=("numpy.random",))
    one, two = (tmp_path / "drawn").read_text().split()
    assert one != two


def test_a_broken_workload_fails_each_batch(rig):
    outcomes = rig.run(act("say"), act("say"), workload="no_such_module:Thing")
    kinds = [failure(outcome).kind for outcome in outcomes]
    assert kinds == [FailureKind.EXCEPTION] * 2
    assert "cannot be imported" in failure(outcomes[1]).message
