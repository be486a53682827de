"""The whole analysis of one spectrum: background from nothing, fits, both limits."""

import numpy.typing as npt
from msgspec import Struct

from dask_runner.stats.spectrum.fitting import Fitter, SpectrumFit, checked_counts, fit_background
from dask_runner.stats.spectrum.limits import CONFIDENCE, Limit, frozen_limit, profile_limit
from dask_runner.stats.spectrum.shape import scaled


class UpperLimits(Struct, frozen=True, kw_only=True):
    """Both limits in events, and the fits behind them."""

    frozen: float
    profile: Limit
    fit: SpectrumFit


def upper_limits(
    *,
    edges: npt.ArrayLike,
    counts: npt.ArrayLike,
    template: npt.ArrayLike,
    sqrt_s: float,
    confidence: float = CONFIDENCE,
) -> UpperLimits:
    """Fit `counts`, shape (bins,), in bins of `edges`, shape (bins + 1,), by the background of
    `Shape` and N times `template`, shape (bins,), sum 1; limits as `frozen_limit` and
    `profile_limit`. Edges and `sqrt_s` in GeV, or both in another unit.

    Raises UsageError for what makes no sense; NoEndError as `profile_limit`.
    """
    background = fit_background(edges, counts, sqrt_s)
    fitter = Fitter(scaled(edges, sqrt_s, background.theta), template)
    fit = fitter.fit(checked_counts(counts, len(background.expected)))
    return UpperLimits(
        frozen=frozen_limit(fitter, fit, confidence),
        profile=profile_limit(fitter, fit, confidence),
        fit=fit,
    )
