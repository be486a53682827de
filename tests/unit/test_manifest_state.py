"""Verdicts are derived: each rule of the fold, and the fold against an independent one."""

from itertools import chain

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from invariants import fold as independent_fold
from invariants import read_lines
from manifest_runs import EVENTS, STAMP, bad, batches, create, done, good, output, started

from dask_runner.batch import Outcome, OutcomeStatus
from dask_runner.errors import ManifestError
from dask_runner.manifest import (
    Header,
    Intent,
    Manifest,
    Note,
    NoteKind,
    Split,
    Verdict,
    history,
    read_state,
)
from dask_runner.run_folder import RunFolder


@pytest.fixture
def manifest(tmp_path):
    with create(tmp_path) as found:
        yield found


def seen(state):
    """Everything that a state says."""
    indices = range(len(state.batches))
    return {
        "counts": (state.done, state.failed, state.pending, state.total),
        "verdicts": [state.verdict(index) for index in indices],
        "attempts": [state.attempts(index) for index in indices],
        "failed_attempts": [state.failed_attempts(index) for index in indices],
        "done_attempts": [state.done_attempt(index) for index in indices],
        "outcomes": [state.last_outcome(index) for index in indices],
        "outputs": [state.outputs(index) for index in indices],
        "running": state.running,
        "accepted": state.accepted,
        "intents": [state.has_intent(index) for index in indices],
        "hosts": {name: msgspec.structs.asdict(host) for name, host in state.hosts.items()},
        "notes": list(state.notes),
        "batches": list(state.batches),
        "inputs": list(state.inputs),
        "header": state.header,
        "times": (state.first_time, state.last_time),
    }


def agree(manifest):
    """The writer's state is what a reader gets."""
    assert seen(manifest.state) == seen(read_state(manifest.folder.path))


def test_a_new_run_is_all_pending(manifest):
    state = manifest.state
    assert (state.pending.batches, state.pending.events) == (3, 3 * EVENTS)
    assert state.total == state.pending
    assert state.done.batches == state.failed.batches == 0
    assert list(state.indices(Verdict.PENDING)) == [0, 1, 2]
    assert list(state.batches) == batches(3)
    assert state.batches[2] == state.batches[-1] == batches(3)[2]
    assert state.batches[1:] == batches(3)[1:]
    assert state.header.batches == 3
    assert state.header.outputs == "outputs"
    assert state.folder == manifest.folder
    with pytest.raises(IndexError):
        state.batches[3]
    agree(manifest)


def test_started_accepted_done(manifest):
    manifest.record(started(0, 1))
    assert manifest.state.running[0].attempt == 1
    assert manifest.state.running[1].host == "tev1"
    manifest.record(good(0, outputs=[output()]))
    assert set(manifest.state.running) == {1}
    assert manifest.state.verdict(0) is Verdict.PENDING
    assert [outcome.batch for outcome in manifest.state.accepted] == [0]
    assert manifest.state.outputs(0) == ()
    assert not manifest.state.has_intent(0)
    manifest.record(Intent(attempts=((0, 1),)))
    assert manifest.state.has_intent(0)
    agree(manifest)
    manifest.record(done(0))
    assert manifest.state.verdict(0) is Verdict.DONE
    assert manifest.state.outputs(0) == (output(),)
    assert manifest.state.done_attempt(0) == 1
    assert manifest.state.accepted == []
    assert manifest.state.done.events == EVENTS
    assert (manifest.state.wall, manifest.state.cpu) == (2.0, 1.5)
    agree(manifest)


def test_a_failure_lasts_until_the_next_attempt_starts(manifest):
    manifest.record(started(0), bad(0))
    assert manifest.state.verdict(0) is Verdict.FAILED
    assert manifest.state.failure(0).message == "broke"
    manifest.record(started(0, attempt=2))
    assert manifest.state.verdict(0) is Verdict.PENDING
    assert manifest.state.failure(0).message == "broke"
    assert manifest.state.failed_attempts(0) == 1
    manifest.record(bad(0, 2, "again"))
    assert manifest.state.failed_attempts(0) == 2
    assert manifest.state.failure(0).message == "again"
    assert manifest.state.hosts["tev2"].failed == 2
    agree(manifest)


