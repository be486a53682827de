"""Scrambled skies as one direction sees them: quick, and with the distribution of whole ones.

Only events that can be near a source at the declination get a random right ascension, as a distance
from the source in steps of 2^-32 of the circle (3e-4 arc seconds): the others are far wherever
they are. Which values they get depends on the generator's state alone.

Owns the draws for a fixed declination. The likelihood is `likelihood`'s.
"""

from typing import Final

import numpy as np

from dask_runner.sky.energies import Indices
from dask_runner.sky.events import Array, Events
from dask_runner.sky.fitting import Fit, Near, maximise
from dask_runner.sky.likelihood import Band, Prepared, apart
from dask_runner.sky.search import Search

_CIRCLE: Final = 2.0**32
_STEP: Final = 2 * np.pi / _CIRCLE


class Scrambler:
    """Trials at a declination (radians) for a source with an extension (radians): events of the
    experiment at random right ascension, and signal events at their own directions.
    """

    def __init__(self, search: Search, dec: float, extension: float = 0.0) -> None:
        self._search = search
        self._dec, self._extension = dec, extension
        self._band = Band(Prepared(search, search.experiment, extension), dec)
        self._number = len(search.experiment)
        # A distance d is within +-w if d + w, modulo the circle, is at most 2 w.
        twice = np.minimum(2 * self._band.width / _STEP, _CIRCLE - 1)
        self._twice = twice.astype(np.uint32)
        self._once = self._twice // np.uint32(2)

    def drawn(self, rng: np.random.Generator) -> tuple[Indices, Array]:
        """Those of the band that are near in a new sky, as indices into the experiment's events,
        and their distances in right ascension.
        """
        members, distance = self._drawn(rng)
        return self._band.place[members], distance

    def fit(
        self, rng: np.random.Generator, signal: Events | None = None, *, index: float | None = None
    ) -> Fit:
        """The fit at right ascension 0 to a new sky with the signal added."""
        members, distance = self._drawn(rng)
        added = 0 if signal is None else len(signal)
        near = self._band.near(members, distance, self._number + added)
        if signal is not None and added:
            near = near.joined(self._near_signal(signal, self._number + added))
        return maximise(near, self._search.ratios, index)

    def _drawn(self, rng: np.random.Generator) -> tuple[Indices, Array]:
        number = len(self._twice)
        # Two from each 64-bit word, of which the lower half comes first wherever this runs.
        words = np.asarray(rng.bit_generator.random_raw((number + 1) // 2), dtype="<u8")
        turned = words.view("<u4")[:number]
        members = np.flatnonzero(turned + self._once <= self._twice)
        return members, turned[members].view("<i4") * _STEP

    def _near_signal(self, signal: Events, total: int) -> Near:
        prepared = Prepared(self._search, signal, self._extension)
        band = Band(prepared, self._dec)
        distance = apart(signal.ra[band.place], 0.0)
        members = np.flatnonzero(distance < band.width)
        return band.near(members, distance[members], total)
