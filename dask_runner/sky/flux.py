"""Power-law spectra, and what numbers of events are as fluxes, in the units that people quote.

Owns the conversions. A flux is dN/dE = norm (E / pivot)^-index exp(-E / cutoff): quoted at a pivot,
it is the power law without the cutoff's factor.
"""

from math import inf, isfinite
from typing import Final, Self

import numpy as np
from msgspec import Struct

from dask_runner.errors import UsageError
from dask_runner.sky.detector import Detector
from dask_runner.sky.events import Array

_CM2: Final = 1e4
_STEPS: Final = 10_000
# Steeper, nothing of it is left at the energies of any telescope.
MOST_INDEX: Final = 10.0
# GeV of each unit of energy.
UNITS = {"GeV": 1.0, "TeV": 1e3, "PeV": 1e6}


class PowerLaw(Struct, frozen=True, kw_only=True):
    """`cutoff` in GeV, 0 for none. `pivot` in GeV: where fluxes are quoted."""

    index: float = 2.0
    cutoff: float = 0.0
    pivot: float = 1e5

    def check(self, where: str) -> Self:
        """Itself. Raises UsageError, beginning with `where`, for what is no spectrum."""
        for name in ("index", "cutoff", "pivot"):
            value = getattr(self, name)
            most = MOST_INDEX if name == "index" else inf
            if not (isfinite(value) and 0 <= value <= most) or (name == "pivot" and value == 0):
                raise UsageError(f"{where}: {name} = {value:g} is not possible for a power law")
        return self

    def shape(self, energy: Array) -> Array:
        """dN/dE for norm 1, at energies in GeV."""
        values: Array = (energy / self.pivot) ** -self.index
        return values * np.exp(-energy / self.cutoff) if self.cutoff else values

    def norm_at(self, norm: float, pivot: float) -> float:
        """The norm of the same flux at another pivot, in GeV."""
        return norm * float((pivot / self.pivot) ** -self.index)

    def e2dnde(self, norm: float, *, pivot: float | None = None, unit: str = "TeV") -> float:
        """E^2 dN/dE at the pivot (GeV) in unit cm^-2 s^-1, for a norm in GeV^-1 cm^-2 s^-1 at this
        spectrum's own pivot. Raises UsageError for an unknown unit.
        """
        where = self.pivot if pivot is None else pivot
        return self.norm_at(norm, where) * where**2 / unit_of(unit)

    def dnde(self, norm: float, *, pivot: float | None = None, unit: str = "TeV") -> float:
        """dN/dE at the pivot (GeV) per unit cm^2 s, as `e2dnde`."""
        where = self.pivot if pivot is None else pivot
        return self.norm_at(norm, where) * unit_of(unit)


def integrated_area(detector: Detector, dec: float, flux: PowerLaw) -> float:
    """The integral of effective area times flux of norm 1 at a declination (radians): events per s
    for 1 GeV^-1 cm^-2 s^-1 at the pivot.
    """
    surface = detector.effective_area
    edges = np.linspace(surface.log10e[0], surface.log10e[-1], _STEPS + 1)
    log10e = (edges[1:] + edges[:-1]) / 2
    energy = 10**log10e
    area = _CM2 * surface.at(np.sin(dec), log10e)
    # dE = E ln 10 d(log10 E).
    width = np.log(10) * (edges[1] - edges[0])
    return float((area * flux.shape(energy) * energy).sum() * width)


def unit_of(name: str) -> float:
    """GeV in a unit. Raises UsageError for an unknown one."""
    if name not in UNITS:
        raise UsageError(f"unknown unit of energy {name!r}", hint=f"one of {', '.join(UNITS)}")
    return UNITS[name]
