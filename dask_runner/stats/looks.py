"""The price of having looked everywhere: from the hottest spots of many skies without signal to the
p-value of the hottest spot that was observed.

Owns where a post-trial p-value comes from: counted where skies reach, beyond them from the number
of independent looks that describes the skies. Refuses pre-trial p-values that cannot be.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from scipy import special

from dask_runner.errors import UsageError
from dask_runner.stats.arrays import probabilities, trials_of
from dask_runner.stats.pvalues import (
    ONE_SIGMA,
    EmpiricalP,
    clopper_pearson,
    empirical_p,
    p_to_sigma,
    post_trial_p,
)

# Skies reach as far as this many of them are at least as hot.
_REACH = 10
# Fewer skies say nothing of the number of looks.
_FEWEST = 10
# Below this a fit is called bad.
_BAD = 1e-3
# And not used where as many skies are as hot as it makes so unlikely.
_UNLIKELY = 0.01


class Looks(Struct, frozen=True, kw_only=True):
    """How many independent looks `number` would give such hottest spots, its standard deviation,
    and the Kolmogorov p-value of that description (rather too large, for the number was fitted).
    """

    number: float
    error: float
    skies: int
    fit_p: float

    @property
    def good(self) -> bool:
        return self.fit_p >= _BAD


class PostTrial(Struct, frozen=True, kw_only=True):
    """The chance that a sky without signal is at least as hot somewhere, with an interval at one
    standard deviation and its `source`: `trials` counted, `looks` from their effective number,
    `bound` counted as (k+1)/(n+1) where neither says more. `counted` holds k, n and their interval
    in any case. A `warning` is to be shown wherever the value is.
    """

    value: float
    low: float
    high: float
    source: Literal["trials", "looks", "bound"]
    counted: EmpiricalP
    warning: str = ""

    @property
    def sigma(self) -> float:
        return float(p_to_sigma(self.value))


def effective_looks(p_min: npt.ArrayLike) -> Looks:
    """The number of independent looks N of which the smallest p-values of skies are: P(p_min <= x)
    = 1 - (1 - x)^N, so that -ln(1 - p_min) is exponential with rate N, and the likelihood is
    largest at N = n / sum(-ln(1 - p_min)), with the relative error 1 / sqrt(n).

    `p_min`: (skies,), the smallest p-value of each sky. Raises UsageError for fewer than 10 skies,
    and for p-values outside (0, 1].
    """
    values = np.sort(probabilities(trials_of(p_min, "p_min", fewest=_FEWEST), "p_min"))
    if values[0] <= 0:
        raise UsageError("a smallest p-value of 0 has no number of looks")
    # A sky where nothing was hot at all has p = 1: as close to it as numbers get.
    waits = -np.log1p(-np.minimum(values, 1 - np.finfo(float).epsneg))
    n = len(values)
    number = n / float(waits.sum())
    cdf = -np.expm1(-number * waits)
    steps = np.arange(n + 1) / n
    distance = float(max(np.max(steps[1:] - cdf), np.max(cdf - steps[:-1])))
    root = np.sqrt(n)
    return Looks(
        number=number,
        error=number / root,
        skies=n,
        fit_p=float(special.kolmogorov((root + 0.12 + 0.11 / root) * distance)),
    )


def post_trial(p_min: npt.ArrayLike, observed: float) -> PostTrial:
    """The post-trial p-value of a sky whose smallest p-value is `observed`, from skies without
    signal. It is counted if at least 10 of them are as hot; beyond that it is 1 - (1 - p)^N with
    the effective number of looks N, if that describes the skies, also those that are as hot; else
    (k+1)/(n+1), which never claims too much.

    `p_min`: (skies,). Raises UsageError for p-values that are none.
    """
    values = probabilities(trials_of(p_min, "p_min"), "p_min")
    probabilities(observed, "the observed p-value")
    counted = empirical_p(-values, -observed)
    if counted.k >= _REACH or len(values) < _FEWEST or values.min() <= 0:
        return _counted(counted)
    looks = effective_looks(values)
    if not looks.good:
        text = f"{looks.number:.4g} independent looks do not describe the skies"
        return _counted(counted, f"{text} (p = {looks.fit_p:.2g})")
    value, low, high = (
        float(post_trial_p(observed, max(1.0, looks.number + step * looks.error)))
        for step in (0, -1, 1)
    )
    seen = float(special.betainc(counted.k, counted.n - counted.k + 1, value)) if counted.k else 1.0
    if seen < _UNLIKELY:
        text = f"{counted.k} skies as hot, where {looks.number:.4g} independent looks expect"
        return _counted(counted, f"{text} {value * counted.n:.2g}: the p-values fall too fast")
    return PostTrial(value=value, low=low, high=high, source="looks", counted=counted)


def post_trial_of_ts(ts_max: npt.ArrayLike, observed: float) -> PostTrial:
    """The same where only the largest test statistic of each sky is known, (skies,): counted."""
    return _counted(empirical_p(ts_max, observed))


def _counted(found: EmpiricalP, warning: str = "") -> PostTrial:
    if found.k >= _REACH:
        return PostTrial(
            value=found.p, low=found.low, high=found.high, source="trials", counted=found
        )
    few = f"only {found.k} of {found.n} skies are as hot: (k+1)/(n+1)"
    low, high = clopper_pearson(found.k, found.n, ONE_SIGMA)
    return PostTrial(
        value=found.safe,
        low=float(low),
        high=max(float(high), found.safe),
        source="bound",
        counted=found,
        warning=f"{few}; {warning}" if warning else few,
    )
