"""Search for a resonance in a binned mass spectrum: background shape, fits, upper limits.

`upper_limits` is all of it for one spectrum; for many with one template make a `Fitter` once.
"""

from dask_runner.stats.spectrum.fitting import (
    BackgroundFit,
    Fitter,
    SpectrumFit,
    checked_counts,
    fit_background,
)
from dask_runner.stats.spectrum.limits import (
    Limit,
    check_confidence,
    frozen_limit,
    profile_limit,
)
from dask_runner.stats.spectrum.search import UpperLimits, upper_limits
from dask_runner.stats.spectrum.shape import Scaled, Shape, scaled

__all__ = [
    "BackgroundFit",
    "Fitter",
    "Limit",
    "Scaled",
    "Shape",
    "SpectrumFit",
    "UpperLimits",
    "check_confidence",
    "checked_counts",
    "fit_background",
    "frozen_limit",
    "profile_limit",
    "scaled",
    "upper_limits",
]
