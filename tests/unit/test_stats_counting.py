"""Counting experiments against published tables and brute force."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dask_runner.errors import UsageError
from dask_runner.stats import counting, pvalues

# PDG review "Statistics": upper limits for n observed and no background, 90 and 95 %.
PDG = [
    (2.30, 3.00), (3.89, 4.74), (5.32, 6.30), (6.68, 7.75), (7.99, 9.15), (9.27, 10.51),
    (10.53, 11.84), (11.77, 13.15), (12.99, 14.43), (14.21, 15.71), (15.41, 16.96),
]  # fmt: skip


@pytest.mark.parametrize(("column", "level"), [(0, 0.90), (1, 0.95)])
def test_upper_limits_of_the_pdg(column, level):
    limits = counting.upper_limit(np.arange(11), level=level)
    assert limits == pytest.approx([row[column] for row in PDG], abs=0.0051)


def test_limits_to_more_digits():
    assert counting.upper_limit(0, level=0.9) == pytest.approx(2.3026, abs=5e-5)
    assert counting.upper_limit(0) == pytest.approx(2.9957, abs=5e-5)
    assert counting.upper_limit(3) == pytest.approx(7.7537, abs=5e-5)
    assert counting.cls_limit(3, 3) == pytest.approx(5.3954, abs=5e-5)


@pytest.mark.parametrize("b", [0, 0.3, 3, 300, 3e3, 1e6])
def test_without_events_the_background_does_not_matter(b):
    assert counting.cls_limit(0, b) == pytest.approx(-math.log(0.05), rel=1e-9)


def _log_at_most(n, mu):
    terms = [j * math.log(mu) - mu - math.lgamma(j + 1) for j in range(n + 1)]
    top = max(terms)
    return top + math.log(math.fsum(math.exp(t - top) for t in terms))


@pytest.mark.parametrize(
    ("n", "b"),
    [(3, 3.0), (0, 1.5), (20, 3.5), (90, 100.0), (500, 2000.0), (5, 900.0), (1000, 990.5)],
)
def test_limits_solve_their_equation(n, b):
    s = counting.cls_limit(n, b)
    assert _log_at_most(n, s + b) - _log_at_most(n, b) == pytest.approx(math.log(0.05), abs=1e-6)


def test_limits_of_many_trials_are_those_of_each():
    n = np.random.default_rng(1).poisson(5.0, (100, 100))
    many = counting.upper_limit(n, 2.0)
    assert many.shape == n.shape
    assert np.array_equal(many, counting.upper_limit(n, np.full(n.shape, 2.0)))
    assert counting.upper_limit([], 2.0).shape == (0,)
    assert isinstance(counting.upper_limit(3, 2.0), float)


@given(st.integers(0, 300), st.floats(0, 200), st.floats(0.5, 0.99))
def test_limits_rise_with_events_and_fall_with_background(n, b, level):
    here = counting.upper_limit(n, b, level)
    assert here > 0
    assert counting.upper_limit(n + 1, b, level) > here
    assert counting.upper_limit(n, b + 0.5, level) <= here + 1e-9


def test_expected_limits():
    found = counting.expected_cls_limits(3.0)
    assert found == pytest.approx([2.996, 3.643, 5.395, 7.663, 10.171], abs=5e-4)
    assert counting.expected_cls_limits([[3.0], [0.0]]).shape == (2, 1, 5)
    assert counting.expected_cls_limits(0.0) == pytest.approx([-math.log(0.05)] * 5)


def test_sensitivities_and_discoveries():
    b = np.array([1.0, 10.0])
    assert counting.sensitivity(b) == pytest.approx([2.8897, 5.4066], abs=5e-5)
    assert counting.critical_count(b).tolist() == [10, 30]
    assert counting.discovery(b) == pytest.approx([8.6687, 19.6673], abs=5e-5)
    # No background: one event is a discovery.
    assert counting.critical_count(0.0) == 1
    assert counting.discovery(0.0) == pytest.approx(math.log(2))
    assert counting.sensitivity(0.0) == pytest.approx(math.log(10))


@given(st.floats(0.001, 1000), st.floats(0.5, 8))
def test_critical_counts_are_the_smallest(b, sigma):
    n = int(counting.critical_count(b, sigma))
    p = pvalues.sigma_to_p(sigma)
    assert stats.poisson.sf(n - 1, b) <= p * (1 + 1e-9)
    assert n == 0 or stats.poisson.sf(n - 2, b) > p * (1 - 1e-9)


@pytest.mark.parametrize("b", [0.2, 1.8, 2.5, 3.0])
def test_the_median_of_zeros_is_passed_strictly(b):
    s = counting.sensitivity(b)
    counts = np.arange(200)
    ts = counting.test_statistic(counts, b)
    background = stats.poisson.pmf(counts, b)
    median = ts[np.argmax(np.cumsum(background[np.argsort(ts)]) >= 0.5)] if b else 0
    # ts never falls with the count, so sorting it keeps the counts' order.
    assert stats.poisson.pmf(counts, s + b)[ts > median].sum() == pytest.approx(0.9)


def test_the_test_statistic_is_asimovs_and_li_and_mas():
    s, b = 10.0, 100.0
    asimov = math.sqrt(2 * ((s + b) * math.log(1 + s / b) - s))
    assert math.sqrt(counting.test_statistic(s + b, b)) == pytest.approx(asimov)
    assert asimov == pytest.approx(0.98399, abs=1e-5)
    # Li and Ma, ApJ 272 (1983) 317, equation 17, for an off region without uncertainty.
    on, alpha = 130, 1e-6
    off = b / alpha
    li_ma = 2 * (
        on * math.log((1 + alpha) / alpha * on / (on + off))
        + off * math.log((1 + alpha) * off / (on + off))
    )
    assert counting.test_statistic(on, b) == pytest.approx(li_ma, rel=1e-4)
    assert counting.test_statistic([0, 3, 4], 3.0) == pytest.approx([0, 0, 8 * math.log(4 / 3) - 2])
    assert counting.test_statistic([0, 1], 0.0).tolist() == [0, np.inf]


def test_wilks_holds_for_large_backgrounds():
    b = 1e6
    n = np.random.default_rng(1).poisson(b, 100_000)
    ts = counting.test_statistic(n, b)
    assert np.mean(ts >= 4) == pytest.approx(pvalues.sigma_to_p(2), rel=0.1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: counting.upper_limit(-1),
        lambda: counting.upper_limit(1.5),
        lambda: counting.upper_limit(1, -1),
        lambda: counting.upper_limit(1, np.nan),
        lambda: counting.upper_limit(1, level=1),
        lambda: counting.critical_count(-1),
        lambda: counting.sensitivity(3.0, beta=0.1),
        lambda: counting.sensitivity(3.0, beta=1.5),
        lambda: counting.distribution(0.0),
        lambda: counting.test_statistic([1, -1], 2),
    ],
)
def test_what_cannot_be_counted_is_refused(call):
    with pytest.raises(UsageError):
        call()
