"""Sensitivities: the share of trials above the thresholds against the signal strength, and the
result against another parameter.
"""

from typing import Any

import numpy as np

from dask_runner.conclusions.results import Passing, Sensitivities, Strengths
from dask_runner.errors import UsageError
from dask_runner.reports.numbers import with_error
from dask_runner.reports.plots.style import (
    BLUE,
    COLORS,
    MARKERS,
    RED,
    add_legend,
    new_figure,
    particle_style,
    point_text,
)

_TITLES = {"n_sig": "Signal strength (expected events)"}


def fractions(result: Sensitivities, strengths: Strengths) -> Any:
    """A figure of the shares of trials above both thresholds, with the fits and what they gave."""
    kinds = (
        (strengths.sensitivity, BLUE, "o", f"TS > median, {100 * result.beta:g} %"),
        (
            strengths.discovery,
            RED,
            "s",
            f"TS > {result.sigma:g}$\\sigma$, {100 * result.discovery_beta:g} %",
        ),
    )
    with particle_style():
        figure, (axes,) = new_figure()
        end = 0.0
        for passing, color, marker, text in kinds:
            if isinstance(passing, Passing):
                _one_kind(axes, passing, color, marker, text)
                end = max(end, passing.curve[-1][0])
        axes.set_xlim(0, end * 1.02)
        axes.set_ylim(0, 1.04)
        axes.set_xlabel(_TITLES.get(result.signal, result.signal))
        axes.set_ylabel("Share of trials above threshold")
        add_legend(figure, axes, corner="upper left", title=point_text(strengths.point) or None)
    return figure


def _one_kind(axes: Any, passing: Passing, color: str, marker: str, text: str) -> None:
    strength = np.array([point.n_sig for point in passing.points])
    share = np.array([point.fraction for point in passing.points])
    bars = [
        [point.fraction - point.low for point in passing.points],
        [point.high - point.fraction for point in passing.points],
    ]
    label = f"{text}: {with_error(passing.value, passing.error)}"
    axes.errorbar(strength, share, yerr=bars, fmt=marker, color=color, markersize=5, linewidth=1.4)
    axes.plot(*np.array(passing.curve).T, color=color, linestyle="-", linewidth=1.6, label=label)
    axes.plot(
        [0, passing.value, passing.value], [passing.beta, passing.beta, 0], color=color,
        linestyle=":", linewidth=1.3,
    )  # fmt: skip


def against(result: Sensitivities, axis: str = "") -> Any:
    """A figure of sensitivity and discovery potential against a parameter (default: that with most
    values), a pair of curves for each combination of the others.

    Raises UsageError if no parameter varies, or the axis is not made of numbers.
    """
    axis = axis or longest_axis(result)
    if not axis:
        raise UsageError("no parameter varies: there is nothing to plot against")
    groups = _groups(result, axis)
    with particle_style():
        figure, (axes,) = new_figure()
        for kind, line in (("sensitivity", "-"), ("discovery", "--")):
            for k, (text, members) in enumerate(groups.items()):
                color = COLORS[k % len(COLORS)]
                x, y, error = _curve(members, axis, kind)
                axes.errorbar(
                    x, y, yerr=error, color=color, linestyle=line, markersize=6, linewidth=1.6,
                    marker=MARKERS[k % len(MARKERS)], label=_label(result, kind, text),
                    markerfacecolor=color if kind == "sensitivity" else "white",
                )  # fmt: skip
        axes.set_xlabel(axis)
        axes.set_ylabel(_TITLES.get(result.signal, result.signal))
        axes.set_ylim(bottom=0)
        add_legend(figure, axes, ncols=1 if len(groups) == 1 else 2)
    return figure


def _groups(result: Sensitivities, axis: str) -> dict[str, list[Strengths]]:
    """The points by those of their other parameters that vary, in words."""
    varying = [name for name in _values(result) if len(_values(result)[name]) > 1]
    groups: dict[str, list[Strengths]] = {}
    for one in result.strengths:
        if isinstance(one.point.get(axis, ""), str):
            raise UsageError(f"{axis} is not a number at every point: it cannot be an axis")
        rest = {name: one.point[name] for name in varying if name != axis and name in one.point}
        groups.setdefault(point_text(rest), []).append(one)
    return groups


def _values(result: Sensitivities) -> dict[str, set[Any]]:
    """What values each parameter has."""
    found: dict[str, set[Any]] = {}
    for one in result.strengths:
        for name, value in one.point.items():
            found.setdefault(name, set()).add(value)
    return found


def longest_axis(result: Sensitivities) -> str:
    """The parameter with most values, of numbers; "" if none varies."""
    counts = {
        name: len(values)
        for name, values in _values(result).items()
        if len(values) > 1 and not any(isinstance(value, str) for value in values)
    }
    return max(counts, key=lambda name: counts[name], default="")


def _curve(
    members: list[Strengths], axis: str, kind: str
) -> tuple[list[float], list[float], list[float]]:
    """Where there is a value, the places, values and errors."""
    kept = sorted(
        (float(one.point[axis]), passing.value, passing.error)
        for one in members
        if isinstance(passing := getattr(one, kind), Passing)
    )
    return [x for x, _, _ in kept], [y for _, y, _ in kept], [error for _, _, error in kept]


def _label(result: Sensitivities, kind: str, text: str) -> str:
    words = "Sensitivity" if kind == "sensitivity" else f"{result.sigma:g}$\\sigma$ discovery"
    share = result.beta if kind == "sensitivity" else result.discovery_beta
    words += f" ({100 * share:g} %)"
    return f"{words}, {text}" if text else words
