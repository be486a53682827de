"""The distribution of a test statistic that takes few values, such as that of a counting
experiment.

Owns the two thresholds of a p-value, which differ for discrete values. Nothing is fitted: a chi2
through such steps promises thresholds that no experiment has.
"""

from typing import Any, Self

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dask_runner.errors import UsageError
from dask_runner.stats.arrays import Floats, trials_of
from dask_runner.stats.distribution import REACH, ROUNDING, PValue
from dask_runner.stats.pvalues import clopper_pearson, sigma_to_p
from dask_runner.stats.quantiles import Quantile, resampled_ranks

# The same count may give values that differ in the last bits, depending on how it was computed.
SAME = 1e-12


class DiscreteTSD(Struct, frozen=True, kw_only=True, eq=False):
    """`values` that occur, ascending; `tail` = P(TS >= value) for each, from 1 downwards. `n`
    trials they were counted in, 0 if the probabilities are exact.
    """

    values: Floats
    tail: Floats
    n: int = 0

    @classmethod
    def from_trials(cls, ts: npt.ArrayLike) -> Self:
        """Count the values of trials, shape (trials,). Raises UsageError for NaN or no trials."""
        trials = trials_of(ts, "ts")
        values, counts = np.unique(trials, return_counts=True)
        # From the top, so that rare values are not lost in the rounding of common ones.
        tail = np.cumsum(counts[::-1])[::-1] / len(trials)
        return cls(values=values, tail=tail, n=len(trials))

    def p(self, ts: npt.ArrayLike) -> Any:
        """P(TS >= ts), of the shape of `ts`; 0 above the largest value."""
        wanted = np.asarray(ts, np.float64)
        # inf - inf is no number: infinities are compared as they are.
        lowered = np.where(
            np.isfinite(wanted), wanted - SAME * np.abs(np.nan_to_num(wanted)), wanted
        )
        place = np.searchsorted(self.values, lowered, side="left")
        return np.append(self.tail, 0.0)[place]

    def p_value(self, ts: float) -> PValue:
        """P(TS >= ts) with its interval (Clopper-Pearson if counted) and source."""
        value = float(self.p(ts))
        if not self.n:
            return PValue(value=value, low=value, high=value, source="exact")
        low, high = clopper_pearson(round(value * self.n), self.n)
        return PValue(
            value=value,
            low=float(low),
            high=float(high),
            source="trials",
            warning=self._reach(value),
        )

    def isf(self, p: float) -> Quantile:
        """The smallest value t with P(TS > t) <= p: the threshold that a discovery has to exceed,
        strictly. `critical` is the next value. `low` and `high`: the same for the Clopper-Pearson
        interval of the counted tail.

        Raises UsageError unless 0 < p < 1.
        """
        if not 0 < p < 1:
            raise UsageError(f"a p-value of {p:g} has no threshold: it must be between 0 and 1")
        beyond = np.append(self.tail[1:], 0.0)
        low = high = beyond
        if self.n:
            low, high = clopper_pearson(np.rint(beyond * self.n), self.n)
        value, lowest, highest = (
            float(self.values[np.argmax(edge <= p)]) if (edge <= p).any() else np.inf
            for edge in (beyond, low, high)
        )
        return Quantile(
            q=1 - p,
            value=value,
            low=lowest,
            high=highest,
            source="trials" if self.n else "exact",
            n=self.n,
            warning=self._reach(p),
        )

    def quantile(self, q: float) -> Quantile:
        """The smallest value with P(TS <= value) >= q: isf(1 - q)."""
        return self.isf(1 - q)

    def threshold(self, sigma: float) -> Quantile:
        """The TS of a one-sided significance: isf of its p-value."""
        return self.isf(float(sigma_to_p(sigma)))

    def critical(self, p: float) -> float:
        """The smallest value c with P(TS >= c) <= p: what at least has to be seen.

        Raises UsageError if no value is so rare.
        """
        enough = self.tail <= p
        if not enough.any():
            raise UsageError(
                f"no value has a p-value of {p:.3g}: the largest, {self.values[-1]:g}, has"
                f" {self.tail[-1]:.3g}",
                hint="more trials, or the exact distribution",
            )
        return float(self.values[np.argmax(enough)])

    def resampled_isf(self, p: float, replicates: int, rng: np.random.Generator) -> Floats:
        """Thresholds `isf(p)` of distributions counted again, shape (replicates,); all the same
        if it is exact.
        """
        if not self.n:
            return np.full(replicates, self.isf(p).value)
        # The trials sorted: the first ones have the first value, and so on.
        rank = max(0, self.n - 1 - int(self.n * p + ROUNDING))
        upto = self.n - np.rint(np.append(self.tail[1:], 0.0) * self.n)
        found = np.searchsorted(upto, resampled_ranks(self.n, rank, replicates, rng), side="right")
        thresholds: Floats = self.values[found]
        return thresholds

    def _reach(self, p: float) -> str:
        if not self.n or self.n * p >= REACH:
            return ""
        return f"{self.n} trials do not reach a p-value of {p:.2g}: fewer than {REACH} are beyond"
