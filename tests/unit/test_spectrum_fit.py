import itertools

import numpy as np
import pytest
import spectrum_example as example
from scipy import integrate, optimize
from scipy.special import gammaln

from dask_runner.errors import UsageError
from dask_runner.stats.spectrum import Fitter, Shape, fit_background, scaled

EDGES, SQRT_S = example.EDGES, example.SQRT_S
THETA = example.theta()
BACKGROUND = scaled(EDGES, SQRT_S, THETA)


def density(m, theta):
    log_p1, p2, p3, p4 = theta
    u = m / SQRT_S
    return np.exp(log_p1) * (1 - u) ** p2 * u ** (p3 + p4 * np.log(u))


def test_expectations_are_integrals_over_bins():
    exact = [
        integrate.quad(density, low, high, args=(THETA,), epsrel=1e-12)[0]
        for low, high in itertools.pairwise(EDGES)
    ]
    np.testing.assert_allclose(BACKGROUND.expected, exact, rtol=1e-8)
    np.testing.assert_allclose(
        np.exp(BACKGROUND.base).reshape(-1, 116).sum(axis=0), exact, rtol=2e-8
    )


def test_splitting_bins_changes_no_sum():
    fine = np.sort(np.concatenate([EDGES, (EDGES[:-1] + EDGES[1:]) / 2]))
    halves = Shape(fine, SQRT_S).integrals(THETA).reshape(-1, 2).sum(axis=1)
    np.testing.assert_allclose(halves, BACKGROUND.expected, rtol=1e-8)


def test_gradients_are_the_slopes_of_the_integrals():
    shape = Shape(EDGES, SQRT_S)
    for place in range(4):
        step = np.zeros(4)
        step[place] = 1e-5
        slope = (shape.integrals(THETA + step) - shape.integrals(THETA - step)) / 2e-5
        np.testing.assert_allclose(shape.gradients(THETA)[place], slope, rtol=1e-6)


def test_scaled_parameters_are_measured_independently_with_error_1():
    rows = (np.exp(BACKGROUND.base).reshape(-1, 116) * BACKGROUND.features).sum(axis=1)
    information = (rows / BACKGROUND.expected) @ rows.T
    np.testing.assert_allclose(information, np.eye(4), atol=1e-6)
    plain = Shape(EDGES, SQRT_S).gradients(THETA)
    correlation = np.linalg.inv((plain / BACKGROUND.expected) @ plain.T)
    error = np.sqrt(np.diag(correlation))
    # This is what the scaling is for.
    assert np.linalg.cond(correlation / np.outer(error, error)) > 1e5


def test_a_bin_that_ends_at_sqrt_s_and_wide_bins_are_integrated():
    edges = np.linspace(1000.0, SQRT_S, 9)
    wide = scaled(edges, SQRT_S, example.theta(edges=edges))
    exact = [
        integrate.quad(density, low, high, args=(wide.reference,), epsrel=1e-10)[0]
        for low, high in itertools.pairwise(edges)
    ]
    np.testing.assert_allclose(wide.expected, exact, rtol=1e-7)


def test_a_fit_to_expectations_finds_the_parameters():
    fit = fit_background(EDGES, BACKGROUND.expected, SQRT_S)
    assert fit.converged
    np.testing.assert_allclose(fit.theta, THETA, rtol=1e-5)
    assert fit.deviance == pytest.approx(0, abs=1e-8)
    assert (fit.degrees, fit.p_value) == (112, pytest.approx(1))


def test_an_injected_expectation_is_found_as_it_is():
    fitter = example.fitter(3000)
    fit = fitter.fit(BACKGROUND.expected + 250 * fitter.template)
    assert fit.n_hat == pytest.approx(250, rel=1e-6)
    assert fit.best.deviance == pytest.approx(0, abs=1e-8)
    assert fit.ts == pytest.approx(fit.deviance)


