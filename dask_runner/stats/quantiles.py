"""Quantiles of trials, with intervals from order statistics: no density is estimated, nothing is
resampled, so ten million trials cost one partition.

Owns what a quantile is told with: where it comes from and how far to trust it. Refuses quantiles
outside (0, 1); an interval that would need trials beyond the extreme ones is open.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from scipy import special

from dask_runner.errors import UsageError
from dask_runner.stats.arrays import Floats, trials_of
from dask_runner.stats.pvalues import ONE_SIGMA, checked_level

# trials: counted; fit: from a distribution fitted to the trials, beyond them; exact: from a known
# distribution; given: the caller's number.
Source = Literal["trials", "fit", "exact", "given"]


class FitQuality(Struct, frozen=True, kw_only=True):
    """How well a distribution fits the `positive` trials it was fitted to.

    `distance` is the largest between the two distribution functions, `p` its Kolmogorov p-value
    (parameters were fitted, so it is rather too large); `tail_observed` trials are above
    `tail_from`, where the fit expects `tail_expected`, and `tail_p` is how likely a count at least
    as far off is.
    """

    positive: int
    distance: float
    p: float
    tail_from: float
    tail_expected: float
    tail_observed: int
    tail_p: float
    good: bool

    @property
    def text(self) -> str:
        """One line for the user."""
        return (
            f"{'good' if self.good else 'bad'} fit of {self.positive} positive trials:"
            f" distance {self.distance:.2g} (p = {self.p:.2g}), {self.tail_observed} trials above"
            f" {self.tail_from:.4g} where {self.tail_expected:.0f} are expected"
            f" (p = {self.tail_p:.2g})"
        )


class Quantile(Struct, frozen=True, kw_only=True):
    """The value below which a share `q` of all trials is, with an interval at one standard
    deviation (or the level asked for), and its `source`. `quality` is there when the source is a
    fit; a `warning` is to be shown wherever the value is.
    """

    q: float
    value: float
    low: float
    high: float
    source: Source
    n: int = 0
    quality: FitQuality | None = None
    warning: str = ""

    @property
    def error(self) -> float:
        """Half the interval; infinite if it is open."""
        return (self.high - self.low) / 2


def quantile(values: npt.ArrayLike, q: float, *, level: float = ONE_SIGMA) -> Quantile:
    """The `q` quantile of trials and its interval.

    Value: linear between the two order statistics around rank 1 + (n-1) q (number 7 of Hyndman and
    Fan, Am. Stat. 50 (1996) 361; numpy's default). Interval: the order statistics r and s between
    which the true quantile is with probability P(r <= K < s) >= level for K ~ Binomial(n, q)
    (David and Nagaraja, Order Statistics, 7.1): right for every continuous distribution. An end
    that would be beyond the extreme trials is infinite.

    `values`: (trials,); the unit is theirs. Raises UsageError for other shapes, NaN, no trials,
    q outside (0, 1).
    """
    return quantiles(values, [q], level=level)[0]


def quantiles(
    values: npt.ArrayLike, qs: Sequence[float], *, level: float = ONE_SIGMA
) -> list[Quantile]:
    """Several quantiles from one partition of the trials; see `quantile`."""
    trials = trials_of(values)
    for q in qs:
        _checked(q)
    n = len(trials)
    ranks = [_ranks(n, q, level) for q in qs]
    wanted = {rank for r in ranks for rank in r if 0 <= rank < n}
    ordered = np.partition(trials, sorted(wanted))
    return [_from_ranks(ordered, q, rank, n) for q, rank in zip(qs, ranks, strict=True)]


def relative_error(values: npt.ArrayLike, q: float = 0.5) -> float:
    """The error of a quantile (half the one-sigma interval) divided by its absolute value; infinite
    when the interval is open or the value 0. Shapes and errors: see `quantile`.
    """
    found = quantile(values, q)
    return found.error / abs(found.value) if found.value else np.inf


def resampled_ranks(
    n: int, rank: int, replicates: int, rng: np.random.Generator
) -> npt.NDArray[np.intp]:
    """Where in sorted trials the order statistic `rank` (from 0) of bootstrap samples is found.

    Exact, without resampling: the order statistic of n draws from n trials is the trial at
    floor(n U) with U ~ Beta(rank + 1, n - rank), the same order statistic of uniform numbers.

    Shape: (replicates,).
    """
    uniform = rng.beta(rank + 1, n - rank, replicates)
    return np.minimum((uniform * n).astype(np.intp), n - 1)


def _ranks(n: int, q: float, level: float) -> tuple[int, int, int, int]:
    """Indices from 0: the two around the value, the ends of the interval (-1 or n: open)."""
    at = (n - 1) * q
    below = int(at)
    side = (1 - checked_level(level)) / 2
    # K trials are below the true quantile: P(K <= k) and P(K > k) are beta functions.
    first = bisect_left(range(n), side, key=lambda k: special.betaincc(k + 1, n - k, q)) - 1
    last = bisect_left(range(n), -side, key=lambda k: -special.betainc(k + 1, n - k, q))
    return below, min(below + 1, n - 1), first, last


def _from_ranks(ordered: Floats, q: float, ranks: tuple[int, int, int, int], n: int) -> Quantile:
    below, above, first, last = ranks
    share = (n - 1) * q - below
    value = ordered[below] + share * (ordered[above] - ordered[below])
    return Quantile(
        q=q,
        value=float(value),
        low=float(ordered[first]) if first >= 0 else -np.inf,
        high=float(ordered[last]) if last < n else np.inf,
        source="trials",
        n=n,
    )


def _checked(q: float) -> None:
    if not 0 < q < 1:
        raise UsageError(f"a quantile of {q:g}: it must be between 0 and 1")
