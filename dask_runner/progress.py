"""What the user sees while a run goes on, behind a callback that dispatch calls with a Snapshot.

Owns the live view, the plain lines, the time to the end, and how durations are written. Refuses to
know Dask or what a batch is: everything it shows is in the Snapshot, which dispatch fills from its
own knowledge and `snapshot` from a manifest that somebody else writes.
"""

import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from msgspec import Struct, field
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dask_runner.manifest import NoteKind, RunState
from dask_runner.workloads import counted

_FAILURES_SHOWN = 3
_TROUBLES = 5
_LIVE_INTERVAL = 0.2
_PLAIN_INTERVAL = 5.0
_MOST_BINS = 64
_FEWEST_FINISHED = 3


class Snapshot(Struct, frozen=True, kw_only=True):
    """The state of a run at one moment. `elapsed` in s of this dispatch; `hosts` gives for each
    host its busy slots and all its slots, `troubles` why a host takes no batches; `waiting` what
    is waited for with everything ("": nothing). `latest_failures` are one line each, newest last.
    """

    done: int
    failed: int
    running: int
    pending: int
    events_done: int
    events_total: int
    elapsed: float
    unit: str = "events"
    hosts: dict[str, tuple[int, int]] = field(default_factory=dict)
    troubles: dict[str, str] = field(default_factory=dict)
    waiting: str = ""
    latest_failures: tuple[str, ...] = ()
    draining: bool = False

    @property
    def finished(self) -> int:
        return self.done + self.failed

    @property
    def total(self) -> int:
        return self.done + self.failed + self.running + self.pending


def snapshot(state: RunState, *, elapsed: float) -> Snapshot:
    """The moment as the manifest of an active run tells it."""
    running = len(state.running)
    return Snapshot(
        done=state.done.batches,
        failed=state.failed.batches,
        running=running,
        pending=state.pending.batches - running,
        events_done=state.done.events,
        events_total=state.total.events,
        elapsed=elapsed,
        unit=counted(state.header.workload.name),
        hosts=hosts_of(state),
        troubles=troubles_of(state),
    )


def hosts_of(state: RunState) -> dict[str, tuple[int, int]]:
    """Busy slots and all slots of each host of the cluster that the driver opened last, as they
    came and went since.

    A group of short batches keeps one slot busy. A host without a name is the only one there is.
    """
    slots: dict[str, int] = {}
    for note in state.notes:
        if note.kind == NoteKind.CLUSTER:
            slots = dict(note.data.get("hosts", {}))
        elif note.kind == NoteKind.JOINED:
            slots[note.data["host"]] = note.data["slots"]
        elif note.kind == NoteKind.LOST_HOST:
            slots.pop(note.data["host"], None)
    groups = {running.group: running.host for running in state.running.values()}
    default = next(iter(slots)) if len(slots) == 1 else ""
    busy = Counter(host or default for host in groups.values())
    # More groups than slots are on their way: the rest waits at the host.
    return {name: (min(busy[name], count), count) for name, count in slots.items()}


def troubles_of(state: RunState) -> dict[str, str]:
    """Why hosts of the cluster that the driver opened last get no batches, as the notes tell."""
    troubles: dict[str, str] = {}
    for note in state.notes:
        host = note.data.get("host", "")
        if note.kind == NoteKind.CLUSTER:
            troubles = {}
        elif note.kind in {NoteKind.QUARANTINE, NoteKind.REFUSED}:
            troubles[host] = note.text
        elif note.kind == NoteKind.LOST_HOST:
            # Also if it is under quarantine: that stays so when it is back.
            troubles.setdefault(host, note.text)
        elif note.kind == NoteKind.TRUSTED or (
            note.kind == NoteKind.JOINED and "quarantine" not in troubles.get(host, "")
        ):
            troubles.pop(host, None)
    return troubles


class Progress(Protocol):
    """Shows snapshots between entering and leaving it as a context.

    `update` may be called ten times a second, from one thread; it returns at once. `say` shows a
    line that stays.
    """

    def __enter__(self) -> Self: ...

    def say(self, text: str) -> None: ...

    def update(self, snapshot: Snapshot) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Forecast(Struct, frozen=True, kw_only=True):
    """The time to the end, in s: expected, and one standard deviation."""

    eta: float
    spread: float


