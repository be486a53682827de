"""The samples of a search: synthetic, or read from the user's own `.npy` and ROOT files.

Owns the names and checks of columns: ra, dec, sigma, log10e (radians, GeV), and for simulation also
true_ra, true_dec, true_e, weight. Every error names file and column.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dask_runner.errors import BadInputError
from dask_runner.sky.config import SearchConfig
from dask_runner.sky.events import EVENT_COLUMNS, TRUTH_COLUMNS, Array, Events, Simulation, wrapped
from dask_runner.sky.samples import synthetic_experiment, synthetic_simulation

_TREE = "events"
_CIRCLE = 2 * np.pi + 1e-6
# No detector measures less or more: who has such numbers has forgotten the logarithm.
_LOG10E = (-3.0, 15.0)
_HINT = (
    "columns: ra, dec, sigma (radians), log10e (log10 of GeV); simulation also true_ra, true_dec, "
    "true_e (GeV), weight (GeV cm^2 sr)"
)


def read_experiment(config: SearchConfig) -> Events:
    """The experiment of a search. Raises BadInputError."""
    sample = config.experiment
    if sample.file is None:
        return synthetic_experiment(config.detector, sample.events, sample.seed)
    columns = _columns(sample.file.local, sample.tree, EVENT_COLUMNS)
    _check_events(columns, sample.file.local)
    return Events(**{**columns, "ra": wrapped(columns["ra"])})


def read_simulation(config: SearchConfig) -> Simulation:
    """The simulated events of a search. Raises BadInputError."""
    sample = config.simulation
    if sample.file is None:
        return synthetic_simulation(config.detector, sample.events, sample.seed)
    path = sample.file.local
    columns = _columns(path, sample.tree, (*EVENT_COLUMNS, *TRUTH_COLUMNS))
    _check_events(columns, path)
    _refuse(path, "true_dec", np.abs(columns["true_dec"]) > np.pi / 2, "within -pi/2 to pi/2")
    _refuse(path, "true_ra", np.abs(columns["true_ra"]) > _CIRCLE, "within 0 to 2 pi (radians)")
    _refuse(path, "true_e", columns["true_e"] <= 0, "above 0")
    _refuse(path, "weight", columns["weight"] < 0, "0 or more")
    return Simulation(**{**columns, "ra": wrapped(columns["ra"])})


def _columns(path: Path, tree: str, names: Sequence[str]) -> dict[str, Array]:
    table = _root(path, tree or _TREE) if path.suffix == ".root" else _npy(path)
    columns = {}
    for name in names:
        if name not in table:
            raise BadInputError(
                f"{path}: no column {name}; there are {', '.join(table) or 'none'}", hint=_HINT
            )
        values = np.asarray(table[name])
        if values.dtype.kind not in "fiu" or values.ndim != 1:
            raise BadInputError(f"{path}: column {name} is not one number for each event")
        columns[name] = np.ascontiguousarray(values, dtype=np.float64)
        _refuse(path, name, ~np.isfinite(columns[name]), "finite")
    if not len(columns[names[0]]):
        raise BadInputError(f"{path}: has no events")
    return columns


def _npy(path: Path) -> Mapping[str, Any]:
    try:
        table = np.load(path, allow_pickle=False)
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise BadInputError(f"{path}: not a .npy file: {error}", hint=_HINT) from error
    names = getattr(getattr(table, "dtype", None), "names", None) or ()
    return {name: table[name] for name in names}


def _root(path: Path, tree: str) -> Mapping[str, Any]:
    from dask_runner.rootfiles import read  # noqa: PLC0415  (only for those who have such a file)

    return read(path, tree).columns


def _check_events(columns: Mapping[str, Array], path: Path) -> None:
    # From -pi to pi is fine as well. Degrees are not.
    _refuse(path, "ra", np.abs(columns["ra"]) > _CIRCLE, "within 0 to 2 pi (radians)")
    _refuse(path, "dec", np.abs(columns["dec"]) > np.pi / 2, "within -pi/2 to pi/2 (radians)")
    _refuse(path, "sigma", columns["sigma"] <= 0, "above 0")
    _refuse(path, "sigma", columns["sigma"] > np.pi, "at most pi (radians)")
    log10e = columns["log10e"]
    wrong = (log10e < _LOG10E[0]) | (log10e > _LOG10E[1])
    _refuse(path, "log10e", wrong, "the logarithm of an energy in GeV")


def _refuse(path: Path, column: str, wrong: Any, expected: str) -> None:
    places = np.flatnonzero(wrong)
    if len(places):
        raise BadInputError(
            f"{path}: column {column} is not {expected} in {len(places)} events, the first is "
            f"event {places[0]}",
            hint=_HINT,
        )
