"""Quantiles of trials, with intervals from order statistics: no density is estimated, nothing is
resampled, so ten million trials cost one partition.

Owns what a quantile is told with: where it comes from and how far to trust it. Refuses quantiles
outside (0, 1); an interval that would need trials beyond the extreme ones is open.
"""

from collections.abc import Sequence
from math import ceil, floor
from typing import Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from scipy import special
from scipy.optimize import brentq

from dask_runner.errors import UsageError
from dask_runner.stats.arrays import Floats, trials_of
from dask_runner.stats.pvalues import ONE_SIGMA, checked_level

# trials: counted; fit: from a distribution fitted to the trials, beyond them; exact: from a known
# distribution; given: the caller's number.
Source = Literal["trials", "fit", "exact", "given"]

# As close to 0 and 1 as a share of order statistics is looked for.
_EDGE = 1e-13


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
    Fan, Am. Stat. 50 (1996) 361; numpy's default). Interval: order statistics, which are below the
    true quantile with probabilities that are beta functions of their rank alone, so for every
    continuous distribution; between two ranks linear, which meets the level closely (Hutson, J.
    Appl. Stat. 26 (1999) 343). An end that would be beyond the extreme trials is infinite.

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
    ranks = [((n - 1) * q, *interval_ranks(n, q, level)) for q in qs]
    wanted = {beside for three in ranks for rank in three for beside in _beside(rank, n)}
    ordered = np.partition(trials, sorted(wanted))
    return [
        Quantile(
            q=q,
            value=_at(ordered, middle),
            low=_at(ordered, low),
            high=_at(ordered, high),
            source="trials",
            n=n,
        )
        for q, (middle, low, high) in zip(qs, ranks, strict=True)
    ]


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


def interval_ranks(n: int, q: float, level: float) -> tuple[float, float]:
    """Ranks from 0, not whole, of the ends of the interval of a quantile; below 0 or above n - 1 if
    the end is open.
    """
    side = (1 - checked_level(level)) / 2

    def rank(probability: float) -> float:
        """Where the order statistic is below the quantile with this probability."""
        share = brentq(
            lambda u: special.betainc((n + 1) * u, (n + 1) * (1 - u), q) - probability,
            _EDGE,
            1 - _EDGE,
            xtol=_EDGE,
        )
        return float((n + 1) * share - 1)

    return rank(1 - side), rank(side)


def _beside(rank: float, n: int) -> list[int]:
    """The whole ranks between which one is; none beyond the extreme trials."""
    return [floor(rank), ceil(rank)] if 0 <= rank <= n - 1 else []


def _at(ordered: Floats, rank: float) -> float:
    """Linear between order statistics; infinite beyond."""
    beside = _beside(rank, len(ordered))
    if not beside:
        return -np.inf if rank < 0 else np.inf
    below, above = (float(ordered[i]) for i in beside)
    # Equal neighbours exactly so, and no difference that might overflow.
    share = rank - beside[0]
    return below if below == above else (1 - share) * below + share * above


def _checked(q: float) -> None:
    if not 0 < q < 1:
        raise UsageError(f"a quantile of {q:g}: it must be between 0 and 1")