def test_a_returned_attempt_blames_nobody(manifest):
    returned = Outcome(batch=0, attempt=1, status=OutcomeStatus.RETURNED, host="tev1")
    manifest.record(started(0), returned)
    assert manifest.state.verdict(0) is Verdict.PENDING
    assert (manifest.state.attempts(0), manifest.state.failed_attempts(0)) == (1, 0)
    assert not manifest.state.running
    agree(manifest)


def test_late_and_double_outcomes_are_kept_and_change_nothing(manifest):
    manifest.record(started(0), bad(0), started(0, attempt=2), good(0, 2), done(0, attempt=2))
    before = seen(manifest.state)
    late = [good(0, 1), bad(0, 1), good(0, 2), bad(0, 2), bad(0, 7), done(0), started(0, attempt=3)]
    manifest.record(*late)
    after = seen(manifest.state)
    before.pop("times"), after.pop("times")
    assert after == before
    agree(manifest)
    assert len(history(manifest.folder.path, 0)) == 1 + 5 + len(late)


def test_a_late_outcome_of_an_earlier_attempt_does_not_end_the_later_one(manifest):
    manifest.record(started(0), started(0, attempt=2), good(0, 1))
    assert manifest.state.running[0].attempt == 2
    assert manifest.state.accepted == []
    agree(manifest)


def test_an_accepted_attempt_may_still_fail_when_it_is_published(manifest):
    manifest.record(started(0), good(0), Intent(attempts=((0, 1),)), bad(0, 1, "name is taken"))
    assert manifest.state.verdict(0) is Verdict.FAILED
    assert manifest.state.accepted == []
    assert not manifest.state.has_intent(0)
    agree(manifest)


def test_a_lost_output_takes_done_back(manifest):
    manifest.record(started(0), good(0, outputs=[output()]), done(0))
    manifest.record(Note.lost_output([0], "gone"), durable=True)
    assert manifest.state.verdict(0) is Verdict.PENDING
    assert manifest.state.outputs(0) == ()
    assert manifest.state.done_attempt(0) == 0
    manifest.record(started(0, attempt=2), good(0, 2), done(0, attempt=2))
    assert manifest.state.done_attempt(0) == 2
    agree(manifest)


def test_a_new_session_has_nothing_running(manifest):
    manifest.record(started(0, 1))
    manifest.record(Note(kind=NoteKind.RERUN, text="again", who="me"))
    assert manifest.state.running == {}
    assert manifest.state.attempts(0) == 1
    agree(manifest)


def test_a_split_batch_is_superseded_by_its_parts(manifest):
    whole = manifest.state.batches[1]
    parts = tuple(
        msgspec.structs.replace(
            whole,
            index=3 + number,
            count=EVENTS // 2,
            inputs=(
                msgspec.structs.replace(
                    whole.inputs[0], first=EVENTS + 5 * number, count=EVENTS // 2
                ),
            ),
        )
        for number in range(2)
    )
    manifest.record(started(1), Split(batch=1, parts=parts))
    state = manifest.state
    assert state.verdict(1) is Verdict.SUPERSEDED
    assert (state.total.batches, state.total.events) == (4, 3 * EVENTS)
    assert state.batches[3:] == list(parts)
    assert state.running == {}
    manifest.record(started(4), good(4), done(4), good(1), done(1))
    assert state.verdict(4) is Verdict.DONE
    assert state.verdict(1) is Verdict.SUPERSEDED
    agree(manifest)
    with pytest.raises(ManifestError, match="numbered from 5"):
        manifest.record(Split(batch=0, parts=parts))
    with pytest.raises(ManifestError, match="has its result"):
        manifest.record(Split(batch=4, parts=()))


def test_a_run_that_was_moved_knows_its_folders(tmp_path):
    with create(tmp_path / "here") as manifest:
        old = manifest.folder.path
    (tmp_path / "there").mkdir()
    new = old.rename(tmp_path / "there" / old.name)
    assert read_state(new).folder == RunFolder.at(new)
    with Manifest.open(new) as manifest:
        assert manifest.folder.outputs == new / "outputs"


def test_outputs_elsewhere_keep_their_place(tmp_path):
    folder = RunFolder.at(tmp_path / "runs" / STAMP, tmp_path / "out\udcff %")
    folder.path.mkdir(parents=True)
    with create(tmp_path / "origin") as other:
        header = msgspec.structs.replace(other.state.header, inputs=0, batches=0)
    Manifest.create(folder, header, [], []).close()
    assert read_state(folder.path).folder == folder


