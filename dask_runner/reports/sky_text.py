"""Scans of the sky as text: the hottest spots of a map, and those of many skies."""

from collections.abc import Callable, Sequence
from typing import Any

from rich.text import Text

from dask_runner.conclusions.sky_results import HottestSpots, ObservedSpot, Seen, SkyView
from dask_runner.reports.layout import Pieces, fields, table
from dask_runner.reports.numbers import with_error
from dask_runner.sky.skymaps import Spot

_SIGN = "+-"
_COLUMNS = (">ra [deg]", ">dec [deg]", ">TS", ">n_s", ">gamma", ">-log10 p")


def sky_view(view: SkyView) -> Pieces:
    """What was scanned, and the hottest spots."""
    what = "observed sky" if view.unblinded is not None else f"scrambled sky {view.sky}"
    lines = [
        ("pixels", f"{view.pixels} of nside {view.nside} ({view.resolution:.3g} deg)"),
        ("missing", f"{view.missing} pixels" if view.missing else ""),
        ("p-values", f"from trials of {' '.join(view.background)}" if view.background else ""),
        ("injected", _source(view)),
    ]
    return [
        Text.assemble((what, "bold"), f" of run {view.run}"),
        *fields(lines, "  "),
        *_seen(view.unblinded),
        Text(),
        Text(f"hottest spots, at least {view.apart:g} deg apart"),
        table(
            "",
            (">", *_COLUMNS),
            [(rank, *_row(spot)) for rank, spot in enumerate(view.spots, start=1)],
        ),
    ]


def _source(view: SkyView) -> str:
    one = view.injection
    if one is None:
        return ""
    text = f"{one.n_sig:g} events expected at ra {one.ra:g}, dec {one.dec:g} deg"
    text += f", index {one.index:g}"
    text += f", cutoff {one.cutoff:g} GeV" if one.cutoff else ""
    return text + (f", extension {one.extension:g} deg" if one.extension else "")


def _row(spot: Spot) -> Sequence[str]:
    return (
        f"{spot.ra:.2f}",
        f"{spot.dec:.2f}",
        f"{spot.ts:.2f}",
        f"{spot.n_s:.1f}",
        f"{spot.gamma:.2f}",
        "-" if spot.mlog10p is None else f"{spot.mlog10p:.3f}",
    )


def hottest(view: HottestSpots) -> Pieces:
    """The distribution, and the post-trial p-value."""
    name = "-log10 p" if view.quantity == "mlog10p" else "TS"
    looks = view.looks
    lines = [
        ("p-values", f"from trials of {' '.join(view.background)}" if view.background else ""),
        *(
            (f"{100 * one.q:.4g} %", f"{name} = {with_error(one.value, one.error, _SIGN)}")
            for one in view.quantiles
        ),
        (
            "looks",
            ""
            if looks is None
            else f"as {with_error(looks.number, looks.error, _SIGN)} independent pixels"
            f" ({'good' if looks.good else 'bad'} fit, p = {looks.fit_p:.2g})",
        ),
    ]
    title = f"hottest spot of each of {view.skies} skies without signal"
    pieces: Pieces = [
        Text.assemble((title, "bold"), f" of {' '.join(view.runs)}"),
        *fields(lines, "  "),
    ]
    return pieces if view.observed is None else [*pieces, Text(), *_observed(view.observed, name)]


_SOURCES = {
    "trials": "counted",
    "looks": "from the number of independent looks",
    "bound": "(k+1)/(n+1): no more than that can be said",
}


def _observed(found: ObservedSpot, name: str) -> Pieces:
    p = found.post_trial
    counted = p.counted
    interval = f"{counted.low:.3g} to {counted.high:.3g}, Clopper-Pearson"
    lines = [
        ("hottest spot", f"{name} = {found.heat:.4g}"),
        ("post-trial p", f"{p.value:.4g} ({p.low:.3g} to {p.high:.3g}), {_SOURCES[p.source]}"),
        ("significance", f"{p.sigma:.3g} sigma, one-sided"),
        ("skies as hot", f"{counted.k} of {counted.n}: {counted.p:.4g} ({interval})"),
    ]
    pieces: Pieces = [Text(found.name, "bold"), *fields(lines, "  ")]
    if found.spot is not None:
        pieces.append(table("", _COLUMNS, [_row(found.spot)]))
    return [*pieces, *_seen(found.unblinded)]


def _seen(found: Seen | None) -> Pieces:
    if found is None:
        return []
    lines = [("reason", found.reason), ("by", f"{found.who} at {found.time}")]
    return [Text(), Text("unblinded, as the manifest says"), *fields(lines, "  ")]


LAYOUTS: dict[type[Any], Callable[[Any], Pieces]] = {SkyView: sky_view, HottestSpots: hottest}
