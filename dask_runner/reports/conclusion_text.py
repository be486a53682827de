"""Conclusions from trials as text: limits, CLs, sensitivities, distributions, exported files.

Warnings are not shown here: they are talk, and go to stderr.
"""

from collections.abc import Callable, Sequence
from typing import Any

from rich.markup import escape
from rich.text import Text

from dask_runner.conclusions.results import (
    Conclusion,
    Distributions,
    Exported,
    Limits,
    Passing,
    PointDistribution,
    Sensitivities,
    Threshold,
    Unblinded,
    Unreached,
    UpperLimits,
)
from dask_runner.reports.layout import Pieces, fields, size, table
from dask_runner.reports.numbers import with_error
from dask_runner.stats.hypotest import StrengthLimit
from dask_runner.stats.limits import Band
from dask_runner.stats.quantiles import Quantile
from dask_runner.trials.model import describe_point

_BAND = (">-2 sigma", ">-1 sigma", ">median", ">+1 sigma", ">+2 sigma")
_SIGN = "+-"


def limits(view: Limits) -> Pieces:
    """The band in events, as cross sections, and up to where the theory is excluded."""
    level = "" if view.confidence is None else f"{100 * view.confidence:g} % "
    pieces: Pieces = [_headline(view, f"{level}upper limits ({view.field})")]
    pieces += _band_table("in events", view, [(p.value, p.events, p.observed) for p in view.points])
    crossed = [
        (p.value, p.cross_section, p.observed_cross_section)
        for p in view.points
        if p.cross_section is not None
    ]
    if crossed:
        unit = f" [{view.unit}]" if view.unit else ""
        of = f", events / ({view.scale})" if view.scale else ""
        pieces += [Text(), *_band_table(f"as cross section{unit}{of}", view, crossed)]
    return [*pieces, *_coverage(view), *_mass_limits(view), *_unblinded(view.unblinded)]


def _band_table(
    title: str, view: Limits, rows: Sequence[tuple[float, Band, float | None]]
) -> Pieces:
    seen = any(observed is not None for _, _, observed in rows)
    columns = (f">{_axis(view.axis, view.axis_unit)}", *_BAND, *((">observed",) if seen else ()))
    rows_shown = table(
        "",
        columns,
        [
            (
                f"{value:g}",
                *(
                    _quantile(curve) if curve is band.median else f"{curve.value:.4g}"
                    for curve in band.curves
                ),
                *(("-" if observed is None else f"{observed:.4g}",) if seen else ()),
            )
            for value, band, observed in rows
        ],
    )
    return [Text(title), rows_shown]


def _coverage(view: Limits) -> Pieces:
    rows = [
        (f"{p.value:g}", f"{p.coverage.injected:g}", _share(p.coverage))
        for p in view.points
        if p.coverage is not None
    ]
    if not rows:
        return []
    columns = (f">{view.axis}", ">signal", ">limits at or above it")
    return [Text(), table("coverage", columns, rows)]


def _share(coverage: Any) -> str:
    low, high = 100 * coverage.low, 100 * coverage.high
    return f"{100 * coverage.share:.1f} % ({low:.1f} to {high:.1f})"


def _mass_limits(view: Limits) -> Pieces:
    found = view.mass_limits
    if found is None or view.theory is None:
        return []
    names = ("-2 sigma", "-1 sigma", "expected", "+1 sigma", "+2 sigma")
    lines = [(name, limit.text) for name, limit in zip(names, found.expected, strict=True)]
    if found.observed is not None:
        lines.append(("observed", found.observed.text))
    return [Text(), Text(f"theory of {view.theory.source}"), *fields(lines, "  ")]


def upper_limits(view: UpperLimits) -> Pieces:
    """CLs at each strength, and the limits."""
    seen = any(point.observed is not None for point in view.points)
    rows = [
        (
            f"{point.mu:g}",
            *(
                with_error(value, error, _SIGN) if k == len(_BAND) // 2 else f"{value:.3g}"
                for k, (value, error) in enumerate(
                    zip(point.expected.values, point.expected.errors, strict=True)
                )
            ),
            *((_observed_cls(point.observed),) if seen else ()),
        )
        for point in view.points
    ]
    columns = (f">{view.axis}", *_BAND, *((">observed",) if seen else ()))
    lines = [("observed", _limit_text(view.observed))] if view.observed is not None else []
    if isinstance(view.expected, Unreached):
        lines.append(("expected", _limit_text(view.expected)))
    else:
        names = ("-2 sigma", "-1 sigma", "median", "+1 sigma", "+2 sigma")
        lines += [
            (name, _limit_text(limit)) for name, limit in zip(names, view.expected, strict=True)
        ]
    return [
        _headline(view, "CLs by trials, expected without signal"),
        table("", columns, rows),
        Text(),
        Text(f"{100 * view.level:g} % upper limits on {view.axis}"),
        *fields(lines, "  "),
        *_unblinded(view.unblinded),
    ]


def _observed_cls(found: Any) -> str:
    return "-" if found is None else with_error(found.value, found.error, _SIGN)


def _limit_text(found: StrengthLimit | Unreached | None) -> str:
    if isinstance(found, StrengthLimit):
        return with_error(found.value, found.error, _SIGN)
    return "" if found is None else f"not reached: {found.reason}"


