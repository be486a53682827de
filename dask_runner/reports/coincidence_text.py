"""Coincidences as text: the table of trials, and p-values."""

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

from rich.text import Text

from dask_runner.conclusions.coincidences import (
    CoincidencePs,
    CoincidenceTable,
    GivenOdds,
    Row,
)
from dask_runner.reports.layout import Pieces, fields, plural, table
from dask_runner.stats.tails import TailP

_COLUMNS = (
    ">log10 odds",
    ">events",
    "map",
    ">batch",
    "class",
    ">n_sig",
    ">trial",
    ">injected",
    ">space",
    ">time",
    ">energy",
)


def coincidence_table(view: CoincidenceTable) -> Pieces:
    """The trials with the highest odds."""
    count = f"{plural(view.account.trials, 'trial')} with {plural(view.maps, 'map')}"
    failed = f", {view.account.failed} failed" if view.account.failed else ""
    return [
        Text(f"coincidences of run {' '.join(view.runs)}: {count}{failed}"),
        *_rows(view.rows),
        *_files(("all trials", view.file), ("distribution", view.distribution)),
    ]


def coincidence_ps(view: CoincidencePs) -> Pieces:
    """p-values at each point, and the trials with the highest odds."""
    pieces: Pieces = [Text(f"p-values from the background {' '.join(view.background)}")]
    if view.points:
        columns = ("class", ">n_sig", ">trials", ">median p", ">above 3 sigma", ">5 sigma")
        lines = [
            (
                one.detector,
                f"{one.n_sig:g}",
                one.trials,
                f"{one.median:.3g}",
                f"{100 * one.above_3_sigma:.3g} %",
                f"{100 * one.above_5_sigma:.3g} %",
            )
            for one in view.points
        ]
        tails = {one.detector: one for one in view.points}.values()
        pieces += [
            table("", columns, lines),
            Text(),
            *fields(
                [
                    (f"class {one.detector}", f"{one.background} trials; {one.tail or 'no tail'}")
                    for one in tails
                ]
            ),
            Text(),
            *_rows(view.rows),
        ]
    for one in view.given:
        pieces += [Text(), *given(one)]
    return [*pieces, *_files(("all p-values", view.file))]


def given(view: GivenOdds) -> Pieces:
    """The p-value of one number, and who looked if it is observed."""
    lines: list[tuple[str, object]] = [
        ("log10 odds", f"{view.log10_odds:.6g} (class {view.detector})"),
        ("p-value", _p(view.p)),
        ("", f"{view.p.low:.3g} to {view.p.high:.3g}{_sigmas(view.p.sigma)}"),
        ("counted", f"{view.p.counted.k} of {view.p.counted.n}"),
    ]
    if view.p.warning:
        lines.append(("warning", view.p.warning))
    if view.unblinded is not None:
        seen = view.unblinded
        found = seen.results
        lines += [
            ("events", found["n_events"]),
            ("factors", " ".join(f"{n} {found[n]:.4g}" for n in ("space", "time", "energy"))),
            ("unblinded", f"{seen.time} by {seen.who}: {seen.reason}"),
        ]
    return fields(lines)


def _rows(rows: Sequence[Row]) -> Pieces:
    if not rows:
        return []
    with_p = any(row.p is not None for row in rows)
    lines = [
        (
            f"{row.log10_odds:.4g}",
            row.n_events,
            row.map,
            row.batch,
            row.detector,
            f"{row.n_sig:g}",
            row.trial,
            row.n_injected,
            f"{row.space:.4g}",
            f"{row.time:.4g}",
            f"{row.energy:.4g}",
            *((_p(row.p), "" if row.p is None else f"{row.p.sigma:.2f}") if with_p else ()),
        )
        for row in rows
    ]
    return [table("", (*_COLUMNS, *((">p", ">sigma") if with_p else ())), lines)]


def _p(p: TailP | None) -> str:
    return "" if p is None else f"{p.value:.3g} ({p.source})"


def _sigmas(sigma: float) -> str:
    """Nothing for p = 1, whose number of sigmas is minus infinity."""
    return f", {sigma:.2f} sigma" if isfinite(sigma) else ""


def _files(*named: tuple[str, str]) -> Pieces:
    there = [(what, path) for what, path in named if path]
    return [Text(), *fields(there)] if there else []


LAYOUTS: dict[type[Any], Callable[[Any], Pieces]] = {
    CoincidenceTable: coincidence_table,
    CoincidencePs: coincidence_ps,
    GivenOdds: given,
}
