"""Shared by the steps: angles, the grid of calorimeter towers, pairs of items, random streams.

All sums over the items of an event are made item by item in their order (bincount), so that no
result depends on which other events are in the same array.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_runner import seeds
from dask_runner.rootfiles import Jagged, Table

Reals = NDArray[np.float64]
Integers = NDArray[np.int64]

# Towers of 0.1 in eta and 10 degrees in phi, as the Delphes ATLAS card has them up to 2.5.
ETA_MAX = 4.9
ETA_STEP = 0.1
N_ETA = 98
N_PHI = 36
PHI_STEP = 2 * np.pi / N_PHI

# A kind of random numbers.
Draw = Callable[[np.random.Generator, int], Reals]

ELECTRON, MUON = 11, 13
_SMALL = 1e-12


def pt_eta_phi(px: Any, py: Any, pz: Any) -> tuple[Reals, Reals, Reals]:
    """Transverse momentum, pseudorapidity and azimuth, in float64."""
    x, y, z = (np.asarray(values, dtype=np.float64) for values in (px, py, pz))
    pt = np.sqrt(x * x + y * y)
    return pt, np.arcsinh(z / np.maximum(pt, _SMALL)), np.arctan2(y, x)


def wrapped(phi: Reals) -> Reals:
    """An angle in [-pi, pi)."""
    turned: Reals = phi - 2 * np.pi * np.floor((phi + np.pi) / (2 * np.pi))
    return turned


def delta_r(eta1: Any, phi1: Any, eta2: Any, phi2: Any) -> Reals:
    """Distance in eta and phi."""
    d_eta = np.asarray(eta1, dtype=np.float64) - eta2
    d_phi = wrapped(np.asarray(phi1, dtype=np.float64) - phi2)
    distance: Reals = np.sqrt(d_eta * d_eta + d_phi * d_phi)
    return distance


def tower_of(eta: Reals, phi: Reals) -> tuple[Integers, Integers]:
    """The indices of the tower at a place; those of eta may be outside [0, N_ETA)."""
    ieta = np.floor((eta + ETA_MAX) / ETA_STEP).astype(np.int64)
    iphi = np.floor((wrapped(phi) + np.pi) / PHI_STEP).astype(np.int64)
    return ieta, np.minimum(iphi, N_PHI - 1)


def tower_centre(ieta: Any, iphi: Any) -> tuple[Reals, Reals]:
    """Pseudorapidity and azimuth of the middle of a tower."""
    eta: Reals = (np.asarray(ieta, dtype=np.float64) + 0.5) * ETA_STEP - ETA_MAX
    phi: Reals = (np.asarray(iphi, dtype=np.float64) + 0.5) * PHI_STEP - np.pi
    return eta, phi


def sums(group: Any, values: Any, count: int) -> Reals:
    """The sum of the values of each group, added up in their order, in float64."""
    return np.asarray(np.bincount(group, weights=values, minlength=count), dtype=np.float64)


def pairs(first: Jagged, second: Jagged) -> tuple[Integers, Integers]:
    """All pairs of an item of `first` and one of `second` in the same entry, as flat indices,
    sorted by the first.
    """
    partners = second.counts[first.entry]
    left = np.repeat(np.arange(len(partners)), partners)
    within = np.arange(len(left)) - np.repeat(np.cumsum(partners) - partners, partners)
    return left, second.offsets[first.entry[left]] + within


def nearest(first: Jagged, second: Jagged, limit: float) -> tuple[Integers, Reals]:
    """For each item of `first`, which item of `second` (flat index) is nearest in eta and phi, or
    -1 if none is nearer than `limit`; and its distance.
    """
    left, right = pairs(first, second)
    distance = delta_r(
        first["eta"][left], first["phi"][left], second["eta"][right], second["phi"][right]
    )
    close = distance < limit
    left, right, distance = left[close], right[close], distance[close]
    found = np.full(len(first["eta"]), -1, dtype=np.int64)
    best = np.full(len(first["eta"]), limit)
    # Written from far to near: the last one written, the nearest, stays.
    order = np.lexsort((right, distance))[::-1]
    found[left[order]] = right[order]
    best[left[order]] = distance[order]
    return found, best


def draw(events: Table, *wanted: tuple[Draw, NDArray[Any]], seed: int, step: int) -> list[Reals]:
    """Random numbers for each event from its own stream of this step.

    Each of `wanted` is a kind of numbers, and how many of them each event needs; an event's
    stream serves them in this order.
    """
    streams: dict[int, seeds.StepStreams] = {}
    drawn: list[list[Reals]] = [[] for _ in wanted]
    identities = zip(events["run"].tolist(), events["event"].tolist(), strict=True)
    counts = [number.tolist() for _, number in wanted]
    for row, (run, event) in enumerate(identities):
        if run not in streams:
            streams[run] = seeds.StepStreams(run_number=run, seed=seed, step=step)
        stream = streams[run].at(event)
        for target, (kind, _), number in zip(drawn, wanted, counts, strict=True):
            target.append(kind(stream, number[row]))
    return [np.concatenate(parts) if parts else np.empty(0) for parts in drawn]


def uniform(stream: np.random.Generator, count: int) -> Reals:
    return stream.random(count)


def normal(stream: np.random.Generator, count: int) -> Reals:
    return stream.standard_normal(count)


def exponential(stream: np.random.Generator, count: int) -> Reals:
    return stream.standard_exponential(count)
