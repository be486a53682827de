"""The pixels around a direction: the same as healpy's, and the mean of a map as by the slow sum."""

import healpy
import numpy as np
import pytest

from dask_runner.sky.rings import Rings, average, pixel_at

RNG = np.random.default_rng(5)


def isotropic(n):
    return RNG.uniform(0, 2 * np.pi, n), np.arcsin(RNG.uniform(-1, 1, n))


@pytest.mark.parametrize("nside", [1, 2, 8, 128])
def test_pixels_and_rings_are_those_of_healpy(nside):
    ra, dec = isotropic(20_000)
    ra[:4], dec[:4] = [0, 0, -1, 7], [np.pi / 2, -np.pi / 2, 0, np.arcsin(2 / 3)]
    assert (pixel_at(nside, ra, dec) == healpy.ang2pix(nside, np.pi / 2 - dec, ra)).all()
    rings = Rings.of(nside)
    theta, phi = healpy.pix2ang(nside, rings.first)
    assert rings.theta == pytest.approx(theta, abs=1e-14)
    assert rings.phase * 2 * np.pi / rings.pixels == pytest.approx(phi, abs=1e-14)
    assert rings.pixels.sum() == 12 * nside**2


def slow(nside, values, ra, dec, sigma):
    """The mean over all pixels within 5 sigma, one direction at a time."""
    pixels = np.array(healpy.pix2vec(nside, np.arange(len(values)))).T
    means = []
    for a, d, s in zip(ra, dec, sigma, strict=True):
        place = [np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)]
        chord = ((pixels - place) ** 2).sum(axis=1)
        weight = np.exp(-chord / (2 * s * s))
        weight[2 * np.arcsin(np.sqrt(chord) / 2) > min(5 * s, np.pi)] = 0
        own = values[healpy.ang2pix(nside, np.pi / 2 - d, a)]
        means.append((weight * values).sum() / weight.sum() if weight.sum() else own)
    return np.array(means)


@pytest.mark.parametrize("nside", [1, 16])
def test_the_mean_is_that_of_a_direct_sum(nside):
    values = RNG.exponential(size=12 * nside**2)
    ra, dec = isotropic(300)
    dec[:3] = [np.pi / 2, -np.pi / 2, 0]
    ra[3] = 2 * np.pi - 1e-9
    sigma = np.exp(RNG.uniform(np.log(0.001), np.log(1.0), 300))
    rings = Rings.of(nside)
    found = average(rings, values, ra, dec, sigma)
    assert found == pytest.approx(slow(nside, values, ra, dec, sigma), rel=3e-6)
    # One direction at a time, or in another order: not a bit changes.
    order = RNG.permutation(300)
    again = average(rings, values, ra[order], dec[order], sigma[order])
    assert (again == found[order]).all()
    parts = [
        average(rings, values, ra[k : k + 1], dec[k : k + 1], sigma[k : k + 1]) for k in range(9)
    ]
    assert (np.concatenate(parts) == found[:9]).all()


def test_a_flat_map_is_exactly_one():
    ra, dec = isotropic(3000)
    sigma = np.exp(RNG.uniform(np.log(1e-4), np.log(3.0), 3000))
    assert (average(Rings.of(32), np.ones(12 * 32**2), ra, dec, sigma) == 1).all()


def test_a_delta_map_is_the_point_spread_at_its_pixel():
    """4 pi times the density 1 / (2 pi sigma^2) exp((cos psi - 1) / sigma^2): by hand."""
    nside, sigma, pixel = 128, 0.05, 70_000
    density = np.zeros(12 * nside**2)
    density[pixel] = len(density)
    theta, phi = healpy.pix2ang(nside, pixel)
    dec = np.full(4, np.pi / 2 - theta)
    ra = phi + np.array([0, 0.03, -0.08, 0.2]) / np.cos(dec)
    found = average(Rings.of(nside), density, ra, dec, np.full(4, sigma))
    cosine = np.sin(dec) ** 2 + np.cos(dec) ** 2 * np.cos(ra - phi)
    expected = 2 / sigma**2 * np.exp((cosine - 1) / sigma**2)
    assert found == pytest.approx(expected * (np.arccos(cosine) < 5 * sigma), rel=1e-4)
    assert found[0] == pytest.approx(800, rel=1e-4)


def test_two_gaussians_overlap_as_by_hand():
    """Budavari and Szalay: 2 / (s1^2 + s2^2) exp(-psi^2 / 2 / (s1^2 + s2^2)) for small widths."""
    nside, own, other = 256, 0.03, 0.04
    theta, phi = healpy.pix2ang(nside, np.arange(12 * nside**2))
    psi = np.arccos(np.clip(np.sin(theta) * np.cos(phi), -1, 1))
    p = np.exp(-0.5 * (psi / own) ** 2)
    density = p * len(p) / p.sum()
    away = np.array([0.0, 0.05, 0.1])
    found = average(Rings.of(nside), density, away, np.zeros(3), np.full(3, other))
    total = own**2 + other**2
    assert found == pytest.approx(2 / total * np.exp(-(away**2) / 2 / total), rel=2e-3)


def test_nothing_to_look_at():
    assert average(Rings.of(2), np.ones(48), *(np.empty(0),) * 3).shape == (0,)
