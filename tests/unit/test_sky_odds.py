"""The factors of the odds: by hand, normalised, and the distributions that injected events have."""

import numpy as np
import pytest

from dask_runner.errors import UsageError
from dask_runner.sky.odds import FLOOR, EnergyWeight, Window, log10_odds

MIDDLES = (np.arange(200_000) + 0.5) / 200_000


@pytest.mark.parametrize("shape", ["uniform", "triangle", "gaussian"])
def test_a_window_says_nothing_on_average(shape):
    window = Window(begin=-100, end=300, shape=shape)
    delays = window.begin + MIDDLES * window.width
    assert window.factor(delays).mean() == pytest.approx(1, rel=1e-6)
    assert (window.factor(np.array([-100.1, 300.1, 1e9])) == 0).all()
    drawn = window.delays(MIDDLES)
    assert drawn.min() >= -100
    assert drawn.max() <= 300
    # The mean of f W over the signal's own delays is the integral of its square.
    expected = {"uniform": 1, "triangle": 4 / 3, "gaussian": 1.7}[shape]
    assert window.factor(drawn).mean() == pytest.approx(expected, rel=6e-3)
    shares = np.histogram(drawn, np.linspace(-100, 300, 9))[0] / len(drawn)
    inside = window.factor(delays).reshape(8, -1).mean(axis=1) / 8
    assert shares == pytest.approx(inside, abs=1e-3)


def test_windows_by_hand():
    assert Window(shape="uniform").factor(np.array([-500, 0, 500])).tolist() == [1, 1, 1]
    assert Window(shape="triangle").factor(np.array([-500, -250, 0, 500])).tolist() == [0, 1, 2, 0]
    with pytest.raises(UsageError, match="from 5 s to 5 s is no window"):
        Window(begin=5, end=5).check("x")


def test_energies_by_hand():
    """E^-2 against E^-3 between 1 and 100 GeV: norms 1 / .99 and 2 / .9999."""
    weight = EnergyWeight(signal_index=2, background_index=3, lowest=1, highest=100)
    norm = (1 - 1e-4) / 2 / (1 - 1e-2)
    found = weight.factor(np.array([1.0, 10.0, 100.0, 1e5, 0.1]))
    assert found == pytest.approx(norm * np.array([1, 10, 100, 100, 1]))
    same = EnergyWeight(signal_index=3, background_index=3)
    assert (same.factor(np.array([1e2, 1e7])) == 1).all()
    with pytest.raises(UsageError, match="no range of energies"):
        EnergyWeight(lowest=5, highest=5).check("x")


@pytest.mark.parametrize("index", [0.0, 1.0, 2.0, 3.7])
def test_energies_are_normalised(index):
    weight = EnergyWeight(signal_index=2, background_index=index, lowest=10, highest=1e4)
    chance = EnergyWeight(signal_index=index, lowest=10, highest=1e4)
    energies = chance.energies(MIDDLES)
    assert energies.min() >= 10
    assert energies.max() <= 1e4
    # The ratio of two densities has the mean 1 under the lower one.
    assert weight.factor(energies).mean() == pytest.approx(1, rel=5e-3)


def test_odds_by_hand():
    found = log10_odds(np.array([0.0, 1.0, 1000.0, 1e-200]), prior=0.01)
    assert found == pytest.approx([FLOOR, -2, 1, FLOOR])
