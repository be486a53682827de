"""Bands, cross sections and mass limits."""

import numpy as np
import pytest
from scipy import stats

from dask_runner.errors import UsageError
from dask_runner.stats import limits
from dask_runner.stats.counting import expected_cls_limits, upper_limit


def test_a_band_has_the_quantiles_of_the_standard_deviations():
    assert pytest.approx([0.02275, 0.15866, 0.5, 0.84134, 0.97725], abs=1e-5) == limits.BAND
    x = np.random.default_rng(1).normal(10, 2, 100_000)
    band = limits.band(x)
    for curve, truth in zip(band.curves, [6, 8, 10, 12, 14], strict=True):
        assert curve.value == pytest.approx(truth, abs=4 * curve.error)
        assert curve.error < 0.05
    assert band.n == 100_000
    assert band.values == pytest.approx(np.quantile(x, limits.BAND))


def test_the_band_of_counting_limits_is_the_exact_one():
    n = np.random.default_rng(2).poisson(3.0, 100_000)
    band = limits.band(upper_limit(n, 3.0))
    assert band.values == pytest.approx(expected_cls_limits(3.0))


def test_a_band_in_another_unit():
    band = limits.band(np.arange(1000.0))
    other = band.times(1 / 20)
    assert other.values == pytest.approx([v / 20 for v in band.values])
    assert other.plus1.error == pytest.approx(band.plus1.error / 20)
    assert other.plus1.q == band.plus1.q
    with pytest.raises(UsageError):
        band.times(0)


def test_few_trials_have_open_outer_intervals():
    band = limits.band(np.arange(20.0))
    assert band.plus2.high == np.inf
    assert np.isfinite(band.median.error)


def test_cross_sections():
    # 40 events in 20/fb with half of them seen in a channel of 10 %: 40 fb.
    assert limits.to_cross_section(40, 20, 0.5, 0.1) == pytest.approx(40)
    found = limits.to_cross_section([[1, 2]], [[1], [2]], [0.5, 0.25])
    assert found == pytest.approx(np.array([[2, 8], [1, 4]]))


@pytest.mark.parametrize(
    ("luminosity", "acceptance", "branching"),
    [(0, 1, 1), (-1, 1, 1), (np.nan, 1, 1), (1, 0, 1), (1, 50, 1), (1, 1, 1.1), (1, np.nan, 1)],
)
def test_impossible_factors_are_refused(luminosity, acceptance, branching):
    with pytest.raises(UsageError):
        limits.to_cross_section(1, luminosity, acceptance, branching)


def test_the_crossing_is_exact_for_exponentials():
    masses = np.arange(2000, 7001, 500)
    limit, theory = np.exp(-masses / 2000), 30 * np.exp(-masses / 1000)
    found = limits.mass_limit(masses, limit, masses[::2], theory[::2])
    exact = np.log(30) / (1 / 1000 - 1 / 2000)
    assert found.value == pytest.approx(exact)
    assert found.crossings == pytest.approx([exact])
    assert found.text == f"excluded up to {exact:.6g}"
    # In any order, and on another grid.
    shuffled = limits.mass_limit(masses[::-1], limit[::-1], [1000, 9000], 30 * np.exp([-1, -9]))
    assert shuffled.value == pytest.approx(exact)


def test_no_crossing_says_why():
    m = [1.0, 2, 3]
    nothing = limits.mass_limit(m, [1, 1, 1], m, [0.5, 0.1, 0.01])
    assert nothing.value is None
    assert nothing.text.startswith("nothing between 1 and 3")
    everything = limits.mass_limit(m, [1, 1, 1], [0, 9], [9, 2])
    assert everything.value is None
    assert "everything between 1 and 3 is excluded" in everything.text
    upwards = limits.mass_limit(m, [1, 1, 1], m, [0.1, 1.5, 9])
    assert upwards.value is None
    assert len(upwards.crossings) == 1
    assert "to the largest mass, 3" in upwards.text


def test_of_several_crossings_one_is_chosen_and_said():
    m = np.arange(1.0, 6)
    theory = [100, 10, 0.1, 10, 0.1]
    first = limits.mass_limit(m, np.ones(5), m, theory)
    last = limits.mass_limit(m, np.ones(5), m, theory, choose="last")
    assert (first.value, last.value) == (pytest.approx(2.5), pytest.approx(4.5))
    assert first.crossings == last.crossings == pytest.approx((2.5, 3.5, 4.5))
    assert "the first of" in first.text
    assert "2.5, 4.5" in last.text
    island = limits.mass_limit(m, np.ones(5), m, [0.1, 10, 10, 0.1, 0.1])
    assert island.value == pytest.approx(3.5)
    assert "not at the smallest masses" in island.text


def test_a_crossing_just_at_a_point_is_found_once():
    m = [1.0, 2, 3]
    found = limits.mass_limit(m, [1, 1, 1], m, [10, 1, 0.1])
    assert found.crossings == pytest.approx((2,))


@pytest.mark.parametrize(
    ("masses", "values", "theory_masses", "theory"),
    [
        ([1, 2], [1, 1], [3, 4], [1, 1]),
        ([1], [1], [1, 2], [1, 1]),
        ([1, 1], [1, 1], [1, 2], [1, 1]),
        ([1, 2], [1, 0], [1, 2], [1, 1]),
        ([1, 2], [1, np.nan], [1, 2], [1, 1]),
        ([1, 2], [1, 1, 1], [1, 2], [1, 1]),
    ],
)
def test_curves_that_are_none_are_refused(masses, values, theory_masses, theory):
    with pytest.raises(UsageError):
        limits.mass_limit(masses, values, theory_masses, theory)


def test_quantiles_of_the_band_cover():
    rng = np.random.default_rng(3)
    inside = []
    for _ in range(500):
        curve = limits.band(rng.exponential(size=2000)).plus2
        inside.append(curve.low < -np.log(stats.norm.sf(2)) < curve.high)
    assert 0.62 < np.mean(inside) < 0.74
