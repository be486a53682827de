"""Sensitivity and discovery potential against closed forms, with honest errors and refusals."""

import numpy as np
import pytest
from scipy import stats

from dask_runner.errors import UsageError
from dask_runner.stats import counting, curves
from dask_runner.stats.discrete import DiscreteTSD
from dask_runner.stats.distribution import Chi2TSD
from dask_runner.stats.sensitivity import discovery_potential, given, sensitivity

HALF = Chi2TSD(eta=0.5, ndof=1)


def _gaussian(rng, strength, n):
    return np.maximum(rng.normal(size=n) + strength, 0) ** 2


def _counts(rng, strength, background, n):
    return counting.test_statistic(rng.poisson(strength + background, n), background)


def _scan(make, rng, strengths, *rest):
    return {s: make(rng, s, *rest) for s in strengths}


def test_gaussian_measurements():
    rng = np.random.default_rng(1)
    background = _gaussian(rng, 0, 100_000)
    found = sensitivity(background, _scan(_gaussian, rng, (0, 0.5, 1, 1.5, 2, 3), 20_000))
    assert found.value == pytest.approx(stats.norm.isf(0.1), abs=3 * found.error)
    assert found.error < 0.02
    assert found.low < found.value < found.high
    assert found.threshold_source == "trials"
    assert found.warnings == ()
    assert found.fit_p > 1e-3
    assert found.fraction(found.value) == pytest.approx(0.9)
    assert len(found.points) == 6
    assert all(p.low <= p.fraction <= p.high and p.n == 20_000 for p in found.points)

    far = discovery_potential(background, _scan(_gaussian, rng, range(10), 20_000))
    assert far.value == pytest.approx(5, abs=3 * far.error)
    assert far.error < 0.03
    assert far.threshold_source == "fit"
    assert far.threshold.value == pytest.approx(25, abs=0.2)
    assert "gamma" in far.method


@pytest.mark.parametrize(
    ("b", "strengths"), [(1.0, (0, 1, 2, 4, 8, 16)), (10.0, (0, 4, 8, 16, 24, 32))]
)
def test_counting(b, strengths):
    rng = np.random.default_rng(2)
    signal = _scan(_counts, rng, strengths, b, 20_000)
    found = sensitivity(_counts(rng, 0, b, 20_000), signal)
    assert found.value == pytest.approx(counting.sensitivity(b), abs=3 * found.error)
    # The exact distribution: the threshold is the value below the critical one.
    exact = discovery_potential(counting.distribution(b), signal)
    assert exact.value == pytest.approx(counting.discovery(b), abs=3 * exact.error)
    assert exact.error < 0.01 * exact.value
    assert exact.threshold_source == "exact"
    assert exact.warnings == ()
    # A chi2 does not describe counts, and says so.
    assert (
        "does not describe" in discovery_potential(_counts(rng, 0, b, 20_000), signal).warnings[0]
    )


def test_without_background_one_event_is_enough():
    rng = np.random.default_rng(3)
    signal = {s: rng.poisson(s, 10_000) for s in (0, 1, 2, 4, 8)}
    found = sensitivity(np.zeros(100), signal)
    assert found.value == pytest.approx(np.log(10), abs=3 * found.error)
    assert found.fraction(0.0) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("n", [300, 3000])
def test_errors_are_those_of_the_scatter(n):
    rng = np.random.default_rng(4)
    pulls = []
    for _ in range(60):
        scan = _scan(_gaussian, rng, range(9), n)
        found = discovery_potential(_gaussian(rng, 0, n), scan, replicates=100)
        pulls.append((found.value - 5) / found.error)
    assert abs(np.mean(pulls)) < 0.4
    assert 0.75 < np.std(pulls) < 1.25


def test_the_same_input_gives_the_same_error():
    rng = np.random.default_rng(5)
    scan = _scan(_gaussian, rng, (0, 1, 2, 3), 500)
    first, second = (sensitivity(HALF, scan) for _ in range(2))
    assert (first.value, first.error) == (second.value, second.error)
    other = sensitivity(HALF, scan, rng=np.random.default_rng(99))
    assert other.value == first.value
    assert other.error != first.error


def test_the_threshold_is_passed_strictly():
    ones = np.ones(1000)
    signal = {
        0.0: np.zeros(1000),
        1.0: np.r_[ones[:500], np.zeros(500)],
        2.0: np.r_[2 * ones[:950], ones[:50]],
    }
    found = sensitivity(given(1.0), signal)
    assert [p.k for p in found.points] == [0, 0, 950]
    assert found.threshold_source == "given"
    # Equal but for rounding is equal.
    assert [p.k for p in sensitivity(given(1.0 - 1e-15), signal).points] == [0, 0, 950]


