"""How many trials a wanted precision costs, and how long they take: asked before they are started.

Refuses probabilities of 0 and 1, which no number of trials reaches.
"""

from math import ceil

from msgspec import Struct

from dask_runner.errors import UsageError
from dask_runner.stats.pvalues import sigma_to_p


class Forecast(Struct, frozen=True, kw_only=True):
    """What it costs: trials, seconds of processor time, seconds by the clock."""

    trials: int
    cpu: float
    wall: float


def trials_needed(p: float, exceedances: float = 10) -> int:
    """Trials without signal of which `exceedances` are expected beyond a threshold of p-value `p`:
    exceedances / p, rounded up. Ten beyond 5 sigma need 3.5e7.

    Raises UsageError unless 0 < p <= 1 and exceedances > 0.
    """
    if not 0 < p <= 1 or exceedances <= 0:
        raise UsageError(f"{exceedances:g} exceedances of probability {p:g} cannot be asked for")
    return ceil(exceedances / p)


def trials_for_sigma(sigma: float, exceedances: float = 10) -> int:
    """Trials without signal of which `exceedances` are expected beyond `sigma` (one-sided)."""
    return trials_needed(float(sigma_to_p(sigma)), exceedances)


def trials_for_relative_error(p: float, relative_error: float) -> int:
    """Trials that measure a probability `p` to a relative binomial error: (1-p) / (p error^2).

    Raises UsageError unless 0 < p < 1 and relative_error > 0.
    """
    if not 0 < p < 1 or relative_error <= 0:
        raise UsageError(f"a relative error of {relative_error:g} of {p:g} cannot be asked for")
    return ceil((1 - p) / (p * relative_error**2))


def exceedances_expected(p: float, trials: int) -> float:
    """How many of `trials` are expected beyond a threshold of p-value `p`."""
    return p * trials


def forecast(trials: int, seconds_each: float, *, slots: int = 1) -> Forecast:
    """The price of `trials` that take `seconds_each` on one core, on `slots` of them.

    Raises UsageError for negative numbers and for no slots.
    """
    if trials < 0 or seconds_each < 0 or slots < 1:
        raise UsageError(f"{trials} trials of {seconds_each:g} s on {slots} slots: no forecast")
    cpu = trials * seconds_each
    return Forecast(trials=trials, cpu=cpu, wall=cpu / slots)
