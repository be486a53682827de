"""The price of many looks against the closed form of independent pixels."""

import numpy as np
import pytest

from dask_runner.errors import UsageError
from dask_runner.stats import looks
from dask_runner.stats.pvalues import post_trial_p


def skies(number, pixels, seed=1):
    """The smallest of `pixels` independent p-values of each sky."""
    uniform = np.random.default_rng(seed).random(number)
    return -np.expm1(np.log1p(-uniform) / pixels)


def test_the_number_of_independent_pixels_is_found_again():
    found = looks.effective_looks(skies(20_000, 1000))
    assert found.number == pytest.approx(1000, abs=3 * found.error)
    assert found.error == pytest.approx(found.number / np.sqrt(20_000))
    assert found.good


def test_post_trial_p_of_independent_pixels_is_that_of_the_closed_form():
    hottest = skies(20_000, 1000)
    assert post_trial_p(1e-4, 1000) == pytest.approx(0.095167, abs=5e-7)
    counted = looks.post_trial(hottest, 1e-4)
    assert counted.source == "trials"
    assert counted.low < 0.095167 < counted.high
    assert counted.value == pytest.approx(counted.counted.k / 20_000)
    # Beyond all skies: from the number of looks.
    far = looks.post_trial(hottest, 1e-9)
    assert far.source == "looks"
    assert far.low < post_trial_p(1e-9, 1000) < far.high
    assert far.value == pytest.approx(1e-6, rel=0.03)
    assert far.sigma == pytest.approx(4.75, abs=0.01)


def test_a_sky_that_is_compared_with_itself_is_never_rarer_than_one_in_n_plus_one():
    hottest = skies(50, 1000)
    # Two kinds of sky: no number of looks describes them.
    mixed = np.concatenate([hottest, np.full(200, 0.5)])
    found = looks.post_trial(mixed, 1e-9)
    assert (found.source, found.value) == ("bound", 1 / 251)
    assert found.low == 0 < found.value <= found.high
    assert "do not describe" in found.warning
    few = looks.post_trial(hottest[:5], 1e-9)
    assert (few.source, few.value) == ("bound", 1 / 6)


def test_p_values_whose_tail_is_wrong_are_not_extrapolated():
    """A few skies are far hotter than all others: the bulk hides it from a fit, they do not."""
    hottest = skies(1000, 1000)
    hottest[:5] = 1e-8
    assert looks.effective_looks(hottest).good
    found = looks.post_trial(hottest, 1e-8)
    assert (found.source, found.value) == ("bound", 6 / 1001)
    assert "fall too fast" in found.warning


def test_post_trial_p_values_are_uniform_without_signal():
    """As many skies are below x as x says, also through the effective number of looks."""
    background = skies(2000, 300, seed=2)
    others = skies(400, 300, seed=3)
    p = np.array([looks.post_trial(background, one).value for one in others])
    for x in (0.1, 0.5, 0.9):
        assert np.mean(p <= x) == pytest.approx(x, abs=4 * np.sqrt(x * (1 - x) / 400))


def test_largest_test_statistics_are_counted():
    found = looks.post_trial_of_ts(np.arange(100.0), 80.0)
    assert (found.value, found.source) == (0.2, "trials")
    assert looks.post_trial_of_ts(np.arange(100.0), 98.0).source == "bound"


@pytest.mark.parametrize("p_min", [[], [0.1] * 9, [0.1] * 10 + [1.5], [0.0] * 20, [np.nan] * 20])
def test_what_is_no_sky_is_refused(p_min):
    with pytest.raises(UsageError):
        looks.effective_looks(p_min)


def test_a_p_value_that_is_none_is_refused():
    with pytest.raises(UsageError, match="observed"):
        looks.post_trial([0.1] * 20, 1.5)
