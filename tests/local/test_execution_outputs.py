"""Outputs: validated and hashed by another process, or the batch has failed; full disks."""

import hashlib
import os
import stat
import subprocess

import numpy as np
import pytest
import uproot
from execution_rig import Rig, act, new_pool

from dask_runner.batch import FailureKind, OutcomeStatus, PlannedOutput
from dask_runner.files import path_to_text

OUT = PlannedOutput(name="out.txt")
ROOT = PlannedOutput(name="out.root", tree="events", entries=100)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    preload = ("workloads_for_tests", "dask_runner.rootfiles")
    pool = new_pool(tmp_path_factory.mktemp("scratch"), preload=preload)
    yield pool
    pool.close()


@pytest.fixture
def rig(pool, tmp_path):
    return Rig(pool, tmp_path)


@pytest.fixture(scope="module")
def good_root(tmp_path_factory):
    path = tmp_path_factory.mktemp("root") / "good.root"
    with uproot.recreate(path, compression=uproot.ZLIB(1)) as file:
        file.mktree("events", {"x": "f8"})
        file["events"].extend({"x": np.random.default_rng(1).normal(size=100)})
    return path


def folder_of(rig, outcome):
    return rig.attempts / f"000/000000.{outcome.attempt}"


def output_failure(outcome):
    assert outcome.status is OutcomeStatus.FAILED
    assert outcome.outputs == ()
    assert outcome.failure.kind is FailureKind.OUTPUT
    return outcome.failure.message


def test_an_output_is_hashed_and_read_only(rig):
    outcome = rig.one(act("writes", OUT, text="some content\n"))
    (output,) = outcome.outputs
    path = folder_of(rig, outcome) / "out.txt"
    assert (output.name, output.bytes, output.entries) == ("out.txt", 13, None)
    assert output.sha256 == hashlib.sha256(b"some content\n").hexdigest()
    assert output.mtime_ns == path.stat().st_mtime_ns
    assert stat.S_IMODE(path.stat().st_mode) == 0o444


def test_a_missing_output_fails_unless_it_is_optional(rig):
    assert "output out.txt is missing" in output_failure(rig.one(act("say", OUT)))
    optional = PlannedOutput(name="out.txt", optional=True)
    assert rig.one(act("say", optional)).status is OutcomeStatus.DONE
    outcome = rig.one(act("writes", optional))
    assert len(outcome.outputs) == 1


def test_outputs_nobody_asked_for_are_ignored(rig):
    outcome = rig.one(act("writes", name="other.txt"))
    assert (outcome.status, outcome.outputs) == (OutcomeStatus.DONE, ())


@pytest.mark.parametrize("hard", [False, True])
def test_a_link_is_no_output(rig, tmp_path, hard):
    target = tmp_path / "input"
    target.write_text("x")
    message = output_failure(rig.one(act("links", OUT, name="out.txt", to=str(target), hard=hard)))
    assert ("hard link" if hard else "not a regular file") in message
    assert stat.S_IMODE(target.stat().st_mode) & 0o200, "the input stays writable"


@pytest.mark.parametrize("name", ["../out.txt", "/etc/passwd", "sub/out.txt", "..", ""])
def test_an_output_outside_the_folder_is_refused(rig, name):
    outcome = rig.one(act("say", PlannedOutput(name=name)))
    assert "is not the name of a file" in output_failure(outcome)


def test_names_that_are_hostile_or_not_utf8(rig):
    rig.attempts = rig.attempts / os.fsdecode(b"a b\xff%41\n'$(x)")
    rig.attempts.mkdir()
    for name in (b"out \xfe%41.txt", b"-rf *", b"a\nb"):
        text = os.fsdecode(name)
        planned = PlannedOutput(name=path_to_text(text))
        outcome = rig.one(act("writes_hostile", planned, name=name.hex()))
        assert outcome.status is OutcomeStatus.DONE, outcome.failure
        assert outcome.outputs[0].name == planned.name
        assert (folder_of(rig, outcome) / text).exists()
        assert rig.body(outcome) == b"content\n"
    found = rig.one(act("raises"), number=outcome.attempt)
    assert found.failure.kind is FailureKind.INTERNAL


def test_a_fifo_hangs_nobody(rig):
    assert "not a regular file" in output_failure(rig.one(act("makes_fifo", OUT, name="out.txt")))


def test_a_good_root_file(rig, good_root):
    outcome = rig.one(act("copies", ROOT, path=str(good_root), name="out.root"))
    assert outcome.status is OutcomeStatus.DONE, outcome.failure
    assert outcome.outputs[0].entries == 100
    assert outcome.outputs[0].sha256 == hashlib.sha256(good_root.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("entries", "acceptance", "fine"),
    [(100, 1.0, True), (101, 1.0, False), (99, 1.0, False), (99, 0.5, False),
     (102, 0.98, True), (103, 0.98, False), (200, 0.5, True), (201, 0.5, False)],
)  # fmt: skip
def test_entries_within_the_acceptance(rig, good_root, entries, acceptance, fine):
    planned = PlannedOutput(name="out.root", tree="events", entries=entries, acceptance=acceptance)
    outcome = rig.one(act("copies", planned, path=str(good_root), name="out.root"))
    assert outcome.status is (OutcomeStatus.DONE if fine else OutcomeStatus.FAILED)
    if not fine:
        assert f"has 100 entries in events, not {entries}" in output_failure(outcome) or (
            f" to {entries}" in output_failure(outcome)
        )


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_root_file(rig, good_root, share):
    keep = int(share * good_root.stat().st_size)
    outcome = rig.one(act("copies", ROOT, path=str(good_root), name="out.root", keep=keep))
    assert "output out.root is unreadable" in output_failure(outcome)


