"""The odds that one of some neutrinos has a common source with an event that has a sky map.

Owns the formula (derived in docs/coincidence.md). Hypotheses for events x_j = (direction, time,
energy) within the window W of time around the map's event: `chance`, all are background, a Poisson
process with n_b expected events, uniform over the sky and the window; `common`, one of them, nobody
knows which, is from the map's source, of which n_s are expected. To first order in n_s

    odds = (n_s / n_b) sum_j S_j T_j E_j
    S_j = 4 pi integral P_map(Omega) P_j(Omega) dOmega     space
    T_j = W f(t_j - t_map)                                 time
    E_j = p_signal(E_j) / p_background(E_j)                energy

(and, if wanted, a term of second order for two events from the source, see `pairs`)

with the probability density P_map of the map and P_j of the neutrino's direction (von Mises-Fisher
with the width sigma_j), and the density f of delays. These are the overlap integrals of Ashton et
al., ApJ 860 (2018) 6 (arXiv:1712.05392), with flat priors of direction and time; S_j for
two Gaussian localisations is the Bayes factor of Budavari and Szalay, ApJ 679 (2008) 301;
sums over the candidates of a search as in Bartos et al., PRD 100 (2019) 083017 (arXiv:1810.11467).
"""

import math
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dask_runner.errors import UsageError

Floats = npt.NDArray[np.float64]

Shape = Literal["uniform", "triangle", "gaussian"]

# log10 odds of trials without any event, or none near the map: odds of 0 have no logarithm.
FLOOR: Final = -99.0
# A Gaussian window ends at this many standard deviations on both sides.
_WIDTHS: Final = 3.0
_SMALLEST: Final = 2.0**-54


class Window(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Delays of the neutrino against the map's event, in seconds, from `begin` to `end`, with a
    density f of that `shape`: uniform, a triangle or a Gaussian (cut at 3 standard deviations)
    around the middle. Two emissions that are each uniform within half of the window have delays
    like a triangle.
    """

    begin: float = -500.0
    end: float = 500.0
    shape: Shape = "uniform"

    @property
    def width(self) -> float:
        return self.end - self.begin

    def check(self, where: str) -> None:
        """Raises UsageError unless it is a window."""
        if not (math.isfinite(self.width) and self.width > 0):
            raise UsageError(f"{where}: from {self.begin:g} s to {self.end:g} s is no window")

    def factor(self, delay: Floats) -> Floats:
        """T = W f(delay), of the shape of `delay`: 1 is what chance gives on average; 0 outside."""
        x = (np.asarray(delay) - self.begin) / self.width * 2 - 1
        inside = np.abs(x) <= 1
        if self.shape == "triangle":
            value = 2 * (1 - np.abs(x))
        elif self.shape == "gaussian":
            norm = math.sqrt(2 / math.pi) * _WIDTHS / math.erf(_WIDTHS / math.sqrt(2))
            value = norm * np.exp(-0.5 * (_WIDTHS * x) ** 2)
        else:
            value = np.ones_like(x)
        return np.where(inside, value, 0.0)

    def delays(self, uniforms: Floats) -> Floats:
        """Delays of signal, by the inverse of their distribution."""
        u = np.maximum(uniforms, _SMALLEST)
        if self.shape == "triangle":
            x = np.where(u < 1 / 2, np.sqrt(2 * u) - 1, 1 - np.sqrt(2 * (1 - u)))
        elif self.shape == "gaussian":
            from scipy.special import ndtr, ndtri  # noqa: PLC0415  (only this shape needs it)

            low = ndtr(-_WIDTHS)
            x = ndtri(low + u * (1 - 2 * low)) / _WIDTHS
        else:
            x = 2 * u - 1
        return np.asarray(self.begin + (x + 1) / 2 * self.width)


class EnergyWeight(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Energies between `lowest` and `highest` (GeV) with power laws E^-signal_index for the source
    and E^-background_index for chance. Equal indices give the weight 1: energy says nothing then.
    """

    signal_index: float = 2.0
    background_index: float = 3.7
    lowest: float = 100.0
    highest: float = 1e8

    def check(self, where: str) -> None:
        """Raises UsageError unless it is a range of energies."""
        if not (0 < self.lowest < self.highest < math.inf):
            raise UsageError(
                f"{where}: from {self.lowest:g} to {self.highest:g} GeV is no range of energies"
            )
        for index in (self.signal_index, self.background_index):
            if not math.isfinite(index):
                raise UsageError(f"{where}: an index of {index:g}")

    def factor(self, energy: Floats) -> Floats:
        """E = p_signal / p_background; outside the range it is that of the nearest end."""
        if self.signal_index == self.background_index:
            return np.ones_like(np.asarray(energy, np.float64))
        ratio = np.clip(energy, self.lowest, self.highest) / self.lowest
        steeper = self.background_index - self.signal_index
        norm = self._norm(self.background_index) / self._norm(self.signal_index)
        return np.asarray(norm * np.exp(steeper * np.log(ratio)))

    def energies(self, uniforms: Floats) -> Floats:
        """Energies of signal in GeV, by the inverse of their distribution."""
        k, top = 1 - self.signal_index, math.log(self.highest / self.lowest)
        if abs(k) * top < 1e-9:  # noqa: PLR2004  (then the power law is a logarithm)
            return np.asarray(self.lowest * np.exp(uniforms * top))
        return np.asarray(self.lowest * np.exp(np.log1p(uniforms * math.expm1(k * top)) / k))

    def _norm(self, index: float) -> float:
        """The integral of (E / lowest)^-index over the range, in units of `lowest`."""
        k, top = 1 - index, math.log(self.highest / self.lowest)
        return top if k == 0 else math.expm1(k * top) / k


def log10_odds(contributions: Floats, prior: float = 1.0) -> Floats:
    """log10(prior * sum), where `contributions` are sum_j S_j T_j E_j of trials and `prior` is
    n_s / n_b; not below -99, which is also the value if there was no event.
    """
    odds = prior * np.asarray(contributions, np.float64)
    with np.errstate(divide="ignore"):
        return np.maximum(np.log10(odds), FLOOR)
