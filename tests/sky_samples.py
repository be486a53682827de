"""A user's samples for a point-source search, small, as files."""

import numpy as np

from dask_runner.sky.detector import read_detector
from dask_runner.sky.events import EVENT_COLUMNS, TRUTH_COLUMNS
from dask_runner.sky.samples import synthetic_experiment, synthetic_simulation

SEARCH = 'livetime = 300\n[experiment]\nfile = "data.npy"\n[simulation]\nfile = "mc.npy"\n'


def write_samples(folder, events=5000, simulated=20_000):
    """data.npy, mc.npy and search.toml, which names them; the path of the last."""
    detector = read_detector()
    _save(folder / "data.npy", synthetic_experiment(detector, events, 3), EVENT_COLUMNS)
    columns = (*EVENT_COLUMNS, *TRUTH_COLUMNS)
    _save(folder / "mc.npy", synthetic_simulation(detector, simulated, 3), columns)
    path = folder / "search.toml"
    path.write_text(SEARCH)
    return path


def _save(path, events, names):
    table = np.zeros(len(events), [(name, "f8") for name in names])
    for name in names:
        table[name] = getattr(events, name)
    np.save(path, table)
