"""The maximum of the likelihood ratio in the number of signal events and the spectral index.

With N events, of which only some are near enough to the source to have a signal density,

    L(n, index) = sum over near events of ln[1 + n/N (r_i - 1)] + (N - near) ln(1 - n/N)
    r_i = S_i/B_i = (S/B in space) (S/B in energy, by index);    TS = 2 L

L is concave in n. Its derivative is P(n) - F(n) with P = sum a_i / (1 + a_i n), a_i = (r_i - 1)/N,
and F = (N - near) / (N - n). 1/P - 1/F is concave and rises, so that Newton's method for its zero,
from 0, comes nearer from below with every step and never goes beyond. In the index, the profile of
L is searched at all nodes of the energy table at once, and then by Newton's method within the
neighbours of the best.

Owns the arithmetic. All sums are NumPy's over the near events of one source: they depend on nothing
else.
"""

from typing import Final

import numpy as np
from msgspec import Struct

from dask_runner.sky.energies import EnergyRatios, Indices
from dask_runner.sky.events import Array

_MOST_STEPS: Final = 60
# Of the number of events, and of the index: their squares are what is left of TS.
_EXACT: Final = 1e-9
_ROUGH: Final = 1e-2
_INDEX_EXACT: Final = 1e-7
# The number of signal events stays below that of all.
_MOST_SHARE: Final = 0.999


class Fit(Struct, frozen=True, kw_only=True):
    """The test statistic, the number of signal events and the index at the maximum, and the number
    of events that are near. Without signal (ts = 0) `gamma` is the index of the steepest slope.
    """

    ts: float
    n_s: float
    gamma: float
    n_near: int
    converged: bool = True


class Near(Struct, frozen=True, kw_only=True):
    """Events near a source: S/B in space, the bin of the energy table, and how many events there
    are in all.
    """

    spatial: Array
    bins: Indices
    total: int

    @property
    def far(self) -> int:
        return self.total - len(self.spatial)

    def joined(self, other: "Near") -> "Near":
        """With other events of the same total behind."""
        return Near(
            spatial=np.concatenate([self.spatial, other.spatial]),
            bins=np.concatenate([self.bins, other.bins]),
            total=self.total,
        )


def maximise(near: Near, ratios: EnergyRatios, index: float | None) -> Fit:
    """The maximum for a fixed index, or for any within the nodes of the ratios (None)."""
    if index is not None or len(ratios.nodes) == 1:
        fixed = float(ratios.nodes[0]) if index is None else index
        ratio = near.spatial * ratios.at(near.bins, fixed)
        n = _best_count(near, ratio, 0.0)
        return _fit(near, _log_ratio(near, ratio, n), n, fixed)
    table = near.spatial[:, None] * ratios.at_nodes[near.bins]
    slopes = table.sum(axis=0) - near.total
    if not np.any(slopes > 0):
        return _fit(near, 0.0, 0.0, float(ratios.nodes[slopes.argmax()]))
    rising = np.flatnonzero(slopes > 0)
    rows = np.ascontiguousarray(table.T[rising])
    counts = _rough_counts(near, rows)
    logs = _log_ratios(near, rows, counts)
    best = int(logs.argmax())
    return _refine(near, ratios, int(rising[best]), float(counts[best]), float(logs[best]))


def _fit(near: Near, log: float, n: float, index: float, *, converged: bool = True) -> Fit:
    ts = max(0.0, 2 * log)
    return Fit(ts=ts, n_s=n, gamma=index, n_near=len(near.spatial), converged=converged)


def _log_ratio(near: Near, ratio: Array, n: float) -> float:
    share = n / near.total
    return float(np.log1p(share * (ratio - 1)).sum() + near.far * np.log1p(-share))


def _log_ratios(near: Near, rows: Array, counts: Array) -> Array:
    share = counts / near.total
    logs = np.log1p(share[:, None] * (rows - 1)).sum(axis=1)
    result: Array = logs + near.far * np.log1p(-share)
    return result