class Pace:
    """The rate of this dispatch, from how many batches finished in bins of equal time.

    At most 64 bins; when they are full, neighbours are joined. The spread is that of a prediction:
    with relative scatter s of the bins' counts, n bins behind and m to come, s * sqrt(1/n + 1/m).
    """

    def __init__(self) -> None:
        self._width = 0.25
        self._bins: list[int] = []
        self._first: Snapshot | None = None
        self._last: Snapshot | None = None

    def add(self, snapshot: Snapshot) -> None:
        if self._first is None or self._last is None:
            # Batches done in an earlier dispatch say nothing about this one.
            self._first = self._last = snapshot
            return
        place = max(0, int((snapshot.elapsed - self._first.elapsed) / self._width))
        while place >= _MOST_BINS:
            self._join()
            place //= 2
        self._bins.extend([0] * (place + 1 - len(self._bins)))
        self._bins[-1] += max(0, snapshot.finished - self._last.finished)
        self._last = snapshot

    def _join(self) -> None:
        self._bins = [sum(self._bins[at : at + 2]) for at in range(0, len(self._bins), 2)]
        self._width *= 2

    def events_per_second(self) -> float | None:
        if self._first is None or self._last is None:
            return None
        seconds = self._last.elapsed - self._first.elapsed
        return (self._last.events_done - self._first.events_done) / seconds if seconds > 0 else None

    def forecast(self) -> Forecast | None:
        """None as long as too few batches have finished to say anything."""
        if self._first is None or self._last is None:
            return None
        finished = sum(self._bins)
        seconds = self._last.elapsed - self._first.elapsed
        if finished < _FEWEST_FINISHED or seconds <= 0:
            return None
        eta = (self._last.total - self._last.finished) * seconds / finished
        mean = finished / len(self._bins)
        # Never below counting statistics: a few equal bins must not promise certainty.
        variance = max(mean, sum((count - mean) ** 2 for count in self._bins) / len(self._bins))
        behind, ahead = len(self._bins), max(eta / self._width, 1.0)
        relative = variance**0.5 / mean * (1 / behind + 1 / ahead) ** 0.5
        return Forecast(eta=eta, spread=eta * relative)


class QuietProgress:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def say(self, text: str) -> None:
        """Nothing is shown."""

    def update(self, snapshot: Snapshot) -> None:
        """Nothing is shown."""

    def __exit__(self, *exception: object) -> None:
        """Nothing is held."""


