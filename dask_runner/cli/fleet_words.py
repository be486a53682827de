"""What the hosts commands say: tables and lines from the answers of hosts on stdout, and what went
wrong on stderr.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import typer

from dask_runner.cli.console import err, escape, out, print_json
from dask_runner.errors import EXIT_CLUSTER, EXIT_DONE

if TYPE_CHECKING:
    from dask_runner.cluster.fleet.commands import Ending, Found, HostProcess, Killed
    from dask_runner.cluster.fleet.files import Copied

_SHOWN = 20


def exit_code(good: Iterable[bool]) -> int:
    return EXIT_DONE if all(good) else EXIT_CLUSTER


def say_endings(endings: "Sequence[Ending]") -> None:
    failed = [ending for ending in endings if ending.code]
    for ending in failed:
        reason = ending.reason or f"{ending.host}: exit code {ending.code}"
        err.print(f"[red]{escape(reason)}[/]")
        if ending.hint:
            err.print(f"  {escape(ending.hint)}")
    if failed and len(endings) > 1:
        err.print(f"failed on {len(failed)} of {len(endings)} hosts")


def say_failures(found: "Sequence[Found | Killed | Copied]") -> None:
    failed = [one for one in found if one.failure]
    for one in failed:
        err.print(f"[red]{escape(one.failure)}[/]")
        if one.hint:
            err.print(f"  {escape(one.hint)}")
    if failed and len(found) > 1:
        err.print(f"failed on {len(failed)} of {len(found)} hosts")


def show_processes(rows: "Iterable[tuple[str, HostProcess]]") -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("host", "pid", "what", "cluster", "run", "batch", "cpu", "memory", "age"):
        right = name in {"pid", "batch", "cpu", "memory", "age"}
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for host, one in rows:
        table.add_row(
            escape(host),
            str(one.pid),
            one.what + ("" if one.up else " (left over)"),
            escape(one.cluster),
            escape(one.run),
            str(one.batch) if one.batch >= 0 else "",
            f"{one.cpu:.1f} s",
            f"{one.rss / 1e6:.0f} MB",
            f"{one.age:.0f} s",
        )
    if table.row_count:
        out.print(table)
    else:
        out.print("no processes of our clusters")


def say_killed(killed: "Sequence[Killed]") -> None:
    for one in killed:
        if one.failure:
            continue
        done = [f"{len(one.ended)} processes ended"] if one.ended else []
        if one.folders:
            size = sum(folder.bytes for folder in one.folders) / 1e6
            done.append(f"{len(one.folders)} folders removed ({size:.0f} MB)")
        out.print(escape(f"{one.host}: {', '.join(done) or 'nothing found'}"))
        for process in one.ended[:_SHOWN]:
            out.print(escape(f"  {_described(process)}"))
        if len(one.ended) > _SHOWN:
            out.print(f"  ... and {len(one.ended) - _SHOWN} more")
        for cluster in one.up:
            out.print(escape(f"  left alone: {cluster} is up"))
        for folder in one.kept:
            out.print(escape(f"  left alone: {folder.path}: {folder.reason}"))
        for process in one.survivors:
            err.print(f"[red]{escape(f'{one.host}: survived: {_described(process)}')}[/]")


def _described(one: "HostProcess") -> str:
    run = f" run {one.run}" if one.run else ""
    return f"{one.pid} {one.what} of {one.cluster}{run}"


def say_copied(copied: "Sequence[Copied]", *, json: bool) -> None:
    if json:
        print_json(copied)
    else:
        for one in copied:
            if not one.failure:
                out.print(escape(f"{one.host}: {one.files} files, {one.bytes / 1e6:.1f} MB"))
            for path in one.skipped:
                err.print(escape(f"{one.host}: skipped, neither file nor folder: {path}"))
    say_failures(copied)
    raise typer.Exit(exit_code(not one.failure for one in copied))
