"""Maps as others publish them: every form of the same map is the same density."""

import healpy
import numpy as np
import pytest
from astropy.io import fits
from coincidence_inputs import delta, flat, spot

from dask_runner.errors import BadInputError, UsageError
from dask_runner.sky import healpix

P = spot(1.0, 0.4, 0.3)


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "map.fits"
    healpix.write_map(path, P, instruments="H1,L1", time="2017-08-17T12:41:04")
    sky = healpix.read_map(path)
    assert sky.nside == 16
    assert sky.probability == pytest.approx(P, rel=1e-14)
    assert sky.density.mean() == pytest.approx(1)
    assert (sky.instruments, sky.time) == ("H1,L1", "2017-08-17T12:41:04")
    with pytest.raises(OSError, match="map.fits"):
        healpix.write_map(path, P)


def test_order_and_norm_change_nothing(tmp_path):
    healpy.write_map(tmp_path / "n.fits", healpy.reorder(7 * P, r2n=True), nest=True, dtype=float)
    sky = healpix.read_map(tmp_path / "n.fits")
    assert sky.probability == pytest.approx(P, rel=1e-13)
    assert sky.total == pytest.approx(7)
    healpy.write_map(tmp_path / "f.fits", P, dtype=np.float32)
    assert healpix.read_map(tmp_path / "f.fits").probability == pytest.approx(P, rel=1e-6)


def multi_order(path, uniq, density):
    columns = [
        fits.Column(name="UNIQ", format="K", array=uniq),
        fits.Column(name="PROBDENSITY", format="D", array=density),
    ]
    table = fits.BinTableHDU.from_columns(columns)
    table.header.update({"ORDERING": "NUNIQ", "PIXTYPE": "HEALPIX", "COORDSYS": "C"})
    table.writeto(path)


def test_a_multi_order_map_is_the_same_map(tmp_path):
    """The 12 pixels of order 0, the first of them as 4 of order 1, of which one as 4 of order 2."""
    density = np.array([*range(1, 12), 20, 21, 22, 40, 41, 42, 43], float)
    uniq = [*(4 + np.arange(1, 12)), *(16 + np.arange(3)), *(64 + np.arange(12, 16))]
    area = np.pi / 3 / np.array([1] * 11 + [4] * 3 + [16] * 4)
    multi_order(tmp_path / "m.fits", uniq, density)
    sky = healpix.read_map(tmp_path / "m.fits")
    assert sky.nside == 4
    assert sky.total == pytest.approx((density * area).sum())
    nested = healpy.reorder(sky.probability * sky.total, r2n=True)
    assert nested[:16] == pytest.approx(
        np.array([20] * 4 + [21] * 4 + [22] * 4 + [40, 41, 42, 43]) * np.pi / 48
    )
    assert nested[16:].reshape(11, 16).sum(axis=1) == pytest.approx(np.arange(1, 12) * np.pi / 3)
    coarse = healpix.read_map(tmp_path / "m.fits", nside=1)
    parts = healpy.reorder(coarse.probability, r2n=True) * coarse.total
    assert parts[0] == pytest.approx((density * area)[11:].sum())


def test_a_coarser_map_keeps_probabilities(tmp_path):
    healpix.write_map(tmp_path / "m.fits", P)
    sky = healpix.read_map(tmp_path / "m.fits", nside=4)
    assert sky.nside == 4
    children = healpy.reorder(P, r2n=True).reshape(-1, 16).sum(axis=1)
    assert healpy.reorder(sky.probability, r2n=True) == pytest.approx(children)
    assert healpix.read_map(tmp_path / "m.fits", nside=64).nside == 16


@pytest.mark.parametrize("nside", [0, 4])
def test_a_flat_map_is_exactly_flat(tmp_path, nside):
    healpix.write_map(tmp_path / "m.fits", flat())
    assert (healpix.read_map(tmp_path / "m.fits", nside=nside).density == 1).all()


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (-delta(3), "pixel 3 is -1, no probability"),
        (delta(3) * np.nan, "no probability"),
        (delta(3) * 0, "all pixels are 0"),
        (np.where(delta(3) > 0, np.inf, 1), "pixel 3 is inf"),
    ],
)
def test_what_is_no_probability_is_refused(tmp_path, pixels, message):
    healpix.write_map(tmp_path / "m.fits", pixels)
    with pytest.raises(BadInputError, match=f"m.fits: .*{message}"):
        healpix.read_map(tmp_path / "m.fits")


def test_unseen_pixels_have_no_probability(tmp_path):
    seen = np.where(np.arange(len(P)) % 2, P, healpy.UNSEEN)
    healpy.write_map(tmp_path / "m.fits", seen, dtype=float)
    sky = healpix.read_map(tmp_path / "m.fits")
    assert (sky.density[::2] == 0).all()
    assert sky.probability.sum() == pytest.approx(1)


def test_what_is_no_map_is_named(tmp_path):
    (tmp_path / "text.fits").write_text("no map")
    with pytest.raises(BadInputError, match="text.fits"):
        healpix.read_map(tmp_path / "text.fits")
    with pytest.raises(BadInputError, match="nothing.fits"):
        healpix.read_map(tmp_path / "nothing.fits")
    fits.PrimaryHDU(np.ones(5)).writeto(tmp_path / "image.fits")
    with pytest.raises(BadInputError, match="image.fits: not a HEALPix map"):
        healpix.read_map(tmp_path / "image.fits")
    column = fits.Column(name="PROB", format="D", array=np.ones(13))
    fits.BinTableHDU.from_columns([column]).writeto(tmp_path / "thirteen.fits")
    with pytest.raises(BadInputError, match="thirteen.fits: not a HEALPix map"):
        healpix.read_map(tmp_path / "thirteen.fits")
    healpy.write_map(tmp_path / "galactic.fits", P, coord="G", dtype=float)
    with pytest.raises(BadInputError, match="coordinates are 'G'"):
        healpix.read_map(tmp_path / "galactic.fits")
    healpix.write_map(tmp_path / "m.fits", P)
    with pytest.raises(UsageError, match="power of 2"):
        healpix.read_map(tmp_path / "m.fits", nside=3)
