"""The models whose answers are known in closed form: counting and gaussian."""

import time
from decimal import Decimal, localcontext

import numpy as np
import pytest
from scipy import stats

from dask_runner.errors import UsageError
from dask_runner.trials import running
from dask_runner.trials.job import Job
from dask_runner.trials.models import builtin, load, spec_of
from dask_runner.trials.models.counting import Counting, PoissonInverse
from dask_runner.trials.models.gaussian import Gaussian

STEP = 2.0**-53


def trials(model, point, count, name="m"):
    job = Job(model=name, seed=11, point=point, first=0, count=count, fields=model.fields())
    done = running.run(model.sampler(point), job)
    assert done.failed == 0
    return done.table


def exact_thresholds(mean, top):
    """floor(2^53 P(N <= n)) for n from 0 to `top`, from 60 digits."""
    with localcontext() as context:
        context.prec = 60
        term = (-Decimal(mean)).exp()
        total, found = term, [int(term * 2**53)]
        for n in range(1, top + 1):
            term = term * Decimal(mean) / n
            total += term
            found.append(int(total * 2**53))
    return np.array(found)


@pytest.mark.parametrize("mean", [0, 1e-12, 0.5, 3, 30.5, 1000])
def test_poisson_inverse_is_the_quantile_for_every_number(mean):
    inverse = PoissonInverse(mean)
    steps = exact_thresholds(mean, int(inverse.counts[-1]) + 3)
    random = np.random.default_rng(1).integers(1, 2**53, 100_000)
    # A float of the table is good for 14 digits; nearer to a step either side may be right.
    near = np.maximum(2, (np.minimum(steps, 2**53 - steps) * 3e-14).astype(np.int64))
    beside = np.concatenate([steps - near, steps + 1 + near, [1, 2, 2**53 - 2, 2**53 - 1]])
    numbers = np.concatenate([random, beside[(beside > 0) & (beside < 2**53)]])
    # The smallest n with k <= 2^53 P(N <= n).
    wanted = np.searchsorted(steps, numbers)
    found = inverse.counts[inverse.places(numbers * STEP)]
    wrong = found != wanted
    close = np.abs(numbers[wrong, None] - steps).min(axis=1, initial=2**53)
    assert np.all(close <= near.max())
    assert wrong.sum() <= len(steps) / 10


@pytest.mark.parametrize("mean", [0.2, 7, 1e4, 1e6, 1e8])
def test_poisson_inverse_agrees_with_its_own_table(mean):
    inverse = PoissonInverse(mean)
    random = np.random.default_rng(2).random(100_000)
    steps = np.random.default_rng(3).choice(inverse._below, 1000)
    inside = np.clip(np.floor(steps / STEP) * STEP, 0, 1 - 2 * STEP)
    uniforms = np.concatenate([random, inside, inside + STEP, [0, STEP, 1 - STEP]])
    assert np.array_equal(inverse.places(uniforms), np.searchsorted(inverse._below, uniforms))
    # No numbers outside those that occur, not even at the ends.
    ends = inverse.counts[inverse.places(np.array([0, 1 - STEP]))]
    assert abs(ends - mean).max() < 8.6 * np.sqrt(mean) + 40
    assert ends.tolist() == inverse.counts[[0, -1]].tolist()


@pytest.mark.parametrize("point", [{"b": 3}, {"b": 3, "n_sig": 4.5}, {"b": 40.0}])
def test_counting_follows_the_exact_probabilities(point):
    mean = point["b"] + point.get("n_sig", 0)
    counts = trials(Counting(), point, 1_000_000)["n"]
    top = counts.max() + 1
    expected = stats.poisson.pmf(np.arange(top), mean) * len(counts)
    seen = np.bincount(counts, minlength=top)
    good = expected > 10
    chi2 = ((seen - expected)[good] ** 2 / expected[good]).sum()
    assert 1e-3 < stats.chi2.sf(chi2, good.sum()) < 0.999


def test_counting_at_a_large_mean():
    counts = trials(Counting(), {"b": 1e6}, 1_000_000)["n"]
    assert counts.mean() == pytest.approx(1e6, abs=4)
    assert counts.std() == pytest.approx(1e3, rel=0.003)
    assert stats.kstest((counts + 0.5 - 1e6) / 1e3, "norm").pvalue > 1e-3