def test_shapes_that_no_simple_curve_describes_are_joined():
    rng = np.random.default_rng(6)
    strengths = np.arange(0, 10.5, 0.5)
    # Two populations: a quarter passes early, the rest late.
    truth = 0.3 * stats.norm.cdf(strengths, 1, 0.4) + 0.7 * stats.norm.cdf(strengths, 7, 0.7)
    signal = {
        s: (rng.random(5000) < p).astype(float) for s, p in zip(strengths, truth, strict=True)
    }
    found = sensitivity(given(0.5), signal)
    exact = np.interp(0.9, truth, strengths)
    assert found.value == pytest.approx(exact, abs=max(0.05, 3 * found.error))
    assert isinstance(found.curve, curves.IsotonicCurve)
    assert "joined" in found.warnings[0]
    assert "isotonic" in found.method
    grid = found.fraction(np.linspace(-1, 12, 100))
    assert np.all(np.diff(grid) >= 0)
    assert found.fraction(found.value) == pytest.approx(0.9, abs=1e-3)


def test_points_where_none_or_all_pass_are_taken_as_they_are():
    rng = np.random.default_rng(7)
    scan = _scan(_gaussian, rng, (0, 4, 5, 6, 10, 20, 50), 2000)
    found = discovery_potential(HALF, scan)
    assert found.points[-1].fraction == 1
    assert found.points[-1].low < 1
    assert found.value == pytest.approx(5, abs=3 * found.error)
    # One partial point between two others is enough for a line.
    two = discovery_potential(HALF, {s: scan[s] for s in (0, 5, 10)})
    assert two.value == pytest.approx(5, abs=0.3)


def test_extrapolation_is_refused_and_says_what_is_needed():
    rng = np.random.default_rng(8)
    with pytest.raises(
        UsageError, match=r"largest signal strength, 4: 0.5 is not reached"
    ) as error:
        discovery_potential(HALF, _scan(_gaussian, rng, (0, 1, 2, 3, 4), 5000))
    assert "might be near 4.87" in error.value.hint
    with pytest.raises(UsageError, match="smallest signal strength, 7") as error:
        discovery_potential(HALF, _scan(_gaussian, rng, (7, 8, 9), 5000))
    assert "smaller" in error.value.hint


def test_a_step_between_two_strengths_is_refused():
    signal = {0: np.zeros(100), 3: np.zeros(100), 5: np.ones(100)}
    with pytest.raises(
        UsageError, match="no trial passes the threshold at n_sig = 3, all at 5"
    ) as e:
        sensitivity(given(0.5), signal)
    assert "between 3 and 5" in e.value.hint


@pytest.mark.parametrize(
    "signal",
    [{}, {1: [1.0]}, {0: [0.0], 1: []}, {0: [0.0], 1: [np.nan]}],
)
def test_trials_that_say_nothing_are_refused(signal):
    with pytest.raises(UsageError):
        sensitivity(HALF, signal)


def test_a_statistic_that_may_be_negative_is_counted_only_if_asked_for():
    rng = np.random.default_rng(10)
    background = rng.normal(size=20_001)
    signal = {s: rng.normal(size=5000) + s for s in (0, 0.5, 1, 1.5, 2)}
    with pytest.raises(UsageError, match="go down to -"):
        sensitivity(background, signal)
    found = sensitivity(DiscreteTSD.from_trials(background), signal)
    assert found.value == pytest.approx(stats.norm.isf(0.1), abs=3 * found.error)


def test_a_share_outside_0_to_1_is_refused():
    with pytest.raises(UsageError, match="between 0 and 1"):
        sensitivity(HALF, {0: [0.0], 1: [1.0]}, beta=90)


def test_few_background_trials_are_extrapolated_with_their_error():
    rng = np.random.default_rng(9)
    scan = _scan(_gaussian, rng, range(9), 100_000)
    few = discovery_potential(_gaussian(rng, 0, 500), scan)
    many = discovery_potential(_gaussian(rng, 0, 500_000), scan)
    assert few.error > 3 * many.error


def test_isotonic_fractions_never_fall():
    counted = curves.Counted(
        signal=np.array([0.0, 1, 2, 3]), k=np.array([1.0, 5, 3, 9]), n=np.full(4, 10.0)
    )
    assert curves.isotonic(counted) == pytest.approx([0.1, 0.4, 0.4, 0.9])


@pytest.mark.parametrize("skewness", [-0.8, 0, 0.5, 1.9])
def test_curves_are_distribution_functions_and_invert(skewness):
    curve = curves.CdfCurve(mean=3, width=2, skewness=skewness)
    exact = stats.pearson3.cdf([1, 3, 6], skewness, 3, 2)
    assert curve([1, 3, 6]) == pytest.approx(exact, abs=1e-9)
    for fraction in (0.1, 0.5, 0.9):
        assert curve(curve.inverse(fraction)) == pytest.approx(fraction)
