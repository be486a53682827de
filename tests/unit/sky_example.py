"""Small point-source searches, and the slow way to their test statistic, for tests."""

from functools import cache

import numpy as np

from dask_runner.seeds import TrialStreams
from dask_runner.sky.config import FitKeys, Sample, SearchConfig, SignalKeys
from dask_runner.sky.detector import read_detector
from dask_runner.sky.search import Search
from dask_runner.trials.models.point_source import PointSource

EVENTS = 20_000
SIMULATED = 60_000


def config(events=EVENTS, simulated=SIMULATED, signal=None, **fit):
    """A search with the shipped detector; keys of [fit] and [signal]."""
    return SearchConfig(
        livetime=365.25,
        detector=read_detector(),
        experiment=Sample(events=events, seed=1),
        simulation=Sample(events=simulated, seed=2),
        signal=SignalKeys(**(signal or {})),
        fit=FitKeys(**fit),
    )


@cache
def search(**keys):
    return Search.load(config(**keys))


def rows(configuration, point, trials, first=0, seed=3):
    """Trials of the model, as a batch throws them."""
    trial = PointSource(search=configuration).sampler(point)
    streams = TrialStreams(seed=seed, model="point-source", point=point)
    return [trial(streams.at(index)) for index in range(first, first + trials)]


def column(table, name):
    return np.array([row[name] for row in table])


def slow_ts(search, events, ra, dec, n_s, gamma, extension=0.0):
    """TS of all events, one by one, from the definition and in long double."""
    ratio = slow_ratios(search, events, ra, dec, gamma, extension)
    return float(2 * np.log1p(n_s / np.longdouble(len(events)) * (ratio - 1)).sum())


def slow_ratios(search, events, ra, dec, gamma, extension=0.0):
    """S/B of all events, in long double."""
    wide = np.longdouble
    sines = np.sin((events.dec.astype(wide) - dec) / 2), np.sin((events.ra.astype(wide) - ra) / 2)
    cosines = np.cos(events.dec.astype(wide)) * np.cos(wide(dec))
    h = 2 * (sines[0] ** 2 + cosines * sines[1] ** 2)
    kappa = 1 / (events.sigma.astype(wide) ** 2 + wide(extension) ** 2)
    signal = kappa / (2 * np.pi * -np.expm1(-2 * kappa)) * np.exp(-kappa * h)
    background = search.density(events.dec) / (2 * np.pi)
    return signal / background * search.ratios.at(search.bins(events), gamma)
