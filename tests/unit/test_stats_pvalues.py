"""p-values, intervals, quantiles, bootstrap errors and forecasts against closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dask_runner.errors import UsageError
from dask_runner.stats import bootstrap, forecast, pvalues, quantiles


def test_significances_are_one_sided():
    assert pvalues.sigma_to_p([0, 1, 3, 5]) == pytest.approx(
        [0.5, 0.158655254, 1.349898e-3, 2.866516e-7], rel=1e-6
    )
    assert pvalues.p_to_sigma(2.866515719e-7) == pytest.approx(5, abs=1e-9)
    assert pvalues.p_to_sigma([0, 0.5, 1]).tolist() == [np.inf, 0, -np.inf]
    # Beyond what 1 - p could hold.
    assert pvalues.p_to_sigma(pvalues.sigma_to_p(30.0)) == pytest.approx(30, abs=1e-9)


@pytest.mark.parametrize("p", [-0.1, 1.1, np.nan])
def test_what_is_no_probability_is_refused(p):
    with pytest.raises(UsageError, match="between 0 and 1"):
        pvalues.p_to_sigma(p)


def test_hottest_of_a_thousand_pixels():
    assert pvalues.post_trial_p(1e-4, 1000) == pytest.approx(0.095167, abs=5e-7)
    # Without cancellation: 1 - (1 - 1e-20)^10 would be 0.
    assert pvalues.post_trial_p([1e-20, 0, 1], 10) == pytest.approx([1e-19, 0, 1])
    with pytest.raises(UsageError, match="looks"):
        pvalues.post_trial_p(0.1, 0)


def test_clopper_pearson_against_known_values():
    low, high = pvalues.clopper_pearson([0, 5, 10], 10, 0.95)
    assert low == pytest.approx([0, 0.187086, 0.691503], abs=1e-6)
    assert high == pytest.approx([0.308497, 0.812914, 1], abs=1e-6)
    assert pvalues.clopper_pearson(0, 0) == (0, 1)
    # None of n seen: 1 - (alpha/2)^(1/n).
    assert pvalues.clopper_pearson(0, 1e7, 0.9)[1] == pytest.approx(1 - 0.05 ** (1e-7), rel=1e-9)


@given(st.integers(1, 500), st.floats(0.001, 0.999), st.floats(0.1, 0.99))
def test_clopper_pearson_covers_exactly_at_least_its_level(n, p, level):
    low, high = pvalues.clopper_pearson(np.arange(n + 1), n, level)
    inside = (low <= p) & (p <= high)
    assert stats.binom.pmf(np.arange(n + 1), n, p)[inside].sum() >= level - 1e-9


@pytest.mark.parametrize(("k", "n", "level"), [(-1, 5, 0.9), (6, 5, 0.9), (1, 5, 1.0), (1, 5, 0.0)])
def test_impossible_intervals_are_refused(k, n, level):
    with pytest.raises(UsageError):
        pvalues.clopper_pearson(k, n, level)


def test_counted_p_values_include_equality():
    found = pvalues.empirical_p([0, 0, 1, 2], 1)
    assert (found.k, found.n, found.p, found.safe) == (2, 4, 0.5, 0.6)
    assert found.low < 0.5 < found.high
    assert pvalues.empirical_p([0, 0, 1, 2], 0).p == 1
    nothing = pvalues.empirical_p(np.zeros(99), 1)
    assert (nothing.p, nothing.safe) == (0, 0.01)


@pytest.mark.parametrize("ts", [[], [1, np.nan], [np.inf], [[1.0]], 3.0])
def test_what_is_no_list_of_trials_is_refused(ts):
    with pytest.raises(UsageError):
        pvalues.empirical_p(ts, 1)
    with pytest.raises(UsageError):
        quantiles.quantile(ts, 0.5)


def test_large_finite_trials_are_not_taken_for_infinite_ones():
    assert quantiles.quantile([1e308, 1e308, 1e308], 0.5).value == 1e308


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.floats(0.01, 0.99))
def test_quantiles_are_those_of_numpy_inside_their_interval(values, q):
    found = quantiles.quantile(values, q)
    assert found.value == pytest.approx(np.quantile(values, q), abs=1e-6)
    assert found.low <= found.high
    assert (found.source, found.n) == ("trials", len(values))


@pytest.mark.parametrize("q", [0.02275, 0.5, 0.97725])
def test_intervals_of_quantiles_cover(q):
    rng = np.random.default_rng(11)
    truth = -np.log1p(-q)
    n, sets = 400, 3000
    found = [quantiles.quantile(x, q) for x in rng.exponential(size=(sets, n))]
    covered = np.mean([x.low <= truth <= x.high for x in found])
    assert covered == pytest.approx(pvalues.ONE_SIGMA, abs=0.03)
    assert np.std([x.value for x in found]) == pytest.approx(
        np.mean([x.error for x in found]), rel=0.1
    )


def test_an_interval_beyond_the_extreme_trials_is_open():
    found = quantiles.quantile(np.arange(10.0), 0.97725)
    assert found.high == np.inf
    assert found.error == np.inf
    assert quantiles.relative_error(np.arange(10.0), 0.97725) == np.inf
    assert quantiles.relative_error([0.0] * 10) == np.inf


def test_several_quantiles_are_those_one_by_one():
    x = np.random.default_rng(3).normal(size=1000)
    assert quantiles.quantiles(x, [0.9, 0.1, 0.5]) == [
        quantiles.quantile(x, q) for q in (0.9, 0.1, 0.5)
    ]
    with pytest.raises(UsageError, match="between 0 and 1"):
        quantiles.quantile(x, 1.0)


def test_bootstrap_errors_are_those_of_theory_and_repeat():
    x = np.random.default_rng(5).normal(size=2000)
    found = bootstrap.bootstrap(x, np.mean, replicates=400)
    assert found.error == pytest.approx(x.std() / np.sqrt(len(x)), rel=0.1)
    assert found.low < found.value < found.high
    again = bootstrap.bootstrap(x, np.mean, replicates=400)
    assert np.array_equal(found.replicates, again.replicates)
    other = bootstrap.bootstrap(x, np.mean, replicates=400, rng=np.random.default_rng(9))
    assert not np.array_equal(found.replicates, other.replicates)
    # Of a median: the order-statistic interval says the same.
    median = bootstrap.bootstrap(x, np.median, replicates=400)
    assert median.error == pytest.approx(quantiles.quantile(x, 0.5).error, rel=0.3)


def test_bootstrap_draws_rows_together():
    x = np.random.default_rng(6).normal(size=300)
    pairs = np.stack([x, -x], axis=1)
    found = bootstrap.bootstrap(pairs, lambda a: float(a.sum()), replicates=50)
    assert found.error == pytest.approx(0, abs=1e-9)


def test_bootstrap_refuses_what_has_no_spread():
    with pytest.raises(UsageError, match="at least 2"):
        bootstrap.bootstrap([1.0], np.mean)
    with pytest.raises(UsageError, match="NaN"):
        bootstrap.bootstrap([1.0, 2.0], lambda a: np.nan)


def test_ranks_of_bootstrap_samples_are_those_of_resampling():
    rng = np.random.default_rng(8)
    n, rank, times = 50, 30, 20_000
    direct = np.sort(rng.integers(0, n, (times, n)), axis=1)[:, rank]
    quick = quantiles.resampled_ranks(n, rank, times, rng)
    table = np.stack([np.bincount(x, minlength=n) for x in (direct, quick)])
    table = table[:, table.sum(axis=0) > 20]
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_ten_direct_exceedances_of_five_sigma():
    assert forecast.trials_for_sigma(5) == pytest.approx(3.4886e7, rel=1e-4)
    assert forecast.trials_needed(0.5, 10) == 20
    assert forecast.exceedances_expected(0.25, 100) == 25
    assert forecast.trials_for_relative_error(0.5, 0.01) == 10_000
    found = forecast.forecast(1000, 0.5, slots=4)
    assert (found.cpu, found.wall) == (500, 125)
    with pytest.raises(UsageError):
        forecast.trials_needed(0)
    with pytest.raises(UsageError):
        forecast.forecast(1, 1, slots=0)
    with pytest.raises(UsageError):
        forecast.trials_for_relative_error(1, 0.1)
