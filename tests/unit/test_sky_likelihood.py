"""The likelihood of a point source: exact, at its maximum, the same in whatever pieces."""

import numpy as np
import pytest
import sky_example as example
from scipy import stats
from scipy.optimize import minimize_scalar

from dask_runner.errors import UsageError
from dask_runner.sky.energies import _groups
from dask_runner.sky.events import Events
from dask_runner.sky.likelihood import Band, Evaluator, Prepared
from dask_runner.sky.scrambling import Scrambler
from dask_runner.stats.distribution import Chi2TSD

DIRECTIONS = np.radians(
    [(0.001, 5), (359.999, 5), (180, -40), (77, 89.9), (200, -90), (33, 0), (120, 20), (10, 90)]
)


def sky(search, ra, dec, number, seed, **more):
    """A scrambled sky with a source in it."""
    rng = np.random.default_rng(seed)
    signal = search.injected(rng, dec, ra, number, search.flux(), **more)
    return Events.joined([search.scrambled(rng), signal])


def best_of(search, events, ra, dec, gammas):
    """The slow maximum over n_s, for each index."""

    def best(gamma):
        slope = example.slow_ratios(search, events, ra, dec, gamma).astype(float) - 1

        def worst(n_s):
            return -2 * np.log1p(n_s / len(events) * slope).sum()

        return -minimize_scalar(worst, bounds=(0, 200), options={"xatol": 1e-7}).fun

    return max(0.0, *map(best, gammas))


@pytest.mark.parametrize("number", [0, 8, 40])
def test_ts_is_that_of_a_direct_sum_over_all_events(number):
    search = example.search()
    for seed, (ra, dec) in enumerate(DIRECTIONS):
        events = sky(search, ra, dec, number, seed)
        fit = Evaluator(search, events).at(ra, dec)
        slow = example.slow_ts(search, events, ra, dec, fit.n_s, fit.gamma)
        assert fit.ts == pytest.approx(slow, abs=1e-9)
        assert fit.converged
        assert fit.n_near < len(events) / 3
        assert number == 0 or fit.ts > 10


@pytest.mark.parametrize(("number", "seed"), [(0, 1), (4, 3), (60, 5)])
def test_the_fit_is_at_the_maximum(number, seed):
    search = example.search()
    ra, dec = np.radians((100, 15))
    events = sky(search, ra, dec, number, seed)
    fit = Evaluator(search, events).at(ra, dec)
    around = fit.gamma + np.array([-0.02, -0.002, 0, 0.002, 0.02])
    gammas = np.clip([*np.linspace(1, 4, 7), *around], 1, 4)
    best = best_of(search, events, ra, dec, gammas)
    assert fit.ts >= best - 1e-9
    # The index of the fit is among those that were tried.
    assert fit.ts == pytest.approx(best, abs=1e-6)


def test_an_index_that_is_not_fitted():
    free, fixed = example.search(), example.search(index=2.5)
    ra, dec = DIRECTIONS[0]
    events = sky(free, ra, dec, 15, 1)
    for fit in (
        Evaluator(free, events).at(ra, dec, index=2.5),
        Evaluator(fixed, events).at(ra, dec),
        Evaluator(fixed, events).at(ra, dec, index=2.5),
    ):
        assert fit.gamma == 2.5
        assert fit.ts == pytest.approx(best_of(free, events, ra, dec, [2.5]), abs=1e-8)
    assert Evaluator(free, events).at(ra, dec).ts > fit.ts
    with pytest.raises(UsageError, match="index 3 is outside 2.5 to 2.5"):
        Evaluator(fixed, events).at(ra, dec, index=3)


def test_an_extended_source():
    search = example.search()
    ra, dec = DIRECTIONS[6]
    extension = np.radians(3)
    events = sky(search, ra, dec, 60, 1, extension=extension)
    fit = Evaluator(search, events, extension=extension).at(ra, dec)
    slow = example.slow_ts(search, events, ra, dec, fit.n_s, fit.gamma, extension)
    assert fit.ts == pytest.approx(slow, abs=1e-9)
    assert fit.ts > Evaluator(search, events).at(ra, dec).ts + 10


