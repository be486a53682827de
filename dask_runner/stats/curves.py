"""Monotone curves through counted fractions: how often trials pass a threshold, against signal.

Owns two forms. `CdfCurve`: the distribution function of a shifted gamma distribution, fitted by
maximum binomial likelihood; it contains the normal distribution (skewness 0: Gaussian
measurements), Poisson counts over any background and the exponential one (skewness 2: at least one
event). `IsotonicCurve`: isotonic regression joined on the normal-quantile scale, for what the first
does not describe. Refuses to find a fraction that it does not pass.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace
from scipy import special
from scipy.interpolate import PchipInterpolator
from scipy.optimize import isotonic_regression

from dask_runner.stats.arrays import Floats

# Of skewness: at 2 the density is an exponential, beyond it would be infinite at its start.
_MOST_SKEWED = 2.0
_LEAST_SKEWED = -1.0
# A curve that starts at a given strength has no normal limit; it may be steeper there than an
# exponential, so that fits scatter around one (no background) instead of stopping at it.
_LEAST_ANCHORED = 0.02
_MOST_ANCHORED = 3.0
# Below this the gamma distribution is a normal one to 1e-6.
_NORMAL = 1e-5
_STARTS = (0.1, 1.0, -0.3)
_ANCHORED_STARTS = (0.3, 1.0, 1.9)
_STEPS = 60
# Likelihoods that differ by less are equal; damping beyond this finds no better one.
_CLOSE = 1e-6
_STUCK = 1e6
_DIFFERENCE = 1e-5
_TINY = 1e-12
_ROUNDING = 1e-9
_FEWEST_FOR_SKEWNESS = 3
_TABLE = 1000


class Counted(Struct, frozen=True, kw_only=True, eq=False):
    """At each signal strength (points,), ascending: `k` of `n` trials pass."""

    signal: Floats
    k: Floats
    n: Floats

    @property
    def partial(self) -> int:
        """Points where some trials pass and some do not: the others cannot place a curve."""
        return int(np.count_nonzero((self.k > 0) & (self.k < self.n)))


class CdfCurve(Struct, frozen=True, kw_only=True):
    """fraction(s) = F((s - mean) / width), F the distribution function with mean 0, variance 1 and
    this skewness (Pearson's type III).
    """

    mean: float
    width: float
    skewness: float

    def __call__(self, signal: npt.ArrayLike) -> Any:
        """The fraction at signal strengths of any shape."""
        z = (np.asarray(signal, np.float64) - self.mean) / self.width
        return _cdf(z, np.asarray(self.skewness))[()]

    def inverse(self, fraction: float) -> float:
        """The signal strength with this fraction."""
        return self.mean + self.width * float(_standard_quantile(fraction, self.skewness))


class IsotonicCurve(Struct, frozen=True, kw_only=True, eq=False):
    """Signal strengths and the normal quantiles of the fractions there, both ascending."""

    signal: Floats
    normal: Floats

    def __call__(self, signal: npt.ArrayLike) -> Any:
        """The fraction at signal strengths of any shape; beyond the ends that of the end."""
        normal = np.linspace(self.normal[0], self.normal[-1], _TABLE)
        return special.ndtr(
            np.interp(np.asarray(signal, np.float64), self._joined()(normal), normal)
        )

    def inverse(self, fraction: float) -> float:
        """The signal strength with this fraction; NaN if the curve does not pass it."""
        return float(self._joined()(special.ndtri(fraction), extrapolate=False))

    def _joined(self) -> Any:
        return PchipInterpolator(self.normal, self.signal)


Curve = CdfCurve | IsotonicCurve


def isotonic(counted: Counted) -> Floats:
    """Fractions that never fall with the signal: the weighted least squares solution under that
    condition, weights n (pool adjacent violators: Barlow et al., Statistical Inference under Order
    Restrictions, 1972), which is also that of maximum binomial likelihood. Shape: (points,).
    """
    fitted = isotonic_regression(counted.k / counted.n, weights=counted.n)
    return np.asarray(fitted.x, dtype=np.float64)


def isotonic_curve(counted: Counted) -> IsotonicCurve | None:
    """The isotonic fractions, joined by a monotone cubic (Fritsch and Carlson, SIAM J. Numer. Anal.
    17 (1980) 238) of the signal against the normal quantile of the fraction, pooled points at their
    mean. Fractions are taken as (k + 1/2) / (n + 1), so that 0 and all have a quantile. None if
    there is one level only.
    """
    shrunk = Counted(signal=counted.signal, k=counted.k + 0.5, n=counted.n + 1)
    levels, group = np.unique(isotonic(shrunk), return_inverse=True)
    if len(levels) < 2:  # noqa: PLR2004  (a curve joins two)
        return None
    weight = np.bincount(group, shrunk.n)
    signal = np.bincount(group, shrunk.n * shrunk.signal) / weight
    return IsotonicCurve(signal=signal, normal=special.ndtri(levels))


class FittedCurve(Struct, frozen=True, kw_only=True):
    """A curve of maximum likelihood; `p` of its deviance, NaN if there is nothing to test. With an
    `anchor` the curve starts there; `skewed`: the skewness was free. `others`: the best of families
    that are less likely here, but may not be so for other trials.
    """

    curve: CdfCurve
    p: float
    likelihood: float
    anchor: float | None
    skewed: bool
    others: tuple["FittedCurve", ...] = ()


def cdf_curve(counted: Counted) -> FittedCurve | None:
    """The `CdfCurve` of maximum binomial likelihood, and the p-value of its deviance
    2 sum [k ln(k / n p) + (n-k) ln((n-k) / n (1-p))] with as many degrees of freedom as there are
    partial points beyond the parameters. Points where no or all trials pass count with their
    likelihood. With fewer than 3 partial points the skewness is fixed at 0. None without partial
    points, or if the fit does not rise.
    """
    if not counted.partial or np.ptp(counted.signal) == 0:
        return None
    skewed = counted.partial >= _FEWEST_FOR_SKEWNESS
    # Where no trial passes at the smallest strength, the likelihood has a kink at curves that start
    # just there (no background: the common case), which only a family of its own can follow.
    anchors = (None, float(counted.signal[0])) if skewed and counted.k[0] == 0 else (None,)
    fits = [_fit(counted, anchor, skewed=skewed) for anchor in anchors]
    best, *others = sorted(fits, key=lambda fit: -fit.likelihood)
    if not np.isfinite(best.curve.mean + best.curve.width):
        return None
    return replace(best, others=tuple(others))


def refitted(fit: FittedCurve, counted: Counted, k: Floats, fraction: float) -> Floats:
    """The signal strength with this fraction for other counts at the same points, starting at a
    fitted curve: for bootstrap errors. `k`: (replicates, points); shape: (replicates,).
    """
    found, likelihood = np.full(len(k), np.nan), np.full(len(k), -np.inf)
    for one in (fit, *fit.others):
        start = np.array([one.curve.mean, np.log(one.curve.width), one.curve.skewness])
        family = _Family(signal=counted.signal, n=counted.n, anchor=one.anchor, skewed=one.skewed)
        fitted, reached = family.scoring(np.broadcast_to(start, (len(k), 3)), k)
        z = _standard_quantile(fraction, fitted[:, 2])
        found = np.where(reached > likelihood, fitted[:, 0] + np.exp(fitted[:, 1]) * z, found)
        likelihood = np.maximum(likelihood, reached)
    return found


def _fit(counted: Counted, anchor: float | None, *, skewed: bool) -> FittedCurve:
    skewnesses = (0.0,) if not skewed else _STARTS if anchor is None else _ANCHORED_STARTS
    starts = _starting_points(counted, skewnesses)
    if anchor is not None:
        away = np.maximum(starts[:, 0] - anchor, 0.01 * np.ptp(counted.signal))
        starts[:, 1] = np.log(away * starts[:, 2] / 2)
    family = _Family(signal=counted.signal, n=counted.n, anchor=anchor, skewed=skewed)
    fitted, likelihood = family.scoring(starts, np.tile(counted.k, (len(starts), 1)))
    best = int(np.argmax(likelihood))
    mean, logarithm, skewness = (float(x) for x in fitted[best])
    curve = CdfCurve(mean=mean, width=float(np.exp(logarithm)), skewness=skewness)
    deviance = max(_deviance(counted, curve(counted.signal)), 0.0)
    left = counted.partial - len(family.columns)
    return FittedCurve(
        curve=curve,
        p=float(special.chdtrc(left, deviance)) if left > 0 else np.nan,
        likelihood=float(likelihood[best]),
        anchor=anchor,
        skewed=skewed,
    )


def _starting_points(counted: Counted, skewnesses: tuple[float, ...]) -> Floats:
    """A straight line through the normal quantiles, weighted by their binomial errors."""
    fraction = (counted.k + 0.5) / (counted.n + 1)
    z = special.ndtri(fraction)
    density = np.exp(-z * z / 2)
    weight = np.sqrt(counted.n / (fraction * (1 - fraction))) * density
    slope, offset = np.polyfit(counted.signal, z, 1, w=weight)
    span = np.ptp(counted.signal)
    width = 1 / max(slope, 0.01 / span)
    return np.array([[-offset * width, np.log(width), skewness] for skewness in skewnesses])


class _Family(Struct, frozen=True, kw_only=True, eq=False):
    """Curves with parameters (sets, 3): mean, ln width, skewness. With an anchor the mean follows
    from the others, so that the curve starts there.
    """

    signal: Floats
    n: Floats
    anchor: float | None
    skewed: bool

    @property
    def columns(self) -> tuple[int, ...]:
        """The parameters that move."""
        return (*((0,) if self.anchor is None else ()), 1, *((2,) if self.skewed else ()))

    @property
    def _range(self) -> tuple[float, float]:
        if self.anchor is None:
            return _LEAST_SKEWED, _MOST_SKEWED
        return _LEAST_ANCHORED, _MOST_ANCHORED

    def scoring(self, starts: Floats, k: Floats) -> tuple[Floats, Floats]:
        """Scoring with Levenberg's damping for many sets of counts (sets, points) at once:
        parameters (sets, 3) and log likelihoods (sets,).
        """
        now = self._moved(starts, np.zeros_like(starts))
        best = self._likelihood(now, k)
        damping = np.full(len(now), 1e-3)
        moving = np.arange(len(now))
        for _ in range(_STEPS):
            here = now[moving]
            trial = self._moved(here, self._step(here, k[moving], damping[moving]))
            found = self._likelihood(trial, k[moving])
            gain = found - best[moving]
            better = gain > 0
            now[moving[better]] = trial[better]
            best[moving[better]] = found[better]
            damping[moving] *= np.where(better, 0.1, 10.0)
            moving = moving[np.where(better, gain > _CLOSE, damping[moving] < _STUCK)]
            if not len(moving):
                break
        return now, best

    def _step(self, now: Floats, k: Floats, damping: Floats) -> Floats:
        p = self._fractions(now)
        slopes = self._slopes(now)
        score = np.einsum("sp,spf->sf", k / p - (self.n - k) / (1 - p), slopes)
        if self.skewed:
            # At the end of its range and driven outwards, the skewness is left out.
            least, most = self._range
            held = (now[:, 2] >= most) & (score[:, -1] > 0)
            held |= (now[:, 2] <= least) & (score[:, -1] < 0)
            slopes[held, :, -1] = score[held, -1] = 0
        weight = k / p**2 + (self.n - k) / (1 - p) ** 2
        information = np.einsum("sp,spf,spg->sfg", weight, slopes, slopes)
        # Scaled to a unit diagonal: weights differ by twenty orders of magnitude.
        scale = 1 / np.sqrt(np.einsum("sff->sf", information) + _TINY)
        information *= scale[:, :, None] * scale[:, None, :]
        information += np.eye(len(self.columns)) * (damping + _ROUNDING)[:, None, None]
        step = np.zeros_like(now)
        solved = np.linalg.solve(information, (score * scale)[..., None])[..., 0]
        step[:, self.columns] = solved * scale
        return step

    def _moved(self, now: Floats, step: Floats) -> Floats:
        """After a step, cut to a sensible length and to the range of the skewness."""
        width = np.exp(now[:, 1])
        mean = now[:, 0] + np.clip(step[:, 0], -10 * width, 10 * width)
        logarithm = now[:, 1] + np.clip(step[:, 1], -1, 1)
        skewness = np.clip(now[:, 2] + step[:, 2], *self._range) if self.skewed else now[:, 2]
        if self.anchor is not None:
            mean = self.anchor + 2 * np.exp(logarithm) / skewness
        return np.stack([mean, logarithm, skewness], axis=-1)

    def _fractions(self, parameters: Floats) -> Floats:
        z = (self.signal - parameters[:, 0:1]) / np.exp(parameters[:, 1:2])
        return np.clip(_cdf(z, parameters[:, 2:3]), _TINY, 1 - _TINY)

    def _slopes(self, parameters: Floats) -> Floats:
        """Derivatives of the fractions, (sets, points, columns), from differences."""
        found = []
        for column in self.columns:
            size = np.exp(parameters[:, 1]) if column == 0 else np.ones(len(parameters))
            step = np.zeros_like(parameters)
            step[:, column] = _DIFFERENCE * size
            above, below = (self._shifted(parameters, way * step) for way in (1, -1))
            found.append((above - below) / (2 * _DIFFERENCE * size[:, None]))
        return np.stack(found, axis=-1)

    def _shifted(self, parameters: Floats, step: Floats) -> Floats:
        shifted = parameters + step
        if self.anchor is not None:
            shifted[:, 0] = self.anchor + 2 * np.exp(shifted[:, 1]) / shifted[:, 2]
        return self._fractions(shifted)

    def _likelihood(self, parameters: Floats, k: Floats) -> Floats:
        p = self._fractions(parameters)
        return np.asarray((k * np.log(p) + (self.n - k) * np.log1p(-p)).sum(axis=1))


def _deviance(counted: Counted, fraction: Floats) -> float:
    p = np.clip(fraction, _TINY, 1 - _TINY)
    k, n = counted.k, counted.n
    passed = special.xlogy(k, k / (n * p))
    missed = special.xlogy(n - k, (n - k) / (n * (1 - p)))
    return float(2 * (passed + missed).sum())


def _cdf(z: Floats, skewness: Floats) -> Floats:
    """Of Pearson's type III with mean 0 and variance 1: a gamma distribution of shape
    a = 4 / skewness^2 at a + sqrt(a) z, mirrored for negative skewness.
    """
    size = np.maximum(np.abs(skewness), _NORMAL)
    shape = 4 / size**2
    at = np.maximum(shape + np.sqrt(shape) * np.where(skewness < 0, -z, z), 0.0)
    gamma = np.where(skewness < 0, special.gammaincc(shape, at), special.gammainc(shape, at))
    return np.asarray(np.where(np.abs(skewness) < _NORMAL, special.ndtr(z), gamma))


def _standard_quantile(fraction: float, skewness: Any) -> Any:
    """The inverse of `_cdf` in z."""
    size = np.maximum(np.abs(skewness), _NORMAL)
    shape = 4 / size**2
    up = (special.gammaincinv(shape, fraction) - shape) / np.sqrt(shape)
    down = (shape - special.gammainccinv(shape, fraction)) / np.sqrt(shape)
    return np.where(
        np.abs(skewness) < _NORMAL, special.ndtri(fraction), np.where(skewness < 0, down, up)
    )