def sensitivities(view: Sensitivities) -> Pieces:
    """One line for each combination of the other parameters."""
    names = list(dict.fromkeys(name for one in view.strengths for name in one.point))
    columns = (
        *(f">{name}" for name in names),
        f">sensitivity ({100 * view.beta:g} %)",
        ">threshold",
        f">{view.sigma:g} sigma ({100 * view.discovery_beta:g} %)",
        ">threshold",
        "from",
    )
    rows = [
        (
            *(one.point.get(name, "") for name in names),
            *_passing(one.sensitivity)[:2],
            *_passing(one.discovery),
        )
        for one in view.strengths
    ]
    what = f"sensitivity and discovery potential in {view.signal} ({view.field})"
    return [_headline(view, what), table("", columns, rows), *_fluxes(view, names)]


def _fluxes(view: Sensitivities, names: Sequence[str]) -> Pieces:
    """The same as fluxes, with the relative errors."""
    scale = view.flux
    if scale is None:
        return []
    columns = (
        *(f">{name}" for name in names),
        ">sensitivity",
        ">error",
        f">{view.sigma:g} sigma",
        ">error",
        ">of one event",
    )
    rows = [
        (
            *(one.point.get(name, "") for name in names),
            *_flux(one.flux.sensitivity, one.flux.sensitivity_error),
            *_flux(one.flux.discovery, one.flux.discovery_error),
            f"{one.flux.per_event:.3g}",
        )
        for one in view.strengths
        if one.flux is not None
    ]
    title = f"{scale.kind} at {scale.pivot:g} GeV in {scale.unit}, in {scale.livetime:g} days"
    return [Text(), Text(title), table("", columns, rows)]


def _flux(value: float | None, error: float | None) -> tuple[str, str]:
    if value is None or error is None:
        return "-", "-"
    return f"{value:.3g}", f"{100 * error / value:.1f} %"


def _passing(found: Passing | Unreached) -> tuple[str, str, str]:
    if isinstance(found, Unreached):
        return "-", "-", "-"
    threshold = found.threshold
    value = with_error(found.value, found.error, _SIGN)
    return value, _quantile(threshold), threshold.source


def distributions(view: Distributions) -> Pieces:
    """Each point: quantiles, and without signal the fit and the thresholds."""
    pieces: Pieces = [_headline(view, f"distribution of {view.field}")]
    for point in view.points:
        pieces += [Text(), *_distribution(point)]
    return pieces


def _distribution(point: PointDistribution) -> Pieces:
    rows = [(f"{100 * found.q:.4g} %", _quantile(found), found.source) for found in point.quantiles]
    good = point.account.trials - point.account.failed
    facts = [
        ("trials", f"{good}, mean {point.mean:.5g}, standard deviation {point.deviation:.4g}"),
        ("fit", _fit(point)),
        ("", point.fit.quality.text if point.fit and point.fit.quality else ""),
        *((f"{found.sigma:g} sigma", _threshold(found)) for found in point.thresholds),
    ]
    return [
        Text(describe_point(point.point), "bold"),
        *fields(facts, "  "),
        table("", (">quantile", ">value", "from"), rows),
    ]


def _fit(point: PointDistribution) -> str:
    if point.discrete:
        return "none: the test statistic takes few values"
    if point.fit is None:
        return ""
    fit = point.fit
    eta = f"eta {with_error(fit.eta, fit.eta_error, _SIGN)}"
    if not fit.curve:
        return f"{eta}, no chi2"
    scale = f", scale {with_error(fit.scale, fit.scale_error, _SIGN)}" if fit.scale_error else ""
    return f"{eta}, ndof {with_error(fit.ndof, fit.ndof_error, _SIGN)}{scale}"


def _threshold(found: Threshold) -> str:
    if found.value is None:
        return f"not known: {found.reason}"
    return f"{_quantile(found.value)} (from {found.value.source}, p = {found.p:.4g})"


def exported(view: Exported) -> Pieces:
    """The file."""
    return [
        Text(f"{view.path}  {view.trials} trials  {size(view.bytes)}"),
        *fields([("columns", ", ".join(view.columns))]),
    ]


def _headline(view: Conclusion, what: str) -> Text:
    account = view.account
    trials = f"{account.trials} trials"
    if account.failed:
        trials += f", {account.failed} of them failed"
    of = f" of {' '.join(view.runs)}" if view.runs else ""
    model = f" ({view.model})" if view.model else ""
    return Text.assemble((what, "bold"), f": {trials}{of}{model}")


def _unblinded(found: Unblinded | None) -> Pieces:
    if found is None:
        return []
    lines = [
        ("reason", found.reason),
        ("by", f"{found.who} at {found.time}"),
        ("data", found.source),
        ("sha256", found.sha256),
    ]
    return [Text(), Text("unblinded, as the manifest of each run says"), *fields(lines, "  ")]


def _axis(name: str, unit: str) -> str:
    return escape(f"{name} [{unit}]" if unit else name)


def _quantile(found: Quantile) -> str:
    return with_error(found.value, found.error, _SIGN)


LAYOUTS: dict[type[Any], Callable[[Any], Pieces]] = {
    Limits: limits,
    UpperLimits: upper_limits,
    Sensitivities: sensitivities,
    Distributions: distributions,
    Exported: exported,
}
