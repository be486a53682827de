"""The preflight's table, and host keys, as text."""

from collections.abc import Sequence
from typing import Final

from rich.text import Text

from dask_runner.cluster.ssh.report import Check, HostReport
from dask_runner.reports.host_checks import HostChecks, HostKeys
from dask_runner.reports.layout import Pieces, cell, plural, table

_MARKS: Final = {"ok": "ok", "warn": "warn", "fail": "FAIL"}
_STYLES: Final = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_ORDER: Final = ("ok", "warn", "fail")
# Columns of the table, and the checks that each stands for: 18 would fit on few screens.
_COLUMNS: Final = (
    ("ssh", ("config", "name", "port", "host-key", "login")),
    ("python", ("python",)),
    ("packages", ("packages",)),
    ("numerics", ("numerics",)),
    ("scratch", ("scratch",)),
    ("memory", ("memory",)),
    ("load", ("load",)),
    ("users", ("users",)),
    ("clock", ("clock",)),
    ("folder", ("shared folder",)),
    ("ports", ("ports",)),
    ("other", ("identity", "import path", "home", "tokens", "linger")),
)
# What says more than "ok" in few characters.
_SPOKEN: Final = ("python", "scratch", "memory", "load", "users", "clock")
_RESULTS: Final = {"known": "green", "recorded": "green", "declined": "yellow"}


def host_checks(view: HostChecks) -> Pieces:
    """A row for each host; then what is wrong, and what to do about it."""
    columns = ("host", *(name for name, _ in _COLUMNS))
    rows = [
        (report.host, *(_mark(report, names) for _, names in _COLUMNS)) for report in view.hosts
    ]
    problems = [
        (check.verdict, report, check)
        for verdict in ("fail", "warn")
        for report in view.hosts
        for check in report.checks
        if check.verdict == verdict
    ]
    pieces: Pieces = [table("", columns, rows)]
    for verdict, report, check in problems:
        pieces.append(Text())
        pieces += _problem(verdict, report, check)
    count = plural(len(view.hosts), "host")
    pieces += [Text(), Text(f"{view.good} of {count} of {view.hostfile} can be used")]
    return pieces


def _mark(report: HostReport, names: Sequence[str]) -> Text:
    """The worst of some checks in a word."""
    found = [check for check in report.checks if check.name in names]
    if not found:
        return cell("-")
    worst = max(found, key=lambda check: _ORDER.index(check.verdict))
    text = _MARKS[worst.verdict]
    if len(names) > 1 and worst.verdict != "ok":
        text += f" {worst.name}"
    elif worst.verdict == "ok" and worst.name in _SPOKEN:
        text = worst.text.partition(" in ")[0].partition(" free")[0]
    return cell(text, _STYLES[worst.verdict])


def _problem(verdict: str, report: HostReport, check: Check) -> Pieces:
    words = check.text if report.host in check.text else f"{report.host}: {check.text}"
    first = Text.assemble((_MARKS[verdict], _STYLES[verdict]), " ", cell(words))
    return [first, *([cell(f"     fix: {check.fix}")] if check.fix else [])]


def host_keys(view: HostKeys) -> Pieces:
    """A row for each host; then what is wrong."""
    columns = ("host", "result", "key", "fingerprint")
    rows = [
        (
            host.host,
            cell(host.result, _RESULTS.get(host.result, "red")),
            host.type or "-",
            host.fingerprint or "-",
        )
        for host in view.hosts
    ]
    pieces: Pieces = [table("", columns, rows)]
    for host in view.hosts:
        if host.text:
            pieces += [Text(), Text.assemble((host.result, "bold red"), " ", cell(host.text))]
            pieces += [cell(f"     fix: {host.fix}")] if host.fix else []
    return pieces
