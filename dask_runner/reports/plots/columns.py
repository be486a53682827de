"""The distribution of a column: a histogram with its quantiles; and of a test statistic without
signal, with the chi2 that was fitted.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from dask_runner.conclusions.results import PointDistribution
from dask_runner.reports.numbers import with_error
from dask_runner.reports.plots.style import (
    BLUE,
    COLORS,
    RED,
    add_legend,
    new_figure,
    particle_style,
    point_text,
)
from dask_runner.stats.quantiles import Quantile

_MOST_BINS = 100
_FEWEST_BINS = 10
# Values counted one by one, each in a bin of its own.
_MOST_SINGLE = 60
_LINES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))


def column(found: PointDistribution, values: npt.ArrayLike, field: str) -> Any:
    """A figure of the values of a field at a point, (trials,), and of the quantiles in `found`."""
    array = np.asarray(values, dtype=np.float64)
    with particle_style():
        figure, (axes,) = new_figure()
        edges = bin_edges(array)
        counts = np.histogram(array, edges)[0]
        label = f"{len(array)} trials"
        if found.point:
            label += f", {point_text(found.point)}"
        axes.stairs(counts, edges, fill=True, color=BLUE, alpha=0.35, linewidth=0)
        axes.stairs(counts, edges, color=BLUE, linewidth=1.6, label=label, baseline=None)
        top = counts.max() * 1.04
        for k, quantile in enumerate(found.quantiles):
            axes.plot(
                [quantile.value] * 2, [0, top], color="black" if k % 2 == 0 else RED,
                linestyle=_LINES[k % len(_LINES)], linewidth=1.5,
                label=f"{100 * quantile.q:.4g} %: {with_error(quantile.value, quantile.error)}",
            )  # fmt: skip
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(0, top)
        axes.set_xlabel(field)
        axes.set_ylabel("Trials per bin")
        add_legend(figure, axes)
    return figure


def background(found: PointDistribution, values: npt.ArrayLike, field: str = "TS") -> Any:
    """A figure of a test statistic without signal, (trials,): its density above, and below the
    share of trials at or above a value, with the fitted chi2 in both and the thresholds.
    """
    array = np.asarray(values, dtype=np.float64)
    with particle_style():
        figure, (above, below) = new_figure(2, ratios=(1.0, 1.0))
        end = _end(found, array)
        _density(above, found, array, end)
        _survival(below, found, array, end)
        below.set_xlim(0, end)
        below.set_xlabel(field)
        above.set_ylabel("Trials per bin")
        below.set_ylabel(f"P({field} ≥ x)")
        title = point_text(found.point)
        add_legend(figure, above, title=title or None)
        add_legend(figure, below)
    return figure


def bin_edges(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Equal bins: around each number if they are few whole ones; else as Freedman and Diaconis (Z.
    Wahrsch. verw. Geb. 57 (1981) 453) propose, within sensible numbers.
    """
    low, high = float(values.min()), float(values.max())
    whole = np.all(values == np.round(values))
    if whole and high - low <= _MOST_SINGLE:
        return np.arange(low - 0.5, high + 1)
    if low == high:
        half = abs(low) * 0.1 or 0.5
        return np.linspace(low - half, high + half, _FEWEST_BINS + 1)
    spread = float(np.subtract(*np.quantile(values, [0.75, 0.25])))
    wanted = (high - low) / (2 * spread / len(values) ** (1 / 3)) if spread else _MOST_BINS
    return np.linspace(low, high, int(np.clip(wanted, _FEWEST_BINS, _MOST_BINS)) + 1)


def _end(found: PointDistribution, values: npt.NDArray[np.float64]) -> float:
    """The right end: behind all trials and thresholds."""
    places = [float(values.max())]
    places += [t.value.value for t in found.thresholds if t.value is not None]
    finite = [place for place in places if np.isfinite(place)]
    return 1.08 * max([*finite, 1e-9])


def _density(
    axes: Any, found: PointDistribution, values: npt.NDArray[np.float64], end: float
) -> None:
    edges = np.linspace(0, end, 61)
    counts = np.histogram(values, edges)[0]
    axes.set_yscale("log")
    axes.set_ylim(0.5, 3 * max(counts.max(), 1))
    middle = (edges[1:] + edges[:-1]) / 2
    some = counts > 0
    axes.errorbar(
        middle[some], counts[some], yerr=_poisson(counts[some]), fmt="ko", markersize=4,
        linewidth=1.2, label=f"{len(values)} trials without signal",
    )  # fmt: skip
    if found.fit is None or not found.fit.curve:
        return
    ts, share = np.array(found.fit.curve).T
    # The first bin holds the zeros too, by which the curve falls from 1 to eta.
    expected = -np.diff(np.interp(edges, ts, share)) * len(values)
    axes.stairs(expected, edges, color=RED, linewidth=1.8, label=_fit_text(found), baseline=None)


def _survival(
    axes: Any, found: PointDistribution, values: npt.NDArray[np.float64], end: float
) -> None:
    ordered = np.sort(values)
    n = len(ordered)
    places, first = np.unique(ordered, return_index=True)
    share = (n - first) / n
    axes.set_yscale("log")
    lowest = min([0.5 / n, *(t.p for t in found.thresholds)]) / 3
    axes.set_ylim(lowest, 3)
    axes.step(places, share, where="pre", color="black", label="Trials", linewidth=1.6)
    if found.fit is not None and found.fit.curve:
        ts, curve = np.array(found.fit.curve).T
        axes.plot(ts[1:], curve[1:], color=RED, label=r"$\chi^2$ fit")
    for k, threshold in enumerate(found.thresholds):
        if threshold.value is None or not threshold.value.value <= end:
            continue
        value, color = threshold.value, COLORS[(3 * k) % len(COLORS)]
        axes.plot(
            [value.value] * 2, [lowest, threshold.p], color=color, linestyle="--",
            label=_threshold_text(threshold.sigma, value),
        )  # fmt: skip
        axes.plot([0, value.value], [threshold.p] * 2, color=color, linestyle=":", linewidth=1.2)


def _threshold_text(sigma: float, value: Quantile) -> str:
    return rf"{sigma:g}$\sigma$: {with_error(value.value, value.error)} ({value.source})"


def _fit_text(found: PointDistribution) -> str:
    fit = found.fit
    assert fit is not None
    text = rf"$\eta$ = {with_error(fit.eta, fit.eta_error)}"
    text += f", ndof = {with_error(fit.ndof, fit.ndof_error)}"
    if fit.scale_error:
        text += f", scale = {with_error(fit.scale, fit.scale_error)}"
    if fit.quality is not None:
        text += "" if fit.quality.good else " (bad fit)"
    return text


def _poisson(counts: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Bars of one standard deviation, (2, bins), that do not reach 0 where it cannot be drawn."""
    root = np.sqrt(counts)
    return np.array([np.minimum(root, counts * 0.999), root])
