"""From trials to conclusions: closed forms through the whole path, and what is refused."""

import json

import msgspec
import numpy as np
import pytest
from scipy.stats import norm
from trial_files import gaussian, limits_by_mass, trials_at

from dask_runner import conclusions
from dask_runner.conclusions.background import null_distribution
from dask_runner.conclusions.bands import Scale
from dask_runner.conclusions.results import Passing, Unreached
from dask_runner.conclusions.theory import read_theory
from dask_runner.errors import BadInputError, UsageError
from dask_runner.stats import counting


def counting_trials(folder, b=3, strengths=(0,), n=40_000):
    def make(point, rng):
        counts = rng.poisson(point["b"] + point["n_sig"], n)
        return {
            "n": counts,
            "ts": counting.test_statistic(counts, point["b"]),
            "limit": counting.upper_limit(counts, point["b"]),
        }

    points = [{"b": b, "n_sig": s} for s in strengths]
    return trials_at(folder, points, make, {"n": "<i4", "ts": "<f8", "limit": "<f8"})


def test_gaussian_sensitivity_and_discovery(tmp_path):
    found = conclusions.sensitivity(gaussian(tmp_path))
    (only,) = found.strengths
    assert only.sensitivity.value == pytest.approx(1.28155, abs=4 * only.sensitivity.error)
    assert only.sensitivity.error < 0.02
    assert only.discovery.value == pytest.approx(5.0, abs=4 * only.discovery.error)
    assert only.discovery.threshold.source == "fit"
    assert only.discovery.threshold.value == pytest.approx(25, abs=0.3)
    assert found.account.trials == 200_000
    assert found.warnings == ()


def test_each_combination_of_the_other_parameters(tmp_path):
    trials = gaussian(
        tmp_path,
        n=4000,
        strengths=(0, 1, 2, 3, 5, 8, 12),
        others=[{"width": w, "kind": k} for w in (1, 2) for k in ("a", "b")],
    )
    found = conclusions.sensitivity(trials, sigma=3, discovery_beta=0.5)
    assert [one.point for one in found.strengths] == [
        {"width": w, "kind": k} for w in (1, 2) for k in ("a", "b")
    ]
    for one in found.strengths:
        for passing, expected in ((one.sensitivity, 1.28155), (one.discovery, 3.0)):
            scaled = expected * one.point["width"]
            assert passing.value == pytest.approx(scaled, abs=4 * passing.error + 0.02)
    assert json.loads(msgspec.json.encode(found))["strengths"][3]["point"]["kind"] == "b"


def test_counting_knows_its_distribution_exactly(tmp_path):
    trials = counting_trials(tmp_path, b=1, strengths=(0, 1, 2, 3, 4, 6, 8, 10, 12))
    (only,) = conclusions.sensitivity(trials, model="counting").strengths
    assert only.sensitivity.threshold.source == "exact"
    assert only.sensitivity.value == pytest.approx(2.8897, abs=4 * only.sensitivity.error)
    assert only.discovery.value == pytest.approx(8.6687, abs=4 * only.discovery.error)
    (point,) = conclusions.distribution(trials.at(n_sig=0), model="counting").points
    five = next(t for t in point.thresholds if t.sigma == 5)
    # The last value that is not enough: 10 counts are.
    assert five.value.value == pytest.approx(counting.test_statistic(9, 1))
    assert point.discrete
    assert point.fit is None


def test_few_values_are_never_extrapolated(tmp_path):
    trials = counting_trials(tmp_path, b=1, strengths=(0, 1, 2, 3, 4, 6, 8, 10, 12))
    found = conclusions.sensitivity(trials)
    (only,) = found.strengths
    assert isinstance(only.sensitivity, Passing)
    assert isinstance(only.discovery, Unreached)
    assert "40000 trials do not reach" in only.discovery.reason
    assert "3.5e+07" in only.discovery.hint
    assert any("no discovery potential" in line for line in found.warnings)
    (point,) = conclusions.distribution(trials.at(n_sig=0)).points
    assert [t.value is None for t in point.thresholds] == [False, True]


def test_counting_band_is_that_of_cls(tmp_path):
    found = conclusions.limits(counting_trials(tmp_path), axis="b")
    (point,) = found.points
    assert point.events.values == pytest.approx((2.996, 3.643, 5.395, 7.663, 10.171), abs=6e-4)
    assert point.coverage is None
    assert point.observed is None


def test_coverage_where_signal_was_injected(tmp_path):
    trials = counting_trials(tmp_path, strengths=(6,))
    found = conclusions.limits(trials, axis="b")
    (point,) = found.points
    # Limits of counts up to 3 are below 6.
    below = float(np.mean(trials.n <= np.count_nonzero(counting.upper_limit(range(9), 3) < 6) - 1))
    assert point.coverage.share == pytest.approx(1 - below)
    assert point.coverage.low < point.coverage.share < point.coverage.high
    assert "no band without signal" in found.warnings[0]


