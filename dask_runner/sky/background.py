"""The density of background in declination, from the experiment itself.

Each event counts with a Gaussian of its own angular error, as it does in the likelihood. Then the
density is corrected until a sky at random right ascension gives on average just as much signal
density as background density, wherever a source is: without that, statistical fluctuations along
the declination would shift the test statistic of all skies.

Owns the estimate. It depends on the declinations and errors alone: observed right ascensions do not
enter.
"""

from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter1d

from dask_runner.sky.events import Array

# Bands of declination, and groups of events with about the same error.
_BANDS: Final = 2000
_GROUPS: Final = 24
_CORRECTIONS: Final = 3
# Of an even density: where there are no events at all.
_FLOOR: Final = 1e-6


class BackgroundDensity:
    """Events per sin(dec), as a share of all. `smoothing` (radians) is added to all errors."""

    def __init__(self, dec: Array, sigma: Array, smoothing: float) -> None:
        edges = (np.arange(_BANDS + 1) / _BANDS - 0.5) * np.pi
        self._centres: Array = (edges[1:] + edges[:-1]) / 2
        areas = np.diff(np.sin(edges))
        place = np.clip(((dec / np.pi + 0.5) * _BANDS).astype(np.int64), 0, _BANDS - 1)
        groups = [
            (members, _shape(np.sqrt(np.square(sigma[members]).mean() + smoothing**2)))
            for members in _by_error(sigma)
        ]
        counts = [np.bincount(place[members], minlength=_BANDS) for members, _ in groups]
        # The same smoothing for the areas: near a pole both become less.
        spread = [shape(areas) for _, shape in groups]
        density = np.ones(_BANDS)
        for _ in range(1 + _CORRECTIONS):
            found = sum(
                shape(count / density) * (areas / area)
                for count, area, (_, shape) in zip(counts, spread, groups, strict=True)
            )
            density = np.maximum(density * found / (len(dec) * areas), _FLOOR)
        self._values: Array = density / (density * areas).sum()

    def at(self, dec: float | Array) -> Array:
        """At declinations in radians, linear between the bands."""
        return np.asarray(np.interp(dec, self._centres, self._values))


def _by_error(sigma: Array) -> list[npt.NDArray[np.int64]]:
    """The events in groups of about the same size, from the least to the largest error."""
    order = np.argsort(sigma, kind="stable")
    return [part for part in np.array_split(order, min(_GROUPS, len(order))) if len(part)]


def _shape(width: float) -> partial[Array]:
    """A Gaussian filter with this width in radians, mirrored at the poles."""
    return partial(gaussian_filter1d, sigma=width / np.pi * _BANDS, mode="reflect", truncate=6.0)
