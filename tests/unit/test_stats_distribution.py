"""Distributions of test statistics: fits, thresholds with their source, exact discrete ones."""

import numpy as np
import pytest
from scipy import stats

from dask_runner.errors import UsageError
from dask_runner.stats import counting
from dask_runner.stats.chi2_fit import fit_ndof, fit_ndof_and_scale
from dask_runner.stats.discrete import DiscreteTSD
from dask_runner.stats.distribution import Chi2TSD, ts_to_p

P5 = stats.norm.sf(5)


def _half_chi2(rng, n):
    return np.maximum(rng.normal(size=n), 0) ** 2


def test_known_distributions_give_the_closed_forms():
    one = Chi2TSD(eta=0.5, ndof=1)
    assert one.threshold(3).value == pytest.approx(9)
    assert one.threshold(5).value == pytest.approx(25)
    assert one.p(10.0) == pytest.approx(7.827e-4, rel=1e-4)
    assert one.p([0.0, -1.0]).tolist() == [1, 1]
    assert one.quantile(0.5).value == 0
    two = Chi2TSD(eta=0.5, ndof=2)
    assert two.threshold(3).value == pytest.approx(11.829, abs=5e-4)
    assert two.threshold(5).value == pytest.approx(28.744, abs=5e-4)
    assert (two.threshold(5).source, two.threshold(5).error) == ("exact", 0)
    assert one.p_value(25.0).sigma == pytest.approx(5)


def test_the_fit_of_a_hundred_thousand_normals():
    x = np.random.Generator(np.random.Philox(key=1)).normal(size=100_000)
    found = Chi2TSD.fit(np.maximum(x, 0) ** 2)
    assert found.eta == 0.49992
    assert found.ndof == pytest.approx(1.0017, abs=5e-5)
    assert found.quality.good
    assert found.warning == ""
    median = found.quantile(0.5)
    assert (median.value, median.source) == (0, "trials")
    three, five = found.threshold(3), found.threshold(5)
    assert (three.source, five.source) == ("trials", "fit")
    assert three.low < 9 < three.high
    assert abs(five.value - 25) < 2 * five.error
    assert five.quality is found.quality


def test_fits_solve_their_likelihood_equations():
    x = np.random.default_rng(2).gamma(1.7, 3.0, 500)
    ndof, _, scale = stats.chi2.fit(x, floc=0, method="MLE")
    free = fit_ndof_and_scale(x)
    assert free.ndof == pytest.approx(ndof, rel=1e-3)
    assert free.scale == pytest.approx(scale, rel=1e-3)
    best = fit_ndof(x).ndof
    likelihood = [stats.chi2.logpdf(x, best * f).sum() for f in (0.999, 1, 1.001)]
    assert likelihood[1] > max(likelihood[0], likelihood[2])


@pytest.mark.parametrize("ndof", [0.5, 1, 4.3])
@pytest.mark.parametrize("free", [False, True])
def test_errors_of_a_fit_are_those_of_its_scatter(ndof, free):
    rng = np.random.default_rng(7)
    # With a free scale the estimate is biased by 3 to 4 / n: more trials, so that it is not seen.
    n, sets = (10_000, 1500) if free else (2000, 4000)
    pulls, scales = [], []
    for _ in range(sets):
        x = rng.chisquare(ndof, n)
        found = (fit_ndof_and_scale if free else fit_ndof)(x)
        pulls.append(np.log(found.ndof / ndof) * found.ndof / found.ndof_error)
        scales.append((found.scale - 1) / found.scale_error if free else 0)
    assert abs(np.mean(pulls)) < (0.08 if free else 0.05)
    assert 0.95 < np.std(pulls) < 1.05
    if free:
        assert abs(np.mean(scales)) < 0.08
        assert 0.95 < np.std(scales) < 1.05


