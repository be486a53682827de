"""What an event's energy says: the density of signal over that of background, for each index.

Owns the histograms in sin(dec) and log10 of the measured energy, and what lies between the indices
at which they are filled. Background is the experiment, signal the simulation with E^-index in its
weights; each is normalised in its band of sin(dec). Bins with few events of background are merged
with their neighbours: so there is no bin without, signal beyond the highest energy of background
counts as what it is, and a sky without signal has on average the slope 0 at n_s = 0.

ln of the ratio and its first two derivatives are known exactly at each node, since the weights
depend on the index as exp(-index ln E). In between is the polynomial of fifth degree that agrees
with them at both ends: its second derivative is continuous, and no system of equations is solved,
whose last digits would depend on a machine's libraries.
"""

from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dask_runner.sky.events import Array, Events, Simulation

Indices = npt.NDArray[np.int64]

# Of the index: where maxima are looked for, and how many polynomials there are in between: what is
# wrong with them goes with the sixth power of their step, and is below 1e-9 of TS.
_STEP: Final = 0.25
_PIECES: Final = 6
_MANY_BINS: Final = 4000
# ln of the ratio where there is background and no signal at all.
_NOTHING: Final = -30.0
# Keeps sums of squares of ln E small: it cancels.
_CENTRE: Final = np.log(1e4)
# The quintic Hermite basis: coefficients of 1, t ... t^5 for (f0, f0', f0'', f1, f1', f1'').
_HERMITE: Final = np.array(
    [
        [1, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 0, 0.5, 0, 0, 0],
        [-10, -6, -1.5, 10, -4, 0.5],
        [15, 8, 1.5, -15, 7, -1],
        [-6, -3, -0.5, 6, -3, 0.5],
    ]
)


class Binning:
    """Bins of sin(dec), equal from -1 to 1, and of log10 of the energy; what is beyond the last is
    in it. Bin numbers go along the energy first.
    """

    def __init__(self, rows: int, columns: int, low: float, high: float) -> None:
        self.rows, self.columns = rows, columns
        self._low, self._high = low, high

    @property
    def size(self) -> int:
        return self.rows * self.columns

    def row(self, dec: Array) -> Indices:
        """The band of sin(dec), for declinations in radians."""
        places = np.floor((np.sin(dec) + 1) / 2 * self.rows).astype(np.int64)
        return np.clip(places, 0, self.rows - 1)

    def of(self, events: Events) -> Indices:
        """The bin of each event."""
        share = (events.log10e - self._low) / (self._high - self._low)
        column = np.clip(np.floor(share * self.columns).astype(np.int64), 0, self.columns - 1)
        return self.row(events.dec) * self.columns + column


