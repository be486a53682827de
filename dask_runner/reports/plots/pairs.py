"""A picture of a map of a source's direction with the neutrinos around it in time.

Right ascension grows to the left, as on the sky seen from inside.
"""

from typing import Any, Final

import numpy as np

from dask_runner.optional import imported
from dask_runner.reports.plots.style import BLUE, particle_style
from dask_runner.sky.healpix import SkyDensity
from dask_runner.sky.lists import EventList
from dask_runner.sky.rings import pixel_at

# Places that are looked up, across and from pole to pole; points of a circle; decades of density.
_ACROSS, _UP = 1200, 600
_CIRCLE: Final = 100
_DECADES: Final = 4.0


def pair(sky: SkyDensity, events: EventList, *, title: str = "") -> Any:
    """A figure of the density relative to a flat sky, and of the events with circles of their
    error.
    """
    with particle_style():
        figure = imported("matplotlib.figure", "plot").Figure(
            figsize=(10.0, 6.5), layout="constrained"
        )
        axes = figure.add_subplot(projection="mollweide")
        drawn = _image(axes, sky)
        _circles(axes, events)
        axes.grid(visible=True, color="0.5", linewidth=0.5, alpha=0.6)
        places = np.arange(-150, 151, 30)
        axes.set_xticks(np.radians(places), [f"{(180 - place) % 360}°" for place in places])
        axes.set_yticks(np.radians([-60, -30, 0, 30, 60]))
        axes.tick_params(labelsize=11)
        bar = figure.colorbar(drawn, ax=axes, orientation="horizontal", shrink=0.6, pad=0.04)
        bar.set_label(r"$\log_{10}$ probability density relative to a flat sky")
        text = f"{len(events)} neutrinos in the window; right ascension to the left"
        figure.suptitle(f"{title}: {text}" if title else text, fontsize=14)
    return figure


def _image(axes: Any, sky: SkyDensity) -> Any:
    across = np.linspace(-np.pi, np.pi, _ACROSS + 1)
    up = np.linspace(-np.pi / 2, np.pi / 2, _UP + 1)
    x, dec = np.meshgrid((across[1:] + across[:-1]) / 2, (up[1:] + up[:-1]) / 2)
    values = sky.density[pixel_at(sky.nside, np.pi - x, dec)]
    top = float(np.log10(sky.density.max()))
    values = np.log10(np.maximum(values, 10 ** (top - _DECADES)))
    return axes.pcolormesh(
        across, up, values, cmap="magma_r", vmin=top - _DECADES, vmax=top + 1e-9, rasterized=True
    )


def _circles(axes: Any, events: EventList) -> None:
    angle = np.linspace(0, 2 * np.pi, _CIRCLE)
    for ra, dec, sigma in zip(events.ra, events.dec, events.sigma, strict=True):
        height = np.sin(dec) * np.cos(sigma) + np.cos(dec) * np.sin(sigma) * np.cos(angle)
        across = np.sin(angle) * np.sin(sigma) * np.cos(dec)
        turn = np.arctan2(across, np.cos(sigma) - np.sin(dec) * height)
        x = np.pi - np.mod(ra + turn, 2 * np.pi)
        # Not across the picture where a circle leaves it on one side.
        x[np.abs(np.diff(x, append=x[:1])) > np.pi] = np.nan
        axes.plot(x, np.arcsin(np.clip(height, -1, 1)), color=BLUE, linewidth=1.4)
        axes.plot([np.pi - np.mod(ra, 2 * np.pi)], [dec], "+", color=BLUE, markersize=5)
