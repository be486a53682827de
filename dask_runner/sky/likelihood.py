"""The test statistic at directions of the sky, for a set of events.

The ratio of an event's densities in space is that of a von Mises-Fisher distribution with
kappa = 1/sigma^2 (a Gaussian on the sphere; Fisher, Proc. R. Soc. A 217 (1953) 295) to the density
of background at its declination:

    S/B = kappa / (1 - exp(-2 kappa)) exp(-kappa h) / b(sin dec),    h = 1 - cos(distance)

With an extension of the source, sigma^2 is the sum of both squares. An event is near if S/B, with
the largest energy ratio of its bin, exceeds 1e-12. What the others have is left out: TS changes by
less than 2e-12 n_s.

Owns which events are near, and how they are found quickly: for one declination after the other.
Refuses to know of trials and of pixels.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dask_runner.errors import UsageError
from dask_runner.sky.energies import Indices
from dask_runner.sky.events import Array, Events
from dask_runner.sky.fitting import Fit, Near, maximise
from dask_runner.sky.search import Search

__all__ = ["Band", "Evaluator", "Fit", "Fits", "Prepared"]

_LEAST: Final = 1e-12
# The largest energy ratio is known at the nodes only; in between it may be a little larger.
_MARGIN: Final = 10.0


class Fits(Struct, frozen=True, kw_only=True):
    """The fits at many directions, arrays of shape (directions,)."""

    ts: Array
    n_s: Array
    gamma: Array
    n_near: npt.NDArray[np.int64]
    converged: npt.NDArray[np.bool_]


class Prepared:
    """What of the likelihood depends on events and extension alone. Arrays of shape (n,): `factor`
    of exp(-kappa h) in S/B, and `reach`, the h within which an event is near.
    """

    def __init__(self, search: Search, events: Events, extension: float = 0.0) -> None:
        self.ra, self.dec = events.ra, events.dec
        self.kappa: Array = 1 / (np.square(events.sigma) + extension**2)
        background = search.density(events.dec)
        with np.errstate(divide="ignore"):
            self.factor: Array = self.kappa / -np.expm1(-2 * self.kappa) / background
        self.bins = search.bins(events)
        largest = self.factor * search.ratios.largest[self.bins] * _MARGIN
        self.reach: Array = np.log(largest / _LEAST) / self.kappa

    def __len__(self) -> int:
        return len(self.dec)


class Band:
    """The events that can be near a source at one declination, and in what distance of right
    ascension they are: `width` is half the range, infinite for those that always are.
    """

    def __init__(self, prepared: Prepared, dec: float) -> None:
        along = np.square(np.sin((prepared.dec - dec) / 2))
        self.place: Indices = np.flatnonzero(prepared.reach > 2 * along)
        chosen = self.place
        self._along: Array = along[chosen]
        self._cosines: Array = np.cos(prepared.dec[chosen]) * np.cos(dec)
        with np.errstate(divide="ignore", over="ignore"):
            across = (prepared.reach[chosen] / 2 - self._along) / self._cosines
        always = across >= 1
        self.width: Array = 2 * np.arcsin(np.sqrt(np.where(always, 0.0, across)))
        self.width[always] = np.inf
        self._kappa = prepared.kappa[chosen]
        self._factor = prepared.factor[chosen]
        self._bins = prepared.bins[chosen]

    def __len__(self) -> int:
        return len(self.place)

    def near(self, members: Indices, distance: Array, total: int) -> Near:
        """Some of the band's events, with their distance in right ascension, among `total`."""
        far = np.square(np.sin(distance / 2))
        far *= self._cosines[members]
        far += self._along[members]
        far *= -2 * self._kappa[members]
        spatial = np.exp(far)
        spatial *= self._factor[members]
        return Near(spatial=spatial, bins=self._bins[members], total=total)


def apart(ra: Array, from_ra: float) -> Array:
    """The distance in right ascension, 0 to pi, for right ascensions in [0, 2 pi]."""
    distance: Array = np.abs(ra - from_ra)
    return np.minimum(distance, np.abs(2 * np.pi - distance), out=distance)


class Evaluator:
    """The test statistic of `events` at any direction, all angles in radians. `extension` is that
    of the source that is looked for.
    """

    def __init__(self, search: Search, events: Events, *, extension: float = 0.0) -> None:
        self._ratios = search.ratios
        self._prepared = Prepared(search, events, extension)
        self._dec = np.nan
        self._band: Band | None = None
        self._ra: Array = np.zeros(0)

    def at(self, ra: float, dec: float, *, index: float | None = None) -> Fit:
        """The fit at a direction; with `index` that is not fitted, even if the search does."""
        self._check_index(index)
        band = self._at_declination(dec)
        distance = apart(self._ra, ra)
        members = np.flatnonzero(distance < band.width)
        near = band.near(members, distance[members], len(self._prepared))
        return maximise(near, self._ratios, index)

    def scan(self, ra: Array, dec: Array, *, index: float | None = None) -> Fits:
        """The fits at directions, shape (directions,). Those of one declination are quick if they
        come one after the other. Each depends on its direction alone.
        """
        fits = [self.at(float(a), float(b), index=index) for a, b in zip(ra, dec, strict=True)]
        return Fits(
            ts=np.array([fit.ts for fit in fits], float),
            n_s=np.array([fit.n_s for fit in fits], float),
            gamma=np.array([fit.gamma for fit in fits], float),
            n_near=np.array([fit.n_near for fit in fits], np.int64),
            converged=np.array([fit.converged for fit in fits], bool),
        )

    def _at_declination(self, dec: float) -> Band:
        if self._band is None or dec != self._dec:
            self._band = Band(self._prepared, dec)
            self._ra = self._prepared.ra[self._band.place]
            self._dec = dec
        return self._band

    def _check_index(self, index: float | None) -> None:
        low, high = self._ratios.nodes[0], self._ratios.nodes[-1]
        if index is not None and not low <= index <= high:
            raise UsageError(
                f"index {index:g} is outside {low:g} to {high:g}, for which the search was prepared"
            )