def test_band_cross_section_and_mass_limit(tmp_path):
    trials = limits_by_mass(tmp_path)
    curve = tmp_path / "theory.csv"
    # Falls twice as fast as the limit, and crosses its median at 3500.
    curve.write_text(
        "Mass [GeV], cross section [fb]\n"
        + "\n".join(f"{m},{np.exp(-2 * m / 1000 + 3.5) / 2}" for m in (5000, 2000, 3300, 4100))
    )
    scale = Scale(visible=lambda _: 2.0, text="luminosity 2")
    found = conclusions.limits(trials, scale=scale, theory=read_theory(curve), confidence=0.95)
    for point in found.points:
        logs = np.log(point.events.values) + point.value / 1000
        assert logs == pytest.approx(0.3 * np.arange(-2, 3), abs=0.06)
        assert point.cross_section.values == pytest.approx(np.array(point.events.values) / 2)
        assert point.events.median.low < point.events.median.value < point.events.median.high
    expected = found.mass_limits.expected
    assert expected[2].value == pytest.approx(3500, abs=30)
    assert [one.value for one in expected] == sorted((one.value for one in expected), reverse=True)
    assert (found.axis, found.axis_unit, found.unit) == ("mass", "GeV", "fb")
    assert found.mass_limits.observed is None
    assert found.account.not_converged == 4
    seen = {value: {"limit": 2 * np.exp(-value / 1000)} for value in trials.values("mass")}
    found = conclusions.limits(trials, scale=scale, theory=read_theory(curve), observed=seen)
    assert found.mass_limits.observed.value == pytest.approx(3500 - 1000 * np.log(2), abs=1)
    assert found.points[0].observed_cross_section == pytest.approx(np.exp(-2))


def test_the_trials_own_cross_sections_come_first(tmp_path):
    def make(_point, rng):
        limit = rng.exponential(size=500)
        return {"limit": limit, "limit_cross_section": limit / 10}

    fields = {"limit": "<f8", "limit_cross_section": "<f8"}
    trials = trials_at(tmp_path, [{"mass": 1}], make, fields)
    scale = Scale(visible=lambda _: 2.0)
    (point,) = conclusions.limits(trials, scale=scale).points
    assert point.cross_section.median.value == pytest.approx(point.events.median.value / 10)
    given = msgspec.structs.replace(scale, own=False)
    (point,) = conclusions.limits(trials, scale=given).points
    assert point.cross_section.median.value == pytest.approx(point.events.median.value / 2)


def test_failed_trials_are_left_out_and_told(tmp_path):
    found = conclusions.limits(limits_by_mass(tmp_path, n=500, failed=range(10, 30)))
    assert found.points[0].events.n == 480
    assert found.account.failed == 80
    assert "mass=2000: 20 of 500 trials failed (2.5 to 6.1 %)" in found.warnings
    assert any("biases" in line for line in found.warnings)


def test_distribution_of_test_statistics(tmp_path):
    trials = gaussian(tmp_path, strengths=(0, 2))
    found = conclusions.distribution(trials)
    background, signal = found.points
    assert background.fit.eta == pytest.approx(0.5, abs=0.02)
    assert background.fit.ndof == pytest.approx(1, abs=0.05)
    assert background.fit.quality.good
    three, five = background.thresholds
    assert three.value.value == pytest.approx(9, abs=4 * three.value.error)
    assert three.value.source == "trials"
    assert five.value.value == pytest.approx(25, abs=4 * five.value.error)
    assert five.value.source == "fit"
    assert signal.fit is None
    assert signal.thresholds == ()
    assert signal.quantiles[2].value == pytest.approx(4, abs=0.1)
    (far,) = conclusions.distribution(trials.at(n_sig=0), qs=[1 - 1e-9]).points[0].quantiles
    assert far.source == "fit"
    assert far.value == pytest.approx(norm.isf(1e-9) ** 2, rel=0.02)


def test_a_bad_fit_is_a_warning(tmp_path):
    def make(_point, rng):
        return {"ts": rng.uniform(0, 3, 5000)}

    found = conclusions.distribution(trials_at(tmp_path, [{"n_sig": 0}], make, {"ts": "<f8"}))
    assert "does not describe" in found.warnings[0]
    with pytest.raises(UsageError, match="no fit 'none'"):
        null_distribution(np.ones(5), fit="none")


