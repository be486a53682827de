"""The TOML file of a point-source search: its keys, their defaults, and errors that name them.

Owns the syntax, in the units that people write, and what of it a host gets: `SearchConfig`, which
has the detector in it and the hash of each of the user's own files, so that the configuration alone
says what a search is. Refuses to read events: see `reading`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from dask_runner.errors import BadInputError
from dask_runner.model_files import ModelFile, located, model_file
from dask_runner.sky.detector import SHIPPED, Detector, read_detector
from dask_runner.sky.flux import MOST_INDEX, PowerLaw
from dask_runner.sky.toml import read_toml

Positive = Annotated[float, Meta(gt=0)]
Many = Annotated[int, Meta(ge=1, le=100_000_000)]
Seed = Annotated[int, Meta(ge=0)]
Index = Annotated[float, Meta(ge=0, le=MOST_INDEX)]
_ROOT = ".root:"


class ExperimentKeys(Struct, frozen=True, kw_only=True):
    """[experiment]: `file` (.npy, or .root:TREE), or so many synthetic `events` of a `seed`."""

    file: str = ""
    events: Many = 100_000
    seed: Seed = 0


class SimulationKeys(Struct, frozen=True, kw_only=True):
    """[simulation]: as [experiment]."""

    file: str = ""
    events: Many = 300_000
    seed: Seed = 0


class DetectorKeys(Struct, frozen=True, kw_only=True):
    """[detector]: `file` is a TOML file as docs/point-source.md says; the shipped one without."""

    file: str = ""


class SignalKeys(Struct, frozen=True, kw_only=True):
    """[signal]: what is injected where a point of the grid says nothing else; `cutoff` (0: none)
    and `pivot` in GeV, `extension` in degrees.
    """

    index: Index = 2.0
    cutoff: Annotated[float, Meta(ge=0)] = 0.0
    pivot: Positive = 1e5
    extension: Annotated[float, Meta(ge=0, le=30)] = 0.0


class FitKeys(Struct, frozen=True, kw_only=True):
    """[fit]: `index` is a range [low, high] or one fixed number. The energy ratios have
    `sin_dec_bins` bands and `energy_bins` bins between the two `log10e`, merged until they have
    `least_events` of background. `smoothing` in degrees is added to the errors of events where
    they make the density of background: more than 0 if there are few. `band` is half the width in
    sin(dec) of what of the simulation makes the signal of a declination.
    """

    # Without limits in the annotation: msgspec 0.22 mixes them up with the tuple's items.
    index: float | tuple[float, float] = (1.0, 4.0)
    sin_dec_bins: Annotated[int, Meta(ge=1, le=1000)] = 40
    energy_bins: Annotated[int, Meta(ge=1, le=1000)] = 30
    log10e: tuple[float, float] = (1.5, 7.5)
    least_events: Annotated[int, Meta(ge=1)] = 5
    smoothing: Annotated[float, Meta(ge=0, le=30)] = 0.0
    band: Annotated[float, Meta(gt=0, le=1)] = 0.02

    @property
    def indices(self) -> tuple[float, float]:
        """The lowest and the highest index; the same if it is fixed."""
        return self.index if isinstance(self.index, tuple) else (self.index, self.index)


class SearchFile(Struct, frozen=True, kw_only=True):
    """The whole file. `livetime` in days, by default that of the detector; needed with a `file` of
    [experiment], unless there is one of [detector] too.
    """

    livetime: Positive | None = None
    detector: DetectorKeys = DetectorKeys()
    experiment: ExperimentKeys = ExperimentKeys()
    simulation: SimulationKeys = SimulationKeys()
    signal: SignalKeys = SignalKeys()
    fit: FitKeys = FitKeys()


class Sample(Struct, frozen=True, kw_only=True):
    """Where events come from: a `file` of the user's (with its `tree`, of a ROOT file), or so many
    synthetic ones.
    """

    file: ModelFile | None = None
    tree: str = ""
    events: int = 0
    seed: int = 0

    def located(self, places: Mapping[str, Path]) -> Self:
        return replace(self, file=located(self.file, places)) if self.file else self


class SearchConfig(Struct, frozen=True, kw_only=True):
    """All that a host needs. `livetime` in days."""

    livetime: float
    detector: Detector
    experiment: Sample
    simulation: Sample
    signal: SignalKeys = SignalKeys()
    fit: FitKeys = FitKeys()

    def files(self) -> tuple[ModelFile, ...]:
        """The user's own files: none for synthetic samples."""
        samples = (self.experiment, self.simulation)
        return tuple(sample.file for sample in samples if sample.file is not None)

    def located(self, places: Mapping[str, Path]) -> Self:
        """The same with its files where they are here."""
        return replace(
            self,
            experiment=self.experiment.located(places),
            simulation=self.simulation.located(places),
        )

    def flux(self) -> PowerLaw:
        """The spectrum that is injected where nothing else is said."""
        signal = self.signal
        return PowerLaw(index=signal.index, cutoff=signal.cutoff, pivot=signal.pivot)


def read_search(path: Path) -> SearchConfig:
    """The search that the file describes. Raises BadInputError that names file and key."""
    table = read_toml(path, SearchFile)
    try:
        keys = msgspec.convert(table, SearchFile)
    except msgspec.ValidationError as error:
        raise BadInputError(f"{path}: {error}") from error
    _check(path, keys)
    folder = path.absolute().parent
    detector = read_detector(folder / keys.detector.file if keys.detector.file else SHIPPED)
    return SearchConfig(
        livetime=keys.livetime or detector.livetime,
        detector=detector,
        experiment=_sample(path, "experiment", keys.experiment),
        simulation=_sample(path, "simulation", keys.simulation),
        signal=keys.signal,
        fit=keys.fit,
    )


def _sample(path: Path, section: str, keys: ExperimentKeys | SimulationKeys) -> Sample:
    if not keys.file:
        return Sample(events=keys.events, seed=keys.seed)
    name, colon, tree = keys.file.rpartition(":")
    if not (colon and keys.file[: len(name) + 1].endswith(_ROOT)):
        name, tree = keys.file, ""
    try:
        file = model_file(path.absolute().parent / Path(name).expanduser())
    except BadInputError as error:
        raise BadInputError(f"{path}: {section}.file: {error.message}", hint=error.hint) from error
    return Sample(file=file, tree=tree)


def _check(path: Path, keys: SearchFile) -> None:
    if keys.experiment.file and keys.livetime is None and not keys.detector.file:
        raise BadInputError(
            f"{path}: an experiment of your own has a livetime of its own",
            hint="livetime = DAYS at the top of the file",
        )
    fit = keys.fit
    low, high = fit.indices
    if not 0 <= low <= MOST_INDEX or not 0 <= high <= MOST_INDEX:
        raise BadInputError(f"{path}: fit.index is not within 0 to {MOST_INDEX:g}")
    if isinstance(fit.index, tuple) and low >= high:
        raise BadInputError(
            f"{path}: fit.index: {low:g} is not below {high:g}",
            hint="index = [1, 4], or one number that is not fitted: index = 2",
        )
    if fit.log10e[0] >= fit.log10e[1]:
        raise BadInputError(f"{path}: fit.log10e: {fit.log10e[0]:g} is not below {fit.log10e[1]:g}")