class EnergyRatios:
    """The ratio of each bin as a function of the index within `low` to `high`, which may be the
    same.
    """

    def __init__(
        self,
        binning: Binning,
        experiment: Events,
        simulation: Simulation,
        *,
        low: float,
        high: float,
        least: int,
    ) -> None:
        pieces = max(1, round((high - low) / _STEP))
        self.nodes: Array = np.linspace(low, high, pieces + 1) if high > low else np.array([low])
        self._binning = binning
        counts = np.bincount(binning.of(experiment), minlength=binning.size)
        groups = _groups(counts.reshape(binning.rows, binning.columns), least).ravel()
        used, self._numbers = np.unique(groups, return_inverse=True)
        background = _shares(groups[binning.of(experiment)], binning)
        background = background[used]
        signal = _Signal(binning, groups[binning.of(simulation)], simulation)
        fine = _PIECES * (len(self.nodes) - 1) + 1
        # Shape (fine nodes, 3, bins).
        table = np.array([signal.at(one)[:, used] for one in np.linspace(low, high, fine)])
        table[:, 0] -= np.log(np.where(background > 0, background, np.inf))
        nothing = ~(table[:, 0] > _NOTHING) | (background == 0)
        table[:, 0][nothing] = _NOTHING
        table[:, 1][nothing] = table[:, 2][nothing] = 0.0
        self._table = table
        self.at_nodes: Array = np.ascontiguousarray(np.exp(table[::_PIECES, 0]))
        self.largest: Array = self.at_nodes.max(axis=0)
        self._coefficients = self._polynomials()

    def bins(self, events: Events) -> Indices:
        """The bin of each event: numbers of merged bins, of which `at_nodes` (nodes, bins) and
        `largest` (bins) hold the ratios.
        """
        return self._numbers[self._binning.of(events)]

    def _polynomials(self) -> Array:
        """Shape (pieces, 6, bins), in powers of the share of the way from a node to the next."""
        if len(self.nodes) == 1:
            return np.zeros((0, 0, 0))
        step = (self.nodes[1] - self.nodes[0]) / _PIECES
        scaled = self._table * np.array([1, step, step * step])[None, :, None]
        ends = np.concatenate([scaled[:-1], scaled[1:]], axis=1)
        mixed = np.zeros_like(ends)
        for power, row in enumerate(_HERMITE):
            for place, factor in enumerate(row):
                mixed[:, power] += factor * ends[:, place]
        return mixed

    def at(self, bins: Indices, index: float) -> Array:
        """The ratio of each bin, shape of `bins`."""
        if len(self.nodes) == 1:
            fixed: Array = self.at_nodes[0]
            return fixed[bins]
        (c0, c1, c2, c3, c4, c5), t, _, places = self._piece(bins, index)
        value = np.exp(c0 + t * (c1 + t * (c2 + t * (c3 + t * (c4 + t * c5)))))
        chosen: Array = value[places]
        return chosen

    def expand(self, bins: Indices, index: float) -> tuple[Array, Array, Array]:
        """The ratio of each bin, and the first two derivatives of its logarithm by the index."""
        if len(self.nodes) == 1:
            nothing = np.zeros(len(bins))
            return self.at(bins, index), nothing, nothing
        (c0, c1, c2, c3, c4, c5), t, step, places = self._piece(bins, index)
        value = np.exp(c0 + t * (c1 + t * (c2 + t * (c3 + t * (c4 + t * c5)))))
        slope = c1 + t * (2 * c2 + t * (3 * c3 + t * (4 * c4 + t * 5 * c5)))
        bend = 2 * c2 + t * (6 * c3 + t * (12 * c4 + t * 20 * c5))
        return value[places], (slope / step)[places], (bend / (step * step))[places]

    def _piece(self, bins: Indices, index: float) -> tuple[Array, float, float, Any]:
        """The coefficients of bins, how far the index is from a node to the next, their distance,
        and where the wanted bins are. All bins at once, unless there are many: arithmetic is
        cheaper than looking up six numbers for each event.
        """
        step = float(self.nodes[1] - self.nodes[0]) / _PIECES
        way = float(index - self.nodes[0]) / step
        piece = min(max(int(way), 0), len(self._coefficients) - 1)
        share = way - piece
        coefficients = self._coefficients[piece]
        if coefficients.shape[1] > _MANY_BINS:
            return np.take(coefficients, bins, axis=1), share, step, slice(None)
        return coefficients, share, step, bins


class _Signal:
    """The share of simulated events of a band in each of its bins, for a spectrum E^-index."""

    def __init__(self, binning: Binning, bins: Indices, simulation: Simulation) -> None:
        self._binning = binning
        self._bins = bins
        self._log = np.log(simulation.true_e) - _CENTRE
        self._weight = simulation.weight

    def at(self, index: float) -> Array:
        """Logarithm of the share, its first two derivatives by the index: shape (3, bins)."""
        size, shape = self._binning.size, (self._binning.rows, self._binning.columns)
        weight = self._weight * np.exp(-index * self._log)
        sums = np.empty((3, *shape))
        for power in range(3):
            sums[power] = np.bincount(self._bins, weight, size).reshape(shape)
            weight *= self._log
        bands = sums.sum(axis=2, keepdims=True)
        there = np.broadcast_to((sums[:1] > 0), sums.shape)
        result = np.zeros_like(sums)
        with np.errstate(divide="ignore", invalid="ignore"):
            mine, whole = _cumulants(sums), _cumulants(np.broadcast_to(bands, sums.shape))
            result[there] = (mine - whole)[there]
        result[0][~there[0]] = -np.inf
        return result.reshape(3, size)


def _cumulants(sums: Array) -> Array:
    """The logarithm of a sum of weights exp(-index l), and its derivatives: minus the mean of l,
    and its variance.
    """
    mean = sums[1] / sums[0]
    return np.stack([np.log(sums[0]), -mean, sums[2] / sums[0] - mean * mean])


def _shares(bins: Indices, binning: Binning) -> Array:
    """The share of events of a band in each of its bins."""
    counts = np.bincount(bins, minlength=binning.size).astype(np.float64)
    table = counts.reshape(binning.rows, binning.columns)
    shares: Array = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    return shares.ravel()


def _groups(counts: npt.NDArray[np.int64], least: int) -> Indices:
    """For each bin the one that stands for it: from the highest energy of a band down, so many are
    merged as have `least` events. What is left at the lowest energies goes with the last.
    """
    rows, columns = counts.shape
    groups = np.empty((rows, columns), np.int64)
    for row in range(rows):
        ends, events = [columns], 0
        for column in range(columns - 1, -1, -1):
            events += int(counts[row, column])
            if events >= least:
                ends.append(column)
                events = 0
        # With too few events in the whole band, all its bins are one.
        ends[-1 if len(ends) > 1 else 1 :] = [0]
        for high, low in pairwise(ends):
            groups[row, low:high] = row * columns + low
    return groups
