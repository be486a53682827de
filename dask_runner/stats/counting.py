"""Counting experiments in closed form: n events seen, b expected without signal, no uncertainty.

Owns the exact Poisson answers, from incomplete gamma functions: P(N >= n | mu) = P(n, mu), the
regularised lower one. Counts and expectations are events; everything takes arrays. Refuses negative
ones.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special
from scipy.optimize import brentq

from dask_runner.errors import UsageError
from dask_runner.stats.arrays import Floats
from dask_runner.stats.discrete import DiscreteTSD
from dask_runner.stats.pvalues import checked_level, sigma_to_p

# Standard deviations of the five curves of a band, from below.
BAND = (-2, -1, 0, 1, 2)
# Where the tail of an exact distribution ends.
_NEGLIGIBLE = 1e-250


def test_statistic(n: npt.ArrayLike, b: npt.ArrayLike) -> Any:
    """TS = 2 [n ln(n/b) - (n - b)] for n > b, else 0: twice the logarithm of the likelihood ratio
    of the best signal >= 0 and none (Cowan et al., Eur. Phys. J. C 71 (2011) 1554, section 5.1).
    Its root at n = s + b is the Asimov significance. Infinite for b = 0 < n.

    Shapes as numpy broadcasts them; n may be fractional. Raises UsageError for negative numbers.
    """
    seen, expected = _events(n, "n"), _events(b, "b")
    with np.errstate(divide="ignore", invalid="ignore"):
        ts = 2 * (special.xlogy(seen, seen / expected) - (seen - expected))
    return np.where(seen > expected, ts, 0.0)[()]


def upper_limit(n: npt.ArrayLike, b: npt.ArrayLike = 0.0, level: float = 0.95) -> Any:
    """The signal s below which `level` of the posterior is, with a flat prior in s >= 0:
    Q(n+1, s+b) = (1 - level) Q(n+1, b), Q the regularised upper incomplete gamma function (PDG
    review "Statistics", Poisson with known background). For b = 0 it is the classical limit.

    Shapes as numpy broadcasts them. Raises UsageError for negative numbers and n not whole.
    """
    counts, background = _whole(n), _events(b, "b")
    left = 1 - checked_level(level)
    if background.ndim == 0 and counts.size and counts.max() < counts.size:
        # Trials repeat few counts: each is solved once.
        table = _limits(np.arange(counts.max() + 1), background, left)
        return table[counts.astype(np.intp)]
    seen, expected = np.broadcast_arrays(counts, background)
    return _limits(seen, expected, left)[()]


def cls_limit(n: npt.ArrayLike, b: npt.ArrayLike, level: float = 0.95) -> Any:
    """The signal s with CLs = P(N <= n | s+b) / P(N <= n | b) = 1 - level (Read, J. Phys. G 28
    (2002) 2693; Zech, Nucl. Instrum. Meth. A 277 (1989) 608). P(N <= n | mu) is Q(n+1, mu), so it
    is the same number as `upper_limit`. Shapes and errors: see there.
    """
    return upper_limit(n, b, level)


def expected_cls_limits(b: npt.ArrayLike, level: float = 0.95) -> Any:
    """The CLs limits of the counts at -2, -1, 0, 1, 2 standard deviations of the background: the
    smallest n with P(N <= n | b) >= Phi(sigma).

    Shape: that of `b` and a last axis of 5. Raises UsageError for negative b.
    """
    expected = _events(b, "b")[..., np.newaxis]
    counts = _smallest(
        lambda n: special.gammaincc(n + 1, expected) >= special.ndtr(np.array(BAND)),
        np.broadcast_to(expected, (*expected.shape[:-1], len(BAND))),
    )
    return cls_limit(counts, expected, level)


def critical_count(b: npt.ArrayLike, sigma: float = 5.0) -> Any:
    """The smallest count n with P(N >= n | b) <= p(sigma), the one-sided p-value: what has to be
    seen for a discovery. Whole numbers of the shape of `b`. Raises UsageError for negative b.
    """
    expected = _events(b, "b")
    p = float(sigma_to_p(sigma))
    return _smallest(lambda n: _at_least(n, expected) <= p, expected)[()]


def sensitivity(b: npt.ArrayLike, beta: float = 0.9) -> Any:
    """The signal for which a share `beta` of experiments has TS above the median of those without
    signal (strictly: the median is often 0): P(N >= k | s+b) = beta, where k is the smallest count
    with such a TS.

    Shape: that of `b`. Raises UsageError for negative b, beta outside (0, 1), and if experiments
    without signal do it too.
    """
    expected = _events(b, "b")
    median = _smallest(lambda n: special.gammaincc(n + 1, expected) >= 0.5, expected)  # noqa: PLR2004
    # Counts up to b have TS = 0.
    return _signal(np.maximum(median, np.floor(expected)) + 1, expected, beta)


def discovery(b: npt.ArrayLike, sigma: float = 5.0, beta: float = 0.5) -> Any:
    """The signal for which a share `beta` of experiments reaches the critical count of `sigma`:
    P(N >= critical | s+b) = beta. Shape and errors: see `sensitivity`.
    """
    expected = _events(b, "b")
    return _signal(critical_count(expected, sigma), expected, beta)


def distribution(b: float) -> DiscreteTSD:
    """The exact distribution of `test_statistic` without signal: values for 0 and for each count
    above b, P(N >= n | b) as tail, up to where it is below 1e-250.

    Raises UsageError unless b > 0.
    """
    if not 0 < b < np.inf:
        raise UsageError(f"b = {b:g}: a test statistic needs an expected background above 0")
    first = int(np.floor(b)) + 1
    last = int(_smallest(lambda n: _at_least(n, b) <= _NEGLIGIBLE, np.asarray(b)))
    counts = np.arange(first, last + 1, dtype=np.float64)
    return DiscreteTSD(
        values=np.append(0.0, test_statistic(counts, b)),
        tail=np.append(1.0, _at_least(counts, b)),
    )


def _events(values: npt.ArrayLike, name: str) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if not np.all((array >= 0) & (array < np.inf)):
        raise UsageError(f"{name}: numbers of events must be 0 or more, and finite")
    return array


def _whole(n: npt.ArrayLike) -> Floats:
    array = _events(n, "n")
    if np.any(array != np.floor(array)):
        raise UsageError("n: counted events must be whole numbers")
    return array


def _at_least(n: Any, mu: Any) -> Any:
    """P(N >= n | mu)."""
    # gammainc(0, mu) is 1 except at mu = 0, where it is not defined.
    return np.where(np.asarray(n) <= 0, 1.0, special.gammainc(np.maximum(n, 1), mu))


def _smallest(enough: Callable[[Any], Any], mu: Floats) -> Any:
    """The smallest count from 0 for which `enough` holds, by halving; it must hold for all larger
    ones. Whole numbers of the shape of `mu`.
    """
    low = np.full(mu.shape, -1.0)
    # 40 standard deviations and 400 events more: no smaller probability is a float.
    high = np.ceil(mu + 40 * np.sqrt(mu)) + 400
    while np.any(high - low > 1):
        middle = np.floor((low + high) / 2)
        holds = enough(middle) & (middle >= 0)
        low, high = np.where(holds, low, middle), np.where(holds, middle, high)
    return high.astype(np.int64)


def _signal(count: Any, b: Floats, beta: float) -> Any:
    signal = np.asarray(special.gammaincinv(count, checked_level(beta)) - b)
    if np.any(signal < 0):
        raise UsageError(f"a share of {beta:g} passes without any signal; choose a larger one")
    return signal[()]


def _limits(seen: Floats, expected: Floats, left: float) -> Any:
    """The limits of `upper_limit` one by one, of the shape of `seen`."""
    expected = np.broadcast_to(expected, seen.shape)
    share = left * special.gammaincc(seen + 1, expected)
    limit = np.asarray(special.gammainccinv(seen + 1, share) - expected)
    # Far below the background the shares are too small for a float, or their difference is noise.
    for place in np.argwhere((share < _NEGLIGIBLE) | (limit < 0)):
        index = tuple(place)
        limit[index] = _limit_far_below(int(seen[index]), float(expected[index]), left)
    return limit


def _limit_far_below(n: int, b: float, left: float) -> float:
    """The limit from logarithms, for n so far below b that P(N <= n | b) is not a float."""

    def missing(s: float) -> float:
        return _log_at_most(n, s + b) - _log_at_most(n, b) - float(np.log(left))

    # The limit falls with the background, so that without any is above it.
    most = float(special.gammainccinv(n + 1, left)) + 1
    return float(brentq(missing, 0.0, most, xtol=1e-12, rtol=1e-12))


def _log_at_most(n: int, mu: float) -> float:
    """Ln P(N <= n | mu) = n ln mu - mu - ln n! + ln sum_j n! / ((n-j)! mu^j)."""
    factors = np.arange(n, 0, -1) / mu
    return float(n * np.log(mu) - mu - special.gammaln(n + 1) + np.log1p(np.cumprod(factors).sum()))
