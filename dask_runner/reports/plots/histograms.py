"""Merged histograms: one axis as steps with errors, samples over or upon each other; two axes as
colours.
"""

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_runner.errors import UsageError
from dask_runner.histogram_results import axis_title, is_uncounted
from dask_runner.histograms.result import Filled, HistogramResult
from dask_runner.histograms.spec import Axis
from dask_runner.optional import imported
from dask_runner.reports.plots.style import BLUE, COLORS, add_legend, new_figure, particle_style

Numbers = npt.NDArray[np.float64]

_UNIT = re.compile(r"\s*\[([^\]]+)\]\s*$")
_MOST_AXES = 2
# Of the lowest content above zero, on a logarithmic scale.
_FLOOR = 0.5
# Letters above the frame, beside the number of events.
_WIDE, _NARROW = 66, 54
# Errors below this share of the height are not seen.
_VISIBLE = 0.01
_MAP = "viridis"
# The first line of a cutflow.
_ALL = "all"
_SMALL = 13


def not_drawable(filled: Filled) -> str:
    """Why a histogram cannot be drawn: it has more axes than a picture; "" if it can."""
    numbers = len(filled.spec.axes) - filled.spec.by_sample
    if numbers <= _MOST_AXES:
        return ""
    return f"{filled.spec.name}: a picture has {_MOST_AXES} axes, not {numbers}"


def histogram(
    filled: Filled,
    result: HistogramResult,
    *,
    log: bool = False,
    stack: bool = False,
    norm: bool = False,
) -> Any:
    """A figure of one histogram: `log` for the contents, `stack` for samples upon each other,
    `norm` for each sample (or the only histogram) as a share of its sum.

    Raises UsageError for one that is `not_drawable`.
    """
    if why := not_drawable(filled):
        raise UsageError(why, hint="draw a projection of what is in the files")
    with particle_style():
        if len(filled.spec.axes) - filled.spec.by_sample == 1:
            return _one_axis(filled, result, log=log, stack=stack, norm=norm)
        return _two_axes(filled, result, log=log)


def _one_axis(
    filled: Filled, result: HistogramResult, *, log: bool, stack: bool, norm: bool
) -> Any:
    axis = filled.spec.axes[-1]
    edges = _drawn_edges(axis)
    figure, (axes,) = new_figure()
    values, variances = filled.values[filled.inner], filled.variances[filled.inner]
    if norm:
        total = values.sum(axis=-1, keepdims=True)
        scale = np.divide(1.0, total, out=np.zeros_like(total), where=total != 0)
        values, variances = values * scale, variances * scale**2
    # There is no logarithm of nothing.
    log = log and bool((values > 0).any())
    if log:
        axes.set_yscale("log")
    if not filled.spec.by_sample:
        _alone(axes, filled, edges, values, variances)
    elif stack:
        _stacked(axes, filled, edges, values, variances)
    else:
        _overlaid(axes, filled, edges, values, variances)
    if _is_logarithmic(edges):
        axes.set_xscale("log")
    axes.set_xlim(edges[0], edges[-1])
    _set_height(axes, values.sum(axis=0) if filled.spec.by_sample and stack else values, log=log)
    _name_axis(axes, "x", filled, axis)
    axes.set_ylabel(_height_label(filled, axis, norm=norm))
    _headline(axes, filled, result, room=_WIDE)
    add_legend(figure, axes)
    return figure


def _alone(axes: Any, filled: Filled, edges: Numbers, values: Numbers, variances: Numbers) -> None:
    axes.stairs(values, edges, fill=True, color=BLUE, alpha=0.35, linewidth=0)
    axes.stairs(values, edges, color=BLUE, linewidth=1.6, baseline=None, label=_account(filled))
    _band(axes, edges, values, np.sqrt(variances))


def _stacked(
    axes: Any, filled: Filled, edges: Numbers, values: Numbers, variances: Numbers
) -> None:
    # The first sample is on top, as in the legend.
    above = np.cumsum(values[::-1], axis=0)[::-1]
    below = above - values
    for k in range(len(values)):
        axes.stairs(
            above[k], edges, baseline=below[k], fill=True, facecolor=COLORS[k % len(COLORS)],
            edgecolor="black", linewidth=0.8, zorder=2, label=_sample_label(filled, k),
        )  # fmt: skip
    _band(axes, edges, above[0], np.sqrt(variances.sum(axis=0)))


def _overlaid(
    axes: Any, filled: Filled, edges: Numbers, values: Numbers, variances: Numbers
) -> None:
    middle = (edges[1:] + edges[:-1]) / 2
    if _is_logarithmic(edges):
        middle = np.sqrt(edges[1:] * edges[:-1])
    for k, (one, error) in enumerate(zip(values, np.sqrt(variances), strict=True)):
        color = COLORS[k % len(COLORS)]
        axes.stairs(
            one, edges, color=color, linewidth=1.8, baseline=None, label=_sample_label(filled, k)
        )
        some = error > 0
        axes.vlines(
            middle[some], (one - error)[some], (one + error)[some], color=color, linewidth=1.0,
            alpha=0.7,
        )  # fmt: skip


def _band(axes: Any, edges: Numbers, values: Numbers, errors: Numbers) -> None:
    height = np.abs(values) if axes.get_yscale() == "log" else np.abs(values).max(initial=0)
    if not (errors > _VISIBLE * height).any():
        return
    axes.stairs(
        values + errors, edges, baseline=values - errors, fill=True, facecolor="none",
        edgecolor="0.35", hatch="//////", linewidth=0, zorder=3, label="Statistical uncertainty",
    )  # fmt: skip


