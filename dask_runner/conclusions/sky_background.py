"""From background trials of a point source to p-values by declination.

Owns which trials may be used for it: without signal, of the same search, along the declination
alone.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from dask_runner import trial_results
from dask_runner.conclusions.selection import Array, numbers
from dask_runner.errors import UsageError
from dask_runner.manifest import read_state
from dask_runner.sky.config import SearchConfig
from dask_runner.sky.significance import Significance
from dask_runner.stats.distribution import Chi2TSD
from dask_runner.trials import models
from dask_runner.trials.loading import TrialData
from dask_runner.trials.model import describe_point
from dask_runner.trials.models.point_source import PointSource

MODEL, DEC, SIGNAL = "point-source", "dec", "n_sig"
_FITS = ("chi2", "scale")


class Background(Struct, frozen=True, kw_only=True):
    """p-values by declination, None without trials, and what is to be said with them."""

    significance: Significance | None = None
    warnings: tuple[str, ...] = ()


def background(
    paths: Sequence[Path], search: SearchConfig, *, fit: str = "chi2", partial: bool = False
) -> Background:
    """Chi2 distributions fitted to the trials without signal of runs of the model `point-source`.

    Raises UsageError for trials of another search, or with nothing without signal.
    """
    if fit not in _FITS:
        raise UsageError(f"no fit {fit!r}", hint=f"one of {', '.join(_FITS)}")
    if not paths:
        return Background()
    trials = trial_results.load(paths, partial=partial)
    spec = trial_results.workload_of(read_state(paths[0])).model
    if spec.name != MODEL:
        raise UsageError(
            f"{paths[0].name} has trials of {spec.name}",
            hint=f"background trials of the search: dask-runner trials --model {MODEL} ...",
        )
    model = models.load(spec)
    assert isinstance(model, PointSource)
    own, wanted = identity_of(model.search), identity_of(search)
    if own != wanted:
        raise UsageError(
            f"the trials of {paths[0].name} are of another search than the scan",
            hint="detector, samples and likelihood must be the same: use one --config for both",
        )
    fits, warnings = {}, []
    for dec, ts in by_declination(trials, search.signal.extension).items():
        found = Chi2TSD.fit(ts, free_scale=fit == "scale")
        fits[float(np.radians(dec))] = found
        if found.warning:
            warnings.append(f"background at dec {dec:g} deg: {found.warning}")
    runs = tuple(path.name for path in paths)
    return Background(
        significance=Significance.of(fits, runs=runs, search=wanted), warnings=tuple(warnings)
    )


def identity_of(search: SearchConfig) -> str:
    """Equal for the same search, wherever its files are and whatever it injects."""
    plain = PointSource.identity({"search": msgspec.to_builtins(search)})
    kept = {key: value for key, value in plain.items() if key != "signal"}
    content = [kept, search.signal.extension]
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()


def by_declination(trials: TrialData, extension: float) -> dict[float, Array]:
    """The test statistics without signal at each declination (degrees). Points that differ in the
    spectrum of a source which is not there are the same, with other random numbers.
    """
    found: dict[float, list[Array]] = {}
    for point, there in trials:
        if point.get(SIGNAL, 0) != 0:
            continue
        if point.get("extension", extension) != extension:
            raise UsageError(
                f"background trials at {describe_point(point)}: the scan looks for sources with an "
                f"extension of {extension:g} deg",
                hint="signal.extension of the --config says it",
            )
        found.setdefault(float(point[DEC]), []).append(numbers(there, "ts"))
    if not found:
        raise UsageError(
            f"there are no trials with {SIGNAL}=0", hint="background trials have no signal"
        )
    return {dec: np.concatenate(parts) for dec, parts in found.items()}
