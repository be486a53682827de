"""The Brazil plot: upper limits along an axis, expected with bands, observed, and a theory."""

from typing import Any

import numpy as np

from dask_runner.conclusions.results import Limits
from dask_runner.reports.plots.style import (
    BLUE,
    GREEN,
    RED,
    YELLOW,
    add_legend,
    new_figure,
    particle_style,
    with_unit,
)

_LABELS = {"mass": "Resonance mass"}
_UNITS = {"mass": "GeV"}
# Where there is one value only, the band is drawn this share of it to both sides.
_ALONE = 0.05
_DECADE = 10.0


def brazil(result: Limits, *, cross_section: bool | None = None) -> Any:
    """A figure of limits on the cross section if there are any, else in events."""
    known = all(point.cross_section is not None for point in result.points)
    crossed = known if cross_section is None else cross_section
    with particle_style():
        figure, (axes,) = new_figure()
        _bands(axes, result, crossed=crossed)
        if crossed and result.theory is not None:
            _theory(axes, result)
        _finish(figure, axes, result, crossed=crossed)
    return figure


def _bands(axes: Any, result: Limits, *, crossed: bool) -> None:
    place = np.array([point.value for point in result.points])
    bands = [p.cross_section if crossed else p.events for p in result.points]
    curves = np.array([band.values for band in bands if band is not None]).T
    seen = [p.observed_cross_section if crossed else p.observed for p in result.points]
    if len(place) == 1:
        half = _ALONE * (abs(place[0]) or 1.0)
        place = np.array([place[0] - half, place[0] + half])
        curves, seen = np.repeat(curves, 2, axis=1), seen * 2
    if None not in seen:
        values = np.array(seen, float)
        axes.plot(place, values, "ko-", markersize=5, label="Observed", zorder=5)
    axes.plot(place, curves[2], "k--", label="Median expected", zorder=4)
    axes.fill_between(
        place, curves[1], curves[3], color=GREEN, linewidth=0, zorder=2,
        label=r"Expected $\pm$ 1 std. deviation",
    )  # fmt: skip
    axes.fill_between(
        place, curves[0], curves[4], color=YELLOW, linewidth=0, zorder=1,
        label=r"Expected $\pm$ 2 std. deviations",
    )  # fmt: skip
    axes.set_yscale("log")
    axes.set_xlim(place[0], place[-1])


def _theory(axes: Any, result: Limits) -> None:
    assert result.theory is not None
    mass, value = np.array(result.theory.mass), np.array(result.theory.cross_section)
    low, high = axes.get_xlim()
    bottom, top = axes.get_ylim()
    axes.plot(mass, value, color=BLUE, linestyle="-.", label="Theory", zorder=3)
    inside = (mass >= low) & (mass <= high)
    if inside.any():
        # A steep theory would press the band into a corner.
        top = max(top, min(value[inside].max(), top * _DECADE))
        bottom = min(bottom, max(value[inside].min(), bottom / _DECADE))
    axes.set_ylim(bottom, top)
    if result.mass_limits is None:
        return
    found = [("expected", result.mass_limits.expected[2], {"markerfacecolor": "white"})]
    if result.mass_limits.observed is not None:
        found.append(("observed", result.mass_limits.observed, {"markerfacecolor": RED}))
    unit = with_unit("", result.axis_unit or _UNITS.get(result.axis, "")).strip(" []")
    for name, limit, look in found:
        if limit.value is None:
            continue
        height = np.exp(np.interp(limit.value, mass, np.log(value)))
        axes.plot(
            [limit.value], [height], "o", color=RED, markersize=9, markeredgewidth=1.8, zorder=6,
            label=f"Excluded below {limit.value:.4g} {unit} ({name})", **look,
        )  # fmt: skip
        axes.plot(
            [limit.value] * 2, [bottom, height], color=RED, linestyle=":", linewidth=1.2, zorder=3
        )


def _finish(figure: Any, axes: Any, result: Limits, *, crossed: bool) -> None:
    level = "Upper limit"
    if result.confidence is not None:
        level = f"{100 * result.confidence:.4g} % CL upper limit"
    axes.set_xlabel(
        with_unit(
            _LABELS.get(result.axis, result.axis), result.axis_unit or _UNITS.get(result.axis, "")
        )
    )
    axes.set_ylabel(
        with_unit(f"{level} on cross section", result.unit or "1 / unit of luminosity")
        if crossed
        else f"{level} on signal events"
    )
    add_legend(figure, axes)
