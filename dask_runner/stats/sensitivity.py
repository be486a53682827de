"""Sensitivity and discovery potential: the signal with which a share of trials passes a threshold.

Owns the order of the steps: threshold from background, counted fractions, a monotone curve, its
crossing, a bootstrap of all of it. p-values use >=, passing a threshold is strictly >: the median
of a test statistic without signal is often exactly 0. Refuses to extrapolate: the fraction must be
passed within the signal strengths that were simulated.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dask_runner.errors import UsageError
from dask_runner.stats import curves
from dask_runner.stats.arrays import Floats, generator, trials_of
from dask_runner.stats.bootstrap import summarised
from dask_runner.stats.discrete import SAME
from dask_runner.stats.distribution import Chi2TSD, Distribution
from dask_runner.stats.pvalues import checked_level, clopper_pearson, sigma_to_p
from dask_runner.stats.quantiles import Quantile, Source

# A curve that is as unlikely as this is replaced by an isotonic one.
_BAD_FIT = 1e-3
# Warn if so large a share of bootstrap samples has no crossing.
_MOST_LOST = 0.02
_MEDIAN = 0.5
# What minimisers leave of a zero is above this.
_NEGATIVE = -1e-3
_JOINED = (
    "no simple curve describes the fractions: they are joined, not fitted; signal strengths close"
    " to the result make it safer"
)

Background = npt.ArrayLike | Distribution | Quantile


class Point(Struct, frozen=True, kw_only=True):
    """At a signal strength, `k` of `n` trials pass the threshold; Clopper-Pearson interval at one
    standard deviation.
    """

    n_sig: float
    k: int
    n: int
    fraction: float
    low: float
    high: float


class Sensitivity(Struct, frozen=True, kw_only=True, eq=False):
    """The signal strength `value` with which a share `beta` of trials has TS > threshold, its
    bootstrap standard deviation `error` and central 68.3 % interval; in the unit of the signal
    strengths. `curve` is what was fitted to `points`, `fit_p` the p-value of its deviance (NaN:
    nothing to test). `warnings` are to be shown wherever the value is.
    """

    value: float
    error: float
    low: float
    high: float
    beta: float
    threshold: Quantile
    points: tuple[Point, ...]
    curve: curves.Curve
    fit_p: float
    warnings: tuple[str, ...] = ()

    @property
    def threshold_source(self) -> Source:
        return self.threshold.source

    @property
    def method(self) -> str:
        """What the curve is, in words."""
        if isinstance(self.curve, curves.CdfCurve):
            return "shifted gamma distribution function, maximum binomial likelihood"
        return "isotonic regression, joined on the normal-quantile scale"

    def fraction(self, n_sig: npt.ArrayLike) -> Any:
        """The fitted fraction at signal strengths of any shape, for plots."""
        return self.curve(n_sig)


def sensitivity(
    background: Background,
    signal: Mapping[float, npt.ArrayLike],
    *,
    beta: float = 0.9,
    replicates: int = 200,
    rng: np.random.Generator | None = None,
) -> Sensitivity:
    """The signal with which a share `beta` of trials has TS strictly above the median of those
    without signal.

    `background`: test statistics (trials,), a distribution (Chi2TSD, DiscreteTSD), or a threshold
    (`given`). `signal`: for each signal strength the test statistics (trials,) of its trials. How
    the fractions are joined: `curves`. Error: `replicates` bootstrap samples of background and
    signal trials, each fitted anew. The one-sided convention of neutrino astronomy (e.g. Braun et
    al., Astropart. Phys. 29 (2008) 299).

    Raises UsageError for NaN, empty points, a list of background test statistics of which some are
    negative (DiscreteTSD takes any), and if the curve does not pass `beta` within the signal
    strengths given: the message says which ones are needed.
    """
    return passing(background, signal, p=_MEDIAN, beta=beta, replicates=replicates, rng=rng)


def discovery_potential(
    background: Background,
    signal: Mapping[float, npt.ArrayLike],
    *,
    sigma: float = 5.0,
    beta: float = 0.5,
    replicates: int = 200,
    rng: np.random.Generator | None = None,
) -> Sensitivity:
    """The signal with which a share `beta` of trials has TS strictly above the threshold of `sigma`
    (one-sided) without signal: 5 sigma is p = 2.8665e-7. Background trials that do not reach so far
    are extrapolated by a chi2, which `threshold` says; a bad fit is a warning. All else: see
    `sensitivity`. A counting experiment needs `counting.distribution`, or DiscreteTSD.
    """
    p = float(sigma_to_p(sigma))
    return passing(background, signal, p=p, beta=beta, replicates=replicates, rng=rng)


def given(threshold: float) -> Quantile:
    """A threshold that the caller knows, as background for the functions here."""
    return Quantile(
        q=np.nan,
        value=float(threshold),
        low=float(threshold),
        high=float(threshold),
        source="given",
    )


def passing(
    background: Background,
    signal: Mapping[float, npt.ArrayLike],
    *,
    p: float,
    beta: float,
    replicates: int = 200,
    rng: np.random.Generator | None = None,
) -> Sensitivity:
    """The same for the threshold of any p-value `p` without signal."""
    checked_level(beta)
    draw = generator(rng)
    threshold, thresholds = _thresholds(background, p, replicates, draw)
    ordered = {
        float(strength): np.sort(trials_of(ts, f"n_sig = {strength:g}"))
        for strength, ts in sorted(signal.items())
    }
    counted = _count(ordered, threshold.value)
    _check_passed(counted, beta)
    fit = _fit(counted, beta)
    warnings = [f"threshold: {threshold.warning}"] if threshold.warning else []
    if isinstance(fit, curves.IsotonicCurve):
        warnings.append(_JOINED)
    curve = fit.curve if isinstance(fit, curves.FittedCurve) else fit
    value = curve.inverse(beta)
    found = _found_again(fit, counted, _counted_again(ordered, thresholds, draw), beta)
    lost = np.count_nonzero(~np.isfinite(found)) / max(1, len(found))
    if lost > _MOST_LOST:
        warnings.append(
            f"{lost:.0%} of the bootstrap samples do not pass {beta:g}: error too small"
        )
    spread = summarised(value, found[np.isfinite(found)])
    return Sensitivity(
        value=value,
        error=spread.error,
        low=spread.low,
        high=spread.high,
        beta=beta,
        threshold=threshold,
        points=_points(counted),
        curve=curve,
        fit_p=fit.p if isinstance(fit, curves.FittedCurve) else np.nan,
        warnings=tuple(warnings),
    )


def _thresholds(
    background: Background, p: float, replicates: int, rng: np.random.Generator
) -> tuple[Quantile, Floats]:
    """The threshold and how it scatters."""
    if isinstance(background, Quantile):
        return background, np.full(replicates, background.value)
    distribution: Any = background
    if not hasattr(background, "resampled_isf"):
        ts = trials_of(background, "background")
        if ts.min() < _NEGATIVE:
            raise UsageError(
                f"test statistics without signal go down to {ts.min():.3g}: no chi2 with zeros",
                hint="DiscreteTSD.from_trials counts them; Chi2TSD.fit takes negative ones as 0",
            )
        distribution = Chi2TSD.fit(ts)
    return distribution.isf(p), distribution.resampled_isf(p, replicates, rng)


def _count(ordered: Mapping[float, Floats], threshold: float) -> curves.Counted:
    if len(ordered) < 2:  # noqa: PLR2004  (a curve joins two)
        raise UsageError(f"{len(ordered)} signal strengths: at least 2 are needed")
    # Strictly above, and above what is the same but for rounding.
    edge = threshold + SAME * abs(threshold)
    above = [len(ts) - np.searchsorted(ts, edge, side="right") for ts in ordered.values()]
    return curves.Counted(
        signal=np.array(list(ordered)),
        k=np.array(above, dtype=np.float64),
        n=np.array([len(ts) for ts in ordered.values()], dtype=np.float64),
    )


def _check_passed(counted: curves.Counted, beta: float) -> None:
    levels, strengths = curves.isotonic(counted), counted.signal
    if levels[-1] <= beta:
        raise UsageError(
            f"only {levels[-1]:.3g} of the trials pass the threshold at the largest signal"
            f" strength, {strengths[-1]:g}: {beta:g} is not reached",
            hint=f"simulate larger ones{_guess(counted, beta)}",
        )
    if levels[0] >= beta:
        raise UsageError(
            f"already {levels[0]:.3g} of the trials pass the threshold at the smallest signal"
            f" strength, {strengths[0]:g}: {beta:g} is below what was simulated",
            hint=f"simulate smaller ones{_guess(counted, beta)}",
        )
    if not counted.partial:
        last = int(np.argmax(levels > beta))
        raise UsageError(
            f"no trial passes the threshold at n_sig = {strengths[last - 1]:g}, all at"
            f" {strengths[last]:g}: nothing tells where {beta:g} is between",
            hint=f"simulate strengths between {strengths[last - 1]:g} and {strengths[last]:g}",
        )


def _guess(counted: curves.Counted, beta: float) -> str:
    """Where the fraction might be, as a hint only."""
    fitted = curves.cdf_curve(counted)
    if fitted is None:
        return ""
    where, span = fitted.curve.inverse(beta), np.ptp(counted.signal)
    if not counted.signal[0] - 3 * span < where < counted.signal[-1] + 3 * span:
        return ""
    return f", by extrapolation it might be near {where:.3g}"


def _fit(counted: curves.Counted, beta: float) -> curves.FittedCurve | curves.IsotonicCurve:
    """The gamma curve if it describes the points and passes within them, else the isotonic one."""
    fitted = curves.cdf_curve(counted)
    if fitted is not None:
        inside = counted.signal[0] <= fitted.curve.inverse(beta) <= counted.signal[-1]
        if inside and not fitted.p < _BAD_FIT:
            return fitted
    joined = curves.isotonic_curve(counted)
    if joined is None or np.isnan(joined.inverse(beta)):
        raise UsageError(
            f"too few trials to say where {beta:g} is passed", hint="more trials for each point"
        )
    return joined


def _counted_again(
    ordered: Mapping[float, Floats], thresholds: Floats, rng: np.random.Generator
) -> Floats:
    """Counts (replicates, points) in trials drawn again: of n trials of which k are above the
    threshold, Binomial(n, k/n) are in a bootstrap sample, so nothing has to be drawn twice.
    """
    edges = thresholds + SAME * np.abs(thresholds)
    above = [len(ts) - np.searchsorted(ts, edges, side="right") for ts in ordered.values()]
    n = np.array([len(ts) for ts in ordered.values()])
    return rng.binomial(n, np.stack(above, axis=-1) / n).astype(np.float64)


def _found_again(
    fit: curves.FittedCurve | curves.IsotonicCurve, counted: curves.Counted, k: Floats, beta: float
) -> Floats:
    """Results for other counts, (replicates,); NaN where the fraction is not passed."""
    if isinstance(fit, curves.FittedCurve):
        return curves.refitted(fit, counted, k, beta)
    again = [
        curves.isotonic_curve(curves.Counted(signal=counted.signal, k=row, n=counted.n))
        for row in k
    ]
    return np.array([np.nan if joined is None else joined.inverse(beta) for joined in again])


def _points(counted: curves.Counted) -> tuple[Point, ...]:
    low, high = clopper_pearson(counted.k, counted.n)
    columns = zip(counted.signal, counted.k, counted.n, low, high, strict=True)
    return tuple(
        Point(
            n_sig=float(signal),
            k=int(k),
            n=int(n),
            fraction=float(k / n),
            low=float(a),
            high=float(b),
        )
        for signal, k, n, a, b in columns
    )
