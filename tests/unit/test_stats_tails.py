"""Tails: counted where trials reach, honest beyond, and none where nothing fits."""

import numpy as np
import pytest
from scipy import stats

from dask_runner.errors import UsageError
from dask_runner.stats.tails import Tailed

N = 20_000


def tails(distribution, seeds=20):
    return [Tailed(distribution.rvs(N, random_state=seed)) for seed in range(seeds)]


def test_counted_p_values():
    known = Tailed(np.arange(1000.0))
    found = known.p_value(900)
    assert (found.counted.k, found.counted.n, found.source) == (100, 1000, "trials")
    assert found.value == pytest.approx(101 / 1001)
    assert found.low < 0.1 < found.high
    assert known.p_value(-5).value == 1
    p, beyond = known.p_values([900, -5])
    assert p == pytest.approx([101 / 1001, 1])
    assert not beyond.any()


@pytest.mark.parametrize(
    ("distribution", "kind"), [(stats.expon(), "exponential"), (stats.pareto(3), "pareto")]
)
def test_tails_of_known_distributions(distribution, kind):
    """At the true 1e-6 point: right on average, and off by its own error."""
    x = distribution.isf(1e-6)
    found = [known.p_value(x) for known in tails(distribution)]
    assert {one.source for one in found} == {kind}
    errors = np.array([np.log(one.high / one.value) for one in found])
    pulls = np.array([np.log(one.value / 1e-6) for one in found]) / errors
    assert abs(pulls.mean()) < 0.7
    assert 0.5 < pulls.std() < 1.6
    assert all(not one.warning for one in found if one.value > 0.01 / N)


def test_a_tail_that_falls_faster_claims_too_little():
    x = stats.norm.isf(1e-6)
    assert min(known.p_value(x).value for known in tails(stats.norm(), 8)) > 1e-6


def test_the_tail_joins_what_is_counted():
    known = tails(stats.expon(), 1)[0]
    x = known.ordered[-10]
    assert known.p_value(x).source == "trials"
    assert known.p_value(known.ordered[-9]).source == "exponential"
    assert known.p_value(x + 1e-9).value == pytest.approx(known.p_value(x).value, rel=0.7)
    p, beyond = known.p_values(known.ordered[-20:])
    assert beyond.sum() == 9
    assert p == pytest.approx([known.p_value(value).value for value in known.ordered[-20:]])


def test_far_beyond_is_warned_of():
    known = tails(stats.expon(), 1)[0]
    found = known.p_value(40.0)
    assert found.value < 1e-12
    assert "far beyond 20000 trials" in found.warning
    assert found.counted.safe == pytest.approx(1 / (N + 1))


def test_without_a_tail_it_is_a_bound():
    few = Tailed(np.arange(50.0))
    found = few.p_value(1000)
    assert (found.source, found.value) == ("bound", pytest.approx(1 / 51))
    assert "no tail" in found.warning
    ends = Tailed(np.linspace(0, 1, 5000))
    assert ends.p_value(2.0).source in {"bound", "exponential"}
    same = Tailed(np.zeros(5000))
    assert same.p_value(1.0).source == "bound"
    assert same.p_value(0.0).value == 1


def test_what_is_no_number_is_refused():
    with pytest.raises(UsageError, match="NaN"):
        Tailed([1.0]).p_value(np.nan)
    with pytest.raises(UsageError, match="0 trials"):
        Tailed([])
