"""progress: plain lines, the live view, the forecast, and that nothing in a message is markup."""

import io
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading_runs import cluster_note, create, start, succeed
from rich.console import Console

from dask_runner.manifest import Note, NoteKind, read_state
from dask_runner.progress import (
    LiveProgress,
    Pace,
    PlainProgress,
    QuietProgress,
    Snapshot,
    choose,
    duration,
    live_view,
    printable,
    snapshot,
)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def state(done=0, *, failed=0, running=2, total=40, elapsed=0.0, **more):
    return Snapshot(
        done=done,
        failed=failed,
        running=running,
        pending=total - done - failed - running,
        events_done=done * 25,
        events_total=total * 25,
        elapsed=elapsed,
        **more,
    )


def console(*, terminal=False, width=80):
    # The size is given: rich would ask the real terminal.
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=width, height=25, legacy_windows=False
    )


def lines(target):
    return target.file.getvalue().splitlines()


def test_plain_is_one_line_every_few_seconds(monkeypatch):
    out, clock = console(), Clock()
    with PlainProgress(out, interval=5.0, clock=clock) as progress:
        for step in range(101):
            clock.now = 100.0 + step / 10
            progress.update(state(step // 10, elapsed=step / 10, hosts={"tev1": (2, 4)}))
    assert len(lines(out)) == 3
    assert lines(out)[0] == (
        "0/40 batches done | 0 failed, 2 running, 38 pending | 0/1000 events | elapsed 0 s | "
        "2/4 slots on 1 host"
    )
    assert "10/40 batches done" in lines(out)[-1]
    assert "250/1000 events, 25 events/s" in lines(out)[-1]
    assert "elapsed 10 s, ETA 30 s +- " in lines(out)[-1]


def test_plain_shows_the_last_state_when_left_also_by_an_exception():
    out, clock = console(), Clock()

    def interrupted():
        with PlainProgress(out, clock=clock) as progress:
            progress.update(state(0))
            progress.update(state(39, elapsed=1.0, draining=True))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "39/40 batches done" in lines(out)[-1]
    assert lines(out)[-1].endswith("| draining")


def test_plain_names_each_failure_once_and_takes_it_literally():
    out, clock = console(), Clock()
    nasty = "batch 3: exception: [bold]no[/] \x1b[31mred\nnext [/nothing]"
    with PlainProgress(out, clock=clock) as progress:
        for step in range(3):
            clock.now += 10
            progress.update(state(step, failed=1, elapsed=step, latest_failures=(nasty,)))
    named = [line for line in lines(out) if line.startswith("failed: ")]
    assert named == ["failed: batch 3: exception: [bold]no[/]  [31mred next [/nothing]"]


def test_live_view_has_everything_and_fits_the_width():
    out = console(terminal=False, width=60)
    pace = Pace()
    for step in range(10):
        pace.add(state(step, failed=1, elapsed=float(step)))
    view = live_view(
        state(
            9,
            failed=1,
            elapsed=9.0,
            hosts={"tev1": (2, 2), "tev2": (1, 4)},
            latest_failures=("old", "batch 7: timeout: [x]", "y" * 200, "last"),
            draining=True,
        ),
        pace,
    )
    out.print(view)
    text = out.file.getvalue()
    for wanted in (
        "10/40 batches", "25%", "done 9  failed 1  running 2  pending 28", "225/1000 events",
        "25 events/s", "ETA 30 s +- ", "tev1 2/2  tev2 1/4", "draining", "[x]", "last",
    ):  # fmt: skip
        assert wanted in text
    assert "failed: old" not in text, "only the latest three"
    assert max(map(len, text.splitlines())) <= 60


def test_live_redraws_seldom_and_costs_little():
    out, clock = console(terminal=True), Clock()
    began = time.process_time()
    with LiveProgress(out, clock=clock) as progress:
        for step in range(2000):
            clock.now += 0.001
            progress.update(state(0, elapsed=step / 1000))
    # 2 s at one redraw in 0.2 s, and the last state.
    assert 10 <= out.file.getvalue().count("1000 events") <= 13
    assert time.process_time() - began < 1.0


def test_choice_of_display(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(choose(console(terminal=True), quiet=False), LiveProgress)
    assert isinstance(choose(console(), quiet=False), PlainProgress)
    assert isinstance(choose(console(terminal=True), quiet=True), QuietProgress)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(choose(console(terminal=True), quiet=False), PlainProgress)


def test_quiet_says_nothing(capsys):
    with QuietProgress() as progress:
        progress.update(state(3))
    assert capsys.readouterr() == ("", "")


def test_forecast_is_exact_for_a_steady_run_and_ignores_what_was_done_before():
    pace = Pace()
    for step in range(200):
        pace.add(state(1000 + step, total=2000, elapsed=5.0 + step * 0.5))
    forecast = pace.forecast()
    assert forecast.eta == pytest.approx((2000 - 1199) / 2, rel=0.01)
    assert 0 < forecast.spread < forecast.eta
    assert pace.events_per_second() == pytest.approx(50)


def test_forecast_needs_a_few_batches():
    pace = Pace()
    for step in range(3):
        pace.add(state(step, elapsed=float(step)))
    assert pace.forecast() is None
    pace.add(state(3, elapsed=3.0))
    assert pace.forecast() is not None


def test_spread_grows_with_scatter():
    steady, bursts = Pace(), Pace()
    for step in range(1, 401):
        steady.add(state(step, total=4000, elapsed=float(step)))
        bursts.add(state(step // 100 * 100, total=4000, elapsed=float(step)))
    assert bursts.forecast().spread > 3 * steady.forecast().spread


@given(
    st.lists(st.tuples(st.floats(0, 1e5), st.integers(0, 50)), min_size=1, max_size=60),
)
def test_pace_counts_every_batch_in_few_bins(steps):
    pace, elapsed, done = Pace(), 0.0, 7
    pace.add(state(done, total=10_000, elapsed=elapsed))
    for seconds, batches in steps:
        elapsed += seconds
        done += batches
        pace.add(state(done, total=10_000, elapsed=elapsed))
    assert sum(pace._bins) == done - 7
    assert len(pace._bins) <= 64
    forecast = pace.forecast()
    assert forecast is None or (forecast.eta >= 0 and forecast.spread >= 0)


def test_snapshot_from_a_manifest(tmp_path):
    with create(tmp_path, 6) as manifest:
        manifest.record(cluster_note(tev1=2))
        start(manifest, 0)
        succeed(manifest, 0)
        start(manifest, 1, host="")
        start(manifest, 2, 3, host="")
        start(manifest, 4, host="")
        shown = snapshot(read_state(manifest.folder.manifest), elapsed=3.0)
    assert (shown.done, shown.failed, shown.running, shown.pending) == (1, 0, 4, 1)
    assert (shown.events_done, shown.events_total, shown.elapsed) == (25, 150, 3.0)
    assert shown.hosts == {"tev1": (2, 2)}, "three groups on two slots: one waits"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (0.314, "0.31 s"), (9.96, "10 s"), (42.4, "42 s"), (59.7, "1 min 00 s"),
        (200, "3 min 20 s"), (3600, "1 h 00 min"), (18_120, "5 h 02 min"), (187_200, "2 d 04 h"),
    ],
)  # fmt: skip
def test_duration(seconds, text):
    assert duration(seconds) == text


@given(st.text())
def test_printable_is_one_line_without_control_characters(text):
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) == len(text)
    assert all(new == old for new, old in zip(shown, text, strict=True) if old.isprintable())


def host_note(kind, host, **data):
    return Note(kind=kind, text=f"{host}: {kind}", data={"host": host, **data})


def test_snapshot_from_a_manifest_knows_who_came_who_went_and_who_is_distrusted(tmp_path):
    with create(tmp_path, 6) as manifest:
        manifest.record(cluster_note(tev1=2, tev2=4))
        manifest.record(
            host_note(NoteKind.QUARANTINE, "tev1"),
            host_note(NoteKind.LOST_HOST, "tev1"),
            host_note(NoteKind.JOINED, "tev1", slots=2),
            host_note(NoteKind.LOST_HOST, "tev2"),
            host_note(NoteKind.JOINED, "tev3", slots=8),
        )
        before = snapshot(read_state(manifest.folder.manifest), elapsed=3.0)
        manifest.record(host_note(NoteKind.TRUSTED, "tev1"))
        manifest.record(host_note(NoteKind.JOINED, "tev2", slots=4))
        after = snapshot(read_state(manifest.folder.manifest), elapsed=3.0)
    assert before.hosts == {"tev1": (0, 2), "tev3": (0, 8)}
    assert before.troubles == {"tev1": "tev1: quarantine", "tev2": "tev2: lost-host"}
    assert after.hosts == {"tev1": (0, 2), "tev2": (0, 4), "tev3": (0, 8)}
    assert after.troubles == {}


def test_hosts_without_batches_are_named_with_the_reason_and_once_in_plain_lines():
    out, clock = console(), Clock()
    troubles = {"tev1": "quarantine: [bold]", "tev2": "memory above 90 %"}
    with PlainProgress(out, clock=clock) as progress:
        progress.say("using cluster main: 2 hosts, 8 slots")
        for step in range(3):
            clock.now += 10
            progress.update(state(step, elapsed=step, troubles=troubles, waiting="for hosts"))
    text = lines(out)
    assert text[0] == "using cluster main: 2 hosts, 8 slots"
    assert text.count("no batches to tev1: quarantine: [bold]") == 1
    assert text.count("no batches to tev2: memory above 90 %") == 1
    assert text[-1].endswith("| waiting: for hosts")
    view = console(width=60)
    many = {f"tev{number}": "full" for number in range(8)}
    view.print(live_view(state(1, troubles=many, waiting="for hosts"), Pace()))
    shown = view.file.getvalue()
    assert "no batches to tev4: full" in shown
    assert "tev5" not in shown
    assert "3 more hosts" in shown
    assert "waiting: for hosts" in shown
