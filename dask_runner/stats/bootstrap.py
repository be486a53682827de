"""The error of any statistic of trials, by drawing trials again with replacement.

For quantiles use `quantiles.quantile`, which needs no resampling. Refuses statistics that are not
a number.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dask_runner.errors import UsageError
from dask_runner.stats.arrays import Floats, generator
from dask_runner.stats.pvalues import ONE_SIGMA, checked_level


class Bootstrapped(Struct, frozen=True, kw_only=True, eq=False):
    """A statistic of the trials: its `value`, `error` (standard deviation of the `replicates`),
    and the central interval of the replicates from `low` to `high`.
    """

    value: float
    error: float
    low: float
    high: float
    replicates: Floats


def bootstrap(
    values: npt.ArrayLike,
    statistic: Callable[[npt.NDArray[np.float64]], float],
    *,
    replicates: int = 200,
    level: float = ONE_SIGMA,
    rng: np.random.Generator | None = None,
) -> Bootstrapped:
    """`statistic` of the trials and its error: the standard deviation over `replicates` samples of
    as many trials, drawn with replacement (Efron, Ann. Stat. 7 (1979) 1).

    `values`: (trials,) or (trials, columns); rows are drawn together. `statistic` takes such an
    array and gives a number, whose unit all results have. `rng`: the same numbers each time unless
    given. Raises UsageError for fewer than 2 trials or replicates, or a statistic that is NaN.
    """
    trials = np.asarray(values, dtype=np.float64)
    if trials.ndim == 0 or len(trials) < 2 or replicates < 2:  # noqa: PLR2004  (a spread needs two)
        raise UsageError("a bootstrap error needs at least 2 trials and 2 replicates")
    checked_level(level)
    draw = generator(rng)
    n = len(trials)
    results = np.empty(replicates)
    for i in range(replicates):
        results[i] = statistic(trials[draw.integers(0, n, n)])
    value = float(statistic(trials))
    if np.isnan(value) or np.isnan(results).any():
        raise UsageError("the statistic is NaN for the trials or for some drawn again from them")
    return summarised(value, results, level=level)


def summarised(value: float, replicates: Floats, *, level: float = ONE_SIGMA) -> Bootstrapped:
    """A value with what its replicates, shape (replicates,), say of its error."""
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return Bootstrapped(
        value=value,
        error=float(replicates.std(ddof=1)),
        low=float(low),
        high=float(high),
        replicates=replicates,
    )
