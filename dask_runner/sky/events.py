"""Events of a neutrino telescope: as measured, and as simulated.

Owns the columns. Refuses to know where they come from.
"""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from msgspec import Struct

Array = npt.NDArray[np.float64]

EVENT_COLUMNS = ("ra", "dec", "sigma", "log10e")
TRUTH_COLUMNS = ("true_ra", "true_dec", "true_e", "weight")


class Events(Struct, frozen=True, kw_only=True):
    """Arrays of shape (n,): right ascension, declination and angular error (radians; the error is
    that of one coordinate), and log10 of the measured energy in GeV.
    """

    ra: Array
    dec: Array
    sigma: Array
    log10e: Array

    def __len__(self) -> int:
        return len(self.ra)

    def take(self, places: Any) -> Self:
        """The events at these places: indices, a mask or a slice."""
        columns = {name: getattr(self, name)[places] for name in self.__struct_fields__}
        return type(self)(**columns)

    @classmethod
    def joined(cls, parts: Sequence["Events"]) -> Self:
        """One after the other."""
        columns = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in cls.__struct_fields__
        }
        return cls(**columns)


class Simulation(Events, frozen=True, kw_only=True):
    """With the true direction, the true energy in GeV, and the weight in GeV cm^2 sr (IceCube's
    OneWeight over the number of generated events): the sum of weight times flux is a rate.
    """

    true_ra: Array
    true_dec: Array
    true_e: Array
    weight: Array


def wrapped(ra: Array) -> Array:
    """Right ascension in [0, 2 pi)."""
    angle = np.mod(ra, 2 * np.pi)
    # A tiny negative angle comes out as 2 pi itself.
    angle[angle >= 2 * np.pi] = 0.0
    return angle


def away(ra: Array, dec: Array, to_ra: Any, to_dec: Any) -> Array:
    """1 - cos of the distance between directions, precise for small ones (haversine formula)."""
    across = np.sin((ra - to_ra) / 2)
    along = np.sin((dec - to_dec) / 2)
    result: Array = 2 * (along * along + np.cos(dec) * np.cos(to_dec) * (across * across))
    return result
