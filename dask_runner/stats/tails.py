"""p-values far out: counted where trials reach, beyond them from the tail of a distribution.

Owns where such a number comes from, and that it is told with it. The largest values of nearly every
distribution follow a generalised Pareto distribution above a high threshold (Pickands, Ann. Stat. 3
(1975) 119), so a few hundred of them say what is beyond the last one; used for p-values as by
Knijnenburg et al., Bioinformatics 25 (2009) i161. Refuses a tail that does not describe them.
"""

import math
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from scipy.optimize import minimize_scalar

from dask_runner.errors import UsageError
from dask_runner.stats.arrays import Floats, trials_of
from dask_runner.stats.pvalues import ONE_SIGMA, EmpiricalP, clopper_pearson, p_to_sigma

# Trials reach as far as this many of them are at least as extreme.
REACH: Final = 10
# How many of the largest values a tail is fitted to: the first number that it describes; at most
# this share of all.
_NUMBERS: Final = (1000, 500, 250, 125, 60)
_SHARE: Final = 0.1
# Twice the gain in log likelihood above which the shape is not 0.
_GAIN: Final = 4.0
# 5 % point of the modified distance for exponential distributions with a fitted mean: Stephens,
# JASA 69 (1974) 730, table 1.
_CRITICAL: Final = 1.094

# A p-value of this over the number of trials, and below, is extrapolated far.
_FAR: Final = 0.01

Source = Literal["trials", "pareto", "exponential", "bound"]


class Tail(Struct, frozen=True, kw_only=True):
    """P(X >= x) = share (1 + shape (x - threshold) / scale)^(-1/shape) for x > threshold, with an
    exponential if `shape` is 0; from `number` values above it. Errors are standard deviations.
    `distance` is Stephens' modified one, good up to 1.094.
    """

    kind: Literal["pareto", "exponential"]
    threshold: float
    share: float
    shape: float
    scale: float
    shape_error: float
    scale_error: float
    number: int
    distance: float

    @property
    def text(self) -> str:
        """One line for the user."""
        shape = f", shape {self.shape:.2g} +- {self.shape_error:.2g}" if self.shape else ""
        return (
            f"{self.kind} tail of {self.number} trials above {self.threshold:.4g}, scale "
            f"{self.scale:.3g} +- {self.scale_error:.2g}{shape}; distance {self.distance:.2g}"
        )

    def p(self, x: npt.ArrayLike) -> Any:
        """P(X >= x), of the shape of `x`; up to the threshold it is `share`."""
        z = np.maximum(np.asarray(x, np.float64) - self.threshold, 0.0) / self.scale
        return self.share * np.exp(-_stretched(self.shape, z))

    def relative_error(self, x: float) -> float:
        """The standard deviation of ln p: from the number of values above the threshold, and from
        the parameters (covariance of Smith, Biometrika 72 (1985) 67, section 3).
        """
        z, n = max(0.0, (x - self.threshold) / self.scale), self.number
        counted = (1 - self.share) / n
        if self.kind == "exponential":
            return math.sqrt(counted + z * z / n)
        k = self.shape
        by_shape = _stretched(k, z) / k - z / (k * (1 + k * z))
        by_scale = z / (1 + k * z)  # times the scale
        variance = (
            by_shape**2 * (1 + k) ** 2
            + 2 * by_scale**2 * (1 + k)
            - 2 * by_shape * by_scale * (1 + k)
        ) / n
        return math.sqrt(counted + max(0.0, variance))


class TailP(Struct, frozen=True, kw_only=True):
    """P(X >= x) with an interval of one standard deviation and its `source`: `trials` counted as
    (k+1)/(n+1) with a Clopper-Pearson interval; `pareto` or `exponential` from that tail; `bound`
    counted although fewer than 10 trials reach, for want of a tail. `counted` is there always. A
    `warning` is to be shown wherever the value is.
    """

    value: float
    low: float
    high: float
    source: Source
    counted: EmpiricalP
    warning: str = ""

    @property
    def sigma(self) -> float:
        """The one-sided significance."""
        return float(p_to_sigma(self.value))


