"""CLs against the signal strength, expected with its bands and observed, and where it ends."""

from typing import Any

import numpy as np

from dask_runner.conclusions.results import UpperLimits
from dask_runner.errors import UsageError
from dask_runner.reports.numbers import with_error
from dask_runner.reports.plots.style import (
    GREEN,
    RED,
    YELLOW,
    add_legend,
    new_figure,
    particle_style,
)
from dask_runner.stats.hypotest import StrengthLimit

_TITLES = {"mu": "Signal strength μ"}
# What is shown goes down to this part of 1 - level.
_DEPTH = 50


def strength(result: UpperLimits) -> Any:
    """A figure of CLs at each signal strength; the limits are where it crosses 1 - level.

    Raises UsageError if there is one strength only.
    """
    if len(result.points) == 1:
        raise UsageError(f"CLs at one {result.axis} only: there is no curve to draw")
    mu = np.array([point.mu for point in result.points])
    curves = np.array([point.expected.values for point in result.points]).T
    with particle_style():
        figure, (axes,) = new_figure()
        if result.observed is not None:
            _observed(axes, result, mu)
        lowest = _limits(axes, result)
        edge = 1 - result.level
        floor = edge / _DEPTH
        # A share that no trial had is somewhere below what is shown.
        shown = np.maximum(curves, floor / 2)
        axes.plot(mu, shown[2], "k--", label=f"Median expected{lowest}", zorder=4)
        axes.fill_between(
            mu, shown[1], shown[3], color=GREEN, linewidth=0, zorder=2,
            label=r"Expected $\pm$ 1 std. deviation",
        )  # fmt: skip
        axes.fill_between(
            mu, shown[0], shown[4], color=YELLOW, linewidth=0, zorder=1,
            label=r"Expected $\pm$ 2 std. deviations",
        )  # fmt: skip
        axes.plot(mu[[0, -1]], [edge, edge], color=RED, linewidth=1.5, zorder=3,
                  label=f"CL$_s$ = {edge:.3g}")  # fmt: skip
        axes.set_yscale("log")
        axes.set_xlim(mu[0], mu[-1])
        axes.set_ylim(floor, 1.1)
        axes.set_xlabel(_TITLES.get(result.axis, result.axis))
        axes.set_ylabel("CL$_s$")
        add_legend(figure, axes)
    return figure


def _observed(axes: Any, result: UpperLimits, mu: Any) -> None:
    seen = [point.observed for point in result.points]
    values = np.array([np.nan if one is None else one.value for one in seen])
    low = np.array([np.nan if one is None else one.low for one in seen])
    high = np.array([np.nan if one is None else one.high for one in seen])
    text = "Observed"
    if isinstance(result.observed, StrengthLimit):
        text += f", limit {with_error(result.observed.value, result.observed.error)}"
    known = np.isfinite(values) & (values > 0)
    bars = np.abs(np.array([values - low, high - values]))[:, known]
    axes.errorbar(
        mu[known], values[known], yerr=bars, fmt="ko-", markersize=5, linewidth=1.4, label=text,
        zorder=5,
    )  # fmt: skip


def _limits(axes: Any, result: UpperLimits) -> str:
    """Mark the median limit; what the legend says of it."""
    if not isinstance(result.expected, tuple):
        return ""
    median = result.expected[2]
    axes.plot([median.value], [1 - result.level], "o", color=RED, markersize=8, zorder=6)
    return f", limit {with_error(median.value, median.error)}"
