"""reports: the end of a run as a table of causes, as JSON, and what hostile text does to them."""

import io
import json

import pytest
from reading_runs import FIRST, create, fail, start, succeed
from rich.console import Console

from dask_runner.batch import FailureKind
from dask_runner.reports import REPORTS
from dask_runner.reports.detail import batch_detail, errors_of, run_detail
from dask_runner.reports.layout import plural, size
from dask_runner.reports.listing import Watch, run_list
from dask_runner.reports.terminal import render
from dask_runner.summary import summarize

HOSTILE = "[red]no[/red] [/] [link=x]\x1b]8;;http://x\x07 \udcff \u2028 {} %s"


def text_of(view, *, report="terminal", terminal=False, width=80):
    target = Console(
        file=io.StringIO(), force_terminal=terminal, width=width, color_system=None, soft_wrap=False
    )
    REPORTS[report](view, target)
    return target.file.getvalue()


@pytest.fixture
def manifest(tmp_path):
    with create(tmp_path / ("deep" * 20) / "runs", 5, label=HOSTILE[:9]) as manifest:
        start(manifest, *range(5))
        succeed(manifest, 0)
        fail(manifest, 1, message=HOSTILE)
        fail(manifest, 2, message=HOSTILE, host="tev3")
        fail(manifest, 3, kind=FailureKind.TIMEOUT, fingerprint="51ow", message="too slow")
        yield manifest


@pytest.mark.parametrize(("terminal", "width"), [(False, 80), (True, 80), (True, 120)])
def test_end_of_run(manifest, terminal, width):
    summary = summarize(manifest.state)
    text = text_of(summary, terminal=terminal, width=width)
    lines = text.splitlines()
    assert lines[0].startswith(f"run {FIRST}")
    assert "incomplete" in lines[0]
    for wanted in (
        "f00d",
        "51ow",
        "tev2 tev3",
        "1 done, 3 failed, 1 pending of 5",
        "25 done of 125",
    ):
        assert wanted in text
    # Each on one line of its own, to be copied.
    assert any(str(manifest.folder.attempt(1, 1) / "log.txt") in line for line in lines)
    assert any(line.endswith(str(manifest.folder.outputs)) for line in lines)
    assert lines[-1] == f"to do what is left: {summary.rerun}"


def test_end_of_a_run_without_failures_is_short(tmp_path):
    with create(tmp_path, 1) as manifest:
        start(manifest, 0)
        succeed(manifest, 0)
        text = text_of(summarize(manifest.state))
    assert "done: every batch is done" in text
    assert "cause" not in text
    assert "rerun" not in text
    assert len(text.splitlines()) < 15


def test_many_causes_are_counted(tmp_path):
    with create(tmp_path, 15) as manifest:
        start(manifest, *range(15))
        for index in range(15):
            fail(manifest, index, fingerprint=f"cause{index}")
        text = text_of(summarize(manifest.state))
    assert "cause9 " in text
    assert "cause10 " not in text
    assert "... and 5 more causes" in text


@pytest.mark.parametrize("report", list(REPORTS))
def test_every_view_has_every_report_and_survives_hostile_text(manifest, report):
    state = manifest.state
    views = [
        summarize(state),
        errors_of(state),
        run_list(manifest.folder.path.parent),
        Watch(manifest.folder.path.parent).look(),
        Watch(manifest.folder.path.parent, manifest.folder.path).look(),
        run_detail(state, None),
        *(batch_detail(state, index, active=True) for index in range(5)),
    ]
    for view in views:
        text = text_of(view, report=report)
        text.encode()
        assert "\x1b" not in text
        if report == "json":
            assert isinstance(json.loads(text), dict)
        else:
            assert text_of(view, terminal=True, width=40)
            Console(file=io.StringIO()).print(render(view))
    message = text_of(batch_detail(state, 1, active=True), report=report)
    assert "[red]no[/red] [/] [link=x]" in message


def test_json_of_a_summary_has_the_documented_keys(manifest):
    answer = json.loads(text_of(summarize(manifest.state), report="json"))
    assert set(answer) == {
        "timestamp", "label", "workload", "verdict", "total", "done", "failed", "pending",
        "running", "unit", "events", "created", "last", "timings", "rates", "causes", "hosts",
        "failed_attempts", "folder", "outputs", "output_bytes", "rerun", "failed_trials",
    }  # fmt: skip
    assert set(answer["events"]) == {"total", "done", "failed", "pending"}
    assert set(answer["timings"]) == {
        "span", "wall", "cpu", "mean", "median", "p05", "p95", "max",
    }  # fmt: skip
    assert set(answer["rates"]) == {"batches", "events", "events_per_slot", "efficiency"}
    assert set(answer["hosts"][0]) == {
        "host", "done", "failed", "returned", "wall", "cpu", "max_rss",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (999_999, "1 MB"),
        (1_550_000, "1.55 MB"),
        (123_456, "123 kB"),
        (2e18, "2000 PB"),
    ],
)
def test_size(count, text):
    assert size(count) == text


def test_plural():
    assert [plural(n, "batch") for n in (0, 1, 2)] == ["0 batches", "1 batch", "2 batches"]
    assert [plural(n, "entry") for n in (1, 2)] == ["1 entry", "2 entries"]
    assert plural(3, "failed attempt") == "3 failed attempts"