class PlainProgress:
    """One line every few seconds, for files and pipes; new failures are named as they come."""

    def __init__(
        self,
        console: Console,
        *,
        interval: float = _PLAIN_INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._interval = interval
        self._clock = clock
        self._pace = Pace()
        self._next = clock()
        self._unshown: Snapshot | None = None
        self._failures: tuple[str, ...] = ()
        self._troubles: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def say(self, text: str) -> None:
        self._line(printable(text))

    def update(self, snapshot: Snapshot) -> None:
        self._pace.add(snapshot)
        self._unshown = snapshot
        if self._clock() >= self._next:
            self._show(snapshot)

    def __exit__(self, *exception: object) -> None:
        if self._unshown is not None:
            self._show(self._unshown)

    def _show(self, snapshot: Snapshot) -> None:
        self._next = self._clock() + self._interval
        self._unshown = None
        for failure in snapshot.latest_failures:
            if failure not in self._failures:
                self._line(f"failed: {printable(failure)}")
        self._failures = snapshot.latest_failures
        for host, trouble in snapshot.troubles.items():
            if self._troubles.get(host) != trouble:
                self._line(f"no batches to {printable(host)}: {printable(trouble)}")
        self._troubles = snapshot.troubles
        self._line(plain_line(snapshot, self._pace))

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class LiveProgress:
    """A view that is redrawn in place on a terminal."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pace = Pace()
        self._next = clock()
        self._latest: Snapshot | None = None
        # Redrawn in update(), not by a thread: dispatch calls it often enough. What others write
        # to stderr appears above the view; stdout carries data and is left alone.
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def say(self, text: str) -> None:
        self._live.console.print(printable(text), markup=False, highlight=False)

    def update(self, snapshot: Snapshot) -> None:
        self._pace.add(snapshot)
        self._latest = snapshot
        if self._clock() >= self._next:
            self._draw(snapshot)

    def __exit__(self, *exception: object) -> None:
        if self._latest is not None:
            self._draw(self._latest)
        self._live.stop()

    def _draw(self, snapshot: Snapshot) -> None:
        self._next = self._clock() + _LIVE_INTERVAL
        self._live.update(live_view(snapshot, self._pace), refresh=True)


def choose(console: Console, quiet: bool) -> Progress:
    """The way to show progress on this console."""
    if quiet:
        return QuietProgress()
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveProgress(console)
    return PlainProgress(console)


def plain_line(snapshot: Snapshot, pace: Pace) -> str:
    """The state of a run in one line without colour."""
    busy, slots = _slots(snapshot)
    parts = [
        f"{snapshot.done}/{snapshot.total} batches done",
        f"{snapshot.failed} failed, {snapshot.running} running, {snapshot.pending} pending",
        _events(snapshot, pace),
        _times(snapshot, pace),
    ]
    if snapshot.hosts:
        plural = "" if len(snapshot.hosts) == 1 else "s"
        parts.append(f"{busy}/{slots} slots on {len(snapshot.hosts)} host{plural}")
    if snapshot.waiting:
        parts.append(f"waiting: {printable(snapshot.waiting)}")
    if snapshot.draining:
        parts.append("draining")
    return " | ".join(parts)


def live_view(snapshot: Snapshot, pace: Pace) -> Group:
    """The state of a run as a few lines for a terminal."""
    share = snapshot.finished / snapshot.total if snapshot.total else 1.0
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        ProgressBar(total=max(snapshot.total, 1), completed=snapshot.finished, width=40),
        Text(f"{share:4.0%}"),
        Text(f"{snapshot.finished}/{snapshot.total} batches"),
    )
    counts = Text.assemble(
        (f"done {snapshot.done}", "green"),
        "  ",
        (f"failed {snapshot.failed}", "red" if snapshot.failed else ""),
        f"  running {snapshot.running}  pending {snapshot.pending}",
    )
    lines = [counts, Text(_events(snapshot, pace)), Text(_times(snapshot, pace))]
    if snapshot.hosts:
        hosts = (f"{printable(name)} {b}/{s}" for name, (b, s) in snapshot.hosts.items())
        lines.append(Text(f"slots busy: {'  '.join(hosts)}"))
    troubles = [f"{printable(name)}: {printable(why)}" for name, why in snapshot.troubles.items()]
    lines.extend(Text(f"no batches to {trouble}", "yellow") for trouble in troubles[:_TROUBLES])
    if len(troubles) > _TROUBLES:
        lines.append(Text(f"... and to {len(troubles) - _TROUBLES} more hosts", "yellow"))
    if snapshot.waiting:
        lines.append(Text(f"waiting: {printable(snapshot.waiting)}", "yellow"))
    if snapshot.draining:
        lines.append(Text("draining: running batches are finished, no new ones are started"))
    failures = snapshot.latest_failures[-_FAILURES_SHOWN:]
    lines.extend(Text(f"failed: {printable(failure)}", "red") for failure in failures)
    for line in lines:
        # A line that wrapped would move the view; long ones are cut.
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(bar, *lines)


def _slots(snapshot: Snapshot) -> tuple[int, int]:
    return (
        sum(busy for busy, _ in snapshot.hosts.values()),
        sum(slots for _, slots in snapshot.hosts.values()),
    )


def _events(snapshot: Snapshot, pace: Pace) -> str:
    rate = pace.events_per_second()
    counts = f"{snapshot.events_done}/{snapshot.events_total} {snapshot.unit}"
    return counts if rate is None else f"{counts}, {rate:.3g} {snapshot.unit}/s"


def _times(snapshot: Snapshot, pace: Pace) -> str:
    elapsed = f"elapsed {duration(snapshot.elapsed)}"
    forecast = pace.forecast()
    if forecast is None:
        return elapsed
    return f"{elapsed}, ETA {duration(forecast.eta)} +- {duration(forecast.spread)}"


_MINUTE = 60
_HOUR = 3600
_DAY = 86_400


def duration(seconds: float) -> str:
    """Seconds as a person says them: `0.31 s`, `42 s`, `3 min 20 s`, `5 h 02 min`, `2 d 04 h`."""
    if seconds < 10:  # noqa: PLR2004 below ten, tenths matter
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02d} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02d} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR:02d} h"


def printable(text: str) -> str:
    """Text on one line without control characters: a log or a file name must not steer the
    user's terminal.
    """
    return "".join(char if char.isprintable() else " " for char in text)
