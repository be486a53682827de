"""The distribution of a test statistic without signal: a share of zeros and a chi2 beyond.

Owns where a number comes from: counted where trials reach, from the fit beyond, and said with it.
Refuses to extrapolate without a fit; a bad fit is used only with a warning in the result.
"""

from collections.abc import Sequence
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
from msgspec import Struct, field
from scipy import special

from dask_runner.errors import UsageError
from dask_runner.stats import chi2_fit
from dask_runner.stats.arrays import Floats, trials_of
from dask_runner.stats.pvalues import clopper_pearson, p_to_sigma, sigma_to_p
from dask_runner.stats.quantiles import FitQuality, Quantile, Source, quantiles, resampled_ranks

# Trials reach as far as this many of them are expected beyond.
REACH = 10
# Protects n * p from rounding: 1 - 0.9 is not 0.1.
ROUNDING = 1e-9
_DIFFERENCE = 1e-4


class Distribution(Protocol):
    """What a distribution of test statistics tells: P(TS >= ts), and the threshold of a p-value."""

    def p(self, ts: npt.ArrayLike) -> Any: ...
    def isf(self, p: float) -> Quantile: ...
    def resampled_isf(self, p: float, replicates: int, rng: np.random.Generator) -> Floats: ...


class PValue(Struct, frozen=True, kw_only=True):
    """P(TS >= ts) with an interval at one standard deviation and its source; `sigma` is its
    one-sided significance. A `warning` is to be shown wherever the value is.
    """

    value: float
    low: float
    high: float
    source: Source
    quality: FitQuality | None = None
    warning: str = ""

    @property
    def sigma(self) -> float:
        return float(p_to_sigma(self.value))


