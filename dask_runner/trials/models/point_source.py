"""The trial model `point-source`: skies with and without a neutrino source at a declination.

Owns what a trial is and which numbers it leaves. Samples and likelihood are `sky`'s; the TOML file
is `sky.config`'s. The experiment enters only at random right ascension.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from math import isfinite, radians
from pathlib import Path
from typing import Any, Final, Self

from msgspec import Struct
from msgspec.structs import replace

from dask_runner.errors import UsageError
from dask_runner.model_files import ModelFile
from dask_runner.seeds import Value
from dask_runner.sky.config import SearchConfig, read_search
from dask_runner.sky.flux import PowerLaw
from dask_runner.sky.scrambling import Scrambler
from dask_runner.sky.search import Search
from dask_runner.trials.model import Number, Parameters, ScalarTrial, Streams

SIGNAL = "signal"
_MOST_EXTENSION: Final = 30.0
_MOST_SIGNAL: Final = 1e6


class PointSource(Struct, frozen=True, kw_only=True):
    """Parameters of a point: `dec` in degrees; `n_sig`, the expected number of signal events; the
    source's spectral `index`, `cutoff` in GeV (0: none) and `extension` in degrees, by default
    those of the configuration. The likelihood is told the extension, and nothing of the spectrum.
    """

    search: SearchConfig

    @classmethod
    def from_options(
        cls,
        *,
        config: Path | str | None = None,
        points: Sequence[Mapping[str, Value]] = (),  # noqa: ARG003  # all points share one search
    ) -> Self:
        """As the TOML file says. The samples are made or read once, to see that they can be.

        Raises UsageError and BadInputError with file and key.
        """
        if config is None:
            raise UsageError(
                "model point-source needs --config FILE.toml", hint="see docs/point-source.md"
            )
        search = read_search(Path(config))
        Search.load(search)
        return cls(search=search)

    @staticmethod
    def identity(configuration: Mapping[str, Any]) -> dict[str, Any]:
        """What two runs must share to be of one model: not where the user's files are, nor at what
        energy fluxes are quoted.
        """
        search = dict(configuration["search"])
        search["signal"] = {**search["signal"], "pivot": None}
        for name in ("experiment", "simulation"):
            file = search[name].get("file")
            search[name] = {**search[name], "file": file and file["sha256"]}
        return search

    @property
    def notes(self) -> tuple[str, ...]:
        """What a plan should say."""
        search = Search.load(self.search)
        low, high = self.search.fit.indices
        index = f"index {low:g}, not fitted" if low == high else f"index from {low:g} to {high:g}"
        note = (
            f"{len(search.experiment)} events in {self.search.livetime:g} days at random right "
            f"ascension, {len(search.simulation)} simulated; {index}"
        )
        return (note,)

    def files(self) -> tuple[ModelFile, ...]:
        return self.search.files()

    def located(self, places: Mapping[str, Path]) -> Self:
        return replace(self, search=self.search.located(places))

    def parameters(self) -> Parameters:
        signal = self.search.signal
        return Parameters(
            required=("dec",),
            optional={
                "n_sig": 0,
                "index": signal.index,
                "cutoff": signal.cutoff,
                "extension": signal.extension,
            },
        )

    def fields(self) -> dict[str, str]:
        """`ts` with `n_s` and `gamma` at its maximum, `n_injected` signal events, `n_near` events
        that the likelihood has evaluated.
        """
        return {
            "ts": "<f8",
            "n_s": "<f8",
            "gamma": "<f8",
            "n_injected": "<i4",
            "n_near": "<i4",
            "converged": "?",
        }

    def flux(self, point: Mapping[str, Value]) -> PowerLaw:
        """The spectrum that is injected at a point. Raises UsageError."""
        parameters = self.parameters().optional
        index, cutoff = (_number(point, name, parameters[name]) for name in ("index", "cutoff"))
        pivot = self.search.signal.pivot
        return PowerLaw(index=index, cutoff=cutoff, pivot=pivot).check("model point-source")

    def sampler(self, point: Mapping[str, Value]) -> ScalarTrial:
        """Prepare for a declination. Raises UsageError for what is none, for a negative signal, and
        where there is no background or no simulated event.
        """
        dec = declination(point)
        n_sig = _number(point, "n_sig", 0)
        extension = _number(point, "extension", self.search.signal.extension)
        flux = self.flux(point)
        if not 0 <= n_sig <= _MOST_SIGNAL:
            raise UsageError(f"model point-source: n_sig={n_sig:g} is not within 0 to 1e6")
        if not 0 <= extension <= _MOST_EXTENSION:
            raise UsageError(
                f"model point-source: extension={extension:g} is not within 0 to "
                f"{_MOST_EXTENSION:g} degrees"
            )
        search = Search.load(self.search)
        search.check_background(dec)
        scrambler = Scrambler(search, dec, radians(extension))
        if not n_sig:
            return partial(_background, scrambler)
        search.source(dec, flux)
        inject = partial(
            search.inject,
            dec=dec,
            ra=0.0,
            n_expected=n_sig,
            flux=flux,
            extension=radians(extension),
        )
        return partial(_signal, scrambler, inject)


def declination(point: Mapping[str, Value]) -> float:
    """That of a point, in radians. Raises UsageError."""
    degrees = _number(point, "dec", 0)
    if not abs(degrees) <= 90:  # noqa: PLR2004  # everybody knows this number
        raise UsageError(f"model point-source: dec={degrees:g} is not within -90 to 90 degrees")
    return radians(degrees)


def _background(scrambler: Scrambler, streams: Streams) -> Mapping[str, Number]:
    return _row(scrambler.fit(streams.rng()), 0)


def _signal(scrambler: Scrambler, inject: Any, streams: Streams) -> Mapping[str, Number]:
    signal = inject(streams.rng(SIGNAL))
    return _row(scrambler.fit(streams.rng(), signal), len(signal))


def _row(fit: Any, injected: int) -> dict[str, Number]:
    return {
        "ts": fit.ts,
        "n_s": fit.n_s,
        "gamma": fit.gamma,
        "n_injected": injected,
        "n_near": fit.n_near,
        "converged": fit.converged,
    }


def _number(point: Mapping[str, Value], name: str, default: Value) -> float:
    value = point.get(name, default)
    if isinstance(value, str) or not isfinite(value):
        raise UsageError(f"model point-source: {name}={value!r} is not a number")
    return float(value)