def test_what_is_not_root_and_a_missing_tree(rig, good_root):
    not_root = rig.one(act("writes", ROOT, name="out.root"))
    assert "output out.root is unreadable" in output_failure(not_root)
    planned = PlannedOutput(name="out.root", tree="other")
    no_tree = rig.one(act("copies", planned, path=str(good_root), name="out.root"))
    assert "other" in output_failure(no_tree)
    assert not_root.failure.fingerprint != rig.one(act("say", ROOT)).failure.fingerprint


def test_bad_and_good_outputs_in_one_group(rig):
    outcomes = rig.run(act("writes", OUT), act("say", OUT), act("raises"), act("writes", OUT))
    assert [len(outcome.outputs) for outcome in outcomes] == [1, 0, 0, 1]
    kinds = [outcome.failure.kind if outcome.failure else None for outcome in outcomes]
    assert kinds == [None, FailureKind.OUTPUT, FailureKind.EXCEPTION, None]


def test_outputs_before_a_death_are_validated(rig):
    outcomes = rig.run(act("writes", OUT), act("segfaults"), act("writes", OUT))
    assert [outcome.status for outcome in outcomes] == [
        OutcomeStatus.DONE, OutcomeStatus.FAILED, OutcomeStatus.RETURNED,
    ]  # fmt: skip
    assert len(outcomes[0].outputs) == 1


@pytest.mark.parametrize(
    ("body", "limits", "message"),
    [
        ("import ctypes; ctypes.string_at(0)", {}, "SIGSEGV"),
        ("import time; time.sleep(60)", {"validation_timeout": 4.0}, "longer than its limit"),
        ("import os; os._exit(9)", {}, "exit code 9"),
        ("raise RuntimeError('odd')", {}, "odd"),
    ],
)
def test_a_validation_that_dies_is_a_failure_of_its_batch(tmp_path, body, limits, message):
    """The reader of ROOT files is replaced, in a pool of its own, by one that dies of `bad`."""
    (tmp_path / "spoilt_reader.py").write_text(
        "from dask_runner import rootfiles\n"
        "def validate(path, tree):\n"
        "    if path.read_text() == 'bad':\n"
        f"        {body}\n"
        "    return 100\n"
        "rootfiles.validate = validate\n"
    )
    from workloads_for_tests import FOLDER

    pool = new_pool(
        tmp_path / "scratch", preload=("spoilt_reader",), import_path=(str(tmp_path), FOLDER)
    )
    try:
        rig = Rig(pool, tmp_path)
        texts = ("fine", "bad", "fine", "bad", "fine")
        acts = [act("writes", ROOT, name="out.root", text=text) for text in texts]
        outcomes = rig.run(*acts, **limits)
        assert [len(outcome.outputs) for outcome in outcomes] == [1, 0, 1, 0, 1]
        for outcome in (outcomes[1], outcomes[3]):
            assert outcome.failure.kind in {FailureKind.OUTPUT, FailureKind.EXCEPTION}
            assert message in outcome.failure.message
        assert outcomes[1].failure.fingerprint == outcomes[3].failure.fingerprint
        assert rig.one(act("say")).status is OutcomeStatus.DONE
    finally:
        pool.close()


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("fill", ["fills", "fills_by_program"])
def test_a_full_disk_of_attempts(rig, small_disk, fill):
    rig.attempts = small_disk / "attempts"
    rig.attempts.mkdir()
    outcome = rig.one(act(fill, OUT))
    assert outcome.failure.kind is FailureKind.DISK_FULL
    assert outcome.outputs == ()
    again = rig.one(act("writes", OUT, text="x" * 100_000))
    assert again.failure.kind is FailureKind.DISK_FULL
    os.truncate(folder_of(rig, outcome) / "large", 0)
    assert rig.one(act("writes", OUT)).status is OutcomeStatus.DONE


def test_a_log_on_a_full_disk_ends_but_the_slot_lives(rig, small_disk):
    rig.attempts = small_disk / "attempts"
    rig.attempts.mkdir()
    outcome = rig.one(act("floods", megabytes=10))
    assert outcome.log.dropped > 9_000_000
    assert rig.body(outcome).startswith(b"first line\n")


def test_a_full_scratch(rig, small_disk):
    filled = rig.one(act("fills_scratch"), scratch=str(small_disk))
    assert filled.failure.kind is FailureKind.DISK_FULL
    assert list(small_disk.iterdir()) == [], "what filled the disk is removed with the batch"
    assert rig.one(act("say"), scratch=str(small_disk)).status is OutcomeStatus.DONE


def test_no_place_for_a_scratch_folder(rig, tmp_path, small_disk):
    subprocess.run(["mount", "-o", "remount,nr_inodes=1", small_disk], check=True)
    full, after = rig.run(act("say"), act("say"), scratch=str(small_disk))
    assert full.failure.kind is FailureKind.DISK_FULL
    assert "no scratch folder on this host" in full.failure.message
    assert after.status is OutcomeStatus.RETURNED
    missing = rig.one(act("say"), scratch=str(tmp_path / "missing"))
    assert missing.status is OutcomeStatus.FAILED
    assert "no scratch folder on this host" in missing.failure.message
