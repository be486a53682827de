"""summary: numbers, verdicts, causes and the command that does what is left."""

import shlex

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading_runs import FIRST, cluster_note, create, fail, start, succeed

from dask_runner.batch import Batch, FailureKind, Outcome, OutcomeStatus, WorkloadSpec
from dask_runner.manifest import Done, Header, Manifest, Note, NoteKind, Started, read_state
from dask_runner.reports.summary_text import headline
from dask_runner.run_folder import RunFolder
from dask_runner.summary import RunVerdict, Summary, quantile, summarize


@pytest.fixture
def mixed(tmp_path):
    """4 batches: 0 and 1 done, 2 failed twice, 3 pending."""
    with create(tmp_path / "runs", 4, label="first try") as manifest:
        start(manifest, 0, 1, 2)
        succeed(manifest, 0, wall=2.0)
        succeed(manifest, 1, wall=4.0)
        fail(manifest, 2)
        start(manifest, 2, attempt=2, host="tev1")
        fail(manifest, 2, attempt=2, host="tev1")
    return manifest.folder


def test_counts_and_numbers(mixed):
    summary = summarize(read_state(mixed.manifest))
    assert (summary.total, summary.done, summary.failed, summary.pending) == (4, 2, 1, 1)
    assert (summary.events.total, summary.events.done) == (100, 50)
    assert (summary.events.failed, summary.events.pending) == (25, 25)
    assert summary.verdict is RunVerdict.INCOMPLETE
    assert summary.label == "first try"
    assert summary.output_bytes == 20
    assert summary.failed_attempts == 2
    assert summary.outputs == str(mixed.outputs)
    assert summary.timings.wall == pytest.approx(2 + 4 + 1 + 1)
    assert summary.timings.cpu == pytest.approx(4.0)
    assert summary.timings.mean == pytest.approx(3.0)
    assert summary.timings.median == pytest.approx(3.0)
    assert summary.timings.max == pytest.approx(4.0)
    assert summary.rates.efficiency == pytest.approx(0.5)
    assert summary.rates.events_per_slot == pytest.approx(50 / 8)
    hosts = {host.host: (host.done, host.failed) for host in summary.hosts}
    assert hosts == {"tev1": (2, 1), "tev2": (0, 1)}


def test_failed_trials_are_told_by_point(tmp_path):
    folder = RunFolder.at(tmp_path / FIRST)
    folder.path.mkdir()
    header = Header(timestamp=FIRST, workload=WorkloadSpec(name="trials", configuration={}), seed=1)
    masses = (1, 2, 2.0, 3)
    batches = [
        Batch(index=k, workload="trials", count=10, parameters={"point": {"mass": mass}})
        for k, mass in enumerate(masses)
    ]
    with Manifest.create(folder, header, [], batches) as manifest:
        for index, failed in enumerate((1, 4, 4)):
            one = (index, 1)
            outcome = Outcome(
                batch=index,
                attempt=1,
                status=OutcomeStatus.DONE,
                counters={"trials": 10.0, "failed_trials": float(failed)},
            )
            manifest.record(Started(attempts=(one,)), outcome, Done(attempts=(one,)))
        summary = summarize(manifest.state)
    told = summary.failed_trials
    assert (told.failed, told.points) == (9, 2)
    assert [(one.point, one.trials, one.failed) for one in told.worst] == [
        ({"mass": 2}, 20, 8),
        ({"mass": 1}, 10, 1),
    ]
    text = "\n".join(str(piece) for piece in headline(summary))
    assert "9 failed trials at 2 points, left out of results: mass=2: 8 of 20; mass=1: 1" in text


def test_rate_is_over_the_span_of_the_record(tmp_path):
    with create(tmp_path, 1) as manifest:
        start(manifest, 0)
        succeed(manifest, 0)
        state = manifest.state
        assert summarize(state).timings.span == pytest.approx(120.0)
        assert summarize(state).rates.events == pytest.approx(25 / 120)
        manifest.record(Note(kind=NoteKind.UNBLINDED, time="2026-11-22T00:00:00Z"))
        assert summarize(state).timings.span == pytest.approx(120.0), "who looks does no work"
        manifest.record(Note(kind=NoteKind.RERUN, time="2026-11-22T00:00:00Z"))
        assert summarize(state).rates.events is None, "a pause of a day is no rate"