def test_another_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("dask_runner.manifest.writer.FORMAT", 2)
    monkeypatch.setattr("dask_runner.manifest.ledger.FORMAT", 2)
    create(tmp_path).close()
    monkeypatch.undo()
    with pytest.raises(ManifestError, match="format 2; this version knows 1"):
        read_state(tmp_path / STAMP)


def test_a_plan_that_is_not_numbered_from_zero_is_refused_and_leaves_nothing(tmp_path):
    folder = RunFolder.at(tmp_path / STAMP)
    folder.path.mkdir()
    spec = read_spec()
    with pytest.raises(ManifestError, match="numbered"):
        Manifest.create(folder, spec, [], batches(3)[1:])
    assert list(folder.path.iterdir()) == []


def read_spec():
    return Header(timestamp=STAMP, workload={"name": "demo", "configuration": {}}, seed=1)


def test_a_second_plan_in_the_same_folder_is_refused(manifest):
    manifest.close()
    before = manifest.folder.manifest.read_bytes()
    with pytest.raises(ManifestError, match="exists already"):
        Manifest.create(manifest.folder, manifest.state.header, [], [])
    assert manifest.folder.manifest.read_bytes() == before


def test_clocks_do_not_matter(tmp_path):
    """Going backwards, a summer time that ends, or an hour off: the order is that of the file."""
    times = ["2026-10-25T02:59:59+02:00", "2026-10-25T02:00:00+01:00", "1999-01-01T00:00:00Z"]
    with create(tmp_path) as manifest:
        for number, text in enumerate(times, 1):
            manifest.record(
                msgspec.structs.replace(started(0, attempt=number), time=text),
                msgspec.structs.replace(bad(0, number, text), started=text),
            )
        assert manifest.state.failure(0).message == times[-1]
        assert manifest.state.last_time == times[-1]
        agree(manifest)


EVENT = st.tuples(
    st.sampled_from(["started", "good", "bad", "intent", "done", "lost", "rerun", "split"]),
    st.integers(0, 2),
    st.integers(1, 3),
)


def event(kind, index, number, state):
    makers = {
        "started": lambda: started(index, attempt=number),
        "good": lambda: good(index, number),
        "bad": lambda: bad(index, number),
        "intent": lambda: Intent(attempts=((index, number),)),
        "done": lambda: done(index, attempt=number),
        "lost": lambda: Note.lost_output([index], "gone"),
        "rerun": lambda: Note(kind=NoteKind.RERUN),
        "split": lambda: Split(batch=index, parts=(renumbered(state, index),)),
    }
    return makers[kind]()


def renumbered(state, index):
    return msgspec.structs.replace(state.batches[index], index=len(state.batches))


@given(st.lists(EVENT, max_size=25))
def test_any_history_reads_back_as_it_was_written_and_counts_each_batch_once(tmp_path_factory, log):
    with create(tmp_path_factory.mktemp("any")) as manifest:
        state = manifest.state
        for kind, index, number in log:
            record = event(kind, index, number, state)
            if kind == "split" and state.verdict(index) is not Verdict.PENDING:
                continue
            if kind == "split" and index in {outcome.batch for outcome in state.accepted}:
                continue
            manifest.record(record)
        agree(manifest)
        by_verdict = [list(state.indices(verdict)) for verdict in Verdict]
        assert sorted(chain.from_iterable(by_verdict)) == list(range(len(state.batches)))
        counts = [state.pending, state.done, state.failed]
        assert [count.batches for count in counts] == [len(found) for found in by_verdict[:3]]
        assert sum(count.events for count in counts) == 3 * EVENTS


REAL = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["good", "bad", "none"])), max_size=12)


@given(REAL)
def test_the_product_and_the_independent_checker_agree_on_real_histories(tmp_path_factory, tries):
    with create(tmp_path_factory.mktemp("real")) as manifest:
        state = manifest.state
        for index, end in tries:
            if state.verdict(index) is Verdict.DONE:
                continue
            number = state.attempts(index) + 1
            manifest.record(started(index, attempt=number))
            if end == "good":
                manifest.record(good(index, number), done(index, attempt=number))
            elif end == "bad":
                manifest.record(bad(index, number))
        path = manifest.folder.manifest
    lines, problems = read_lines(path, whole=True)
    other = independent_fold(lines)
    assert problems + other.violations == []
    assert set(other.done) == set(state.indices(Verdict.DONE))