def test_thresholds_beyond_the_trials_scatter_as_they_say():
    rng = np.random.default_rng(4)
    fixed, free = (
        [Chi2TSD.fit(_half_chi2(rng, 2000), free_scale=free).threshold(5) for _ in range(400)]
        for free in (False, True)
    )
    scatter = np.std([x.value for x in fixed])
    assert scatter == pytest.approx(0.14, abs=0.02)
    assert np.mean([x.error for x in fixed]) == pytest.approx(scatter, rel=0.1)
    assert np.mean([x.value for x in fixed]) == pytest.approx(25, abs=0.05)
    assert np.std([x.value for x in free]) > 8 * scatter
    again = Chi2TSD.fit(_half_chi2(rng, 2000)).resampled_isf(P5, 1000, rng)
    assert np.std(again) == pytest.approx(scatter, rel=0.15)


def test_quality_is_seldom_bad_for_good_fits_and_always_for_bad_ones():
    rng = np.random.default_rng(5)
    good = [Chi2TSD.fit(_half_chi2(rng, 1000)).quality.good for _ in range(500)]
    assert np.mean(good) > 0.99
    mixture = np.concatenate([_half_chi2(rng, 20_000), rng.chisquare(12, 200)])
    found = Chi2TSD.fit(mixture)
    assert not found.quality.good
    beyond = found.threshold(5)
    assert "does not describe" in beyond.warning
    assert str(found.quality.tail_observed) in beyond.warning
    assert found.p_value(100.0).warning == beyond.warning
    # Counted numbers do not depend on the fit.
    assert found.threshold(2).warning == ""


def test_p_values_say_where_they_come_from():
    found = Chi2TSD.fit(_half_chi2(np.random.default_rng(16), 10_000))
    counted, beyond = found.p_value(4.0), found.p_value(30.0)
    assert (counted.source, beyond.source) == ("trials", "fit")
    assert counted.low < stats.norm.sf(2) < counted.high
    assert beyond.low < stats.norm.sf(np.sqrt(30)) < beyond.high
    assert found.p_value(0.0).value == 1
    assert found.p_from_trials([0.0, 1e9]).tolist() == [1, 0]


def test_trials_at_a_value_count_for_p_but_not_beyond_a_threshold():
    found = Chi2TSD.fit(np.repeat([0.0, 1.0, 2.0], [500, 300, 200]))
    assert found.p_from_trials(1.0) == 0.5
    threshold = found.isf(0.3)
    assert threshold.value == 1
    assert np.mean(found.trials > threshold.value) <= 0.3
    assert found.isf(0.19).value == 2


def test_what_a_minimiser_leaves_of_zero_can_be_called_zero():
    rng = np.random.default_rng(9)
    ts = _half_chi2(rng, 5000)
    noisy = np.where(ts == 0, rng.normal(size=5000) * 1e-10, ts)
    assert not Chi2TSD.fit(noisy).quality.good
    clean = Chi2TSD.fit(noisy, floor=1e-8)
    assert clean.quality.good
    assert clean.quantile(0.48).value == 0
    with pytest.raises(UsageError, match="floor"):
        Chi2TSD.fit(ts, floor=-1)


@pytest.mark.parametrize("ts", [np.zeros(1000), np.r_[np.zeros(1000), np.ones(9)]])
def test_without_positive_trials_nothing_is_extrapolated(ts):
    found = Chi2TSD.fit(ts)
    assert found.quantile(0.5).value == 0
    assert "no fit" in found.warning
    with pytest.raises(UsageError, match="no chi2 can be fitted"):
        found.threshold(5)
    with pytest.raises(UsageError, match="no chi2 can be fitted"):
        found.p(1.0)


def test_a_free_scale_needs_values_that_differ():
    assert np.isnan(Chi2TSD.fit(np.ones(100), free_scale=True).ndof)
    with pytest.raises(UsageError, match="between 0 and 1"):
        Chi2TSD(eta=0.5, ndof=1).isf(0)
    with pytest.raises(UsageError, match="no trials"):
        Chi2TSD(eta=0.5, ndof=1).p_from_trials(1.0)


