"""The samples of a search: synthetic, or read from the user's own `.npy` and ROOT files.

Owns the names and checks of columns: ra, dec, sigma, log10E (radians, GeV), and for simulation also
true_ra, true_dec, true_E, weight. Capitals do not matter. Every error names file and column.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dask_runner.errors import BadInputError
from dask_runner.sky.config import SearchConfig
from dask_runner.sky.events import (
    EVENT_COLUMNS,
    TRUTH_COLUMNS,
    Array,
    Events,
    Simulation,
    away,
    wrapped,
)
from dask_runner.sky.samples import synthetic_experiment, synthetic_simulation

_TREE = "events"
_CIRCLE = 2 * np.pi + 1e-6
# No detector measures less or more: who has such numbers has forgotten the logarithm.
_LOG10E = (-3.0, 15.0)
_HINT = (
    "columns: ra, dec, sigma (radians), log10E (log10 of GeV); simulation also true_ra, true_dec, "
    "true_E (GeV), weight (GeV cm^2 sr)"
)
# Other names of columns, as in IceCube's samples of point-source searches.
_ALIASES: Mapping[str, str] = {
    "sigma": "angerr",
    "log10e": "loge",
    "true_ra": "truera",
    "true_dec": "truedec",
    "true_e": "truee",
    "weight": "ow",
}
# Half of the events are within 1.18 sigma of where they come from. Degrees in place of radians are
# a factor of 57: such samples are refused, odd ones are not.
_DISTANCES = (0.1, 12.0)
_SIGMAS = (0.05, 20.0)
# GeV below which nobody simulates the highest energies.
_LEAST_ENERGY = 15.0


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
    if columns["true_e"].max() < _LEAST_ENERGY:
        raise BadInputError(
            f"{path}: column true_E has no energy above {_LEAST_ENERGY:g} GeV",
            hint="the energy itself, not its logarithm",
        )
    _refuse(path, "weight", columns["weight"] < 0, "0 or more")
    if not columns["weight"].any():
        raise BadInputError(f"{path}: column weight is 0 in all events")
    return Simulation(**{**columns, "ra": wrapped(columns["ra"])})


def check_together(config: SearchConfig, experiment: Events, simulation: Simulation) -> None:
    """Raises BadInputError for samples whose angular errors cannot be radians."""
    if config.experiment.file is None and config.simulation.file is None:
        return
    far = away(simulation.ra, simulation.dec, simulation.true_ra, simulation.true_dec)
    distance = float(np.median(np.sqrt(2 * far) / simulation.sigma))
    if config.simulation.file and not _DISTANCES[0] < distance < _DISTANCES[1]:
        raise BadInputError(
            f"{config.simulation.file.local}: column sigma: measured directions are {distance:.3g} "
            "sigma from the true ones in the median, where 1.18 are expected",
            hint="sigma is the error of one coordinate in radians",
        )
    ratio = float(np.median(experiment.sigma) / np.median(simulation.sigma))
    if config.experiment.file and not _SIGMAS[0] < ratio < _SIGMAS[1]:
        raise BadInputError(
            f"{config.experiment.file.local}: column sigma: the median is {ratio:.3g} times that "
            "of the simulation",
            hint="sigma is the error of one coordinate in radians",
        )


def _columns(path: Path, tree: str, names: Sequence[str]) -> dict[str, Array]:
    table = _root(path, tree or _TREE) if path.suffix == ".root" else _npy(path)
    columns = {}
    for name in names:
        values = np.asarray(table[_found(path, table, name)])
        if values.dtype.kind not in "fiu" or values.ndim != 1:
            raise BadInputError(f"{path}: column {name} is not one number for each event")
        columns[name] = np.ascontiguousarray(values, dtype=np.float64)
        _refuse(path, name, ~np.isfinite(columns[name]), "finite")
    if not len(columns[names[0]]):
        raise BadInputError(f"{path}: has no events")
    return columns


def _found(path: Path, table: Mapping[str, Any], name: str) -> str:
    """The name that a column has in a file."""
    for wanted in (name, _ALIASES.get(name, name)):
        there = [one for one in table if one.lower() == wanted]
        if name in there or len(there) == 1:
            return name if name in there else there[0]
        if there:
            raise BadInputError(f"{path}: which is the column {name}: {' or '.join(there)}?")
    raise BadInputError(
        f"{path}: no column {name}; there are {', '.join(table) or 'none'}", hint=_HINT
    )


def _npy(path: Path) -> Mapping[str, Any]:
    try:
        table = np.load(path, allow_pickle=False)
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise BadInputError(f"{path}: not a .npy file: {error}", hint=_HINT) from error
    if isinstance(table, np.lib.npyio.NpzFile):
        table.close()
        raise BadInputError(f"{path}: a .npz archive; a structured .npy or a ROOT file is expected")
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
