"""p-values: their significance, their interval when they are counted, and the price of looking
often.

All are one-sided, and "as extreme as" includes equality: p = P(TS >= observed). Refuses counts and
probabilities that cannot be.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from scipy import special

from dask_runner.errors import UsageError
from dask_runner.stats.arrays import probabilities, trials_of

# The probability within one standard deviation of a normal distribution.
ONE_SIGMA = 0.6826894921370859


class EmpiricalP(Struct, frozen=True, kw_only=True):
    """A counted p-value: `k` of `n` trials at or above what was observed, `p` = k/n, `safe` =
    (k+1)/(n+1), Clopper-Pearson interval from `low` to `high` at `level`.
    """

    k: int
    n: int
    p: float
    safe: float
    low: float
    high: float
    level: float


def sigma_to_p(sigma: npt.ArrayLike) -> Any:
    """The one-sided p-value of a significance: p = 1 - Phi(sigma), with the normal distribution
    function Phi (PDG review "Statistics", significance). 5 gives 2.8665e-7.

    Shape: that of `sigma`. No units.
    """
    return special.ndtr(-np.asarray(sigma, dtype=np.float64))


def p_to_sigma(p: npt.ArrayLike) -> Any:
    """The one-sided significance of a p-value, the inverse of `sigma_to_p`: infinite for p = 0,
    negative above 1/2.

    Shape: that of `p`. Raises UsageError unless 0 <= p <= 1.
    """
    return -special.ndtri(probabilities(p))


def clopper_pearson(k: npt.ArrayLike, n: npt.ArrayLike, level: float = ONE_SIGMA) -> Any:
    """The central interval (low, high) of a probability of which `k` in `n` trials are seen.

    low solves P(K >= k | low) = (1-level)/2, high P(K <= k | high) = (1-level)/2: quantiles of
    beta distributions (Clopper and Pearson, Biometrika 26 (1934) 404). It covers at least `level`.
    0 or n of n seen gives 0 or 1 as one end; no trials give (0, 1).

    Shapes: k and n as numpy broadcasts them, so two arrays. Raises UsageError for k < 0, k > n and
    a level outside (0, 1).
    """
    seen, of = np.broadcast_arrays(np.asarray(k, np.float64), np.asarray(n, np.float64))
    if not np.all((seen >= 0) & (seen <= of)):
        raise UsageError("counted trials must be between 0 and all of them")
    side = (1 - checked_level(level)) / 2
    # Where an end is fixed the beta function has no parameters: 1 stands in, and is overwritten.
    low = special.betaincinv(np.where(seen > 0, seen, 1), of - seen + 1, side)
    high = special.betainccinv(seen + 1, np.where(seen < of, of - seen, 1), side)
    return np.where(seen > 0, low, 0.0)[()], np.where(seen < of, high, 1.0)[()]


def empirical_p(ts: npt.ArrayLike, observed: float, *, level: float = ONE_SIGMA) -> EmpiricalP:
    """How often trials without signal are at least as extreme as the observation: TS >= observed.

    k/n is unbiased; (k+1)/(n+1) never claims less than there is (it counts the observation as one
    of the trials: Phipson and Smyth, SAGMB 9 (2010) 39), so it is the one to quote when k is small.

    `ts`: (trials,). Raises UsageError for other shapes, NaN among the trials or as observation.
    """
    values = trials_of(ts, "ts")
    if np.isnan(observed):
        raise UsageError("the observed test statistic is NaN")
    k, n = int(np.count_nonzero(values >= observed)), len(values)
    low, high = clopper_pearson(k, n, level)
    return EmpiricalP(
        k=k, n=n, p=k / n, safe=(k + 1) / (n + 1), low=float(low), high=float(high), level=level
    )


def post_trial_p(p_min: npt.ArrayLike, n: npt.ArrayLike) -> Any:
    """The chance that the smallest of `n` independent p-values is at most `p_min`:
    1 - (1 - p_min)^n (Sidak, JASA 62 (1967) 626), computed without cancellation. The looks must be
    independent: neighbouring pixels or masses are not, and need trials of the whole scan.

    Shapes as numpy broadcasts them. Raises UsageError unless 0 <= p_min <= 1 and n >= 1.
    """
    looks = np.asarray(n, dtype=np.float64)
    if not np.all(looks >= 1):
        raise UsageError("the number of looks must be at least 1")
    with np.errstate(divide="ignore"):
        return -np.expm1(looks * np.log1p(-probabilities(p_min, "p_min")))


def checked_level(level: float) -> float:
    """`level` if it is inside (0, 1). Raises UsageError otherwise."""
    if not 0 < level < 1:
        raise UsageError(f"a level of {level:g}: it must be between 0 and 1")
    return level
