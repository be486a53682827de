"""Two events of one source: closed forms against sums over a fine grid."""

import numpy as np
import pytest

from dask_runner.sky import pixels
from dask_runner.sky.pairs import pairs_of, pairs_within

NSIDE = 128
RA, DEC = pixels.centres(NSIDE, np.arange(pixels.pixel_number(NSIDE)))


def spread(ra, dec, sigma):
    """The von Mises-Fisher density at all pixels, per steradian."""
    k = sigma**-2
    cosine = np.cos(pixels.separation(RA, DEC, ra, dec))
    return k / (2 * np.pi * -np.expm1(-2 * k)) * np.exp(k * (cosine - 1))


def test_all_pairs_of_each_group():
    first, second = pairs_within(np.array([0, 3, 1, 2, 0]))
    assert sorted(zip(second.tolist(), first.tolist(), strict=True)) == [
        (0, 1),
        (0, 2),
        (1, 2),
        (4, 5),
    ]
    assert len(pairs_within(np.array([1, 0, 1]))[0]) == 0


@pytest.mark.parametrize(
    ("ra", "dec", "sigma"),
    [
        ((1.0, 1.1), (0.3, 0.35), (0.1, 0.06)),
        ((0.02, 3.0), (1.5, 1.5), (0.1, 0.2)),
        ((6.2, 0.1), (-0.2, 0.1), (0.8, 0.5)),
    ],
)
def test_a_product_is_one_again(ra, dec, sigma):
    found = pairs_of(np.array(ra), np.array(dec), np.array(sigma), np.array([2]))
    product = spread(ra[0], dec[0], sigma[0]) * spread(ra[1], dec[1], sigma[1])
    assert found.overlap[0] == pytest.approx(4 * np.pi * product.mean() * 4 * np.pi, rel=1e-3)
    both = spread(found.ra[0], found.dec[0], found.sigma[0])
    assert product / product.sum() == pytest.approx(both / both.sum(), abs=1e-9)


def test_small_errors_by_hand_and_far_pairs():
    ra, zero, sigma = np.array([0.0, 0.01, 1.0]), np.zeros(3), np.array([0.01, 0.02, 0.01])
    found = pairs_of(ra, zero, sigma, np.array([3]))
    assert (found.first.tolist(), found.second.tolist()) == ([1], [0])
    assert found.overlap == pytest.approx([2 / 5e-4 * np.exp(-1e-4 / 2 / 5e-4)], rel=1e-3)
    assert found.ra == pytest.approx([0.002], rel=1e-3)
    assert found.sigma == pytest.approx([1 / np.sqrt(1e4 + 2500)], rel=1e-3)
