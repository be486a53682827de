"""CLs from trials against counting experiments, where everything is known."""

import math

import numpy as np
import pytest
from scipy import special, stats

from dask_runner.errors import UsageError
from dask_runner.stats import counting, hypotest

N = 10_000


def _q(n, mu, b):
    """-2 ln L(mu) / L(best signal >= 0), 0 if the best one is larger than mu."""
    best = np.clip(n - b, 0, None)

    def log_likelihood(signal):
        return special.xlogy(n, signal + b) - signal - b

    return np.where(n - b > mu, 0.0, 2 * (log_likelihood(best) - log_likelihood(mu)))


def _scan(rng, b, grid, n=N):
    q_sb = {mu: _q(rng.poisson(mu + b, n), mu, b) for mu in grid}
    q_b = {mu: _q(rng.poisson(b, n), mu, b) for mu in grid}
    return q_sb, q_b


def _observed(n, b, grid):
    return {mu: float(_q(np.array(n), mu, b)) for mu in grid}


def test_nothing_seen_of_three_over_one():
    rng = np.random.default_rng(1)
    q_sb, q_b = _q(rng.poisson(4, 50_000), 3.0, 1.0), _q(rng.poisson(1, 50_000), 3.0, 1.0)
    found = hypotest.cls(q_sb, q_b, float(_q(np.array(0), 3.0, 1.0)))
    assert found.value == pytest.approx(math.exp(-3), abs=3 * found.error)
    assert found.value == found.p_sb.p / found.p_b.p
    assert found.low < found.value < found.high
    assert found.high - found.low == pytest.approx(2 * found.error, rel=0.1)


def test_errors_of_cls_are_those_of_its_scatter():
    rng = np.random.default_rng(2)
    p_sb, p_b, n = 0.05, 0.4, 2000
    pulls = []
    for _ in range(3000):
        k_sb, k_b = rng.binomial(n, [p_sb, p_b])
        found = hypotest.cls(np.arange(n) < k_sb, np.arange(n) < k_b, 1.0)
        pulls.append(np.log(found.value / (p_sb / p_b)) * found.value / found.error)
    assert abs(np.mean(pulls)) < 0.06
    assert 0.95 < np.std(pulls) < 1.05


def test_equal_but_for_the_fit_is_equal():
    q = np.array([0.0, 1.0, 1.0 - 1e-8, 2.0])
    assert hypotest.cls(q, q, 1.0).p_sb.k == 3
    assert hypotest.cls(q, q, 1.0, tolerance=0.0).p_sb.k == 2
    assert hypotest.cls(q, q, 0.0).value == 1


def test_without_extreme_trials_the_interval_says_so():
    none = hypotest.cls(np.zeros(100), np.r_[np.zeros(50), np.ones(50)], 1.0)
    assert (none.value, none.low) == (0, 0)
    assert 0.02 < none.high < 0.06
    nothing = hypotest.cls(np.zeros(100), np.zeros(100), 1.0)
    assert math.isnan(nothing.value)
    assert (nothing.low, nothing.high) == (0, 1)


@pytest.mark.parametrize(
    ("n", "b", "grid"),
    [
        (3, 3.0, np.arange(1, 12.0)),
        (0, 3.0, np.arange(0, 6, 0.5)),
        (12, 10.0, np.arange(2, 24, 3.0)),
    ],
)
def test_upper_limits_of_counts(n, b, grid):
    q_sb, q_b = _scan(np.random.default_rng(3), b, grid)
    found = hypotest.upper_limit(q_sb, q_b, _observed(n, b, grid))
    assert found.value == pytest.approx(counting.cls_limit(n, b), abs=3 * found.error)
    assert found.low < found.value < found.high
    assert found.mu == tuple(grid)
    assert len(found.cls) == len(grid)
    again = hypotest.upper_limit(q_sb, q_b, _observed(n, b, grid))
    assert again.error == found.error


def test_expected_limits_of_counts():
    grid = np.arange(1, 16.0)
    q_sb, q_b = _scan(np.random.default_rng(4), 3.0, grid, 20_000)
    found = hypotest.expected_upper_limits(q_sb, q_b)
    for limit, exact in zip(found, counting.expected_cls_limits(3.0), strict=True):
        # A cubic between grid points is good to 1 % here.
        assert limit.value == pytest.approx(exact, abs=3 * limit.error + 0.01 * exact)
    values = [limit.value for limit in found]
    assert values == sorted(values)


