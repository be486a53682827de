"""The quantile of a likelihood in N >= 0 with a flat prior, from a function for its logarithm.

Owns where the likelihood ends, the quadrature and its inversion. Knows no spectrum.
"""

from collections.abc import Callable

import numpy as np

from dask_runner.stats.spectrum.shape import Array

# A function of N: ln L up to a constant, and its derivative.
Slope = Callable[[float], tuple[float, float]]

# The likelihood counts as ended where it has fallen by a factor between exp(-16) and exp(-22): what
# is left out shifts a 95 % quantile by less than 1e-5 of its distance to the maximum.
_END = 16.0
_END_WIDTH = 6.0
FALL = _END + _END_WIDTH / 2
_MOST_STEPS = 60
# Chebyshev-Lobatto nodes: a Gaussian over 13 standard deviations has lost its accuracy below 1e-9.
NODES = 65
_ACCURACY = 1e-10


class NoEndError(ArithmeticError):
    """The likelihood does not fall off where it was looked for."""


def lobatto(count: int) -> Array:
    """`count` Chebyshev-Lobatto nodes on [-1, 1], rising."""
    return -np.cos(np.pi * np.arange(count) / (count - 1))


def interpolation(count: int, places: Array) -> Array:
    """The matrix, shape (places, count), that turns values at `lobatto(count)` into the values of
    the polynomial through them, by its Chebyshev series.
    """
    rows: Array = np.cos(np.arange(count) * np.arccos(places)[:, None]) @ _series(count)
    return rows


def _series(count: int) -> Array:
    """Values at the nodes -> coefficients of the Chebyshev series, shape (count, count)."""
    return np.linalg.inv(np.cos(np.arange(count) * np.arccos(lobatto(count))[:, None]))


def _integrated() -> Array:
    """Coefficients of a series -> those of its integral from -1 on, one longer."""
    matrix = np.zeros((NODES + 1, NODES))
    for k in range(NODES):
        # Integral of T_k: T_{k+1} / (2 (k+1)) - T_{k-1} / (2 (k-1)).
        matrix[k + 1, k] += 1.0 if k == 0 else 1 / (2 * (k + 1))
        if k > 1:
            matrix[k - 1, k] -= 1 / (2 * (k - 1))
    matrix[0] -= (-1.0) ** np.arange(NODES + 1) @ matrix
    return matrix


PLACES = lobatto(NODES)
_SERIES = _series(NODES)
_INTEGRAL = _integrated() @ _SERIES
_WIDER = np.arange(NODES + 1)
_AT_NODES = np.cos(_WIDER * np.arccos(PLACES)[:, None]) @ _INTEGRAL


def span(log_likelihood: Slope, *, best: float, width: float, start: float) -> tuple[float, float]:
    """Where the likelihood in N >= 0 begins and ends, for a maximum at `best` (0 where it only
    falls), a rough `width`, and the first place at which to look for the end. Raises NoEndError if
    it does not end.
    """
    top, _ = log_likelihood(best)
    high = _end(log_likelihood, top, start)
    if best <= 0 or top - log_likelihood(0.0)[0] <= _END + _END_WIDTH:
        return 0.0, high
    return _end(log_likelihood, top, max(best - 6 * width, 0.0)), high


def nodes_between(low: float, high: float, places: Array = PLACES) -> Array:
    """Places on [-1, 1] moved to [low, high]."""
    return low + (high - low) / 2 * (1 + places)


def quantile(low: float, high: float, logs: Array, share: float) -> float:
    """The N below which `share` of the integral of L = exp(logs) from `low` to `high` lies; `logs`,
    shape (65,), are values at `nodes_between(low, high)`. The polynomial through L is integrated
    (Clenshaw-Curtis) and inverted by Newton's method between two nodes.
    """
    values = np.exp(logs - np.maximum.reduce(logs))
    integrals = _AT_NODES @ values
    wanted = share * integrals[-1]
    node = int(np.searchsorted(integrals, wanted))
    node = min(max(node, 1), NODES - 1)
    left, right = PLACES[node - 1], PLACES[node]
    whole, density = _INTEGRAL @ values, _SERIES @ values
    rise = integrals[node] - integrals[node - 1]
    place = left + (right - left) * (wanted - integrals[node - 1]) / rise
    for _ in range(_MOST_STEPS):
        cosines = np.cos(_WIDER * np.arccos(place))
        excess = float(whole @ cosines) - wanted
        left, right = (left, place) if excess > 0 else (place, right)
        moved = place - excess / float(density @ cosines[:-1])
        if not left <= moved <= right:
            moved = (left + right) / 2
        if abs(moved - place) < _ACCURACY:
            break
        place = moved
    return float(low + (high - low) / 2 * (1 + moved))


def _end(log_likelihood: Slope, top: float, start: float) -> float:
    """Where a concave function has fallen by _END to _END + _END_WIDTH below `top`: Newton's
    iteration, which after its first step stays on the far side. Never below 0.
    """
    place = start
    for _ in range(_MOST_STEPS):
        value, slope = log_likelihood(place)
        fallen = top - value
        if _END <= fallen <= _END + _END_WIDTH:
            return place
        if slope == 0 or not np.isfinite(value):
            break
        # The middle is aimed at: to creep up to an end would cost steps.
        place = max(place - (FALL - fallen) / slope, 0.0)
    raise NoEndError("the likelihood of the signal does not fall off")