def test_directions_do_not_depend_on_each_other():
    search = example.search()
    rng = np.random.default_rng(1)
    ra, dec = rng.uniform(0, 2 * np.pi, 40), np.repeat(np.radians([-30, -3, 5, 60]), 10)
    evaluator = Evaluator(search, search.scrambled(rng))
    whole = evaluator.scan(ra, dec)
    order = rng.permutation(40)
    for places in (order, *np.array_split(np.arange(40), 7)):
        part = evaluator.scan(ra[places], dec[places])
        for name in part.__struct_fields__:
            assert getattr(part, name).tobytes() == getattr(whole, name)[places].tobytes()
    assert 0 < (whole.ts > 0).sum() < 40


def test_a_few_events_that_are_all_near():
    """Nothing far: there is no pole at n_s = N."""
    search = example.search()
    ra, dec = DIRECTIONS[0]
    signal = search.injected(np.random.default_rng(2), dec, ra, 5, search.flux())
    fit = Evaluator(search, signal).at(ra, dec)
    assert (fit.n_near, fit.converged) == (5, True)
    assert fit.n_s == pytest.approx(5, rel=0.01)
    slow = example.slow_ts(search, signal, ra, dec, fit.n_s, fit.gamma)
    assert fit.ts == pytest.approx(slow, abs=1e-9)


def test_a_quick_sky_is_a_whole_sky():
    """The events that the scrambler draws, and all others elsewhere, have its TS."""
    search = example.search()
    dec = np.radians(12)
    for seed, extension in [(0, 0.0), (1, 0.0), (2, np.radians(2))]:
        scrambler = Scrambler(search, dec, extension)
        signal = search.injected(np.random.default_rng(seed), dec, 0.0, 9, search.flux())
        fit = scrambler.fit(np.random.Generator(np.random.Philox(seed)), signal)
        members, distance = scrambler.drawn(np.random.Generator(np.random.Philox(seed)))
        ra = np.full(len(search.experiment), np.pi)
        ra[members] = np.mod(distance, 2 * np.pi)
        events = Events.joined([_with(search.experiment, ra), signal])
        slow = example.slow_ts(search, events, 0.0, dec, fit.n_s, fit.gamma, extension)
        assert fit.ts == pytest.approx(slow, abs=1e-9)
        again = Evaluator(search, events, extension=extension).at(0.0, dec)
        assert again.ts == pytest.approx(fit.ts, abs=1e-9)
        assert again.n_near == fit.n_near


def _with(events, ra):
    return Events(ra=ra, dec=events.dec, sigma=events.sigma, log10e=events.log10e)


def test_quick_skies_have_the_distribution_of_whole_ones():
    search = example.search()
    dec, trials = np.radians(-8), 400
    scrambler = Scrambler(search, dec)
    band = Band(Prepared(search, search.experiment), dec)
    share = np.minimum(band.width, np.pi) / np.pi
    rng = np.random.Generator(np.random.Philox(4))
    drawn = [scrambler.drawn(rng) for _ in range(trials)]
    counts = np.bincount(np.concatenate([m for m, _ in drawn]), minlength=len(search.experiment))
    mine = counts[band.place]
    assert counts.sum() == mine.sum()
    # Each event is near as often as its width says, and anywhere within it.
    pull = (mine - trials * share) / np.sqrt(trials * share * (1 - share) + 1e-9)
    assert abs(pull.mean()) < 4 / np.sqrt(len(pull))
    assert pull.std() == pytest.approx(1, abs=0.05)
    width = np.zeros(len(search.experiment))
    width[band.place] = np.minimum(band.width, np.pi)
    inside = np.concatenate([d / width[m] for m, d in drawn])
    assert stats.kstest(inside, "uniform", (-1, 2)).pvalue > 0.01


def test_wilks_where_there_are_many_events():
    """With a fixed index as soft as the background, in the north: half a chi2 with one degree."""
    search = example.config(events=400_000, simulated=100_000, index=3.5)
    ts = example.column(example.rows(search, {"dec": 60}, 2500), "ts")
    fitted = Chi2TSD.fit(ts)
    assert fitted.eta == pytest.approx(0.5, abs=3 * fitted.eta_error)
    assert fitted.ndof == pytest.approx(1, abs=3 * fitted.ndof_error)
    assert fitted.quality.good


@pytest.mark.parametrize("dec", [-30, 5, 45])
@pytest.mark.parametrize("n_sig", [10, 30])
def test_the_fitted_number_of_events_is_that_of_the_signal(dec, n_sig):
    search = example.config(simulated=200_000, index=2.0)
    table = example.rows(search, {"dec": dec, "n_sig": n_sig}, 1500)
    assert np.median(example.column(table, "n_s")) == pytest.approx(n_sig, rel=0.05)
    injected = example.column(table, "n_injected")
    assert injected.mean() == pytest.approx(n_sig, abs=4 * np.sqrt(n_sig / 1500))
    assert injected.var() == pytest.approx(n_sig, rel=0.25)