def test_counting_limits_in_closed_form():
    def limits(b, count=20_000):
        table = trials(Counting(), {"b": b}, count)
        return {int(n): limit for n, limit in zip(table["n"], table["limit"], strict=True)}

    assert limits(3)[3] == pytest.approx(5.3954, abs=5e-5)
    for b in (0, 0.5, 3):
        assert limits(b)[0] == pytest.approx(2.9957, abs=5e-5)
    found = trials(Counting(), {"b": 3}, 1_000_000)["limit"]
    levels = stats.norm.cdf([-2, -1, 0, 1, 2])
    expected = np.quantile(found, levels, method="inverted_cdf")
    assert expected == pytest.approx([2.996, 3.643, 5.395, 7.663, 10.171], abs=6e-4)


@pytest.mark.parametrize(
    ("b", "critical", "sensitivity", "discovery"),
    [(1, 10, 2.8897, 8.6687), (10, 30, 5.4066, 19.6673)],
)
def test_counting_test_statistic(b, critical, sensitivity, discovery):
    model, million = Counting(), 1_000_000
    background = trials(model, {"b": b}, million)
    n, ts = background["n"], background["ts"]
    above = n > b
    assert np.all(ts[~above] == 0)
    assert ts[above] == pytest.approx(2 * (n[above] * np.log(n[above] / b) - (n[above] - b)))
    threshold = np.median(ts)
    at_sensitivity = trials(model, {"b": b, "n_sig": sensitivity}, million)["ts"]
    assert (at_sensitivity > threshold).mean() == pytest.approx(0.9, abs=0.0015)
    at_discovery = trials(model, {"b": b, "n_sig": discovery}, million)
    five_sigma = 2 * (critical * np.log(critical / b) - (critical - b))
    reached = at_discovery["ts"] >= five_sigma * (1 - 1e-12)
    assert np.array_equal(reached, at_discovery["n"] >= critical)
    assert reached.mean() == pytest.approx(0.5, abs=0.0025)


def test_any_event_excludes_no_background():
    table = trials(Counting(), {"b": 0, "n_sig": 1.5}, 10_000)
    assert np.array_equal(np.isinf(table["ts"]), table["n"] > 0)
    assert np.all(trials(Counting(), {"b": 0}, 1000)["n"] == 0)


@pytest.mark.parametrize(
    "point", [{"b": -1}, {"b": 3, "n_sig": -4}, {"b": 2e8}, {"b": "many"}, {"b": float("nan")}]
)
def test_counting_refuses(point):
    with pytest.raises(UsageError, match="counting"):
        Counting().sampler(point)


def test_gaussian_without_signal():
    table = trials(Gaussian(), {}, 2_000_000)
    x, ts = table["x"], table["ts"]
    assert np.array_equal(ts, np.maximum(x, 0) ** 2)
    assert stats.kstest(x, "norm").pvalue > 1e-3
    assert (ts > 0).mean() == pytest.approx(0.5, abs=0.0015)
    assert np.median(ts) == pytest.approx(0, abs=1e-4)
    assert stats.kstest(ts[ts > 0], "chi2", args=(1,)).pvalue > 1e-3
    assert (ts >= 9).mean() == pytest.approx(stats.norm.sf(3), rel=0.1)


@pytest.mark.parametrize(
    ("mu", "threshold", "share"), [(1.28155, 0.0, 0.9), (5.0, 25.0, 0.5), (3.0, 9.0, 0.5)]
)
@pytest.mark.parametrize("name", ["mu", "n_sig"])
def test_gaussian_sensitivity_and_discovery(mu, threshold, share, name):
    table = trials(Gaussian(), {name: mu}, 1_000_000)
    assert (table["ts"] > threshold).mean() == pytest.approx(share, abs=0.0025)


def test_gaussian_stays_finite_at_the_ends():
    block = Gaussian().sampler({})
    ends = block.run(np.array([[0.0], [1 - STEP]]))
    assert np.isfinite(ends["x"]).all()
    assert ends["x"] == pytest.approx([-8.3, 8.2], abs=0.1)


@pytest.mark.parametrize("point", [{"mu": 1, "n_sig": 1}, {"mu": "x"}, {"n_sig": float("inf")}])
def test_gaussian_refuses(point):
    with pytest.raises(UsageError, match="gaussian"):
        Gaussian().sampler(point)


@pytest.mark.parametrize("name", ["counting", "gaussian"])
def test_made_by_name(name):
    model = builtin(name).from_options(points=[{"b": 3}])
    assert load(spec_of(name, model)) == model
    with pytest.raises(UsageError, match="--config"):
        builtin(name).from_options(points=[], config="x.toml")


@pytest.mark.parametrize(("model", "point"), [(Counting(), {"b": 3}), (Gaussian(), {"mu": 1})])
def test_a_million_a_second(model, point):
    began = time.process_time()
    trials(model, point, 3_000_000)
    assert time.process_time() - began < 3
