"""A point-source search, prepared: background density, energy ratios, what a source would give.

Owns what is made once of a configuration and serves all trials and all directions. Refuses to
maximise: see `likelihood`.
"""

from functools import lru_cache
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from dask_runner.errors import UsageError
from dask_runner.sky import samples
from dask_runner.sky.background import BackgroundDensity
from dask_runner.sky.config import SearchConfig
from dask_runner.sky.energies import Binning, EnergyRatios, Indices
from dask_runner.sky.events import Array, Events, Simulation, away, wrapped
from dask_runner.sky.flux import PowerLaw, integrated_area
from dask_runner.sky.reading import check_together, read_experiment, read_simulation

_DAY: Final = 86_400.0
# Of an even density of 1/2.
_LEAST_DENSITY: Final = 1e-4
# Prepared searches that a process keeps: a run has one.
_KEPT: Final = 2


class Source(Struct, frozen=True, kw_only=True):
    """What a source at a declination would give: simulated events near it as distance (1 - cos)
    and bearing from their true direction to the measured one, and how probable each of them is.
    """

    events: Events
    far: Array
    bearing: Array
    total: Array

    def drawn(self, rng: np.random.Generator, number: int) -> npt.NDArray[np.int64]:
        """Indices of so many of them, each by its weight."""
        chosen = np.searchsorted(self.total, rng.random(number) * self.total[-1], side="right")
        places: npt.NDArray[np.int64] = np.minimum(chosen, len(self.total) - 1)
        return places


class Search:
    """Made by `load`. `experiment` holds the events as they are: who is blind uses `scrambled`."""

    def __init__(self, config: SearchConfig, experiment: Events, simulation: Simulation) -> None:
        self.config = config
        self.experiment = experiment
        self.simulation = simulation
        fit = config.fit
        low, high = fit.indices
        self.ratios = EnergyRatios(
            Binning(fit.sin_dec_bins, fit.energy_bins, *fit.log10e),
            experiment,
            simulation,
            low=low,
            high=high,
            least=fit.least_events,
        )
        smoothing = np.radians(fit.smoothing)
        self._background = BackgroundDensity(experiment.dec, experiment.sigma, smoothing)
        self._far = away(simulation.ra, simulation.dec, simulation.true_ra, simulation.true_dec)
        self._bearing = samples.bearing_of(simulation)
        self._sources: dict[tuple[float, PowerLaw], Source] = {}

    @staticmethod
    def load(config: SearchConfig) -> "Search":
        """Prepare, or take what this process has prepared before. Raises BadInputError for files
        that are no samples.
        """
        return _loaded(msgspec.json.encode(config))

    def density(self, dec: float | Array) -> Array:
        """Background events per sin(dec), as a share of all, at declinations in radians."""
        return self._background.at(dec)

    def check_background(self, dec: float) -> None:
        """Raises UsageError for a declination near which the experiment has no events."""
        if self.density(dec) < _LEAST_DENSITY:
            raise UsageError(
                f"the experiment has no events near declination {np.degrees(dec):.2f} degrees",
                hint="a larger fit.smoothing, if there are few events",
            )

    def bins(self, events: Events) -> Indices:
        """The bins of the energy table."""
        return self.ratios.bins(events)

    def scrambled(self, rng: np.random.Generator) -> Events:
        """The experiment at random right ascensions."""
        return replace(self.experiment, ra=2 * np.pi * rng.random(len(self.experiment)))

    def observed(self) -> Events:
        """The experiment as it is. Only for those who unblind."""
        return self.experiment

    def flux(self) -> PowerLaw:
        """The spectrum of the configuration's [signal]."""
        return self.config.flux()

    def acceptance(self, dec: float, flux: PowerLaw) -> float:
        """Expected events in the livetime from a source at `dec` (radians), for dN/dE of
        1 GeV^-1 cm^-2 s^-1 at the spectrum's pivot without cutoff. n_sig over this is the norm.

        From the effective area where that is known, that is for a synthetic simulation; else from
        the simulated events of the band around `dec`.
        """
        source = self.source(dec, flux)
        if self.config.simulation.file is None:
            rate = integrated_area(self.config.detector, dec, flux)
        else:
            low, high = self._band(dec)
            rate = float(source.total[-1]) / (2 * np.pi * (high - low))
        return rate * self.config.livetime * _DAY

    def inject(
        self,
        rng: np.random.Generator,
        dec: float,
        ra: float,
        n_expected: float,
        flux: PowerLaw,
        *,
        extension: float = 0.0,
    ) -> Events:
        """Poisson many events of a source with the extension (radians), all angles in radians."""
        number = int(rng.poisson(n_expected))
        return self.injected(rng, dec, ra, number, flux, extension=extension)

    def injected(
        self,
        rng: np.random.Generator,
        dec: float,
        ra: float,
        number: int,
        flux: PowerLaw,
        *,
        extension: float = 0.0,
    ) -> Events:
        """Just so many events of a source."""
        source = self.source(dec, flux)
        place = source.drawn(rng, number)
        from_ra, from_dec = np.full(number, ra), np.full(number, dec)
        if extension:
            spread = samples.scattered(np.full(number, extension), rng.random(number))
            around = 2 * np.pi * rng.random(number)
            from_ra, from_dec = samples.displaced(from_ra, from_dec, spread, around)
        new_ra, new_dec = samples.displaced(
            from_ra, from_dec, source.far[place], source.bearing[place]
        )
        drawn = source.events.take(place)
        return replace(drawn, ra=wrapped(new_ra), dec=new_dec)

    def source(self, dec: float, flux: PowerLaw) -> Source:
        """The simulated events that stand for a source. Raises UsageError where there are none."""
        key = (dec, flux)
        if key not in self._sources:
            self._sources[key] = self._make_source(dec, flux)
        return self._sources[key]

    def _make_source(self, dec: float, flux: PowerLaw) -> Source:
        low, high = self._band(dec)
        sin_dec = np.sin(self.simulation.true_dec)
        place = np.flatnonzero((sin_dec >= low) & (sin_dec <= high))
        near = self.simulation.take(place)
        total = np.cumsum(near.weight * flux.shape(near.true_e))
        if not len(place) or not total[-1] > 0:
            raise UsageError(
                f"no simulated event could come from declination {np.degrees(dec):.2f} degrees",
                hint="a wider fit.band, or a simulation of more events",
            )
        plain = Events(ra=near.ra, dec=near.dec, sigma=near.sigma, log10e=near.log10e)
        return Source(events=plain, far=self._far[place], bearing=self._bearing[place], total=total)

    def _band(self, dec: float) -> tuple[float, float]:
        middle, half = float(np.sin(dec)), self.config.fit.band
        return max(-1.0, middle - half), min(1.0, middle + half)


@lru_cache(maxsize=_KEPT)
def _loaded(key: bytes) -> Search:
    config = msgspec.json.decode(key, type=SearchConfig)
    experiment, simulation = read_experiment(config), read_simulation(config)
    check_together(config, experiment, simulation)
    return Search(config, experiment, simulation)
