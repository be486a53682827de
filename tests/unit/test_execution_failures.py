"""Kinds and fingerprints of failures; acceptance; frames; what the limits of a group encode to."""

import errno
import signal
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_runner.batch import (
    Attempt,
    Batch,
    BatchFailedError,
    FailureKind,
    Outcome,
    OutcomeStatus,
    WorkloadSpec,
)
from dask_runner.errors import BadInputError
from dask_runner.execution import failures, task, wire
from dask_runner.execution.failures import cause_of, cause_of_death, fingerprint


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("x"), FailureKind.EXCEPTION),
        (OSError(errno.ENOSPC, "full"), FailureKind.DISK_FULL),
        (OSError(errno.EDQUOT, "quota"), FailureKind.DISK_FULL),
        (OSError(errno.ENOMEM, "no"), FailureKind.MEMORY),
        (OSError(errno.EACCES, "no"), FailureKind.EXCEPTION),
        (MemoryError(), FailureKind.MEMORY),
        (BadInputError("x"), FailureKind.BAD_INPUT),
        (BatchFailedError(FailureKind.SETUP, "x"), FailureKind.SETUP),
        (SystemExit(2), FailureKind.EXIT_CODE),
        (subprocess.CalledProcessError(2, ["x"]), FailureKind.EXIT_CODE),
        (subprocess.CalledProcessError(-9, ["x"]), FailureKind.SIGNAL),
    ],
)
def test_kinds(error, kind):
    assert cause_of(error).kind is kind


def test_the_cause_of_a_cause_counts():
    for attribute in ("__cause__", "__context__"):
        error = RuntimeError("cannot write the ntuple")
        setattr(error, attribute, OSError(errno.ENOSPC, "No space left on device", "/out/file"))
        assert cause_of(error).kind is FailureKind.DISK_FULL


def test_a_cycle_of_causes_ends():
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert cause_of(one).kind is FailureKind.EXCEPTION


def test_long_messages_are_cut_and_surrogates_spelled():
    cause = cause_of(ValueError("x" * 10_000 + "\udcff"))
    assert len(cause.message) < 2100
    assert cause_of(ValueError("\udcff")).message == "ValueError: \\udcff"


def test_death_by_signal_and_for_lack_of_memory():
    assert "SIGSEGV" in cause_of_death(int(signal.SIGSEGV)).message
    assert "signal 40" in cause_of_death(40).message
    killed = int(signal.SIGKILL)
    assert cause_of_death(killed).kind is FailureKind.SIGNAL
    assert cause_of_death(killed, memory_was_short=True).kind is FailureKind.MEMORY


SAME = [
    ("event 12 bad", "event 9 bad"),
    ("cannot open /data/a/1.root", "cannot open /scratch/b.root"),
    ("cannot open 'a b.root'", "cannot open 'c'"),
    ("at 0x7fff12 of x", "at 0xdead of x"),
    ("value -1.5e-7 of 3", "value 2.25 of 4"),
    ("file runs/20261120T225745Z/x gone", "file runs/20270101T000000Z/y gone"),
]
DIFFERENT = [("KeyError: pt", "KeyError: eta"), ("missing", "wrong"), ("ValueError", "TypeError")]


@pytest.mark.parametrize(("one", "two"), SAME)
def test_same_causes(one, two):
    assert fingerprint(FailureKind.EXCEPTION, one) == fingerprint(FailureKind.EXCEPTION, two)
    assert fingerprint(FailureKind.EXCEPTION, one) != fingerprint(FailureKind.OUTPUT, one)


@pytest.mark.parametrize(("one", "two"), DIFFERENT)
def test_different_causes(one, two):
    assert fingerprint(FailureKind.EXCEPTION, one) != fingerprint(FailureKind.EXCEPTION, two)


@given(st.text(max_size=300))
def test_any_text_has_a_fingerprint(text):
    assert len(fingerprint(FailureKind.EXCEPTION, text)) == 12


def test_a_full_disk_explains_vague_failures_only(tmp_path, monkeypatch):
    vague = cause_of(subprocess.CalledProcessError(2, ["x"]))
    clear = cause_of(BadInputError("x"))
    assert failures.or_disk_full(vague, [tmp_path, tmp_path / "missing"]) == vague
    monkeypatch.setattr(failures, "_FULL_BELOW", 1 << 62)
    found = failures.or_disk_full(vague, [tmp_path])
    assert (found.kind, found.exit_code) == (FailureKind.DISK_FULL, 2)
    assert str(tmp_path) in found.message
    assert failures.or_disk_full(clear, [tmp_path]) == clear


@given(
    frames=st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=50)), max_size=10),
    size=st.integers(1, 20),
)
def test_frames_come_out_as_they_went_in(frames, size):
    stream = b"".join(wire.frame(tag, data) for tag, data in frames)
    parser = wire.FrameParser()
    found = []
    for start in range(0, len(stream), size):
        found += parser.feed(stream[start : start + size])
    assert found == frames


def test_garbage_is_no_frame():
    with pytest.raises(wire.GarbageError):
        list(wire.FrameParser().feed(b"\xff" * 16))


def test_groups_and_outcomes_survive_their_encoding():
    attempt = Attempt(batch=Batch(index=3, workload="w", parameters={"a": [1, "x"]}), number=2)
    group = task.Group(
        run="r",
        topic="t",
        workload=WorkloadSpec(name="w", configuration={"k": 1}),
        attempts_folder="/a%25b",
        attempts=(attempt,),
        preload=("numpy",),
    )
    data = task.encode_group(group)
    assert task.decode_group(data) == group
    head = task.GroupHead.of(data)
    assert (head.run, head.topic, head.preload) == ("r", "t", ("numpy",))
    outcomes = [Outcome(batch=k, attempt=1, status=OutcomeStatus.DONE) for k in range(3)]
    parts = [task.encode_outcomes(outcomes[:1]), task.encode_outcomes(outcomes[1:])]
    assert [one.outcome() for one in task.decode_outcomes(task.join_outcomes(parts))] == outcomes
    delivery = task.Delivery(
        batch=0, attempt=1, status=OutcomeStatus.DONE, contents={"a.npy": b"\0\xff"}
    )
    (arrived,) = task.decode_outcomes(task.encode_outcomes([delivery]))
    assert (arrived, arrived.outcome()) == (delivery, outcomes[0])
    (first,) = task.decode_outcomes(task.join_outcomes(parts[:1]))
    assert first.outcome() == outcomes[0]
