"""Lists of runs and the state of active ones as text."""

from rich.table import Table
from rich.text import Text

from dask_runner.progress import duration
from dask_runner.reports import cluster_text
from dask_runner.reports.layout import Pieces, cell, fields, moment, more, plural, size, table
from dask_runner.reports.layout import verdict as verdict_text
from dask_runner.reports.listing import (
    ClusterView,
    RunList,
    RunningBatch,
    RunStatus,
    Status,
    UnreadableRun,
)
from dask_runner.reports.summary_text import cause_table, headline
from dask_runner.summary import Summary

_BATCHES_SHOWN = 20


def run_list(view: RunList) -> Pieces:
    """All runs, newest last."""
    if not (view.runs or view.unreadable):
        return [cell(f"no runs in {view.folder}")]
    columns = (
        "run",
        "verdict",
        "*workload",
        ">done",
        ">failed",
        ">events",
        ">size",
        "*label",
    )
    rows = [
        (
            run.timestamp,
            verdict_text(run.verdict),
            run.workload,
            f"{run.done}/{run.batches}",
            run.failed,
            run.events,
            size(run.output_bytes),
            run.label,
        )
        for run in view.runs
    ]
    return [*([table("", columns, rows)] if rows else []), *_unreadable(view.unreadable)]


def _unreadable(runs: tuple[UnreadableRun, ...]) -> Pieces:
    return [cell(f"run {run.timestamp} cannot be read: {run.problem}", "red") for run in runs]


def status(view: Status) -> Pieces:
    """The clusters and the active runs together."""
    pieces: Pieces = []
    for one in view.clusters:
        pieces += [*cluster_text.cluster(one), Text()]
    if not view.runs:
        no_cluster = "" if view.clusters else "no cluster is up, and "
        pieces.append(cell(f"{no_cluster}no active run in {view.folder}"))
    else:
        opened = _cluster_table(view)
        pieces += [*opened, *([Text()] if opened else []), _active_table(view)]
    return [*pieces, *_unreadable(view.unreadable)]


def _cluster_table(view: Status) -> Pieces:
    """The clusters that runs have opened for themselves: those that are up are shown already."""
    shown = {cluster.cluster for cluster in view.clusters}
    rows = [
        (run.cluster.name, host.host, host.slots, host.busy, run.summary.timestamp)
        for run in view.runs
        if run.cluster is not None and run.cluster.name not in shown
        for host in run.cluster.hosts
    ]
    opening = [run.summary.timestamp for run in view.runs if run.cluster is None]
    columns = ("cluster", "host", ">slots", ">busy", "run")
    return [
        *([table("cluster", columns, rows)] if rows else []),
        *(cell(f"run {name}: its cluster is not open yet") for name in opening),
    ]


def _active_table(view: Status) -> Table:
    columns = ("run", "*workload", ">done", ">failed", ">running", ">pending", "*label")
    rows = [
        (
            run.summary.timestamp,
            run.summary.workload,
            f"{run.summary.done}/{run.summary.total}",
            run.summary.failed,
            run.summary.running,
            run.summary.pending - run.summary.running,
            run.summary.label,
        )
        for run in view.runs
    ]
    return table("active runs", columns, rows)


def run_status(view: RunStatus) -> Pieces:
    """One run now."""
    summary = view.summary
    return [
        *headline(summary),
        *fields([*_numbers(summary), ("driver", _driver(view)), *_cluster(view.cluster)]),
        *_running(view.running),
        *cause_table(summary.causes),
        *fields([("to do what is left", "" if view.driver else summary.rerun)]),
    ]


def _numbers(summary: Summary) -> list[tuple[str, str]]:
    waiting = summary.pending - summary.running
    rate = "" if summary.rates.events is None else f", {summary.rates.events:.3g}/s"
    started = f"{summary.failed} failed, {summary.running} running, {waiting} pending"
    return [
        ("label", summary.label),
        ("batches", f"{summary.done}/{summary.total} done, {started}"),
        ("events", f"{summary.events.done}/{summary.events.total} done{rate}"),
        ("time", duration(summary.timings.span)),
        ("written", size(summary.output_bytes) if summary.output_bytes else ""),
    ]


def _driver(view: RunStatus) -> str:
    if view.driver is None:
        return "none: nobody is at work on this run"
    driver = view.driver
    doubt = "" if driver.certain else " (whether it lives cannot be seen from here)"
    return f"process {driver.pid} on {driver.host} since {moment(driver.since)}{doubt}"


def _cluster(cluster: ClusterView | None) -> list[tuple[str, str]]:
    if cluster is None:
        return []
    hosts = "  ".join(f"{host.host} {host.busy}/{host.slots}" for host in cluster.hosts)
    return [("cluster", f"{cluster.name}, busy slots: {hosts}")]


def _running(batches: tuple[RunningBatch, ...]) -> Pieces:
    rows = [
        (batch.batch, batch.attempt, batch.host or "-", duration(batch.seconds))
        for batch in batches[:_BATCHES_SHOWN]
    ]
    if not rows:
        return []
    return [
        table(
            plural(len(batches), "running batch"), (">batch", ">attempt", "host", ">since"), rows
        ),
        *more(len(rows), len(batches), "running batches"),
    ]