def test_clock_that_was_set_back_gives_no_negative_time(tmp_path):
    with create(tmp_path, 1) as manifest:
        manifest.record(Note(kind="x", time="2020-01-01T00:00:00Z"))
        summary = summarize(manifest.state)
    assert summary.timings.span == 0
    assert summary.rates.events is None


def test_verdicts(tmp_path):
    with create(tmp_path, 2) as manifest:
        state = manifest.state
        assert summarize(state).verdict is RunVerdict.INCOMPLETE
        assert summarize(state, active=True).verdict is RunVerdict.RUNNING
        start(manifest, 0, 1)
        assert summarize(state).running == 0, "nobody is at work: nothing runs"
        assert summarize(state, active=True).running == 2
        succeed(manifest, 0)
        fail(manifest, 1)
        assert summarize(state).verdict is RunVerdict.FAILED
        start(manifest, 1, attempt=2)
        succeed(manifest, 1, attempt=2)
        done = summarize(state)
    assert done.verdict is RunVerdict.DONE
    assert done.rerun == ""
    assert done.causes == ()


def test_causes_are_grouped_and_the_most_frequent_comes_first(tmp_path):
    with create(tmp_path, 6) as manifest:
        start(manifest, *range(6))
        fail(manifest, 0, kind=FailureKind.TIMEOUT, fingerprint="slow", log=None)
        for index in (1, 2, 4):
            fail(manifest, index, message=f"event {index}", host=f"tev{index}")
        fail(manifest, 5, kind=FailureKind.SIGNAL)  # the same fingerprint, another kind
        first, *others = summarize(manifest.state).causes
        log = manifest.folder.attempt(1, 1) / "log.txt"
    assert (first.kind, first.fingerprint, first.batches) == ("exception", "f00d", 3)
    assert (first.example, first.message, first.events) == (1, "event 1", 75)
    assert first.hosts == ("tev1", "tev2", "tev4")
    assert first.log == str(log)
    assert first.tail == "going\nbroke\n"
    assert [(cause.kind, cause.batches) for cause in others] == [("timeout", 1), ("signal", 1)]
    assert others[0].log == ""


def test_lost_output_counts_no_more(mixed, tmp_path):
    with create(tmp_path / "other", 1) as manifest:
        start(manifest, 0)
        succeed(manifest, 0)
        manifest.record(Note.lost_output([0], "it is gone"))
        summary = summarize(manifest.state)
    assert (summary.done, summary.pending, summary.output_bytes) == (0, 1, 0)
    assert summary.timings.median is None


@pytest.mark.parametrize("name", ["runs", "my runs; rm -rf $HOME"])
def test_rerun_command_is_exact(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with create(tmp_path / name) as manifest:
        words = shlex.split(summarize(manifest.state).rerun)
    expected = ["dask-runner", "rerun", FIRST]
    assert words == (expected if name == "runs" else [*expected, "--runs", str(tmp_path / name)])


def test_is_json_and_comes_back(mixed):
    summary = summarize(read_state(mixed.manifest))
    assert msgspec.json.decode(msgspec.json.encode(summary), type=Summary) == summary


def test_reader_and_writer_agree(mixed, tmp_path):
    with create(tmp_path / "w", 3) as manifest:
        manifest.record(cluster_note(tev1=2))
        start(manifest, 0, 1)
        succeed(manifest, 0)
        fail(manifest, 1)
        assert summarize(manifest.state) == summarize(read_state(manifest.folder.manifest))


@given(
    st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=50).map(sorted),
    st.floats(0, 1),
)
def test_quantile_is_between_the_ends_and_monotonic(values, share):
    at = quantile(values, share)
    assert values[0] <= at <= values[-1] or at == pytest.approx(values[0])
    assert quantile(values, 0) == values[0]
    assert quantile(values, 1) == values[-1]
    assert at <= quantile(values, min(1.0, share + 0.1)) * (1 + 1e-12)
