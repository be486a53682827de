"""The trial model `spectrum`: toys of a resonance search in a binned mass spectrum.

Owns what a toy is and which numbers it leaves. The fits and limits are `stats.spectrum`; the TOML
file is `spectrum_config`, the histograms `spectrum_inputs`: all is read at planning and embedded,
so that hosts need no file. Observed data enter no trial: at most the background's shape was fitted
to them, which is what a background-only expectation is made of.
"""

import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dask_runner.errors import UsageError
from dask_runner.seeds import Value
from dask_runner.stats import spectrum as analysis
from dask_runner.trials.model import Number, Parameters, ScalarTrial, Streams
from dask_runner.trials.models import spectrum_inputs as inputs
from dask_runner.trials.models.spectrum_config import Method, read_config
from dask_runner.trials.models.spectrum_plan import Background, Template, read_all

Array = npt.NDArray[np.float64]

LUMINOSITY = "luminosity"
_FROZEN_WARNING = (
    "the limit with a frozen background undercovers when there is signal: the fit without signal "
    "takes it for background; method = profile refits the background"
)


class Spectrum(Struct, frozen=True, kw_only=True):
    """A search with one background and a template for each mass; `luminosity` 0 is none given.

    Parameters of a point: `mass`, and `n_sig`, the expected number of injected signal events.
    """

    sqrt_s: float
    edges: tuple[float, ...]
    background: Background
    templates: tuple[Template, ...]
    method: Method = "both"
    confidence: float = 0.95
    luminosity: float = 0.0
    luminosity_uncertainty: float = 0.0
    # The binning of observed data before a range was cut out; where they are, never what they are.
    full_edges: tuple[float, ...] = ()
    data: str = ""

    @classmethod
    def from_options(
        cls, *, config: Path | str | None = None, points: Sequence[Mapping[str, Value]] = ()
    ) -> Self:
        """As the TOML file says, with the templates of all masses among the points.

        Raises UsageError and BadInputError with file and key.
        """
        if config is None:
            raise UsageError("model spectrum needs --config FILE.toml", hint="see docs/spectrum.md")
        path = Path(config)
        return msgspec.convert(read_all(path, read_config(path), _masses(points)), cls)

    @staticmethod
    def identity(configuration: Mapping[str, Any]) -> dict[str, Any]:
        """What two runs must share to be of one model: not the masses that have templates."""
        return {name: value for name, value in configuration.items() if name != "templates"}

    @property
    def notes(self) -> tuple[str, ...]:
        """What a plan and a summary should say."""
        low, high = self.edges[0], self.edges[-1]
        origin = self.background.origin
        note = f"{len(self.edges) - 1} bins from {low:g} to {high:g}; background of toys: {origin}"
        return (note,) if self.method == "profile" else (note, _FROZEN_WARNING)

    def parameters(self) -> Parameters:
        return Parameters(required=("mass",), optional={"n_sig": 0})

    def fields(self) -> dict[str, str]:
        """`limit` is that of the method, the frozen one with `both`; all are explained in
        docs/spectrum.md.
        """
        columns = ["n_hat", "n_error", "nll", "ts", "deviance", "p_value", *self._limits()]
        if self.luminosity and self.luminosity_uncertainty:
            columns.append(LUMINOSITY)
        if self.luminosity:
            columns += [f"{name}_cross_section" for name in self._limits()]
        return {
            "n_events": "i8",
            **dict.fromkeys(columns, "f8"),
            "converged": "?",
            "data_crc": "u4",
        }

    def sampler(self, point: Mapping[str, Value]) -> ScalarTrial:
        """Prepare for a mass. Raises UsageError for one without template, and for a negative signal
        that makes the expectation of a bin negative.
        """
        mass = _number(point, "mass")
        n_sig = _number(point, "n_sig", 0)
        template = self.template(mass)
        background = analysis.scaled(self.edges, self.sqrt_s, self.background.theta)
        expected = background.expected + n_sig * np.array(template.shares)
        if expected.min() < 0:
            raise UsageError(f"n_sig={n_sig:g} at mass {mass:g}: a bin expects a negative number")
        fitter = analysis.Fitter(background, template.shares)
        return partial(self._trial, fitter, expected, self.visible(mass))

    def template(self, mass: float) -> Template:
        """The signal at a mass. Raises UsageError if the model was made without it."""
        for template in self.templates:
            if template.mass == mass:
                return template
        known = ", ".join(f"{template.mass:g}" for template in self.templates)
        raise UsageError(f"there is no template for mass {mass:g}", hint=f"there is for {known}")

    def visible(self, mass: float) -> float:
        """Events for a cross section of 1: luminosity x acceptance x efficiency x branching ratio,
        0 without a luminosity.
        """
        signal = self.template(mass)
        return self.luminosity * signal.acceptance * signal.efficiency * signal.branching_ratio

    def _trial(
        self, fitter: analysis.Fitter, expected: Array, visible: float, streams: Streams
    ) -> Mapping[str, Number]:
        counts = streams.rng().poisson(expected)
        row = self._analyse(fitter, counts)
        if self.luminosity:
            scale = 1.0
            if self.luminosity_uncertainty:
                # The measured luminosity scatters around the true one, by which signal came.
                normal = streams.rng(LUMINOSITY).standard_normal()
                scale = (1 + self.luminosity_uncertainty) ** normal
                row[LUMINOSITY] = self.luminosity * scale
            self._add_cross_sections(row, visible * scale)
        return row

    def _analyse(self, fitter: analysis.Fitter, counts: npt.NDArray[np.int64]) -> dict[str, float]:
        fit = fitter.fit(counts)
        row: dict[str, float] = {
            "n_events": int(fit.counts.total),
            "n_hat": fit.n_hat,
            "n_error": fit.n_error,
            "nll": fit.nll,
            "ts": fit.ts,
            "deviance": fit.deviance,
            "p_value": fit.p_value,
            "converged": fit.converged,
            # Small-endian, so that it is the same everywhere.
            "data_crc": zlib.crc32(counts.astype("<i8").tobytes()),
        }
        if self.method != "profile":
            row["limit"] = analysis.frozen_limit(fitter, fit, self.confidence)
        if self.method != "frozen":
            limit = analysis.profile_limit(fitter, fit, self.confidence)
            row[self._limits()[-1]] = limit.value
            row["converged"] = limit.converged
        return row

    def _limits(self) -> tuple[str, ...]:
        return ("limit", "limit_profile") if self.method == "both" else ("limit",)

    def _add_cross_sections(self, row: dict[str, float], visible: float) -> None:
        for name in self._limits():
            row[f"{name}_cross_section"] = row[name] / visible


