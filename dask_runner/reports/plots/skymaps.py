"""Pictures of a scanned sky: a map in Mollweide projection, the test statistic against its p-value,
and the hottest spots of many skies.

Right ascension grows to the left, as on the sky seen from inside. healpy is imported when a map is
drawn, to find the pixel of a place.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from dask_runner.conclusions.sky_results import HottestSpots, SkyView
from dask_runner.errors import UsageError
from dask_runner.optional import imported
from dask_runner.reports.numbers import with_error
from dask_runner.reports.plots.style import (
    BLUE,
    RED,
    add_legend,
    new_figure,
    particle_style,
)
from dask_runner.sky.skymaps import UNSEEN, SkyMap

# Places that are looked up for a picture, across and from pole to pole.
_ACROSS, _UP = 1600, 800
_TITLES = {
    "mlog10p": r"$-\log_{10}\,p$ (pre-trial)",
    "ts": "TS",
    "n_s": r"$\hat{n}_s$ (events)",
    "gamma": r"$\hat{\gamma}$",
}
_COLOURS = {"gamma": "viridis"}
_MARK = 14
_MOST_MARKS = 5


def mollweide(view: SkyView, sky: SkyMap, quantity: str = "") -> Any:
    """A figure of a column of the map (default: the one by which a pixel is hot) with the hottest
    spots marked. Raises UsageError for a column that the map has not.
    """
    quantity = quantity or sky.heat
    if quantity not in sky.columns:
        raise UsageError(
            f"the map has no {quantity}",
            hint=f"it has {', '.join(sky.columns)}"
            + ("" if "mlog10p" in sky.columns else "; --background gives mlog10p"),
        )
    with particle_style():
        figure = imported("matplotlib.figure", "plot").Figure(
            figsize=(10.0, 6.5), layout="constrained"
        )
        axes = figure.add_subplot(projection="mollweide")
        drawn = _image(axes, sky, quantity)
        _marks(axes, view)
        axes.grid(visible=True, color="0.5", linewidth=0.5, alpha=0.6)
        hours = np.arange(-150, 151, 30)
        axes.set_xticks(np.radians(hours), [_degrees((180 - float(x)) % 360) for x in hours])
        axes.set_yticks(np.radians([-60, -30, 0, 30, 60]))
        axes.tick_params(labelsize=11)
        for label in axes.get_xticklabels():
            label.set_bbox({"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1})
        bar = figure.colorbar(drawn, ax=axes, orientation="horizontal", shrink=0.6, pad=0.04)
        bar.set_label(_TITLES.get(quantity, quantity))
        figure.suptitle(_title(view), fontsize=14)
    return figure


def _degrees(value: float) -> str:
    return f"{value:g}°"


def _title(view: SkyView) -> str:
    what = "observed sky" if view.unblinded is not None else f"scrambled sky {view.sky}"
    if view.injection:
        what += " with injected source"
    return f"Right ascension to the left, equatorial coordinates; {what}"


def _image(axes: Any, sky: SkyMap, quantity: str) -> Any:
    healpy = imported("healpy", "sky")
    across = np.linspace(-np.pi, np.pi, _ACROSS + 1)
    up = np.linspace(-np.pi / 2, np.pi / 2, _UP + 1)
    x, dec = np.meshgrid((across[1:] + across[:-1]) / 2, (up[1:] + up[:-1]) / 2)
    pixels = healpy.ang2pix(sky.nside, np.pi / 2 - dec, np.mod(np.pi - x, 2 * np.pi))
    values = np.ma.masked_equal(sky.full(quantity)[pixels], UNSEEN)
    known = sky.columns[quantity][np.isfinite(sky.columns[quantity])]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    if quantity == "gamma":
        # Where nothing was fitted there is no index.
        values = np.ma.masked_where(sky.full("n_s")[pixels] <= 0, values)
    drawn = axes.pcolormesh(
        across, up, values, cmap=_COLOURS.get(quantity, "magma_r"), rasterized=True,
        vmin=min(0.0, low) if quantity != "gamma" else low, vmax=max(high, low + 1e-9),
    )  # fmt: skip
    axes.set_facecolor("0.85")
    return drawn


def _marks(axes: Any, view: SkyView) -> None:
    for rank, spot in enumerate(view.spots[:_MOST_MARKS], start=1):
        x, dec = np.pi - np.radians(spot.ra), np.radians(spot.dec)
        axes.plot(
            [x], [dec], marker="o", markersize=_MARK, markerfacecolor="none",
            markeredgecolor=BLUE, markeredgewidth=1.4, linestyle="none",
        )  # fmt: skip
        axes.annotate(
            f"{rank}", (x, dec), xytext=(9, 7), textcoords="offset points", fontsize=12, color=BLUE
        )


def ts_against_p(view: SkyView, sky: SkyMap) -> Any:
    """A figure of the test statistic of every pixel with TS > 0 against its -log10 p; how wide the
    band is says how much the distribution depends on the declination. Raises UsageError without
    p-values.
    """
    if "mlog10p" not in sky.columns:
        raise UsageError("the map has no p-values", hint="--background TIMESTAMP gives them")
    ts, mlog10p = sky.columns["ts"], sky.columns["mlog10p"]
    shown = ts > 0
    with particle_style():
        figure, (axes,) = new_figure()
        drawn = axes.scatter(
            mlog10p[shown], ts[shown], c=np.sin(sky.dec[shown]), s=5, cmap="coolwarm",
            vmin=-1, vmax=1, rasterized=True, label=f"{int(shown.sum())} pixels with TS > 0",
        )  # fmt: skip
        end = max(float(mlog10p[shown].max()) if shown.any() else 1.0, 0.5)
        grid = np.linspace(0.302, end * 1.02, 200)
        axes.plot(grid, _wilks(grid), color="black", linestyle="--", linewidth=1.3,
                  label=r"$\frac{1}{2}\chi^2_1$")  # fmt: skip
        axes.set_xlim(0, end * 1.05)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(r"$-\log_{10}\,p$ (pre-trial)")
        axes.set_ylabel("TS")
        figure.colorbar(drawn, ax=axes, label=r"$\sin\delta$")
        add_legend(figure, axes, corner="upper left", title=_title(view).rpartition("; ")[2])
    return figure


def _wilks(mlog10p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """TS of half a chi2 with one degree of freedom: the square of the one-sided significance."""
    special = imported("scipy.special", "stats")
    return np.asarray(special.ndtri(10.0**-mlog10p) ** 2)


def hottest(found: HottestSpots) -> Any:
    """A figure of the hottest spot of each sky: how many skies have one at least as hot, the curve
    of the effective number of looks, and the observed one.
    """
    values = np.sort(np.asarray(found.values))
    share = 1 - np.arange(len(values)) / len(values)
    by_p = found.quantity == "mlog10p"
    with particle_style():
        figure, (axes,) = new_figure()
        axes.set_yscale("log")
        lowest = 0.3 / len(values)
        end = float(values[-1])
        if found.observed is not None:
            end = max(end, found.observed.heat)
            lowest = min(lowest, (found.observed.post_trial.value or 1) / 3)
        start = float(values[0])
        span = max(end - start, 1e-3)
        axes.set_xlim(start - 0.05 * span, end + 0.1 * span)
        axes.set_ylim(lowest, 2)
        axes.step(
            values, share, where="pre", color="black", linewidth=1.6,
            label=f"{len(values)} skies without signal",
        )  # fmt: skip
        if by_p and found.looks is not None:
            _looks_curve(axes, found)
        if found.observed is not None:
            _observed(axes, found, lowest)
        axes.set_xlabel(f"Hottest spot: {_TITLES[found.quantity]}")
        axes.set_ylabel("Share of skies at least as hot")
        add_legend(figure, axes)
    return figure


def _looks_curve(axes: Any, found: HottestSpots) -> None:
    looks = found.looks
    assert looks is not None
    low, high = axes.get_xlim()
    x = np.linspace(max(low, 1e-3), high, 300)
    curve = -np.expm1(looks.number * np.log1p(-(10.0**-x)))
    text = f"{with_error(looks.number, looks.error)} independent looks"
    axes.plot(x, curve, color=RED, label=text if looks.good else f"{text} (bad fit)")


def _observed(axes: Any, found: HottestSpots, lowest: float) -> None:
    seen = found.observed
    assert seen is not None
    p = seen.post_trial
    text = f"{seen.name}: post-trial p = {with_error(p.value, (p.high - p.low) / 2)}"
    axes.plot([seen.heat] * 2, [lowest, p.value], color=BLUE, linestyle="--", label=text)
    axes.plot([axes.get_xlim()[0], seen.heat], [p.value] * 2, color=BLUE, linestyle=":")
