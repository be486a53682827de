"""Samples of events: made from a detector's description, or read from the user's own files.

Owns the columns' names and units in files, and how synthetic events are drawn: the same numbers for
the same detector, number and seed, wherever. All draws are inverse distributions of uniform
numbers.
"""

import hashlib
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from dask_runner.sky.detector import Detector
from dask_runner.sky.events import Array, Events, Simulation, wrapped

# Cells in sin(dec) and in log10 of the energy, within which densities are flat.
_CELLS: Final = (200, 300)
_CM2: Final = 1e4
# The simulated energies are a mixture of spectra with these indices, as they trigger.
_INDICES: Final = (1.0, 2.0, 3.0, 4.0)
# The median of the distance is so many times the error of one coordinate.
_MEDIAN: Final = np.sqrt(2 * np.log(2))
_SMALLEST: Final = 2.0**-54


def synthetic_experiment(detector: Detector, number: int, seed: int) -> Events:
    """Background events with the detector's density, at random right ascension."""
    surface = detector.background
    sin_dec, log10e = _edges(surface.log10e)
    density = surface.at(_middle(sin_dec)[:, None], _middle(log10e))
    draw = _uniforms("experiment", number, 6, seed)
    cell = _chosen(density.ravel(), draw[0])
    row, column = np.divmod(cell, density.shape[1])
    energy = _within(log10e, column, draw[2])
    return Events(
        ra=2 * np.pi * draw[3],
        dec=np.arcsin(_within(sin_dec, row, draw[1])),
        sigma=_errors(detector, energy, draw[4]),
        log10e=energy,
    )


def synthetic_simulation(detector: Detector, number: int, seed: int) -> Simulation:
    """Signal events from the whole sky, weighted such that any spectrum can be made of them."""
    surface = detector.effective_area
    sin_dec, log10e = _edges(surface.log10e)
    area = surface.at(_middle(sin_dec)[:, None], _middle(log10e))
    spectra = [_flat_rows(area * 10 ** ((1 - k) * _middle(log10e))) for k in _INDICES]
    density = np.sum(spectra, axis=0)
    share = density / density.sum()
    draw = _uniforms("simulation", number, 7, seed)
    row, column = np.divmod(_chosen(share.ravel(), draw[0]), share.shape[1])
    true_sin_dec, true_log10e = _within(sin_dec, row, draw[1]), _within(log10e, column, draw[2])
    # Events per sin(dec) and GeV, of one event.
    widths = np.diff(sin_dec)[row] * np.diff(log10e)[column] * np.log(10) * 10**true_log10e
    generated = share[row, column] / widths
    effective = _CM2 * surface.at(true_sin_dec, true_log10e)
    measured = _measured_energy(detector, true_log10e, draw[3])
    sigma = _errors(detector, measured, draw[4])
    true_ra, true_dec = 2 * np.pi * _fraction(np.arange(number)), np.arcsin(true_sin_dec)
    ra, dec = displaced(true_ra, true_dec, scattered(sigma, draw[5]), 2 * np.pi * draw[6])
    return Simulation(
        ra=ra,
        dec=dec,
        sigma=sigma,
        log10e=measured,
        true_ra=true_ra,
        true_dec=true_dec,
        true_e=10**true_log10e,
        weight=effective * 2 * np.pi / generated / number,
    )


def scattered(sigma: npt.ArrayLike, uniforms: Array) -> Array:
    """1 - cos of distances that a von Mises-Fisher distribution gives, for errors in radians."""
    kappa = 1 / np.square(sigma)
    # The inverse of (1 - exp(-kappa h)) / (1 - exp(-2 kappa)) between 0 and 2.
    drawn: Array = -np.log1p(uniforms * np.expm1(-2 * kappa)) / kappa
    return np.minimum(drawn, 2.0)


def displaced(
    ra: npt.ArrayLike, dec: npt.ArrayLike, far: Array, bearing: Array
) -> tuple[Array, Array]:
    """Directions at 1 - cos(distance) = `far` from others, with the bearing east of north."""
    cos, sin = 1 - far, np.sqrt(far * (2 - far))
    sin_dec = np.sin(dec) * cos + np.cos(dec) * sin * np.cos(bearing)
    new_dec = np.arcsin(np.clip(sin_dec, -1, 1))
    east = np.sin(bearing) * sin * np.cos(dec)
    return wrapped(ra + np.arctan2(east, cos - np.sin(dec) * sin_dec)), new_dec


def bearing_of(simulation: Simulation) -> Array:
    """From each true direction to the measured one, east of north."""
    across = simulation.ra - simulation.true_ra
    north = np.cos(simulation.true_dec) * np.sin(simulation.dec)
    north -= np.sin(simulation.true_dec) * np.cos(simulation.dec) * np.cos(across)
    angle: Array = np.arctan2(np.sin(across) * np.cos(simulation.dec), north)
    return angle


def _uniforms(purpose: str, number: int, columns: int, seed: int) -> Array:
    """Shape (columns, number): the stream depends on purpose and seed, event i on i alone."""
    digest = hashlib.sha256(f"dask-runner sky {purpose} {seed}".encode()).digest()
    key = np.frombuffer(digest[:16], dtype=">u8").astype(np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key))
    return np.ascontiguousarray(generator.random((number, columns)).T)


def _fraction(index: npt.NDArray[np.int64]) -> Array:
    """Evenly spread numbers in [0, 1): where a simulated source stands in right ascension does not
    matter to a detector that turns with the Earth.
    """
    share: Array = np.mod(index * ((np.sqrt(5) - 1) / 2), 1.0)
    return share


def _edges(log10e: tuple[float, ...]) -> tuple[Array, Array]:
    return np.linspace(-1, 1, _CELLS[0] + 1), np.linspace(log10e[0], log10e[-1], _CELLS[1] + 1)


def _middle(edges: Array) -> Array:
    return (edges[1:] + edges[:-1]) / 2


def _flat_rows(density: Array) -> Array:
    rows: Array = density / density.sum(axis=1, keepdims=True)
    return rows


def _chosen(density: Array, uniforms: Array) -> npt.NDArray[np.int64]:
    total = np.cumsum(density)
    places = np.searchsorted(total, uniforms * total[-1], side="right")
    chosen: npt.NDArray[np.int64] = np.minimum(places, len(density) - 1)
    return chosen


def _within(edges: Array, place: npt.NDArray[np.int64], uniforms: Array) -> Array:
    low, high = edges[place], edges[place + 1]
    return low + (high - low) * uniforms


def _measured_energy(detector: Detector, true_log10e: Array, uniforms: Array) -> Array:
    table = detector.energy_resolution
    mean = np.interp(true_log10e, table.log10e, table.mean)
    deviation = np.interp(true_log10e, table.log10e, table.deviation)
    measured: Array = mean + deviation * ndtri(np.maximum(uniforms, _SMALLEST))
    return measured


def _errors(detector: Detector, log10e: Array, uniforms: Array) -> Array:
    table = detector.point_spread
    median = np.interp(log10e, table.log10e, table.median)
    degrees = median * np.exp(table.scatter * ndtri(np.maximum(uniforms, _SMALLEST)))
    errors: Array = np.radians(np.clip(degrees, table.least, table.most) / _MEDIAN)
    return errors
