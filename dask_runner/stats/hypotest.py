"""CLs from trials: test statistics under signal plus background and under background alone.

Owns p-values, their ratio, the expected band and the limit on the signal strength, all with errors
from the number of trials. The test statistic grows with disagreement with the signal (q_mu and
q~_mu of Cowan et al., Eur. Phys. J. C 71 (2011) 1554). Refuses limits outside the scanned signal
strengths.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from scipy.interpolate import PchipInterpolator
from scipy.optimize import isotonic_regression

from dask_runner.errors import UsageError
from dask_runner.stats.arrays import Floats, generator, trials_of
from dask_runner.stats.bootstrap import summarised
from dask_runner.stats.limits import BAND
from dask_runner.stats.pvalues import EmpiricalP, checked_level, empirical_p
from dask_runner.stats.quantiles import resampled_ranks

# Fits leave equal data with test statistics that differ by about this: they count as equal.
TOLERANCE = 1e-6
# Protects n * p from rounding.
_ROUNDING = 1e-9
# For the logarithm of a share that no trial had.
_HALF = 0.5

Scan = Mapping[float, npt.ArrayLike]


class CLs(Struct, frozen=True, kw_only=True):
    """CLs = p_sb / p_b with its standard deviation and an interval of one (68.3 %). NaN, with the
    interval (0, 1), if no trial of either kind is as extreme as the observation.
    """

    p_sb: EmpiricalP
    p_b: EmpiricalP
    value: float
    error: float
    low: float
    high: float


class Expected(Struct, frozen=True, kw_only=True):
    """CLs (or limits) expected without signal at -2, -1, 0, 1, 2 standard deviations, from below,
    and their bootstrap standard deviations.
    """

    values: tuple[float, ...]
    errors: tuple[float, ...]


class StrengthLimit(Struct, frozen=True, kw_only=True):
    """The signal strength with CLs = 1 - level, its bootstrap standard deviation and central 68.3 %
    interval; `mu` and `cls` are the scanned points.
    """

    value: float
    error: float
    low: float
    high: float
    level: float
    mu: tuple[float, ...]
    cls: tuple[float, ...]


def cls(
    q_sb: npt.ArrayLike, q_b: npt.ArrayLike, observed: float, *, tolerance: float = TOLERANCE
) -> CLs:
    """CLs = P(q >= observed | s+b) / P(q >= observed | b) (Read, J. Phys. G 28 (2002) 2693), from
    independent trials of either kind.

    Error: the relative binomial errors in quadrature, (1-p)/k each; interval: the Clopper-Pearson
    intervals of both, propagated side by side, so that it has a width for k = 0 too. Values within
    `tolerance` of the observation (times its absolute value if that is above 1) count as equal.

    `q_sb`, `q_b`: (trials,) each, of the tested signal strength. Raises UsageError for other
    shapes, NaN.
    """
    edge = observed - tolerance * max(1.0, abs(observed))
    p_sb, p_b = empirical_p(q_sb, edge), empirical_p(q_b, edge)
    if not p_b.k:
        return CLs(p_sb=p_sb, p_b=p_b, value=np.nan, error=np.inf, low=0.0, high=1.0)
    value = p_sb.p / p_b.p
    squares = (1 - p_sb.p) / max(p_sb.k, 1) + (1 - p_b.p) / p_b.k
    return CLs(
        p_sb=p_sb,
        p_b=p_b,
        value=value,
        error=value * float(np.sqrt(squares)),
        low=max(0.0, value - np.hypot(value - p_sb.low / p_b.p, value - p_sb.p / p_b.high)),
        high=float(value + np.hypot(p_sb.high / p_b.p - value, p_sb.p / p_b.low - value)),
    )


def expected_cls(
    q_sb: npt.ArrayLike,
    q_b: npt.ArrayLike,
    *,
    replicates: int = 200,
    rng: np.random.Generator | None = None,
    tolerance: float = TOLERANCE,
) -> Expected:
    """The quantiles Phi(-2 ... 2) of CLs over trials without signal. CLs falls with q, so the
    quantile alpha is CLs at the largest q that a share alpha of these trials reaches.

    Shapes and errors: see `cls`. Bootstrap: q and its p_sb drawn again together.
    """
    point = _Point.of(q_sb, q_b, tolerance)
    draw = generator(rng)
    scattered = [point.replicated_expected(alpha, replicates, draw).ratio for alpha in BAND]
    return Expected(
        values=tuple(float(point.expected(alpha).ratio) for alpha in BAND),
        errors=tuple(float(found.std(ddof=1)) for found in scattered),
    )


def upper_limit(
    q_sb: Scan,
    q_b: Scan,
    observed: Mapping[float, float],
    *,
    level: float = 0.95,
    replicates: int = 200,
    rng: np.random.Generator | None = None,
    tolerance: float = TOLERANCE,
) -> StrengthLimit:
    """The signal strength with CLs = 1 - level from a scan: for each strength its trials under
    signal plus background and under background, and the observed test statistic.

    ln CLs is made to fall by isotonic regression (weights from its errors) and joined by a monotone
    cubic through the pooled points; a share that no trial had counts as half a trial, a strength
    without any background trial at the observation is left out. Error: the counts drawn again,
    each strength independent of the others.

    Raises UsageError if the three mappings have different strengths, if CLs does not pass 1 - level
    between the smallest and the largest of them, for NaN.
    """
    _check_scan(q_sb, q_b, observed)
    draw = generator(rng)
    mu = sorted(q_sb)
    points = [_Point.of(q_sb[m], q_b[m], tolerance) for m in mu]
    counted = [point.at(observed[m]) for m, point in zip(mu, points, strict=True)]
    scattered = [
        point.replicated(c, replicates, draw) for c, point in zip(counted, points, strict=True)
    ]
    return _limit(np.array(mu), counted, scattered, level)


def expected_upper_limits(
    q_sb: Scan,
    q_b: Scan,
    *,
    level: float = 0.95,
    replicates: int = 200,
    rng: np.random.Generator | None = None,
    tolerance: float = TOLERANCE,
) -> tuple[StrengthLimit, ...]:
    """The limits expected without signal at -2, -1, 0, 1, 2 standard deviations: `expected_cls` of
    each strength, joined as in `upper_limit`. Errors raised: see there.
    """
    _check_scan(q_sb, q_b, q_sb)
    draw = generator(rng)
    mu = sorted(q_sb)
    points = [_Point.of(q_sb[m], q_b[m], tolerance) for m in mu]
    return tuple(
        _limit(
            np.array(mu),
            [point.expected(alpha) for point in points],
            [point.replicated_expected(alpha, replicates, draw) for point in points],
            level,
        )
        for alpha in BAND
    )


class _Counted(Struct, frozen=True, kw_only=True, eq=False):
    """Trials at or above a value of q: numbers or arrays (replicates,) of them."""

    k_sb: Any
    n_sb: int
    k_b: Any
    n_b: int

    @property
    def ratio(self) -> Any:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.k_b > 0, self.k_sb / self.n_sb / (self.k_b / self.n_b), np.nan)

    @property
    def logarithm(self) -> tuple[Any, Any]:
        """The logarithm of CLs and its variance; NaN without background trials."""
        k_sb = np.maximum(self.k_sb, _HALF)
        k_b = np.where(self.k_b > 0, self.k_b, np.nan)
        # A share of 1 has no binomial variance: that of half a trial less keeps weights finite.
        variance = np.maximum(self.n_sb - k_sb, _HALF) / (self.n_sb * k_sb)
        variance += np.maximum(self.n_b - k_b, _HALF) / (self.n_b * k_b)
        return np.log(k_sb / self.n_sb) - np.log(k_b / self.n_b), variance


class _Point(Struct, frozen=True, kw_only=True, eq=False):
    """The sorted trials of one strength."""

    sb: Floats
    b: Floats
    tolerance: float

    @classmethod
    def of(cls, q_sb: npt.ArrayLike, q_b: npt.ArrayLike, tolerance: float) -> "_Point":
        return cls(
            sb=np.sort(trials_of(q_sb, "q_sb")),
            b=np.sort(trials_of(q_b, "q_b")),
            tolerance=tolerance,
        )

    def at(self, q: Any) -> _Counted:
        edge = q - self.tolerance * np.maximum(1.0, np.abs(q))
        return _Counted(
            k_sb=len(self.sb) - np.searchsorted(self.sb, edge),
            n_sb=len(self.sb),
            k_b=len(self.b) - np.searchsorted(self.b, edge),
            n_b=len(self.b),
        )

    def expected(self, alpha: float) -> _Counted:
        return self.at(self.b[self._rank(alpha)])

    def replicated(self, counted: _Counted, replicates: int, rng: np.random.Generator) -> _Counted:
        return _Counted(
            k_sb=_drawn(counted.k_sb, counted.n_sb, rng, replicates),
            n_sb=counted.n_sb,
            k_b=_drawn(counted.k_b, counted.n_b, rng, replicates),
            n_b=counted.n_b,
        )

    def replicated_expected(
        self, alpha: float, replicates: int, rng: np.random.Generator
    ) -> _Counted:
        rank = self._rank(alpha)
        found = resampled_ranks(len(self.b), rank, replicates, rng)
        counted = self.at(self.b[found])
        # Of a sample drawn again, the trials from this rank on are at or above its q: q moves, p_b
        # does not. Those before are anywhere below, so some may have an equal q.
        equal = np.maximum(0.0, 1 - (counted.n_b - counted.k_b) / np.maximum(found, 1))
        k_b = len(self.b) - rank + rng.binomial(rank, equal)
        return _Counted(
            k_sb=_drawn(counted.k_sb, counted.n_sb, rng, replicates),
            n_sb=counted.n_sb,
            k_b=k_b,
            n_b=counted.n_b,
        )

    def _rank(self, alpha: float) -> int:
        """The largest q that a share alpha of the background trials reaches."""
        return len(self.b) - int(np.ceil(len(self.b) * alpha - _ROUNDING))


def _drawn(k: Any, n: int, rng: np.random.Generator, replicates: int) -> Any:
    """Counts in trials drawn again, (replicates,). None counts as half a trial: it has an error."""
    return rng.binomial(n, np.maximum(k, _HALF) / n, replicates)


def _check_scan(*scans: Mapping[float, Any]) -> None:
    if any(set(scan) != set(scans[0]) for scan in scans) or len(scans[0]) < 2:  # noqa: PLR2004
        raise UsageError(
            "a limit needs at least two signal strengths, each with trials under signal plus"
            " background, trials under background and an observation"
        )


def _limit(
    mu: Floats, counted: list[_Counted], scattered: list[_Counted], level: float
) -> StrengthLimit:
    target = float(np.log(1 - checked_level(level)))
    logarithm, variance = np.array([point.logarithm for point in counted]).T
    known = np.isfinite(logarithm)
    values = np.array([float(point.ratio) for point in counted])
    _check_crossed(mu[known], logarithm[known], variance[known], values[known], level)
    value = _crossing(mu, logarithm, variance, target)
    again = np.array([point.logarithm for point in scattered])
    found = np.array(
        [_crossing(mu, again[:, 0, i], again[:, 1, i], target) for i in range(again.shape[2])]
    )
    spread = summarised(value, found[np.isfinite(found)])
    return StrengthLimit(
        value=value,
        error=spread.error,
        low=spread.low,
        high=spread.high,
        level=level,
        mu=tuple(float(m) for m in mu),
        cls=tuple(float(x) for x in values),
    )


def _check_crossed(
    mu: Floats, logarithm: Floats, variance: Floats, values: Floats, level: float
) -> None:
    if not len(mu):
        raise UsageError("no trial without signal is as extreme as the observation anywhere")
    falling = _falling(logarithm, variance)
    target = np.log(1 - level)
    if falling[-1] >= target:
        raise UsageError(
            f"CLs is still {values[-1]:.3g} at the largest signal strength, {mu[-1]:g}:"
            f" {1 - level:.3g} is not reached",
            hint="scan larger strengths",
        )
    if falling[0] <= target:
        raise UsageError(
            f"CLs is already {values[0]:.3g} at the smallest signal strength, {mu[0]:g}:"
            f" the limit is below",
            hint="scan smaller strengths (at 0 CLs is 1)",
        )


def _falling(logarithm: Floats, variance: Floats) -> Floats:
    fitted = isotonic_regression(logarithm, weights=1 / variance, increasing=False)
    return np.asarray(fitted.x, dtype=np.float64)


def _crossing(mu: Floats, logarithm: Floats, variance: Floats, target: float) -> float:
    """The strength where ln CLs passes the target; NaN if it does not."""
    known = np.isfinite(logarithm)
    if np.count_nonzero(known) < 2:  # noqa: PLR2004  (a curve joins two)
        return np.nan
    falling = _falling(logarithm[known], variance[known])
    levels, group = np.unique(-falling, return_inverse=True)
    if len(levels) < 2 or not levels[0] <= -target <= levels[-1]:  # noqa: PLR2004
        return np.nan
    weight = np.bincount(group, 1 / variance[known])
    pooled = np.bincount(group, mu[known] / variance[known]) / weight
    return float(PchipInterpolator(levels, pooled)(-target))