class Chi2TSD(Struct, frozen=True, kw_only=True, eq=False):
    """A share `eta` of positive test statistics, which follow loc + scale * chi2 with `ndof`
    degrees of freedom; errors are standard deviations. `trials` are sorted, empty if the
    distribution is known and not fitted. `ndof` is NaN if there was nothing to fit.
    """

    eta: float
    ndof: float
    loc: float = 0.0
    scale: float = 1.0
    eta_error: float = 0.0
    ndof_error: float = 0.0
    scale_error: float = 0.0
    covariance: float = 0.0
    quality: FitQuality | None = None
    trials: Floats = field(default_factory=lambda: np.empty(0))

    @classmethod
    def fit(cls, ts: npt.ArrayLike, *, free_scale: bool = False, floor: float = 0.0) -> Self:
        """Fit to trials without signal: eta = share of TS > floor; the positive ones by maximum
        likelihood, location 0, scale 1 unless `free_scale` (which makes TS(5 sigma) scatter ten
        times more). Formulas: `chi2_fit`. After Wilks, Ann. Math. Stat. 9 (1938) 60, and Chernoff,
        ibid. 25 (1954) 573: at a boundary eta = 1/2, ndof = 1.

        `ts`: (trials,), no unit. Values up to `floor` count as 0: choose it above what your
        minimiser leaves of a zero (1e-9, say), else the logarithms of such values ruin the fit.
        Raises UsageError for other shapes, NaN, no trials, a negative floor.
        """
        if floor < 0:
            raise UsageError(f"a floor of {floor:g}: test statistics up to 0 count as 0")
        values = trials_of(ts, "ts")
        ordered = np.sort(np.where(values > floor, values, 0.0))
        first = int(np.searchsorted(ordered, 0.0, side="right"))
        n, positive = len(ordered), ordered[first:]
        eta = len(positive) / n
        plain = cls(eta=eta, ndof=np.nan, eta_error=np.sqrt(eta * (1 - eta) / n), trials=ordered)
        if len(positive) < chi2_fit.FEWEST:
            return plain
        fitted = (chi2_fit.fit_ndof_and_scale if free_scale else chi2_fit.fit_ndof)(positive)
        if fitted is None:
            return plain
        return cls(
            eta=eta,
            ndof=fitted.ndof,
            scale=fitted.scale,
            eta_error=plain.eta_error,
            ndof_error=fitted.ndof_error,
            scale_error=fitted.scale_error,
            covariance=fitted.covariance,
            quality=chi2_fit.quality(positive, fitted),
            trials=ordered,
        )

    @property
    def warning(self) -> str:
        """Why not to trust the fit; empty if there is no reason."""
        if np.isnan(self.ndof):
            return f"no fit: {round(self.eta * len(self.trials))} different positive trials or less"
        if self.quality is not None and not self.quality.good:
            return f"the chi2 does not describe the trials: {self.quality.text}"
        return ""

    def p(self, ts: npt.ArrayLike) -> Any:
        """P(TS >= ts) of the fitted curve: eta * sf((ts - loc) / scale) for ts > loc, with the chi2
        survival function, and 1 up to loc. For one number with its source: `p_value`.

        Shape: that of `ts`. Raises UsageError if there is no fit.
        """
        return self._curve(np.asarray(ts, np.float64), self.eta, self._ndof(), self.scale)

    def p_from_trials(self, ts: npt.ArrayLike) -> Any:
        """The share of trials with TS >= ts, of the shape of `ts`. Raises UsageError if there are
        no trials.
        """
        return self._at_or_above(ts) / len(self.trials)

    def p_value(self, ts: float) -> PValue:
        """P(TS >= ts): counted, with a Clopper-Pearson interval, if at least 10 trials are there;
        else from the fit, with the errors of its parameters.

        Raises UsageError if it takes a fit and there is none.
        """
        if len(self.trials):
            k, n = int(self._at_or_above(ts)), len(self.trials)
            if k >= REACH or ts <= self.loc:
                low, high = clopper_pearson(k, n)
                return PValue(value=k / n, low=float(low), high=float(high), source="trials")
        value = float(self.p(ts))
        # The error of ln p, so that the interval stays above 0.
        error = self._propagated(lambda *parameters: np.log(self._curve(ts, *parameters)))
        return PValue(
            value=value,
            low=float(value * np.exp(-error)),
            high=float(min(1.0, value * np.exp(error))),
            source="fit" if len(self.trials) else "exact",
            quality=self.quality,
            warning=self.warning,
        )

    def isf(self, p: float) -> Quantile:
        """The smallest threshold t with P(TS > t) <= p: from trials if at least 10 are expected
        beyond it (an order statistic and its interval), else the curve's
        loc + scale * chi2.isf(p / eta), or loc if p >= eta, with the errors of the parameters.

        Raises UsageError unless 0 < p < 1, and if it takes a fit and there is none.
        """
        if not 0 < p < 1:
            raise UsageError(f"a p-value of {p:g} has no threshold: it must be between 0 and 1")
        if self._reached(p):
            found = quantiles(self.trials, [1 - p])[0]
            value = float(self.trials[self._rank(p)])
            return Quantile(
                q=1 - p, value=value, low=found.low, high=found.high, source="trials", n=found.n
            )
        ndof = self._ndof()
        value = float(self._threshold(p, self.eta, ndof, self.scale))
        error = self._propagated(lambda *parameters: self._threshold(p, *parameters))
        return Quantile(
            q=1 - p,
            value=value,
            low=max(self.loc, value - error),
            high=value + error,
            source="fit" if len(self.trials) else "exact",
            n=len(self.trials),
            quality=self.quality,
            warning=self.warning,
        )

    def quantile(self, q: float) -> Quantile:
        """The TS below or at which a share `q` is: isf(1 - q)."""
        return self.isf(1 - q)

    def threshold(self, sigma: float) -> Quantile:
        """The TS of a one-sided significance: isf of its p-value."""
        return self.isf(float(sigma_to_p(sigma)))

    def resampled_isf(self, p: float, replicates: int, rng: np.random.Generator) -> Floats:
        """Thresholds `isf(p)` as they would scatter if the trials were made again, shape
        (replicates,): order statistics of bootstrap samples, or the curve with parameters drawn
        from their errors.
        """
        if self._reached(p):
            found = resampled_ranks(len(self.trials), self._rank(p), replicates, rng)
            return self.trials[found]
        middle = [self.eta, self._ndof(), self.scale]
        eta, ndof, scale = rng.multivariate_normal(middle, self._covariance(), replicates).T
        return np.asarray(
            self._threshold(
                p, np.clip(eta, 1e-12, 1), np.maximum(ndof, 1e-3), np.maximum(scale, 1e-9)
            )
        )

    def _reached(self, p: float) -> bool:
        return len(self.trials) * p + ROUNDING >= REACH

    def _rank(self, p: float) -> int:
        n = len(self.trials)
        return max(0, n - 1 - int(n * p + ROUNDING))

    def _ndof(self) -> float:
        if np.isnan(self.ndof):
            raise UsageError(
                f"{len(self.trials)} trials do not reach so far, and no chi2 can be fitted: only"
                f" {round(self.eta * len(self.trials))} are positive, or all are equal",
                hint="more trials; for a discrete test statistic discrete.DiscreteTSD",
            )
        return self.ndof

    def _at_or_above(self, ts: npt.ArrayLike) -> Any:
        if not len(self.trials):
            raise UsageError("this distribution has no trials to count")
        return len(self.trials) - np.searchsorted(self.trials, np.asarray(ts), side="left")

    def _curve(self, ts: Any, eta: Any, ndof: Any, scale: Any) -> Any:
        above = np.maximum(np.asarray(ts) - self.loc, 0) / (2 * scale)
        return np.where(above > 0, eta * special.gammaincc(ndof / 2, above), 1.0)[()]

    def _threshold(self, p: float, eta: Any, ndof: Any, scale: Any) -> Any:
        share = np.minimum(p / eta, 1.0)
        return self.loc + 2 * scale * special.gammainccinv(ndof / 2, share)

    def _covariance(self) -> Floats:
        """Of (eta, ndof, scale): eta is independent of what is fitted to the positive trials."""
        matrix = np.diag([self.eta_error, self.ndof_error, self.scale_error]) ** 2
        matrix[1, 2] = matrix[2, 1] = self.covariance
        return matrix

    def _propagated(self, function: Any) -> float:
        """The standard deviation of a function of (eta, ndof, scale), to first order."""
        middle = np.array([self.eta, self.ndof, self.scale])
        steps = _DIFFERENCE * middle
        # One-sided, towards smaller values: eta cannot be more than 1.
        slopes = (
            function(*middle) - np.array([function(*(middle - s)) for s in np.diag(steps)])
        ) / steps
        return float(np.sqrt(max(0.0, slopes @ self._covariance() @ slopes)))