class Tailed:
    """Trials without signal as a distribution with a tail. `ordered` (trials,) ascending."""

    def __init__(self, values: npt.ArrayLike) -> None:
        """Raises UsageError for no trials, NaN and infinities."""
        self.ordered = np.sort(trials_of(values, "trials without signal"))
        self.tail = fit_tail(self.ordered)

    def __len__(self) -> int:
        return len(self.ordered)

    def p_value(self, x: float) -> TailP:
        """P(X >= x). Raises UsageError if x is NaN."""
        if math.isnan(x):
            raise UsageError("the observed value is NaN")
        counted = self._counted(x)
        if counted.k >= REACH:
            return TailP(
                value=counted.safe,
                low=counted.low,
                high=max(counted.high, counted.safe),
                source="trials",
                counted=counted,
            )
        if self.tail is None:
            return TailP(
                value=counted.safe,
                low=counted.low,
                high=max(counted.high, counted.safe),
                source="bound",
                counted=counted,
                warning=(
                    f"only {counted.k} of {counted.n} trials are as extreme, and no tail describes "
                    "the largest ones: more trials without signal"
                ),
            )
        value, error = float(self.tail.p(x)), self.tail.relative_error(x)
        far = value * len(self.ordered) < _FAR
        return TailP(
            value=value,
            low=value * math.exp(-error),
            high=min(1.0, value * math.exp(error)),
            source=self.tail.kind,
            counted=counted,
            warning=f"p below {_FAR / counted.n:.2g} is far beyond {counted.n} trials"
            if far
            else "",
        )

    def p_values(self, x: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """The same for many, (n,), and which of them are from the tail."""
        values = np.asarray(x, np.float64)
        n = len(self.ordered)
        k = n - np.searchsorted(self.ordered, values)
        counted = (k + 1) / (n + 1)
        beyond = (k < REACH) & (self.tail is not None)
        if self.tail is None or not beyond.any():
            return counted, beyond
        return np.where(beyond, self.tail.p(values), counted), beyond

    def _counted(self, x: float) -> EmpiricalP:
        n = len(self.ordered)
        k = n - int(np.searchsorted(self.ordered, x))
        low, high = clopper_pearson(k, n)
        return EmpiricalP(
            k=k,
            n=n,
            p=k / n,
            safe=(k + 1) / (n + 1),
            low=float(low),
            high=float(high),
            level=ONE_SIGMA,
        )


def fit_tail(ordered: Floats) -> Tail | None:
    """The tail of values in ascending order, fitted by maximum likelihood to as many of the largest
    as it describes. A shape above 0 only if the likelihood asks for it (twice the gain in ln L
    above 4), and never one below 0: a distribution with an end would call what is beyond it
    impossible, an exponential says too much instead of too little. None if nothing fits.
    """
    n = len(ordered)
    for number in _NUMBERS:
        if number > _SHARE * n:
            continue
        threshold = float(ordered[n - number - 1])
        above = ordered[n - number :] - threshold
        above = above[above > 0]
        if len(above) < number // 2:
            continue  # many values are the same
        found = _fitted(above, threshold, len(above) / n)
        if found.distance <= _CRITICAL:
            return found
    return None


def _fitted(above: Floats, threshold: float, share: float) -> Tail:
    n, mean = len(above), float(above.mean())
    shape, scale = _pareto(above)
    gain = 2 * n * (math.log(mean) + 1 - (math.log(scale) + 1 + shape))
    if shape <= 0 or gain <= _GAIN:
        shape, scale = 0.0, mean
        errors = 0.0, mean / math.sqrt(n)
    else:
        errors = (1 + shape) / math.sqrt(n), scale * math.sqrt(2 * (1 + shape) / n)
    cdf = -np.expm1(-_stretched(shape, above / scale))
    steps = np.arange(n + 1) / n
    distance = float(max(np.max(steps[1:] - cdf), np.max(cdf - steps[:-1])))
    root = math.sqrt(n)
    return Tail(
        kind="pareto" if shape else "exponential",
        threshold=threshold,
        share=share,
        shape=shape,
        scale=scale,
        shape_error=errors[0],
        scale_error=errors[1],
        number=n,
        distance=(distance - 0.2 / n) * (root + 0.26 + 0.5 / root),
    )


def _pareto(above: Floats) -> tuple[float, float]:
    """Shape and scale at the largest likelihood. With t = shape / scale the best shape is the mean
    of ln(1 + t y), which leaves one number to search for (Grimshaw, Technometrics 35 (1993) 185).
    """
    top = float(above.max())

    def cost(log_reach: float) -> float:
        t = math.expm1(log_reach) / top
        shape = float(np.mean(np.log1p(t * above)))
        return math.log(shape / t) + shape if abs(t * top) > 1e-9 else math.log(above.mean())  # noqa: PLR2004

    # t from -0.95 / top on: closer to -1 the likelihood has no maximum.
    found = minimize_scalar(cost, bounds=(math.log(0.05), 12.0), method="bounded")
    t = math.expm1(float(found.x)) / top
    shape = float(np.mean(np.log1p(t * above)))
    return (shape, shape / t) if abs(t * top) > 1e-9 else (0.0, float(above.mean()))  # noqa: PLR2004


def _stretched(shape: float, z: Any) -> Any:
    """ln(1 + shape z) / shape, which is z for shape 0."""
    return np.log1p(shape * z) / shape if shape else z