def observed(model: Spectrum, mass: float, counts: npt.ArrayLike) -> dict[str, float]:
    """The same numbers as those of a trial for observed counts, shape (bins,), within the range of
    the search; with the nominal luminosity. Only for those who unblind.

    The background is fitted from nothing, not from that of the toys. Raises UsageError for counts
    that do not fit, BadInputError for some that are not whole.
    """
    numbers = inputs.whole_counts(np.asarray(counts, float), "observed data")
    analysis.checked_counts(numbers, len(model.edges) - 1)
    fitted = analysis.fit_background(model.edges, numbers, model.sqrt_s)
    background = analysis.scaled(model.edges, model.sqrt_s, fitted.theta)
    fitter = analysis.Fitter(background, model.template(mass).shares)
    row = model._analyse(fitter, numbers.astype(np.int64))  # noqa: SLF001 - one class, in effect
    if model.luminosity:
        model._add_cross_sections(row, model.visible(mass))  # noqa: SLF001
    return row


def read_observed(model: Spectrum, text: str = "", folder: Path = Path()) -> Array:
    """Observed counts within the range of the search from `FILE.root:NAME` or `FILE.csv`, by
    default what the TOML file names as `data`. Only for those who unblind. Raises BadInputError,
    also for another binning; UsageError if no data are named.
    """
    source = text or model.data
    if not source:
        raise UsageError("no observed data are named", hint="--observed data.root:mjj")
    histogram = inputs.read_spectrum(source, folder)
    edges = np.array(model.edges if not model.full_edges else model.full_edges)
    first = int(np.searchsorted(edges, model.edges[0]))
    binning = inputs.Binning(
        edges=edges, first=first, stop=first + len(model.edges) - 1, source="the search"
    )
    return inputs.whole_counts(binning.cut(histogram, source), source)


def _masses(points: Sequence[Mapping[str, Value]]) -> list[float]:
    masses = sorted({_number(point, "mass") for point in points})
    if not masses:
        raise UsageError("model spectrum has no masses", hint="--grid mass=2000:7000:500")
    return masses


def _number(point: Mapping[str, Value], name: str, default: float | None = None) -> float:
    value = point.get(name, default)
    if value is None:
        raise UsageError(
            f"model spectrum: a point has no {name}", hint=f"--grid {name}=... or --set {name}=..."
        )
    if isinstance(value, str):
        raise UsageError(f"model spectrum: {name}={value!r} is not a number")
    return float(value)
