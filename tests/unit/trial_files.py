"""Trials made on the spot, as files of a run would be, for the tests of what is concluded."""

import numpy as np

from dask_runner.trials.loading import TrialData, TrialFile
from dask_runner.trials.tables import FAILED, table_type


def trials_at(folder, points, make, fields, failed=()):
    """`make(point, rng)` gives the columns of a point; `failed` are indices at each point."""
    files = []
    for k, point in enumerate(points):
        columns = make(point, np.random.default_rng([5, k]))
        count = len(next(iter(columns.values())))
        table = np.zeros(count, table_type(fields))
        for name, values in columns.items():
            table[name] = values
        for index in failed:
            table[index] = np.zeros((), table.dtype)
            for name in fields:
                if table.dtype[name].kind == "f":
                    table[name][index] = np.nan
            table[FAILED][index] = True
        path = folder / f"{k}-{len(files)}.npy"
        np.save(path, table)
        files.append(TrialFile(path=path, point=point, first=0, count=count))
    return TrialData(files)


def gaussian(folder, strengths=(0, 0.5, 1, 1.5, 2, 3, 4, 5, 6, 7), n=20_000, others=None, **more):
    """TS = max(0, x)^2 for x ~ N(n_sig, 1)."""
    points = [{**rest, "n_sig": strength} for rest in others or [{}] for strength in strengths]

    def make(point, rng):
        scale = point.get("width", 1)
        return {"ts": np.maximum(rng.normal(point["n_sig"] / scale, 1, n), 0) ** 2}

    return trials_at(folder, points, make, {"ts": "<f8"}, **more)


def limits_by_mass(folder, masses=(2000, 3000, 4000, 5000), n=2000, **more):
    """Limits whose logarithm is normal, with median exp(-mass / 1000) and a width of 0.3."""

    def make(point, rng):
        limit = np.exp(-point["mass"] / 1000 + 0.3 * rng.normal(size=n))
        return {"limit": limit, "converged": np.arange(n) != 7}

    fields = {"limit": "<f8", "converged": "?"}
    return trials_at(folder, [{"mass": mass} for mass in masses], make, fields, **more)