@pytest.mark.parametrize("mass", [1500, 3000, 5500])
def test_the_minimum_is_that_of_a_general_minimiser(mass):
    rng = np.random.default_rng(mass)
    fitter = example.fitter(mass)
    counts = rng.poisson(BACKGROUND.expected)
    fit = fitter.fit(counts)
    shape = Shape(EDGES, SQRT_S, nodes=16)

    def expected(x):
        return shape.integrals(BACKGROUND.theta(x[:4])) + x[4] * fit.n_error * fitter.template

    def deviance(x):
        mu = expected(x)
        if mu.min() <= 0:
            return 1e9
        return float((mu - counts + counts * np.log(np.where(counts, counts, 1) / mu)).sum())

    found = optimize.minimize(deviance, np.zeros(5), method="BFGS", options={"gtol": 1e-4})
    mu = expected(found.x)
    nll = float((mu - counts * np.log(mu) + gammaln(counts + 1)).sum())
    assert nll - 1e-5 < fit.nll < nll + 1e-7
    assert fit.n_hat == pytest.approx(found.x[4] * fit.n_error, abs=2e-3 * fit.n_error)


@pytest.mark.parametrize("mass", [1150, 2000, 4000, 6000, 7000, 7800])
def test_every_fit_converges_also_where_no_event_is_expected(mass):
    rng = np.random.default_rng(mass)
    fitter = example.fitter(mass)
    fits = [fitter.fit(rng.poisson(BACKGROUND.expected)) for _ in range(150)]
    assert all(fit.converged for fit in fits)
    assert all(np.isfinite([fit.n_hat, fit.n_error, fit.nll, fit.ts]).all() for fit in fits)
    assert all(fit.ts >= 0 and (fit.ts == 0) == (fit.n_hat <= 0) for fit in fits)


def test_the_deviance_of_background_only_fits_is_that_of_112_degrees():
    background = scaled(EDGES, SQRT_S, example.theta(1e9))
    fitter = Fitter(background, example.template(3000))
    rng = np.random.default_rng(4)
    fits = [fitter.fit(rng.poisson(background.expected)) for _ in range(1500)]
    deviance = np.array([fit.deviance for fit in fits])
    # chi2 with 112 degrees: error of the mean sqrt(224 / 1500) = .39
    assert deviance.mean() == pytest.approx(112, abs=1.6)
    assert deviance.std() == pytest.approx(np.sqrt(224), rel=0.08)
    p_values = np.sort([fit.p_value for fit in fits])
    assert np.abs(p_values - np.arange(1500) / 1500).max() < 1.63 / np.sqrt(1500)


def test_pulls():
    fitter = example.fitter(3000)
    rng = np.random.default_rng(6)
    pulls = []
    for _ in range(6000):
        fit = fitter.fit(rng.poisson(BACKGROUND.expected + 200 * fitter.template))
        pulls.append((fit.n_hat - 200) / fit.n_error)
    assert abs(np.mean(pulls)) < 0.05
    assert 0.95 < np.std(pulls) < 1.05


def test_the_background_of_few_events_is_fitted():
    rng = np.random.default_rng(8)
    counts = rng.poisson(scaled(EDGES, SQRT_S, example.theta(300)).expected)
    fit = fit_background(EDGES, counts, SQRT_S)
    assert fit.converged
    assert fit.expected.sum() == pytest.approx(counts.sum(), rel=1e-6)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([1000, 2000, 3000, 4000, 5000], "more than as many bins"),
        ([1000, 2000, 2000, 3000, 4000, 5000, 6000], "do not rise"),
        ([0, 2000, 2500, 3000, 4000, 5000, 6000], "masses are above 0"),
        ([1000, 2000, 2500, 3000, 4000, 5000, 14000], "beyond sqrt"),
    ],
)
def test_bins_without_a_shape_are_refused(edges, message):
    with pytest.raises(UsageError, match=message):
        scaled(edges, SQRT_S, THETA)


def test_backgrounds_templates_and_counts_without_sense_are_refused():
    with pytest.raises(UsageError, match="the background is 0 in the bin from"):
        scaled(EDGES, SQRT_S, [-9999, 0, 0, 0])
    with pytest.raises(UsageError, match="sums to 2"):
        Fitter(BACKGROUND, 2 * example.template(3000))
    with pytest.raises(UsageError, match="bins does not fit"):
        Fitter(BACKGROUND, [1.0])
    broken = example.template(3000)
    broken[3] = -1e-3
    with pytest.raises(UsageError, match="negative"):
        Fitter(BACKGROUND, broken)
    with pytest.raises(UsageError, match="negative"):
        fit_background(EDGES, -BACKGROUND.expected, SQRT_S)
    with pytest.raises(UsageError, match="fewer than 4 bins"):
        fit_background(EDGES, np.zeros(116), SQRT_S)
    with pytest.raises(UsageError, match="do not fit a spectrum"):
        fit_background(EDGES, np.zeros(115), SQRT_S)
