"""Signal strengths of a point-source search as fluxes, at any energy and in any unit.

Owns what turns expected events into a flux: the acceptance of the search at the point's declination
for the point's spectrum, which is linear, so that errors scale with it. Formulas: `sky.flux`.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from dask_runner import model_files
from dask_runner.conclusions.results import (
    FluxScale,
    Passing,
    PointFlux,
    Sensitivities,
    Strengths,
    Unreached,
)
from dask_runner.errors import UsageError
from dask_runner.sky.flux import UNITS, PowerLaw, unit_of
from dask_runner.sky.search import Search

MODEL, SIGNAL = "point-source", "n_sig"
# What people write: energy to the power of 1 (E^2 dN/dE) or -1 (dN/dE).
UNIT: Final = "TeV cm-2 s-1"
_UNIT = re.compile(r"(?P<energy>[A-Za-z]+)(?P<inverse>\^?-1)?(?: cm\^?-2 s\^?-1)?")
_ENERGY = re.compile(r"(?P<number>[0-9.eE+-]+?) *(?P<unit>[A-Za-z]+)")


class FluxWish(Struct, frozen=True, kw_only=True):
    """`pivot` in GeV, None for that of the search; `energy` is the unit, `squared` is
    E^2 dN/dE.
    """

    pivot: float | None = None
    energy: str = "TeV"
    squared: bool = True


def wished(pivot: str, unit: str) -> FluxWish | None:
    """What the options say; None if they say nothing. Raises UsageError."""
    if not pivot and not unit:
        return None
    found = _UNIT.fullmatch(unit or UNIT)
    if found is None or found["energy"] not in UNITS:
        raise UsageError(
            f"--flux-unit {unit}: not a unit of flux",
            hint="'TeV cm-2 s-1' or 'GeV cm-2 s-1' is E^2 dN/dE, 'TeV-1 cm-2 s-1' is dN/dE",
        )
    return FluxWish(
        pivot=_energy(pivot) if pivot else None,
        energy=found["energy"],
        squared=found["inverse"] is None,
    )


def _energy(text: str) -> float:
    """In GeV."""
    found = _ENERGY.fullmatch(text.strip())
    try:
        value = float(found["number"]) * unit_of(found["unit"]) if found else -1.0
    except ValueError:
        value = -1.0
    if not 0 < value < np.inf:
        raise UsageError(f"--pivot {text}: not an energy", hint="--pivot '100 TeV'")
    return value


def with_fluxes(
    result: Sensitivities, made: Sequence[Any], wish: FluxWish | None = None
) -> Sensitivities:
    """The result with each strength as a flux too; `made` are the models of its runs, of one search
    and perhaps with other signals. Raises UsageError for another model, or another signal parameter
    than the number of events, and BadInputError for samples that are not those of the trials.
    """
    if result.model != MODEL or result.signal != SIGNAL or not made:
        raise UsageError(
            f"a flux is known for {SIGNAL} of the model {MODEL}, not for {result.signal} of "
            f"{result.model or 'trials without a run'}"
        )
    wish = wish or FluxWish()
    config = made[0].search
    pivot = wish.pivot or config.signal.pivot
    model_files.check(model_files.files_of(config))
    search = Search.load(config)
    kind = "E^2 dN/dE" if wish.squared else "dN/dE"
    scale = FluxScale(
        pivot=pivot,
        kind=kind,
        unit=f"{wish.energy}{'' if wish.squared else '^-1'} cm^-2 s^-1",
        livetime=config.livetime,
    )
    return replace(
        result,
        flux=scale,
        strengths=tuple(
            replace(one, flux=_at_point(one, search, pivot, wish)) for one in result.strengths
        ),
    )


def _at_point(one: Strengths, search: Search, pivot: float, wish: FluxWish) -> PointFlux:
    signal = search.config.signal
    values = {
        name: float(one.point.get(name, getattr(signal, name))) for name in ("index", "cutoff")
    }
    flux = PowerLaw(**values, pivot=pivot)
    acceptance = search.acceptance(float(np.radians(float(one.point["dec"]))), flux)
    convert = flux.e2dnde if wish.squared else flux.dnde
    per_event = convert(1 / acceptance, unit=wish.energy)
    return PointFlux(
        per_event=per_event,
        **_scaled("sensitivity", one.sensitivity, per_event),
        **_scaled("discovery", one.discovery, per_event),
    )


def _scaled(name: str, found: Passing | Unreached, factor: float) -> dict[str, float]:
    if isinstance(found, Unreached):
        return {}
    return {name: factor * found.value, f"{name}_error": factor * found.error}