def _two_axes(filled: Filled, result: HistogramResult, *, log: bool) -> Any:
    colors = imported("matplotlib.colors", "plot")
    values = filled.values[filled.inner]
    if filled.spec.by_sample:
        values = values.sum(axis=0)
    across, up = filled.spec.axes[-2:]
    figure, (axes,) = new_figure()
    shown = np.ma.masked_equal(values.T, 0)
    positive = values[values > 0]
    if log and not positive.size:
        log = False
    norm = colors.LogNorm(positive.min(), positive.max()) if log else None
    mesh = axes.pcolormesh(
        _drawn_edges(across), _drawn_edges(up), shown, cmap=_MAP, norm=norm, rasterized=True
    )
    bar = figure.colorbar(mesh, ax=axes, pad=0.02)
    bar.set_label("Sum of weights per bin" if filled.weighted else "Entries per bin")
    _name_axis(axes, "x", filled, across)
    _name_axis(axes, "y", filled, up)
    _headline(axes, filled, result, room=_NARROW)
    return figure


def _drawn_edges(axis: Axis) -> Numbers:
    """The edges; an endless bin is drawn as wide as its neighbour, or somehow if it has none."""
    edges = axis.all_edges.copy()
    inner = edges[np.isfinite(edges)]
    if not inner.size:
        return np.array([0.0, 1.0])
    widths = np.diff(inner)
    if not np.isfinite(edges[0]):
        edges[0] = inner[0] - (widths[0] if widths.size else max(1.0, abs(inner[0])))
    if not np.isfinite(edges[-1]):
        edges[-1] = inner[-1] + (widths[-1] if widths.size else max(1.0, abs(inner[-1])))
    return edges


def _is_logarithmic(edges: Numbers) -> bool:
    """True for bins that are equally wide on a logarithmic scale, over a decade or more."""
    if len(edges) <= 2 or edges[0] <= 0 or edges[-1] < 10 * edges[0]:  # noqa: PLR2004  (two bins)
        return False
    steps = np.diff(np.log(edges))
    return bool(np.allclose(steps, steps[0], rtol=1e-6))


def _set_height(axes: Any, values: Numbers, *, log: bool) -> None:
    top = float(values.max(initial=0))
    positive = values[values > 0]
    if log:
        axes.set_ylim(_FLOOR * float(positive.min()), 2 * top)
    else:
        low = min(0.0, 1.1 * float(values.min(initial=0)))
        axes.set_ylim(low, 1.08 * top if top > 0 else 1.0)


def _name_axis(axes: Any, which: str, filled: Filled, axis: Axis) -> None:
    ends = [
        name
        for name, edge in (("first", axis.all_edges[0]), ("last", axis.all_edges[-1]))
        if not np.isfinite(edge)
    ]
    open_ends = f" ({' and '.join(ends)} bin without end)" if ends else ""
    axes.set(**{f"{which}label": _plain(axis_title(filled, axis)) + open_ends})
    if axis.kind == "category":
        side = axes.xaxis if which == "x" else axes.yaxis
        side.set_ticks(np.arange(axis.size) + 0.5, list(axis.categories))
        side.set_minor_locator(imported("matplotlib.ticker", "plot").NullLocator())


def _height_label(filled: Filled, axis: Axis, *, norm: bool) -> str:
    what = "Sum of weights" if filled.weighted else "Entries"
    what = "Share" if norm else what
    if axis.kind != "regular":
        return f"{what} / bin"
    unit = _UNIT.search(axis_title(filled, axis))
    return f"{what} / {(axis.stop - axis.start) / axis.bins:.4g}{f' {unit[1]}' if unit else ''}"


def _account(filled: Filled) -> str:
    counts = filled.counts
    if is_uncounted(filled):
        return f"sum of weights {filled.values[filled.inner].sum():.5g}"
    outside = filled.entries - int(counts[filled.inner].sum())
    words = [f"{filled.entries:,} entries".replace(",", " ")]
    if outside:
        words.append(f"{outside:,} outside".replace(",", " "))
    if filled.nan:
        words.append(f"{filled.nan:,} not a number".replace(",", " "))
    return ", ".join(words)


def _sample_label(filled: Filled, number: int) -> str:
    name = filled.spec.axes[0].categories[number]
    if is_uncounted(filled):
        return _plain(name)
    entries = f"{int(filled.counts[number].sum()):,}".replace(",", " ")
    return f"{_plain(name)} ({entries})"


def _headline(axes: Any, filled: Filled, result: HistogramResult, *, room: int) -> None:
    """Above the frame: which events, and below them which objects were selected, in `room` letters
    each; and how much was read.
    """
    cuts = [cut for cut in result.cutflow if not cut.sample and cut.name != _ALL]
    events = ", ".join(cut.name for cut in cuts if cut.level == "event")
    objects = [cut.name for cut in cuts if cut.level == "object"]
    objects += [filled.spec.where] if filled.spec.where else []
    lines = [line for line in (events, ", ".join(objects)) if line]
    text = "\n".join(_plain(_shortened(line, room)) for line in lines)
    read = f"{result.events_read:,} events".replace(",", " ")
    if result.events_read != result.events_asked:
        read += f" of {result.events_asked:,}".replace(",", " ")
    axes.set_title(text, loc="left", fontsize=_SMALL)
    axes.set_title(read, loc="right", fontsize=_SMALL)


def _shortened(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 4]} ..."


def _plain(text: str) -> str:
    """Text as it is, but for what is meant as mathematics, `$p_T$`, and can be set."""
    if text.count("$") % 2 == 0:
        mathtext = imported("matplotlib.mathtext", "plot")
        try:
            mathtext.MathTextParser("path").parse(text)
        except ValueError:
            pass
        else:
            return text
    return text.replace("$", r"\$")
