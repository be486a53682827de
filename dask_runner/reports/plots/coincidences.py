"""Pictures of coincidences: the odds of trials with and without signal, with the fitted tail."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dask_runner.reports.plots.style import (
    BLUE,
    COLORS,
    RED,
    add_legend,
    new_figure,
    particle_style,
)
from dask_runner.sky.odds import FLOOR
from dask_runner.stats.tails import Tailed

Floats = npt.NDArray[np.float64]

_BINS: Final = 60
# What is shown of small odds: most of a distribution's left side says nothing.
_LOWEST: Final = -6.0


def odds(
    background: Tailed,
    signals: Mapping[str, Floats],
    *,
    title: str = "",
    marked: float | None = None,
) -> Any:
    """A figure of log10 odds: densities above, with trials below the range in its first bin; below
    P(odds >= x) without signal, counted and from the tail. `signals` by their label, (trials,);
    `marked` is an observed value.
    """
    ordered = background.ordered
    values = [ordered, *signals.values()]
    top = max(float(array.max()) for array in values)
    top = max(top, marked) if marked is not None else top
    low = max(_LOWEST, float(ordered[ordered > FLOOR].min(initial=_LOWEST)))
    top = max(top, low + 1)
    edges = np.linspace(low, top + 0.04 * (top - low), _BINS + 1)
    with particle_style():
        figure, (above, below) = new_figure(2, ratios=(1.0, 1.0))
        _densities(above, ordered, signals, edges)
        _survival(below, background, edges)
        if marked is not None:
            for axes in (above, below):
                # Not to the top: the legend makes itself room above what is drawn.
                ends = [axes.get_ylim()[0], axes.get_ylim()[1] / 2]
                axes.plot([marked] * 2, ends, color=RED, linestyle="--", label="Observed")
        below.set_xlim(edges[0], edges[-1])
        below.set_xlabel(r"$\log_{10}$ odds")
        above.set_ylabel("Share of trials per bin")
        below.set_ylabel("P(odds ≥ x)")
        add_legend(figure, above, title=title or None)
        add_legend(figure, below)
    return figure


def _densities(axes: Any, ordered: Floats, signals: Mapping[str, Floats], edges: Floats) -> None:
    axes.set_yscale("log")
    shares = {"Without signal": _share(ordered, edges)}
    shares |= {label: _share(values, edges) for label, values in signals.items()}
    lowest = min(share[share > 0].min() for share in shares.values())
    axes.set_ylim(lowest / 2, 2 * max(share.max() for share in shares.values()))
    for k, (label, share) in enumerate(shares.items()):
        color = BLUE if k == 0 else COLORS[k % len(COLORS)]
        if k == 0:
            axes.stairs(
                share, edges, fill=True, color=color, alpha=0.35, linewidth=0, baseline=lowest / 2
            )
        axes.stairs(share, edges, color=color, linewidth=1.8, label=label, baseline=None)


def _share(values: Floats, edges: Floats) -> Floats:
    counts = np.histogram(np.clip(values, edges[0], None), edges)[0]
    return np.asarray(counts / len(values))


def _survival(axes: Any, background: Tailed, edges: Floats) -> None:
    ordered = background.ordered
    n = len(ordered)
    x = np.concatenate([[edges[0]], ordered[ordered > edges[0]]])
    share = (n - np.searchsorted(ordered, x)) / n
    if share[0] > 0:
        axes.set_yscale("log")
    label = f"{n} trials without signal"
    axes.step(x, share, where="pre", color="black", linewidth=1.6, label=label)
    lowest = 0.3 / n
    if background.tail is not None:
        tail = background.tail
        grid = np.linspace(tail.threshold, edges[-1], 200)
        p = tail.p(grid)
        error = np.array([tail.relative_error(float(place)) for place in grid])
        kind = "Pareto" if tail.kind == "pareto" else "Exponential"
        axes.plot(grid, p, color=RED, label=f"{kind} tail of {tail.number} trials")
        axes.fill_between(
            grid, p * np.exp(-error), p * np.exp(error), color=RED, alpha=0.2, linewidth=0
        )
        lowest = min(lowest, float(p[-1]) / 3)
    axes.set_ylim(max(lowest, 1e-12) if share[0] > 0 else 0, 3)