class InterpolatedP(Struct, frozen=True, kw_only=True, eq=False):
    """p-values of the shape of what was asked for; `warnings` of distributions that were used."""

    p: Any
    warnings: tuple[str, ...] = ()


def ts_to_p(
    parameters: npt.ArrayLike,
    distributions: Sequence[Distribution],
    parameter: npt.ArrayLike,
    ts: npt.ArrayLike,
) -> InterpolatedP:
    """P(TS >= ts) where the distribution depends on a parameter (a declination, a mass): linear
    interpolation of p between the two nearest grid points; beyond the ends, the end distribution.

    `parameters`: (grid,), in any order, each once, with one of `distributions` each; `parameter`
    and `ts`: any shapes that numpy broadcasts, the parameter in the grid's unit. Raises UsageError
    for an empty or repeated grid, other lengths, NaN.
    """
    grid = trials_of(parameters, "parameters")
    if len(grid) != len(distributions) or len(np.unique(grid)) != len(grid):
        raise UsageError(
            f"{len(grid)} grid points ({len(np.unique(grid))} different) for"
            f" {len(distributions)} distributions: each needs one"
        )
    where, values = np.broadcast_arrays(
        np.asarray(parameter, np.float64), np.asarray(ts, np.float64)
    )
    if np.isnan(where).any() or np.isnan(values).any():
        raise UsageError("parameters and test statistics must not be NaN")
    order = np.argsort(grid)
    place = np.interp(where, grid[order], np.arange(len(grid)))
    result = np.zeros(where.shape)
    warnings = []
    for i, position in enumerate(order):
        # Hat functions: 1 at this grid point, 0 at the next ones.
        weight = np.maximum(0, 1 - np.abs(place - i))
        used = weight > 0
        if used.any():
            result[used] += weight[used] * distributions[position].p(values[used])
            warning = getattr(distributions[position], "warning", "")
            warnings += [f"at {grid[position]:g}: {warning}"] if warning else []
    return InterpolatedP(p=result[()], warnings=tuple(warnings))
