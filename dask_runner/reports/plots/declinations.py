"""Pictures of a search against declination: parameters of background distributions, and fluxes.

The axis is sin(dec), in which equal lengths are equal parts of the sky. Another parameter serves as
axis as it is.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dask_runner.conclusions.results import (
    Chi2Fit,
    Distributions,
    PointDistribution,
    Sensitivities,
    Strengths,
)
from dask_runner.errors import UsageError
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

DEC = "dec"
_PANELS = (("eta", r"$\eta$"), ("ndof", "ndof"), ("scale", "scale"))
_HEIGHT = 9.5


def parameters(result: Distributions, axis: str = "") -> Any:
    """A figure of eta, ndof and scale of the fits along a parameter (default: that with most
    values, of numbers); a fit that does not describe the trials is an open red marker. Raises
    UsageError if there are no fits, or other parameters vary too.
    """
    fitted = [(one, one.fit) for one in result.points if one.fit is not None and one.fit.curve]
    if not fitted:
        raise UsageError(
            "no chi2 was fitted: there are no parameters to draw",
            hint="trials without signal, of the field ts",
        )
    axis = axis or _longest([one.point for one, _ in fitted])
    _check_alone([one for one, _ in fitted], axis)
    fitted.sort(key=lambda pair: float(pair[0].point[axis]))
    with particle_style():
        figure, panels = new_figure(3)
        figure.set_figheight(_HEIGHT)
        for axes, (name, title) in zip(panels, _PANELS, strict=True):
            _panel(axes, fitted, axis, name)
            axes.set_ylabel(title)
        panels[0].axhline(0.5, color="0.6", linestyle=":", linewidth=1.2)
        panels[1].axhline(1.0, color="0.6", linestyle=":", linewidth=1.2)
        panels[2].axhline(1.0, color="0.6", linestyle=":", linewidth=1.2)
        panels[-1].set_xlabel(_axis_title(axis))
        add_legend(figure, panels[0])
    return figure


def _panel(
    axes: Any, fitted: Sequence[tuple[PointDistribution, Chi2Fit]], axis: str, name: str
) -> None:
    x = np.array([_place(one.point, axis) for one, _ in fitted])
    y = np.array([getattr(fit, name) for _, fit in fitted])
    error = np.array([getattr(fit, f"{name}_error") for _, fit in fitted])
    good = np.array([fit.quality is None or fit.quality.good for _, fit in fitted])
    for chosen, color, face, label in (
        (good, BLUE, BLUE, r"$\chi^2$ fit of background trials"),
        (~good, RED, "white", "does not describe the trials"),
    ):
        if chosen.any():
            axes.errorbar(
                x[chosen], y[chosen], yerr=error[chosen], fmt="o", color=color, markersize=6,
                markerfacecolor=face, linewidth=1.4, label=label,
            )  # fmt: skip
    axes.plot(x, y, color=BLUE, linewidth=0.8, alpha=0.6)
    if name == "scale" and not error.any():
        axes.set_ylim(0.9, 1.1)
        axes.annotate("fixed", (0.02, 0.1), xycoords="axes fraction", fontsize=13)


def fluxes(result: Sensitivities, axis: str = "") -> Any:
    """A figure of sensitivity and discovery flux along a parameter (default: `dec`), a pair of
    curves for each combination of the others. Raises UsageError without fluxes.
    """
    scale = result.flux
    if scale is None:
        raise UsageError("there are no fluxes to draw")
    axis = axis or DEC
    groups = _groups(result.strengths, axis)
    with particle_style():
        figure, (axes,) = new_figure()
        axes.set_yscale("log")
        for k, (text, members) in enumerate(groups.items()):
            for kind, line, face in (("sensitivity", "-", None), ("discovery", "--", "white")):
                x, y, error = _curve(members, axis, kind)
                axes.errorbar(
                    x, y, yerr=error, color=COLORS[k % len(COLORS)], linestyle=line, markersize=6,
                    marker=MARKERS[k % len(MARKERS)], linewidth=1.6,
                    markerfacecolor=face or COLORS[k % len(COLORS)],
                    label=_label(result, kind, text),
                )  # fmt: skip
        axes.set_xlabel(_axis_title(axis))
        kind = scale.kind.replace("^2", "$^2$")
        unit = scale.unit.replace("^-1", "$^{-1}$").replace("^-2", "$^{-2}$")
        axes.set_ylabel(f"{kind} at {_energy(scale.pivot)} [{unit}]")
        add_legend(figure, axes, title=f"{scale.livetime:g} days")
    return figure


def _energy(gev: float) -> str:
    for factor, unit in ((1e6, "PeV"), (1e3, "TeV")):
        if gev >= factor:
            return f"{gev / factor:g} {unit}"
    return f"{gev:g} GeV"


def _label(result: Sensitivities, kind: str, text: str) -> str:
    if kind == "sensitivity":
        words = f"Sensitivity ({100 * result.beta:g} %)"
    else:
        words = rf"{result.sigma:g}$\sigma$ discovery ({100 * result.discovery_beta:g} %)"
    return f"{words}, {text}" if text else words


def _curve(
    members: Sequence[Strengths], axis: str, kind: str
) -> tuple[list[float], list[float], list[float]]:
    """Where there is a value, the places, values and errors."""
    kept = sorted(
        (_place(one.point, axis), value, getattr(one.flux, f"{kind}_error"))
        for one in members
        if (value := getattr(one.flux, kind)) is not None
    )
    return [x for x, _, _ in kept], [y for _, y, _ in kept], [error for _, _, error in kept]


def _groups(strengths: Sequence[Strengths], axis: str) -> dict[str, list[Strengths]]:
    """The points by their other parameters, in words, as far as they vary."""
    values: dict[str, set[Any]] = {}
    for one in strengths:
        for name, value in one.point.items():
            values.setdefault(name, set()).add(value)
    if axis not in values:
        raise UsageError(f"no parameter {axis!r}", hint=f"there are: {', '.join(values)}")
    others = [name for name, found in values.items() if name != axis and len(found) > 1]
    groups: dict[str, list[Strengths]] = {}
    for one in strengths:
        rest = {name: one.point[name] for name in others if name in one.point}
        groups.setdefault(point_text(rest), []).append(one)
    return groups


def _longest(points: Sequence[dict[str, Any]]) -> str:
    names = dict.fromkeys(name for point in points for name in point)
    counts = {
        name: len({point.get(name) for point in points})
        for name in names
        if not any(isinstance(point.get(name, ""), str) for point in points)
    }
    if not counts:
        raise UsageError("no parameter has a number at every point: there is no axis")
    return max(counts, key=lambda name: counts[name])


def _check_alone(points: Sequence[PointDistribution], axis: str) -> None:
    for name in dict.fromkeys(name for one in points for name in one.point):
        if name != axis and len({one.point.get(name) for one in points}) > 1:
            raise UsageError(
                f"{name} varies too: each {axis} needs one point",
                hint=f"--at {name}={points[0].point.get(name)}",
            )
    for one in points:
        if isinstance(one.point.get(axis, ""), str):
            raise UsageError(f"{axis} is not a number at every point: it cannot be an axis")


def _place(point: dict[str, Any], axis: str) -> float:
    """Sin(dec) of a declination in degrees."""
    value = float(point[axis])
    return float(np.sin(np.radians(value))) if axis == DEC else value


def _axis_title(axis: str) -> str:
    return r"$\sin\delta$" if axis == DEC else axis