def test_cls_of_a_counting_experiment(tmp_path):
    """Q = -n: CLs is P(N <= n | s+b) / P(N <= n | b), whose limits are known."""

    def make(point, rng):
        s = 3 * point["mu"]
        return {"q_sb": -rng.poisson(3 + s, 20_000), "q_b": -rng.poisson(3, 20_000)}

    points = [{"mu": mu} for mu in (0, 0.5, 0.8, 1, 1.2, 1.5, 1.8, 2.1, 2.5, 3, 4)]
    trials = trials_at(tmp_path, points, make, {"q_sb": "<f8", "q_b": "<f8"})
    found = conclusions.cls(trials, observed=dict.fromkeys(trials.values("mu"), -4.0))
    wanted = counting.expected_cls_limits(3) / 3
    for limit, true in zip(found.expected, wanted, strict=True):
        assert limit.value == pytest.approx(true, abs=4 * limit.error + 0.01)
    true = counting.upper_limit(4, 3) / 3
    assert found.observed.value == pytest.approx(true, abs=4 * found.observed.error + 0.01)
    assert found.points[3].expected.values[2] == pytest.approx(0.2373, abs=0.02)
    blind = conclusions.cls(trials.at(mu=1))
    assert isinstance(blind.expected, Unreached)
    assert blind.points[0].observed is None


def test_infinite_test_statistics_are_larger_than_all_others(tmp_path):
    def make(point, rng):
        n_sb, n_b = rng.poisson(2 * point["mu"], 5000), np.zeros(5000)
        return {"q_sb": np.where(n_sb, -n_sb, np.inf) if not point["mu"] else -n_sb, "q_b": -n_b}

    points = [{"mu": mu} for mu in (0, 0.5, 1, 2, 3)]
    trials = trials_at(tmp_path, points, make, {"q_sb": "<f8", "q_b": "<f8"})
    median = conclusions.cls(trials).expected[2]
    assert median.value == pytest.approx(2.9957 / 2, abs=0.1)


@pytest.mark.parametrize(
    ("points", "options", "message"),
    [
        ([{"a": 1, "b": 1}, {"a": 2, "b": 2}], {}, "several parameters vary: a, b"),
        ([{"a": 1, "b": 1}, {"a": 2, "b": 2}], {"axis": "a"}, "b varies too"),
        ([{"a": "x"}, {"a": "y"}], {"axis": "a"}, "no number"),
        ([{"a": 1}, {"b": 2}], {"axis": "a"}, "has no a"),
        ([{"a": 1}], {"axis": "c"}, "no parameter 'c'"),
        ([{"a": 1}], {"field": "ts"}, "no field 'ts'"),
    ],
)
def test_axes_that_are_not_clear(tmp_path, points, options, message):
    def make(_point, rng):
        return {"limit": rng.random(200)}

    trials = trials_at(tmp_path, points, make, {"limit": "<f8"})
    with pytest.raises(UsageError, match=message):
        conclusions.limits(trials, **options)


def test_what_a_sensitivity_needs(tmp_path):
    with pytest.raises(UsageError, match="no trials with n_sig=0"):
        conclusions.sensitivity(gaussian(tmp_path, strengths=(1, 2), n=100))
    with pytest.raises(UsageError, match="is not reached"):
        conclusions.sensitivity(gaussian(tmp_path, strengths=(0, 0.1, 0.2), n=100))
    with pytest.raises(UsageError, match="no parameter 'mu'"):
        conclusions.sensitivity(gaussian(tmp_path, n=100), signal="mu")
    with pytest.raises(UsageError, match="Invalid enum|chi3"):
        conclusions.sensitivity(gaussian(tmp_path, n=100), fit="chi3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("m, cross_section\n1,2\n", "line 1: the columns are 'm, cross_section'"),
        ("mass, limit\n1,2\n", "mass and cross_section"),
        ("mass, cross_section, error\n1,2,3\n", "expected were mass and cross_section"),
        ("mass, cross_section\n1,x\n", "line 2: '1, x' are not two numbers"),
        ("mass, cross_section\n1,2,3\n", "line 2: .* are not two numbers"),
        ("mass, cross_section\n\n1,-2\n", "line 3: a cross section of -2"),
        ("mass, cross_section\nnan,2\n", "line 2"),
        ("mass, cross_section\n1,2\n", "at least 2 masses"),
        ("mass, cross_section\n1,2\n1,3\n", "mass 1 is there twice"),
    ],
)
def test_theory_files_that_are_wrong(tmp_path, text, message):
    path = tmp_path / "theory.csv"
    path.write_text(text)
    with pytest.raises(BadInputError, match=message):
        read_theory(path)


def test_theory_files(tmp_path):
    path = tmp_path / "theory.csv"
    path.write_text("\ufeffMass (TeV) , Cross-Section\n3,1e-3\n\n2, 1e-2\n")
    found = read_theory(path)
    assert (found.mass, found.cross_section) == ((2.0, 3.0), (1e-2, 1e-3))
    assert (found.mass_unit, found.unit) == ("TeV", "")
    with pytest.raises(UsageError, match="in TeV, not in GeV"):
        conclusions.limits(
            limits_by_mass(tmp_path, n=200),
            theory=found,
            axis_unit="GeV",
            scale=Scale(visible=lambda _: 1),
        )
    with pytest.raises(UsageError, match="needs limits on the cross section"):
        conclusions.limits(limits_by_mass(tmp_path, n=200), theory=found)
