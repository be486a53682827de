"""The end of a run, and its errors, as text: counts, causes, where things are, what to do next."""

from rich.text import Text

from dask_runner.progress import duration
from dask_runner.reports.detail import Errors
from dask_runner.reports.layout import (
    Pieces,
    cell,
    fields,
    moment,
    more,
    plural,
    size,
    table,
    verdict,
)
from dask_runner.summary import Cause, FailedTrials, HostSummary, Summary
from dask_runner.trials.model import describe_point

_CAUSES_SHOWN = 10
_HOSTS_SHOWN = 20
_NOTES_SHOWN = 20
_POINTS_SHOWN = 3
_VERDICTS = {
    "done": "done: every batch is done",
    "failed": "failed: every batch was tried, some failed",
    "incomplete": "incomplete: batches are pending and nobody is at work on them",
    "running": "running",
}


def summary(view: Summary) -> Pieces:
    """What is shown when a run ends."""
    return [
        *headline(view),
        *fields(_facts(view)),
        *_host_table(view.hosts),
        *cause_table(view.causes),
        *_logs(view.causes[:_CAUSES_SHOWN]),
        *fields([("outputs", view.outputs if view.done else ""), ("run", view.folder)]),
        *_next(view.rerun),
    ]


def headline(view: Summary) -> Pieces:
    """The run's name and verdict, and whether trials failed: then it is done all the same."""
    return [
        Text.assemble(
            ("run ", "bold"),
            cell(f"{view.timestamp} ({view.workload}): ", "bold"),
            verdict(_VERDICTS[view.verdict]),
        ),
        *_failed_trials(view.failed_trials),
    ]


def _failed_trials(found: FailedTrials | None) -> Pieces:
    if found is None or not found.failed:
        return []
    worst = "; ".join(
        f"{describe_point(one.point)}: {one.failed} of {one.trials}"
        for one in found.worst[:_POINTS_SHOWN]
    )
    others = "; ..." if found.points > _POINTS_SHOWN else ""
    what = f"{plural(found.failed, 'failed trial')} at {plural(found.points, 'point')}"
    return [cell(f"{what}, left out of results: {worst}{others}")]


def _facts(view: Summary) -> list[tuple[str, str]]:
    timings, rates = view.timings, view.rates
    running = f", {view.running} running" if view.running else ""
    batches = f"{view.done} done, {view.failed} failed, {view.pending - view.running} pending"
    of = f"{batches}{running} of {view.total}"
    events = f"{view.events.done} done of {view.events.total}"
    times = f"{duration(timings.span)}, CPU {duration(timings.cpu)}"
    spread = ""
    if timings.median is not None and timings.p05 is not None and timings.p95 is not None:
        spread = (
            f"median {duration(timings.median)}, 90 % between {duration(timings.p05)} and "
            f"{duration(timings.p95)}"
        )
    failed = f"{view.failed_attempts} failed" if view.failed_attempts else ""
    return [
        ("label", view.label),
        ("batches", of),
        (view.unit, events if rates.events is None else f"{events}, {rates.events:.3g}/s"),
        ("time", times),
        ("a batch", spread),
        ("attempts", failed),
        ("written", size(view.output_bytes) if view.output_bytes else ""),
    ]


def _host_table(hosts: tuple[HostSummary, ...]) -> Pieces:
    columns = ("host", ">done", ">failed", ">returned", ">wall", ">CPU", ">most memory")
    rows = [
        (
            host.host,
            host.done,
            host.failed,
            host.returned,
            duration(host.wall),
            duration(host.cpu),
            size(host.max_rss) if host.max_rss else "-",
        )
        for host in hosts[:_HOSTS_SHOWN]
    ]
    if not rows:
        return []
    return [
        Text(),
        table("attempts by host", columns, rows),
        *more(len(rows), len(hosts), "hosts"),
        Text(),
    ]


def cause_table(causes: tuple[Cause, ...]) -> Pieces:
    """Why batches failed, one line for each cause."""
    columns = ("cause", "fingerprint", ">batches", "*hosts", "*message")
    rows = [
        (
            cause.kind.value,
            cause.fingerprint,
            cause.batches,
            " ".join(cause.hosts),
            cause.message,
        )
        for cause in causes[:_CAUSES_SHOWN]
    ]
    if not rows:
        return []
    return [
        table("failed batches by cause", columns, rows),
        *more(len(rows), len(causes), "causes: see `dask-runner errors`"),
    ]


def _logs(causes: tuple[Cause, ...]) -> Pieces:
    """Where an example of each cause can be read."""
    lines = [
        piece
        for cause in causes
        for piece in fields(
            [(f"log of {cause.fingerprint}", cause.log or "none"), ("", cause.read)], "  "
        )
    ]
    return [*lines, Text()] if lines else []


def _next(rerun: str) -> Pieces:
    return [Text.assemble("to do what is left: ", cell(rerun, "bold"))] if rerun else []


def errors(view: Errors) -> Pieces:
    """Each cause with its example and the end of the example's log."""
    if not view.failed:
        again = (
            f" ({plural(view.failed_attempts, 'failed attempt')}, tried again)"
            if view.failed_attempts
            else ""
        )
        return [cell(f"run {view.timestamp}: no failed batches{again}"), *_host_notes(view)]
    pieces: Pieces = [
        cell(
            f"run {view.timestamp}: {plural(view.failed, 'failed batch')} in "
            f"{plural(len(view.causes), 'cause')}",
            "bold",
        )
    ]
    for cause in view.causes:
        pieces += [Text(), *_cause(view.rerun, cause)]
    return [*pieces, Text(), *_host_notes(view), *_next(view.rerun)]


def _host_notes(view: Errors) -> Pieces:
    """What was held against hosts, or against batches and not the hosts; the latest."""
    shown = view.hosts[-_NOTES_SHOWN:]
    return [
        *more(len(shown), len(view.hosts), "notes on hosts: see `dask-runner show`"),
        *(cell(f"{moment(note.time)}  {note.kind}: {note.text}") for note in shown),
    ]


def _cause(rerun: str, cause: Cause) -> Pieces:
    head = f"{cause.kind.value} {cause.fingerprint}: {plural(cause.batches, 'batch')}"
    return [
        cell(f"{head}, {plural(cause.events, 'event')}", "red"),
        *fields(
            [
                ("message", cause.message),
                ("input", cause.path),
                ("hosts", " ".join(cause.hosts)),
                ("example", f"batch {cause.example}, attempt {cause.attempt}"),
                ("log", cause.log or "none"),
                ("read it", cause.read),
                ("only these", f"{rerun} --cause {cause.fingerprint}"),
            ],
            indent="  ",
        ),
        *(cell(f"  | {line}") for line in cause.tail.splitlines()),
    ]