def _best_count(near: Near, ratio: Array, start: float) -> float:
    """The number of events at the maximum, from a first guess that is 0 or anything else."""
    slope, most = (ratio - 1) / near.total, _MOST_SHARE * near.total
    if not near.far:
        return _bisected(slope, most)
    n = start
    for _ in range(_MOST_STEPS):
        terms = slope / (1 + slope * n)
        rise = terms.sum()
        if n == 0 and rise <= near.far / near.total:
            return 0.0
        if rise <= 0:
            n = 0.0
            continue
        bend = (terms * terms).sum()
        step = ((near.total - n) / near.far - 1 / rise) / (bend / (rise * rise) + 1 / near.far)
        before, n = n, min(max(n + float(step), 0.0), most)
        if abs(n - before) <= _EXACT * max(1.0, n):
            break
    return n


def _bisected(slope: Array, most: float) -> float:
    """Where all events are near there is no F."""
    low, high = 0.0, most
    if slope.sum() <= 0:
        return 0.0
    for _ in range(_MOST_STEPS):
        middle = (low + high) / 2
        if (slope / (1 + slope * middle)).sum() > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _rough_counts(near: Near, rows: Array) -> Array:
    """The numbers of events at the maximum for rows of ratios whose slope at 0 is positive, well
    enough to see which row is best.
    """
    if not near.far:
        return np.array([_best_count(near, row, 0.0) for row in rows])
    slope, most = (rows - 1) / near.total, _MOST_SHARE * near.total
    n = np.zeros(len(rows))
    for _ in range(_MOST_STEPS):
        terms = slope / (1 + slope * n[:, None])
        rise, bend = terms.sum(axis=1), (terms * terms).sum(axis=1)
        step = ((near.total - n) / near.far - 1 / rise) / (bend / (rise * rise) + 1 / near.far)
        n = np.minimum(n + step, most)
        if np.all(np.abs(step) <= _ROUGH * np.maximum(1.0, n)):
            break
    return n


def _refine(near: Near, ratios: EnergyRatios, node: int, n: float, least: float) -> Fit:
    """The maximum between the neighbours of a node, where L is `least` at about `n` events."""
    nodes, last = ratios.nodes, len(ratios.nodes) - 1
    low, high = float(nodes[max(node - 1, 0)]), float(nodes[min(node + 1, last)])
    centre = index = float(nodes[node])
    for _ in range(_MOST_STEPS):
        ratio, first, second = ratios.expand(near.bins, index)
        ratio *= near.spatial
        n = _best_count(near, ratio, n)
        if n == 0:
            low, high = (index, high) if index < centre else (low, index)
            index = (low + high) / 2
            continue
        slope, curvature = _along_index(near, ratio, first, second, n)
        low, high = (index, high) if slope > 0 else (low, index)
        step = -slope / curvature if curvature < 0 else np.inf
        following = min(max(index + step, float(nodes[0])), float(nodes[last]))
        if abs(following - index) <= _INDEX_EXACT or high - low <= _INDEX_EXACT:
            log = _log_ratio(near, ratio, n)
            # `least` was found for a rough number of events: it is never above the maximum.
            return _fit(near, log, n, index, converged=log >= least - _EXACT)
        index = following if low <= following <= high else (low + high) / 2
    return _fit(near, _log_ratio(near, ratio, n), n, index, converged=False)


def _along_index(
    near: Near, ratio: Array, first: Array, second: Array, n: float
) -> tuple[float, float]:
    """The first two derivatives by the index of L at the best number of events, which follows."""
    total, share = near.total, n / near.total
    parts = 1 + share * (ratio - 1)
    weight = ratio / parts
    pull = share * weight * first
    slope = pull.sum()
    curvature = (share * weight * (first * first + second)).sum() - (pull * pull).sum()
    mixed = (weight / parts * first).sum() / total
    terms = (ratio - 1) / parts
    bend = -((terms * terms).sum() + near.far / (1 - share) ** 2) / total**2
    return float(slope), float(curvature - mixed * mixed / bend)