def test_expected_cls_of_counts_are_exact():
    rng = np.random.default_rng(5)
    mu, b = 5.0, 3.0
    found = hypotest.expected_cls(
        _q(rng.poisson(mu + b, 100_000), mu, b), _q(rng.poisson(b, 100_000), mu, b)
    )
    n = stats.poisson.ppf(special.ndtr([-2, -1, 0, 1, 2]), b)
    exact = stats.poisson.cdf(n, mu + b) / stats.poisson.cdf(n, b)
    assert np.all(np.abs(np.array(found.values) - exact) < 3 * np.array(found.errors))
    k_sb, k_b = (100_000 * stats.poisson.cdf(n, m) for m in (mu + b, b))
    binomial = exact * np.sqrt(1 / k_sb + 1 / k_b - 2e-5)
    assert found.errors == pytest.approx(binomial, rel=0.2)


def test_expected_cls_of_continuous_statistics_and_its_error():
    # x ~ N(mu, 1), q = (mu - x)^2 for x < mu: CLs(x) = Phi(x - mu) / Phi(x).
    rng = np.random.default_rng(6)
    mu, n = 2.5, 3000
    sigmas = np.arange(-2.0, 3)
    exact = special.ndtr(sigmas - mu) / special.ndtr(sigmas)
    # Below, fewer than ten of the trials with signal are as extreme: no normal pulls.
    found = []
    for _ in range(100):
        q_sb, q_b = (np.maximum(mu - rng.normal(size=n) - shift, 0) ** 2 for shift in (mu, 0))
        found.append(hypotest.expected_cls(q_sb, q_b, replicates=100))
    pulls = (np.array([f.values for f in found]) - exact) / np.array([f.errors for f in found])
    assert np.all(np.abs(pulls.mean(axis=0)[2:]) < 0.4)
    assert np.all((pulls.std(axis=0)[2:] > 0.75) & (pulls.std(axis=0)[2:] < 1.25))


def test_errors_of_limits_are_those_of_their_scatter():
    rng = np.random.default_rng(7)
    grid = np.arange(1, 12.0, 1.5)
    exact = counting.cls_limit(3, 3)
    pulls = []
    for _ in range(60):
        found = hypotest.upper_limit(
            *_scan(rng, 3.0, grid, 2000), _observed(3, 3.0, grid), replicates=80
        )
        pulls.append((found.value - exact) / found.error)
    assert abs(np.mean(pulls)) < 0.4
    assert 0.7 < np.std(pulls) < 1.25


def test_limits_outside_the_scan_are_refused():
    rng = np.random.default_rng(8)
    for grid, message in (((0, 1, 2), "larger"), ((9, 10, 11), "smaller")):
        with pytest.raises(UsageError, match="CLs is") as error:
            hypotest.upper_limit(*_scan(rng, 3.0, grid), _observed(3, 3.0, grid))
        assert message in error.value.hint


def test_strengths_so_excluded_that_no_trial_is_there_are_left_out():
    rng = np.random.default_rng(9)
    grid = (1, 3, 5, 7, 9, 200)
    q_sb, q_b = _scan(rng, 3.0, grid)
    q_b[200] = q_b[200] * 0
    found = hypotest.upper_limit(q_sb, q_b, {**_observed(3, 3.0, grid), 200: 1e6})
    assert math.isnan(found.cls[-1])
    assert found.value == pytest.approx(counting.cls_limit(3, 3), abs=4 * found.error)


def test_scans_that_do_not_fit_together_are_refused():
    q = {1.0: [0.0], 2.0: [0.0]}
    with pytest.raises(UsageError, match="at least two signal strengths"):
        hypotest.upper_limit(q, {1.0: [0.0]}, {1.0: 0.0, 2.0: 0.0})
    with pytest.raises(UsageError, match="at least two signal strengths"):
        hypotest.expected_upper_limits({1.0: [0.0]}, {1.0: [0.0]})
    with pytest.raises(UsageError, match="anywhere"):
        hypotest.upper_limit(q, q, {1.0: 9.0, 2.0: 9.0})
    with pytest.raises(UsageError, match="NaN"):
        hypotest.cls([np.nan], [0.0], 0.0)