def test_ten_million_trials():
    found = Chi2TSD.fit(_half_chi2(np.random.default_rng(10), 10_000_000))
    assert found.ndof == pytest.approx(1, abs=4 * found.ndof_error)
    assert found.quality.good
    assert found.threshold(4.5).source == "trials"


def test_p_between_grid_points_is_interpolated_and_constant_beyond():
    curves = [Chi2TSD(eta=0.5, ndof=k) for k in (1, 2, 3)]
    # The grid in disorder.
    found = ts_to_p([10, -10, 0], [curves[2], curves[0], curves[1]], [-20, -10, -4, 0, 99], 5.0)
    p = [curve.p(5.0) for curve in curves]
    assert found.p == pytest.approx([p[0], p[0], 0.4 * p[0] + 0.6 * p[1], p[1], p[2]])
    assert found.warnings == ()
    assert ts_to_p([1], [curves[0]], 7, 25.0).p == pytest.approx(P5)
    assert ts_to_p([1, 2], curves[:2], 1.5, [0.0, 4.0]).p.shape == (2,)


def test_p_from_a_bad_distribution_is_told_with_its_place():
    rng = np.random.default_rng(12)
    bad = Chi2TSD.fit(np.repeat([0.0, 3.0], 500))
    good = Chi2TSD.fit(_half_chi2(rng, 1000))
    assert "at 2:" in ts_to_p([1, 2], [good, bad], 1.5, 4.0).warnings[0]
    assert ts_to_p([1, 2], [good, bad], 1.0, 4.0).warnings == ()


@pytest.mark.parametrize(
    ("grid", "n", "where"), [([1, 1], 2, 1), ([1, 2], 1, 1), ([], 0, 1), ([1, 2], 2, np.nan)]
)
def test_grids_that_are_none_are_refused(grid, n, where):
    with pytest.raises(UsageError):
        ts_to_p(grid, [Chi2TSD(eta=0.5, ndof=1)] * n, where, 1.0)


def test_the_exact_distribution_of_counts():
    exact = counting.distribution(10.0)
    critical = exact.critical(P5)
    assert critical == counting.test_statistic(30, 10.0)
    # What has to be exceeded is the value before: 29 events.
    threshold = exact.threshold(5)
    assert threshold.value == counting.test_statistic(29, 10.0)
    assert (threshold.source, threshold.warning) == ("exact", "")
    assert exact.p(critical) == pytest.approx(stats.poisson.sf(29, 10), rel=1e-9)
    assert exact.p([0.0, critical * (1 + 1e-14), 1e9]) == pytest.approx(
        [1, stats.poisson.sf(29, 10), 0]
    )
    assert exact.quantile(0.5).value == 0
    assert exact.p_value(0.0).source == "exact"


def test_counted_discrete_values_agree_with_exact_ones():
    rng = np.random.default_rng(13)
    ts = counting.test_statistic(rng.poisson(3.0, 200_000), 3.0)
    counted, exact = DiscreteTSD.from_trials(ts), counting.distribution(3.0)
    three = stats.norm.sf(3)
    assert counted.critical(three) == pytest.approx(exact.critical(three))
    found = counted.threshold(3)
    assert found.value == pytest.approx(exact.threshold(3).value)
    assert found.low <= found.value <= found.high
    p = counted.p_value(found.value)
    assert exact.p(found.value) == pytest.approx(p.value, abs=2 * (p.high - p.low))
    assert "do not reach" in counted.threshold(5).warning
    assert np.ptp(counted.resampled_isf(0.5, 20, rng)) == 0
    few = DiscreteTSD.from_trials(ts[:50])
    drawn = [DiscreteTSD.from_trials(rng.choice(ts[:50], 50)).isf(0.2).value for _ in range(2000)]
    again = few.resampled_isf(0.2, 2000, rng)
    for value in np.unique(drawn)[:3]:
        assert np.mean(again == value) == pytest.approx(np.mean(drawn == value), abs=0.05)
    with pytest.raises(UsageError, match="no value has a p-value"):
        counted.critical(1e-7)
    with pytest.raises(UsageError, match="between 0 and 1"):
        counted.isf(1)