def test_p_values_of_background_are_uniform_below_eta():
    search = example.config()
    made = Chi2TSD.fit(example.column(example.rows(search, {"dec": 20}, 1500), "ts"))
    other = example.column(example.rows(search, {"dec": 20}, 1500, first=1500), "ts")
    p = made.p(other)
    assert np.all(p[other == 0] == 1)
    for x in (0.02, 0.1, 0.3, made.eta):
        assert np.mean(p <= x) == pytest.approx(x, abs=4 * np.sqrt(2 * x * (1 - x) / 1500))
    assert np.mean((p > made.eta) & (p < 1)) == 0


def test_energy_ratios_are_those_of_histograms():
    """At a node; and between nodes as good as there."""
    search = example.search()
    ratios, simulation = search.ratios, search.simulation
    mine, theirs = search.bins(simulation), search.bins(search.experiment)
    size = theirs.max() + 1
    row = np.zeros(size, int)
    row[theirs] = np.floor((np.sin(search.experiment.dec) + 1) * 20)
    for index in (2.0, 2.6, 3.9):
        signal = np.bincount(mine, simulation.weight * simulation.true_e**-index, size)
        background = np.bincount(theirs, minlength=size)
        expected = signal / np.bincount(row, signal)[row]
        with np.errstate(invalid="ignore", divide="ignore"):
            expected /= background / np.bincount(row, background)[row]
        there = np.flatnonzero((background > 0) & (signal > 0))
        np.testing.assert_allclose(ratios.at(there, index), expected[there], rtol=1e-9)
        # On average over background there is neither more nor less signal.
        means = np.bincount(row[theirs], ratios.at(theirs, index)) / np.bincount(row[theirs])
        np.testing.assert_allclose(means, 1, rtol=1e-4)


def test_ts_with_energy_ratios_from_histograms_at_the_fitted_index():
    """Nothing of the product's interpolation in the index: histograms filled with E^-gamma."""
    search = example.search()
    mine, theirs = search.bins(search.simulation), search.bins(search.experiment)
    size = theirs.max() + 1
    row = np.zeros(size, int)
    row[theirs] = np.floor((np.sin(search.experiment.dec) + 1) * 20)

    class Filled:
        def at(self, bins, gamma):
            simulation = search.simulation
            signal = np.bincount(mine, simulation.weight * simulation.true_e**-gamma, size)
            background = np.bincount(theirs, minlength=size)
            ratio = signal / np.bincount(row, signal)[row]
            return (ratio / background * np.bincount(row, background)[row])[bins]

    class Slow:
        ratios, density, bins = Filled(), search.density, search.bins

    for seed, (ra, dec) in enumerate(DIRECTIONS[:3]):
        events = sky(search, ra, dec, 20, seed)
        fit = Evaluator(search, events).at(ra, dec)
        slow = example.slow_ts(Slow, events, ra, dec, fit.n_s, fit.gamma)
        assert fit.ts > 20
        assert fit.ts == pytest.approx(slow, abs=1e-9)


def test_derivatives_of_energy_ratios():
    ratios = example.search().ratios
    bins = np.unique(example.search().bins(example.search().experiment))
    step = 1e-4
    for index in (1.0 + step, 2.13, 2.5, 4 - step):
        value, first, second = ratios.expand(bins, index)
        low, high = (np.log(ratios.at(bins, index + way)) for way in (-step, step))
        np.testing.assert_allclose(first, (high - low) / (2 * step), atol=1e-5)
        np.testing.assert_allclose(second, (low + high - 2 * np.log(value)) / step**2, atol=1e-3)


def test_bins_with_few_events_are_merged():
    counts = np.array([[1, 9, 9, 2, 0, 3, 0], [0, 0, 0, 0, 0, 0, 0], [0, 0, 4, 0, 0, 0, 0]])
    groups = _groups(counts, 5)
    assert groups.tolist() == [
        # 2 + 0 + 3 + 0, then 9; what is left at the bottom is with the last that is full.
        [0, 0, 2, 3, 3, 3, 3],
        [7] * 7,
        [14] * 7,
    ]
