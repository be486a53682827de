"""From background trials of a point source to p-values by declination.

Owns which trials may be used for it: without signal, of the same search, along the declination
alone.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
# Of differences that are named.
_SHOWN, _LONGEST = 5, 40


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
    check_fit(fit, paths)
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
    wanted = identity_of(search)
    if identity_of(model.search) != wanted:
        differences = "; ".join(_differences(_plain(model.search), _plain(search))[:_SHOWN])
        raise UsageError(
            f"the trials of {paths[0].name} are of another search than the scan: {differences}",
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


def check_fit(fit: str, paths: Sequence[Path]) -> None:
    """Raises UsageError for an unknown fit, or one of nothing."""
    if fit not in _FITS:
        raise UsageError(f"no fit {fit!r}", hint=f"one of {', '.join(_FITS)}")
    if fit != _FITS[0] and not paths:
        raise UsageError(
            f"--fit {fit} is how background trials are described, and there are none",
            hint="--background TIMESTAMP",
        )


def identity_of(search: SearchConfig) -> str:
    """Equal for the same search, wherever its files are and whatever it injects."""
    return hashlib.sha256(msgspec.json.encode(_plain(search), order="sorted")).hexdigest()


def _plain(search: SearchConfig) -> dict[str, Any]:
    """What decides about the test statistic without signal."""
    found = PointSource.identity({"search": msgspec.to_builtins(search)})
    fit = {key: value for key, value in found["fit"].items() if key != "band"}
    return {**found, "fit": fit, "signal": {"extension": search.signal.extension}}


def _differences(there: Any, here: Any, name: str = "") -> list[str]:
    """The keys that differ, with both values where they are short."""
    if isinstance(there, dict) and isinstance(here, dict):
        keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
        pairs = [(f"{name}.{key}".strip("."), there.get(key), here.get(key)) for key in keys]
        return [line for key, one, other in pairs for line in _differences(one, other, key)]
    texts = f"{there}", f"{here}"
    if max(map(len, texts)) > _LONGEST:
        return [f"{name} differs"]
    return [f"{name} is {texts[0]} there, {texts[1]} here"]


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
