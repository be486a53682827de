"""Bands of limits over trials, limits as cross sections, and where a theory is excluded.

Owns the five quantiles of a Brazil plot and the crossing of two curves. Refuses to extrapolate
either curve, and says which of several crossings it took.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace
from scipy import special

from dask_runner.errors import UsageError
from dask_runner.stats.arrays import Floats, trials_of
from dask_runner.stats.pvalues import ONE_SIGMA
from dask_runner.stats.quantiles import Quantile, quantiles

# The probabilities below -2, -1, 0, 1, 2 standard deviations: 2.275, 15.865, 50, 84.135, 97.725 %.
BAND = tuple(float(p) for p in special.ndtr(np.array([-2.0, -1.0, 0.0, 1.0, 2.0])))


class Band(Struct, frozen=True, kw_only=True):
    """The median of limits over trials and the quantiles at one and two standard deviations of a
    normal distribution, each with its interval. `n` trials.
    """

    minus2: Quantile
    minus1: Quantile
    median: Quantile
    plus1: Quantile
    plus2: Quantile
    n: int

    @property
    def curves(self) -> tuple[Quantile, Quantile, Quantile, Quantile, Quantile]:
        """From below."""
        return self.minus2, self.minus1, self.median, self.plus1, self.plus2

    @property
    def values(self) -> tuple[float, ...]:
        """The five numbers from below."""
        return tuple(curve.value for curve in self.curves)

    def times(self, factor: float) -> "Band":
        """The band in another unit: `factor` > 0 times as large."""
        if not 0 < factor < np.inf:
            raise UsageError(f"a band cannot be multiplied by {factor:g}")
        found = [
            replace(c, value=c.value * factor, low=c.low * factor, high=c.high * factor)
            for c in self.curves
        ]
        return _band(found, self.n)


def band(values: npt.ArrayLike, *, level: float = ONE_SIGMA) -> Band:
    """The median and the 2.275, 15.865, 84.135 and 97.725 % quantiles of the limits of trials
    without signal, with order-statistic intervals at `level`: see `quantiles.quantile`. The outer
    ones need about 100 trials for an interval with two ends.

    `values`: (trials,), any unit. Raises UsageError for other shapes, NaN, no trials.
    """
    limits = trials_of(values, "limits")
    return _band(quantiles(limits, BAND, level=level), len(limits))


def _band(five: Sequence[Quantile], n: int) -> Band:
    minus2, minus1, median, plus1, plus2 = five
    return Band(minus2=minus2, minus1=minus1, median=median, plus1=plus1, plus2=plus2, n=n)


def to_cross_section(
    events: npt.ArrayLike,
    luminosity: npt.ArrayLike,
    acceptance_efficiency: npt.ArrayLike = 1.0,
    branching_ratio: npt.ArrayLike = 1.0,
) -> Any:
    """The cross section N / (L A epsilon B): the number of events divided by what one unit of it
    gives. Leave the branching ratio (or acceptance times efficiency) at 1 for a limit on the
    product with it; a theory curve must be the same quantity.

    Unit: the inverse of the luminosity's (1/fb gives fb). Shapes as numpy broadcasts them. Raises
    UsageError for a luminosity not above 0, for factors outside (0, 1].
    """
    integrated = np.asarray(luminosity, np.float64)
    factors = [
        np.asarray(acceptance_efficiency, np.float64),
        np.asarray(branching_ratio, np.float64),
    ]
    if not np.all((integrated > 0) & (integrated < np.inf)):
        raise UsageError("the luminosity must be above 0")
    for factor, name in zip(factors, ("acceptance x efficiency", "branching ratio"), strict=True):
        if not np.all((factor > 0) & (factor <= 1)):
            raise UsageError(
                f"{name} must be above 0 and at most 1", hint="a fraction, not percent"
            )
    return np.asarray(events, np.float64) / (integrated * factors[0] * factors[1])


class MassLimit(Struct, frozen=True, kw_only=True):
    """The mass up to which a theory is excluded, or None; all `crossings` of theory and limit,
    ascending; `text` says which was chosen or why there is none.
    """

    value: float | None
    crossings: tuple[float, ...]
    text: str


def mass_limit(
    masses: npt.ArrayLike,
    limits: npt.ArrayLike,
    theory_masses: npt.ArrayLike,
    theory: npt.ArrayLike,
    *,
    choose: Literal["first", "last"] = "first",
) -> MassLimit:
    """Where the theory's cross section falls below the limit: both curves are straight lines of
    ln(cross section) between their points, and cross exactly there. A mass is excluded where
    theory > limit.

    Of several crossings from excluded to allowed the `first` is the result unless `last` is asked
    for: up to the first one, all masses are excluded. Only masses that both curves cover count.

    Shapes: (points,) and (points,); units: the same for both masses and both cross sections; points
    in any order. Raises UsageError for other shapes, values not above 0, repeated masses, no
    overlap, less than two points.
    """
    mass, limit = _curve(masses, limits, "limits")
    theory_mass, predicted = _curve(theory_masses, theory, "theory")
    low, high = max(mass[0], theory_mass[0]), min(mass[-1], theory_mass[-1])
    if low >= high:
        raise UsageError(
            f"limits ({mass[0]:g} to {mass[-1]:g}) and theory ({theory_mass[0]:g} to"
            f" {theory_mass[-1]:g}) have no masses in common"
        )
    grid = np.unique(np.concatenate([mass, theory_mass, [low, high]]))
    grid = grid[(grid >= low) & (grid <= high)]
    above = np.interp(grid, theory_mass, predicted) - np.interp(grid, mass, limit)
    falling, rising = _crossings(grid, above, down=True), _crossings(grid, above, down=False)
    crossings = tuple(sorted([*falling, *rising]))
    if not falling:
        return MassLimit(value=None, crossings=crossings, text=_why_none(grid, above, rising))
    value = falling[0 if choose == "first" else -1]
    text = f"excluded up to {value:.6g}"
    if above[0] <= 0:
        text += f", but not at the smallest masses: there from {crossings[0]:.6g}"
    if len(falling) > 1:
        listed = ", ".join(f"{x:.6g}" for x in falling)
        text += f"; the {choose} of the masses where exclusion ends: {listed}"
    return MassLimit(value=value, crossings=crossings, text=text)


def _curve(masses: npt.ArrayLike, values: npt.ArrayLike, name: str) -> tuple[Floats, Floats]:
    """Ascending masses and logarithms."""
    mass = trials_of(masses, f"masses of the {name}", fewest=2)
    value = trials_of(values, name, fewest=2)
    if len(mass) != len(value) or len(np.unique(mass)) != len(mass):
        raise UsageError(f"{name}: each mass needs one value, and only one")
    if np.any(value <= 0):
        raise UsageError(f"{name}: cross sections must be above 0 to be joined by their logarithms")
    order = np.argsort(mass)
    return mass[order], np.log(value[order])


def _crossings(grid: Floats, above: Floats, *, down: bool) -> list[float]:
    """Where theory - limit goes from above 0 to not above it (`down`), or the other way."""
    excluded = above > 0
    here = excluded[:-1] & ~excluded[1:] if down else ~excluded[:-1] & excluded[1:]
    places = np.flatnonzero(here)
    share = above[places] / (above[places] - above[places + 1])
    return [float(x) for x in grid[places] + share * (grid[places + 1] - grid[places])]


def _why_none(grid: Floats, above: Floats, rising: list[float]) -> str:
    covered = f"between {grid[0]:.6g} and {grid[-1]:.6g}"
    if rising:
        return f"excluded from {rising[0]:.6g} to the largest mass, {grid[-1]:.6g}: no end in sight"
    if above[0] > 0:
        return f"everything {covered} is excluded: the mass limit is beyond"
    return f"nothing {covered} is excluded: the theory is below the limit"
