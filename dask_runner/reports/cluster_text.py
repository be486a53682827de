"""A cluster that is up as text: a line for each host, then what is wrong, and what runs."""

from rich.text import Text

from dask_runner.cluster.status import ClusterStatus, HostStatus, Phase
from dask_runner.progress import duration
from dask_runner.reports.layout import Pieces, cell, plural, size, table

_STYLES = {
    Phase.UP: "green",
    Phase.LOST: "red",
    Phase.LEFT_OUT: "red",
    Phase.DRAINING: "yellow",
    Phase.DRAINED: "yellow",
}
_COLUMNS = (
    "host",
    "state",
    ">slots",
    ">busy",
    ">load",
    ">memory free",
    ">scratch free",
    "python",
    "*users",
    "*note",
)


def cluster(view: ClusterStatus) -> Pieces:
    """The whole cluster."""
    where = f"scheduler on {view.scheduler} at {view.address}" if view.address else "starting"
    head = (
        f"cluster {view.name}: {view.ready} of {plural(len(view.hosts), 'host')} up, "
        f"{plural(view.slots, 'slot')}, for {duration(view.up_for)}; {where}"
    )
    pieces: Pieces = [cell(head), table("", _COLUMNS, [_row(host) for host in view.hosts])]
    pieces += _problems(view)
    pieces += _runs(view)
    if view.dashboard:
        # -J or not, the user knows; where it listens, only we do.
        pieces.append(
            cell(
                f"dashboard: ssh -L 8787:localhost:{view.dashboard} {view.scheduler}, "
                "then http://localhost:8787"
            )
        )
    return pieces


def _row(host: HostStatus) -> tuple[object, ...]:
    known = host.memory_total > 0
    return (
        host.name,
        Text(host.phase.value, _STYLES.get(host.phase, "")),
        f"{host.slots}{' auto' if host.auto else ''}" if host.slots else "",
        len(host.running) if host.phase is Phase.UP else "",
        f"{host.load:.1f}" if known else "",
        f"{size(host.memory_free)} of {size(host.memory_total)}" if known else "",
        size(host.scratch_free) if known else "",
        host.python,
        " ".join(host.users),
        _note(host),
    )


def _note(host: HostStatus) -> str:
    notes = []
    if host.paused:
        notes.append(f"paused: {host.paused}")
    elif host.refusal:
        notes.append(f"no new batches: {host.refusal}")
    if host.tunnelled:
        notes.append("through SSH")
    notes += host.announced
    return "; ".join(notes)


def _problems(view: ClusterStatus) -> Pieces:
    pieces: Pieces = [cell(text, "yellow") for text in view.warnings]
    for host in view.hosts:
        if host.reason:
            pieces.append(cell(f"{host.name}: {host.reason}", "red"))
            if host.hint:
                pieces.append(cell(f"  {_hint(host)}"))
        pieces += [cell(f"{host.name}: {text}", "yellow") for text in host.warnings]
        earlier = host.errors[:-1] if host.reason else host.errors
        pieces += [cell(f"{host.name}: {text}") for text in earlier[-2:]]
    return pieces + [cell(text) for text in view.events[-3:]]


def _hint(host: HostStatus) -> str:
    # Nobody reads the hostfile again unasked.
    again = f"; then `dask-runner hosts add {host.name}`" if "in the hostfile" in host.hint else ""
    return f"{host.hint}{again}"


def _runs(view: ClusterStatus) -> Pieces:
    if not view.runs:
        return [cell("no run is using it")]
    rows = [
        (host.name, slot.run, slot.batch, duration(slot.seconds), size(slot.rss))
        for host in view.hosts
        for slot in host.running
    ]
    runs = [(run.run, run.pid, run.slots, run.demand) for run in view.runs]
    pieces: Pieces = [table("runs", ("run", ">pid", ">its slots", ">could use"), runs)]
    pieces += [cell(f"{run.run}: {text}", "yellow") for run in view.runs for text in run.announced]
    if rows:
        columns = ("host", "run", ">batch", ">for", ">memory")
        pieces.append(table("running batches", columns, rows[:20]))
    return pieces
