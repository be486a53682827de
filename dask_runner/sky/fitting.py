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
from msgspec import Struct, structs

from dask_runner.sky.energies import EnergyRatios, Indices
from dask_runner.sky.events import Array

_MOST_STEPS: Final = 60
# Of the number of events, relative: at the end, on the way there, and to choose a node.
_EXACT: Final = 1e-9
_CLOSE: Final = 1e-5
_ROUGH: Final = 0.1
# Of the index: the last step.
_INDEX_CLOSE: Final = 3e-4
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
        return _at_index(near, ratios, float(ratios.nodes[0]) if index is None else index, 0.0)
    table = np.take(ratios.at_nodes, near.bins, axis=1)
    table *= near.spatial
    slopes = np.add.reduce(table, axis=1) - near.total
    rising = np.flatnonzero(slopes > 0)
    if not len(rising):
        return _fit(near, 0.0, 0.0, float(ratios.nodes[slopes.argmax()]))
    counts, logs = _rough(near, table[rising])
    best = int(logs.argmax())
    profile = np.zeros(len(ratios.nodes))
    profile[rising] = logs
    start = _Start(
        node=int(rising[best]),
        count=float(counts[best]),
        log=float(logs[best]),
        shift=_vertex(profile, int(rising[best])),
    )
    return _refine(near, ratios, start)


class _Start(Struct, frozen=True, kw_only=True):
    """The best of the nodes, L there at about `count` events, and where between its neighbours the
    maximum seems to be, in steps of the nodes.
    """

    node: int
    count: float
    log: float
    shift: float


def _fit(near: Near, log: float, n: float, index: float, *, converged: bool = True) -> Fit:
    ts = max(0.0, 2 * log)
    return Fit(ts=ts, n_s=n, gamma=index, n_near=len(near.spatial), converged=converged)


def _at_index(
    near: Near, ratios: EnergyRatios, index: float, start: float, least: float = 0.0
) -> Fit:
    """The maximum for this index. It has converged if L is not below `least`."""
    ratio = ratios.at(near.bins, index)
    ratio *= near.spatial
    n = _best_count(near, ratio, start, _EXACT)
    share = n / near.total
    ratio -= 1
    ratio *= share
    log = float(np.add.reduce(np.log1p(ratio))) + near.far * float(np.log1p(-share))
    return _fit(near, log, n, index, converged=log >= least - _EXACT)


def _best_count(near: Near, ratio: Array, start: float, exact: float) -> float:
    """The number of events at the maximum, from a first guess that is 0 or anything else."""
    total, far = near.total, near.far
    slope, most = (ratio - 1) / total, _MOST_SHARE * total
    if not far:
        return _bisected(slope, most)
    n, terms = start, np.empty_like(slope)
    for _ in range(_MOST_STEPS):
        np.multiply(slope, n, out=terms)
        terms += 1
        np.divide(slope, terms, out=terms)
        rise = float(np.add.reduce(terms))
        if n == 0 and rise <= far / total:
            return 0.0
        if rise <= 0:
            n = 0.0
            continue
        np.multiply(terms, terms, out=terms)
        bend = float(np.add.reduce(terms))
        step = ((total - n) / far - 1 / rise) / (bend / (rise * rise) + 1 / far)
        before, n = n, min(max(n + step, 0.0), most)
        if abs(n - before) <= exact * max(1.0, n):
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


def _rough(near: Near, rows: Array) -> tuple[Array, Array]:
    """For rows of ratios whose slope at 0 is positive: the numbers of events at the maximum and L
    there, well enough to see which row is best.
    """
    total, far, most = near.total, near.far, _MOST_SHARE * near.total
    rows -= 1
    rows /= total
    n, terms = np.zeros(len(rows)), np.empty_like(rows)
    for _ in range(_MOST_STEPS if far else 0):
        np.multiply(rows, n[:, None], out=terms)
        terms += 1
        np.divide(rows, terms, out=terms)
        rise = np.add.reduce(terms, axis=1)
        np.multiply(terms, terms, out=terms)
        bend = np.add.reduce(terms, axis=1)
        step = ((total - n) / far - 1 / rise) / (bend / (rise * rise) + 1 / far)
        n = np.minimum(n + step, most)
        if np.all(np.abs(step) <= _ROUGH * np.maximum(1.0, n)):
            break
    if not far:
        n = np.array([_bisected(row, most) for row in rows])
    np.multiply(rows, n[:, None], out=terms)
    terms += 1
    return n, np.add.reduce(np.log(terms), axis=1) + far * np.log1p(-n / total)


def _vertex(logs: Array, place: int) -> float:
    """Where the parabola through a value and its two neighbours has its maximum, in steps."""
    if not 0 < place < len(logs) - 1:
        return 0.0
    before, here, after = logs[place - 1 : place + 2].tolist()
    bend = before - 2 * here + after
    return min(max((before - after) / (2 * bend), -0.5), 0.5) if bend < 0 else 0.0


def _refine(near: Near, ratios: EnergyRatios, start: _Start) -> Fit:
    """The maximum between the neighbours of the best node."""
    nodes, last = ratios.nodes.tolist(), len(ratios.nodes) - 1
    centre = nodes[start.node]
    low, high = nodes[max(start.node - 1, 0)], nodes[min(start.node + 1, last)]
    index, n = centre + start.shift * (nodes[1] - nodes[0]), start.count
    for _ in range(_MOST_STEPS):
        ratio, first, second = ratios.expand(near.bins, index)
        ratio *= near.spatial
        n = _best_count(near, ratio, n, _CLOSE)
        if n == 0:
            low, high = (index, high) if index < centre else (low, index)
            index, n = (low + high) / 2, start.count
            continue
        slope, curvature = _along_index(near, ratio, first, second, n)
        low, high = (index, high) if slope > 0 else (low, index)
        step = -slope / curvature if curvature < 0 else np.inf
        following = min(max(index + step, nodes[0]), nodes[last])
        if high - low <= _INDEX_CLOSE**2:
            return _at_index(near, ratios, index, n, start.log)
        if abs(following - index) <= _INDEX_CLOSE:
            # Newton's error is of the order of the step's square, and what is left of TS of the
            # order of the square of that. L of the nodes is never above the maximum.
            return _at_index(near, ratios, following, n, start.log)
        index = following if low <= following <= high else (low + high) / 2
    return structs.replace(_at_index(near, ratios, index, n), converged=False)


def _along_index(
    near: Near, ratio: Array, first: Array, second: Array, n: float
) -> tuple[float, float]:
    """The first two derivatives by the index of L at the best number of events, which follows."""
    total, share = near.total, n / near.total
    excess = ratio - 1
    parts = 1 + share * excess
    weight = ratio / parts
    pull = weight * first
    slope = share * float(np.add.reduce(pull))
    second = second + first * first
    second *= weight
    curvature = share * float(np.add.reduce(second))
    curvature -= share * share * float(np.add.reduce(pull * pull))
    pull /= parts
    mixed = float(np.add.reduce(pull)) / total
    excess /= parts
    bend = -(float(np.add.reduce(excess * excess)) + near.far / (1 - share) ** 2) / total**2
    return slope, curvature - mixed * mixed / bend
