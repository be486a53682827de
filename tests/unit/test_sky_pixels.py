"""Pixels of a HEALPix grid in closed form, against healpy."""

import numpy as np
import pytest

from dask_runner.errors import UsageError
from dask_runner.sky import pixels

healpy = pytest.importorskip("healpy")


@pytest.mark.parametrize("nside", [1, 2, 4, 64, 512])
def test_centres_are_those_of_healpy(nside):
    number = np.arange(pixels.pixel_number(nside))
    assert len(number) == healpy.nside2npix(nside)
    ra, dec = pixels.centres(nside, number)
    theta, phi = healpy.pix2ang(nside, number)
    assert np.abs(ra - phi).max() < 1e-14
    assert np.abs(dec - (np.pi / 2 - theta)).max() < 1e-14
    assert pixels.resolution(nside) == pytest.approx(healpy.nside2resol(nside))


def test_a_centre_does_not_depend_on_what_else_is_asked_for():
    ra, dec = pixels.centres(16, np.arange(3072))
    for place in (0, 3, 4, 479, 480, 1500, 2591, 2592, 3071):
        assert pixels.centres(16, place) == (ra[place], dec[place])


@pytest.mark.parametrize("edges", [(-90, 90), (-5, 5), (20, 85), (-90, -60)])
def test_a_band_is_all_pixels_whose_centres_are_in_it(edges):
    low, high = np.radians(edges)
    first, count = pixels.band(32, low, high)
    _, dec = pixels.centres(32, np.arange(pixels.pixel_number(32)))
    inside = np.flatnonzero((dec >= low) & (dec <= high))
    assert inside.tolist() == list(range(first, first + count))
    rings, number = pixels.rings(32, first, count)
    expected, counts = np.unique(dec[inside], return_counts=True)
    assert rings[::-1].tolist() == expected.tolist()
    assert number[::-1].tolist() == counts.tolist()


def test_what_is_no_grid_or_band_is_refused():
    for nside in (0, 3, 63, 8192, -1):
        with pytest.raises(UsageError, match="power of 2"):
            pixels.check_nside(nside)
    with pytest.raises(UsageError, match="nothing is between"):
        pixels.band(16, 0.5, 0.5)
    with pytest.raises(UsageError, match="no pixel"):
        pixels.band(1, 0.01, 0.02)


def test_angles_are_those_of_vectors():
    rng = np.random.default_rng(1)
    ra, dec = rng.uniform(0, 2 * np.pi, 100), np.arcsin(rng.uniform(-1, 1, 100))
    vector = np.array([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
    cosine = vector[:, 0] @ vector
    assert pixels.separation(ra, dec, ra[0], dec[0])[1:] == pytest.approx(np.arccos(cosine[1:]))
    assert pixels.separation(1.0, 0.5, 1.0, 0.5 + 1e-10) == pytest.approx(1e-10)
