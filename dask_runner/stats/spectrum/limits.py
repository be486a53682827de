"""Upper limits on the signal counts of a spectrum, with the background frozen or refitted.

Owns the two likelihoods of N. Where they end, and their quantiles: `quantile`; fits: `fitting`.
"""

import numpy as np
from msgspec import Struct

from dask_runner.errors import UsageError
from dask_runner.stats.spectrum.fitting import Fitter, Minimum, SpectrumFit
from dask_runner.stats.spectrum.quantile import (
    FALL,
    PLACES,
    interpolation,
    lobatto,
    nodes_between,
    quantile,
    span,
)
from dask_runner.stats.spectrum.shape import Array

CONFIDENCE = 0.95
# Fits along the profile. What is interpolated between them is its logarithm less that of the frozen
# likelihood, a smooth function; against 40 nodes
# the limit changes by 1e-4 at most where less than one event is expected, by 1e-7 elsewhere.
_PROFILE_NODES = 12
_PROFILE_PLACES = lobatto(_PROFILE_NODES)
_REFINE = interpolation(_PROFILE_NODES, PLACES)
_MOST_STEPS = 60
_WIDTHS = 6.0
# The width of a likelihood that has none of its own: exp(-N).
_NO_EVENTS_WIDTH = 3.0


class Limit(Struct, frozen=True, kw_only=True):
    """An upper limit in events, whether all its fits converged, and how many there were."""

    value: float
    converged: bool
    fits: int


def frozen_limit(fitter: Fitter, fit: SpectrumFit, confidence: float = CONFIDENCE) -> float:
    """The `confidence` quantile of L(N) = prod_i Poisson(n_i | b_i + N s_i) over N >= 0, with b as
    fitted at N = 0: a flat prior, no uncertainty of the background.

    In events. It undercovers when there is signal, which the fit at N = 0 takes for background.
    The quantile with a flat prior: O. Helene, Nucl. Instrum. Meth. 212 (1983) 319. Raises
    UsageError for a confidence outside (0, 1).
    """
    check_confidence(confidence)
    curve = FrozenCurve(fit.counts.n, fit.alone.background, fitter.template)
    low, high = curve.span()
    return quantile(low, high, curve.logs(nodes_between(low, high)), confidence)


def profile_limit(fitter: Fitter, fit: SpectrumFit, confidence: float = CONFIDENCE) -> Limit:
    """As `frozen_limit`, with the background refitted at each N: the quantile of
    L_p(N) = max over background parameters of L(N, parameters).

    ln L_p - ln L_frozen is interpolated through fits at 12 Chebyshev nodes. Raises UsageError for a
    confidence outside (0, 1), NoEndError (an ArithmeticError) if L_p does not fall off.
    """
    check_confidence(confidence)
    profile = _Profile(fitter, fit)
    low, high = profile.span()
    places = nodes_between(low, high, _PROFILE_PLACES)
    curve = FrozenCurve(fit.counts.n, fit.alone.background, fitter.template)
    # From the far end on, which is the last that was looked at: each starts from its neighbour.
    logs = np.array([profile(float(place))[0] for place in places[::-1]])[::-1]
    smooth = _REFINE @ (logs - curve.logs(places))
    value = quantile(low, high, smooth + curve.logs(nodes_between(low, high)), confidence)
    return Limit(value=value, converged=profile.converged, fits=profile.fits)


class FrozenCurve:
    """ln L(N) - ln L(0) = sum_i n_i ln(1 + N s_i / b_i) - N for a fixed background b, and a
    template of sum 1; only bins with counts and signal take part in the sum.
    """

    def __init__(self, counts: Array, background: Array, template: Array) -> None:
        active = np.flatnonzero(counts * template)
        self._n = counts[active]
        self._ratio = template[active] / background[active]

    def __call__(self, signal: float) -> tuple[float, float]:
        scale = signal * self._ratio
        slope = float(self._n @ (self._ratio / (1 + scale))) - 1
        return float(self._n @ np.log1p(scale)) - signal, slope

    def logs(self, signals: Array) -> Array:
        """Values at many N, shape (N,)."""
        values: Array = np.log1p(signals[:, None] * self._ratio) @ self._n - signals
        return values

    def span(self) -> tuple[float, float]:
        """Where the likelihood begins and ends."""
        best = self._maximum()
        bend = float(self._n @ (self._ratio / (1 + best * self._ratio)) ** 2)
        width = bend**-0.5 if best > 0 else _NO_EVENTS_WIDTH
        return span(self, best=best, width=width, start=best + _WIDTHS * width)

    def _maximum(self) -> float:
        """The N >= 0 with slope 0: Newton's iteration for 1 / sum_i n_i r_i / (1 + N r_i) = 1, r =
        s / b, whose left side is concave: it rises to the solution from below.
        """
        signal = 0.0
        for _ in range(_MOST_STEPS):
            share = self._ratio / (1 + signal * self._ratio)
            sum_ = float(self._n @ share)
            step = sum_ * (sum_ - 1) / float(self._n @ share**2) if sum_ > 0 else 0.0
            signal = max(signal + step, 0.0)
            if step <= 1e-6 * (1 + signal):
                break
        return signal


class _Profile:
    """-deviance / 2 minimised over the background at any N, each from the one before."""

    def __init__(self, fitter: Fitter, fit: SpectrumFit) -> None:
        self._fitter = fitter
        self._fit = fit
        self._last: Minimum = fit.best if fit.n_hat > 0 else fit.alone
        self.fits = 0
        self.converged = fit.converged

    def __call__(self, signal: float) -> tuple[float, float]:
        last = self._last
        if signal != last.signal:
            start = last.z + (signal - last.signal) * last.tangent()
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                last = self._fitter.minimum(self._fit.counts, signal, start)
            self.fits += 1
            self.converged = self.converged and last.converged
            self._last = last
        return -last.deviance / 2, -last.slope

    def span(self) -> tuple[float, float]:
        best = max(self._fit.n_hat, 0.0)
        error = self._last.signal_error()
        width = error if np.isfinite(error) else _NO_EVENTS_WIDTH
        start = best + _WIDTHS * width
        if best == 0 and self._last.slope > 0:
            # A likelihood that falls from 0 on falls at least as fast as there.
            start = min(start, FALL / self._last.slope)
        low, high = span(self, best=best, width=width, start=start)
        return low, high


def check_confidence(confidence: float) -> None:
    """Raises UsageError if it is not between 0 and 1."""
    if not 0 < confidence < 1:
        raise UsageError(f"a confidence of {confidence:g} is not between 0 and 1")
