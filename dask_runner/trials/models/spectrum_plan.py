"""A spectrum search from its files: binning, background, templates, as fields of the model.

Owns what must hold between them; every error names file and key.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct

from dask_runner.errors import BadInputError, UsageError
from dask_runner.stats import spectrum as analysis
from dask_runner.trials.models import spectrum_inputs as inputs
from dask_runner.trials.models.spectrum_config import Config, CrossSectionKeys, value_at

_ROUNDING = 1e-9


class Background(Struct, frozen=True, kw_only=True):
    """Where the toys come from: theta = (ln p1, p2, p3, p4), and a word about its origin."""

    theta: tuple[float, float, float, float]
    origin: str


class Template(Struct, frozen=True, kw_only=True):
    """The signal at one mass: its share in each bin, and factors of its cross section."""

    mass: float
    shares: tuple[float, ...]
    acceptance: float = 1.0
    efficiency: float = 1.0
    branching_ratio: float = 1.0


def read_all(path: Path, config: Config, masses: Sequence[float]) -> dict[str, Any]:
    """Everything that the TOML file at `path` and its histograms say, as fields of `Spectrum`.

    Raises BadInputError.
    """
    folder = path.absolute().parent
    named = config.data or config.background.histogram
    source = named or inputs.template_name(config.signal.histogram, masses[0], path)
    binning = inputs.make_binning(inputs.read_spectrum(source, folder), source, config.range, path)
    if binning.searched[-1] > config.sqrt_s:
        raise BadInputError(
            f"{path}: {source} has bins up to {binning.searched[-1]:g}, beyond sqrt_s = "
            f"{config.sqrt_s:g}",
            hint="sqrt_s has the unit of the histograms; range = [FIRST, LAST] leaves out bins",
        )
    if len(masses) > 1 and "{mass" not in config.signal.histogram:
        raise BadInputError(
            f"{path}: signal.histogram {config.signal.histogram!r} is the same for all masses",
            hint='"signal_{mass}.root:mjj"',
        )
    fields: dict[str, Any] = {
        "sqrt_s": config.sqrt_s,
        "edges": tuple(binning.searched.tolist()),
        "background": _background(path, config, binning, folder),
        "templates": tuple(_template(path, config, binning, mass) for mass in masses),
        "method": config.method,
        "confidence": config.confidence,
        "data": _absolute(config.data, folder),
    }
    if config.range is not None:
        fields["full_edges"] = tuple(binning.edges.tolist())
    if config.cross_section is not None:
        fields["luminosity"] = config.cross_section.luminosity
        fields["luminosity_uncertainty"] = config.cross_section.luminosity_uncertainty
    return fields


def _absolute(text: str, folder: Path) -> str:
    return str(folder / Path(text).expanduser()) if text else ""


def _background(path: Path, config: Config, binning: inputs.Binning, folder: Path) -> Background:
    given = config.background.parameters
    if given is not None:
        theta = (float(np.log(given[0])), *given[1:])
        work = partial(analysis.scaled, binning.searched, config.sqrt_s, theta)
        _try(path, "background.parameters", work)
        return Background(theta=theta, origin="given parameters")
    key = "background.histogram" if config.background.histogram else "data"
    source = config.background.histogram or config.data
    contents = binning.cut(inputs.read_spectrum(source, folder), source)
    if key == "data":
        inputs.whole_counts(contents, source)
    contents = contents * config.background.scale
    fit = _try(
        path, key, partial(analysis.fit_background, binning.searched, contents, config.sqrt_s)
    )
    if not fit.converged:
        raise BadInputError(f"{path}: {key}: the fit of the background to {source} fails")
    first, *others = fit.theta.tolist()
    return Background(
        theta=(first, *others),
        origin=f"a fit to {source}: deviance {fit.deviance:.1f} for {fit.degrees} degrees of "
        f"freedom, p = {fit.p_value:.2g}",
    )


def _template(path: Path, config: Config, binning: inputs.Binning, mass: float) -> Template:
    source = inputs.template_name(config.signal.histogram, mass, path)
    try:
        histogram = inputs.read_spectrum(source, path.absolute().parent)
    except BadInputError as error:
        raise BadInputError(
            f"{path}: signal.histogram for mass {mass:g}: {error.message}", hint=error.hint
        ) from error
    binning.check(histogram, source)
    smooth = inputs.smoothed(histogram, config.signal.smoothing)
    contents = binning.cut(smooth, source)
    total = float(contents.sum())
    if not total > 0:
        raise BadInputError(
            f"{path}: signal.histogram for mass {mass:g}: {source} is empty in the range of the "
            "search"
        )
    shares = contents / total
    template = Template(mass=mass, shares=tuple((shares / shares.sum()).tolist()))
    section = config.cross_section
    return template if section is None else _with_factors(path, section, template, total)


def _with_factors(
    path: Path, section: CrossSectionKeys, template: Template, total: float
) -> Template:
    """With acceptance, efficiency and branching ratio; the first from what is in the template of
    all that was generated, if it is not given.
    """
    mass = template.mass
    if section.acceptance is not None:
        acceptance = value_at(path, "acceptance", section.acceptance, mass)
    else:
        assert section.generated is not None
        generated = value_at(path, "generated", section.generated, mass)
        acceptance = total / generated
        if acceptance > 1 + _ROUNDING:
            raise BadInputError(
                f"{path}: cross_section.generated: the template for mass {mass:g} has {total:g} "
                f"events of {generated:g}"
            )
    return Template(
        mass=mass,
        shares=template.shares,
        acceptance=acceptance,
        efficiency=value_at(path, "efficiency", section.efficiency, mass),
        branching_ratio=value_at(path, "branching_ratio", section.branching_ratio, mass),
    )


def _try(path: Path, key: str, work: Callable[[], Any]) -> Any:
    """What `work` returns; its UsageError gets the file and the key."""
    try:
        return work()
    except UsageError as error:
        raise BadInputError(f"{path}: {key}: {error.message}", hint=error.hint) from error
