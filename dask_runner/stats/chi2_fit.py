"""Maximum likelihood fits of a chi2 distribution to positive test statistics, and their quality.

Owns the estimators and the tests of a fit. What follows from them: see `distribution`.
"""

import numpy as np
from msgspec import Struct
from scipy import special

from dask_runner.stats.arrays import Floats
from dask_runner.stats.quantiles import FitQuality

# Fewer positive trials than this are not fitted.
FEWEST = 10
# A fit is called bad if one of its two tests is as unlikely as this.
_BAD = 1e-3
# The tail that is tested: where this many trials are expected, or a tenth of all, if fewer.
_TAIL = 100
_TAIL_SHARE = 0.1
# The distance of distribution functions is looked at in so many places.
_PLACES = 100_000
_STEPS = 50
_CLOSE = 1e-13


class Chi2Fit(Struct, frozen=True, kw_only=True):
    """Degrees of freedom, scale, their standard deviations and covariance."""

    ndof: float
    scale: float
    ndof_error: float
    scale_error: float
    covariance: float


def fit_ndof(positive: Floats) -> Chi2Fit | None:
    """The degrees of freedom k of a chi2 distribution with location 0 and scale 1.

    d ln L / dk = 0 gives psi(k/2) = mean ln(x/2), with variance 4 / (n psi'(k/2)) from the Fisher
    information (derived from the chi2 density; psi is the digamma function).

    `positive`: (trials,), all above 0. None if the solution is not a finite number above 0.
    """
    shape = _inverse_digamma(float(np.log(positive).mean()) - np.log(2))
    if not 0 < shape < np.inf:
        return None
    error = 2 / np.sqrt(len(positive) * special.polygamma(1, shape))
    return Chi2Fit(
        ndof=2 * shape, scale=1.0, ndof_error=float(error), scale_error=0.0, covariance=0.0
    )


def fit_ndof_and_scale(positive: Floats) -> Chi2Fit | None:
    """Degrees of freedom and scale of c * chi2_k, which is a gamma distribution of shape a = k/2
    and scale 2c.

    ln a - psi(a) = ln(mean x) - mean(ln x), c = mean x / 2a; variances from the inverse Fisher
    information: a / (n (a psi'(a) - 1)) for a, c^2 psi'(a) / (n (a psi'(a) - 1)) for c (Johnson,
    Kotz and Balakrishnan, Continuous Univariate Distributions, 17.7).

    `positive`: (trials,), all above 0. None if all are equal.
    """
    mean = float(positive.mean())
    spread = np.log(mean) - float(np.log(positive).mean())
    shape = _gamma_shape(spread)
    if not 0 < shape < np.inf:
        return None
    scale = mean / (2 * shape)
    trigamma = float(special.polygamma(1, shape))
    left = len(positive) * (shape * trigamma - 1)
    return Chi2Fit(
        ndof=2 * shape,
        scale=scale,
        ndof_error=2 * float(np.sqrt(shape / left)),
        scale_error=scale * float(np.sqrt(trigamma / left)),
        covariance=-2 * scale / left,
    )


def quality(ordered: Floats, fit: Chi2Fit) -> FitQuality:
    """Two tests of a fit. The largest distance of the distribution functions, with its asymptotic
    p-value (Kolmogorov, with Stephens' correction for finite samples, J. R. Stat. Soc. B 32 (1970)
    115); it is too large because parameters were fitted, so what fails it is bad indeed. And the
    number of trials in the tail, from which an extrapolation leaves, with its binomial p-value.
    Bad means that one of them is below 0.001.

    `ordered`: (trials,), all above 0, ascending. Above 100 000 trials the distance is evaluated at
    every so-manieth.
    """
    n = len(ordered)
    places = np.unique(np.linspace(0, n - 1, min(n, _PLACES)).astype(np.intp))
    cdf = special.gammainc(fit.ndof / 2, ordered[places] / (2 * fit.scale))
    distance = float(max(np.max((places + 1) / n - cdf), np.max(cdf - places / n)))
    root = np.sqrt(n)
    p = float(special.kolmogorov((root + 0.12 + 0.11 / root) * distance))
    share = min(_TAIL_SHARE, _TAIL / n)
    edge = 2 * fit.scale * float(special.gammainccinv(fit.ndof / 2, share))
    observed = n - int(np.searchsorted(ordered, edge, side="right"))
    tail_p = _two_sided(observed, n, share)
    return FitQuality(
        positive=n,
        distance=distance,
        p=p,
        tail_from=edge,
        tail_expected=share * n,
        tail_observed=observed,
        tail_p=tail_p,
        good=min(p, tail_p) >= _BAD,
    )


def _two_sided(k: int, n: int, share: float) -> float:
    """Twice the smaller of P(K <= k) and P(K >= k) for a binomial K, at most 1."""
    at_most = float(special.betaincc(k + 1, n - k, share)) if k < n else 1.0
    at_least = float(special.betainc(k, n - k + 1, share)) if k > 0 else 1.0
    return min(1.0, 2 * min(at_most, at_least))


def _inverse_digamma(y: float) -> float:
    """X with psi(x) = y, by Newton steps from Minka's start (Estimating a Dirichlet distribution,
    2000, appendix C).
    """
    x = np.exp(y) + 0.5 if y >= -2.22 else -1 / (y - special.psi(1))  # noqa: PLR2004  (Minka's)
    for _ in range(_STEPS):
        step = (special.psi(x) - y) / special.polygamma(1, x)
        x -= step
        if abs(step) <= _CLOSE * x:
            break
    return float(x)


def _gamma_shape(spread: float) -> float:
    """A with ln a - psi(a) = spread > 0, by Newton steps in 1/a (Minka, Estimating a gamma
    distribution, 2002). Infinite if there is no spread.
    """
    if spread <= _CLOSE:
        return np.inf
    a = (3 - spread + np.sqrt((spread - 3) ** 2 + 24 * spread)) / (12 * spread)
    for _ in range(_STEPS):
        slope = a * a * (1 / a - special.polygamma(1, a))
        inverse = 1 / a + (np.log(a) - special.psi(a) - spread) / slope
        step, a = 1 / inverse - a, 1 / inverse
        if abs(step) <= _CLOSE * a:
            break
    return float(a)
