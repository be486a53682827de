"""The distribution of a test statistic without signal: a chi2 fit, or counted if it takes few
values, or exact if the model knows it.

Owns the choice between them, which is said with every result.
"""

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np

from dask_runner.conclusions.selection import Array
from dask_runner.errors import UsageError
from dask_runner.seeds import Value
from dask_runner.stats import counting
from dask_runner.stats.discrete import DiscreteTSD
from dask_runner.stats.distribution import REACH, Chi2TSD
from dask_runner.stats.forecast import trials_needed

# auto: counted if the test statistic takes few values, else a chi2; scale: a chi2 with free scale.
Fit = Literal["auto", "chi2", "scale", "discrete"]
FITS: tuple[str, ...] = get_args(Fit)
Null = Chi2TSD | DiscreteTSD

# A continuous test statistic hardly ever has the same positive value twice.
_FEW = 0.5
_ENOUGH = 20


def null_distribution(ts: Array, *, fit: Fit = "auto", floor: float = 0.0) -> Null:
    """The distribution of trials without signal, shape (trials,)."""
    if fit not in FITS:
        raise UsageError(f"no fit {fit!r}", hint=f"one of {', '.join(FITS)}")
    if fit == "discrete" or (fit == "auto" and takes_few_values(ts, floor)):
        return DiscreteTSD.from_trials(np.where(ts > floor, ts, 0.0))
    return Chi2TSD.fit(ts, free_scale=fit == "scale", floor=floor)


def check_reach(null: object, p: float) -> None:
    """Raises UsageError if counted trials cannot tell the threshold of a p-value: the largest value
    that was seen would pass for it, and a chi2 through few values promises thresholds that do not
    exist.
    """
    if isinstance(null, DiscreteTSD) and null.n and null.n * p < REACH:
        raise UsageError(
            f"{null.n} trials do not reach a p-value of {p:.2g}, and a test statistic with few "
            "values has no fit that would",
            hint=f"{trials_needed(p, REACH):.2g} trials without signal, or the exact distribution",
        )


def takes_few_values(ts: Array, floor: float = 0.0) -> bool:
    """True if the positive values repeat, as those of a counting experiment do."""
    positive = ts[ts > floor]
    return len(positive) >= _ENOUGH and len(np.unique(positive)) < _FEW * len(positive)


def exact_distribution(model: str, point: Mapping[str, Value]) -> DiscreteTSD | None:
    """The exact distribution, if the model has one: `counting`."""
    if model != "counting":
        return None
    background = point.get("b", 0)
    assert not isinstance(background, str)
    return counting.distribution(float(background))
