"""The TOML file of a spectrum search: its keys, their defaults, and errors that name them.

Owns the syntax. Refuses to open the histograms that it names: see `spectrum_inputs`.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from dask_runner.errors import BadInputError
from dask_runner.settings.keys import nearest

Positive = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, lt=1)]
# One number for all masses, or a table of them by mass.
PerMass = Positive | dict[str, Positive]
Method = Literal["frozen", "profile", "both"]


class BackgroundKeys(Struct, frozen=True, kw_only=True):
    """[background]: where the expectation of the toys comes from; from the data if empty."""

    histogram: str = ""
    scale: Positive = 1.0
    parameters: tuple[float, float, float, float] | None = None


class SignalKeys(Struct, frozen=True, kw_only=True):
    """[signal]: the templates, `{mass}` in their name, and their smoothing."""

    histogram: str
    smoothing: Share = 0.0


class CrossSectionKeys(Struct, frozen=True, kw_only=True):
    """[cross_section]: what turns events into a cross section."""

    luminosity: Positive
    luminosity_uncertainty: Share = 0.0
    acceptance: PerMass | None = None
    generated: PerMass | None = None
    efficiency: PerMass = 1.0
    branching_ratio: PerMass = 1.0


class Config(Struct, frozen=True, kw_only=True):
    """The whole file."""

    sqrt_s: Positive
    signal: SignalKeys
    background: BackgroundKeys = BackgroundKeys()
    cross_section: CrossSectionKeys | None = None
    data: str = ""
    range: tuple[float, float] | None = None
    method: Method = "both"
    confidence: Annotated[float, Meta(gt=0, lt=1)] = 0.95


_SECTIONS: dict[str, type[Struct]] = {
    "signal": SignalKeys,
    "background": BackgroundKeys,
    "cross_section": CrossSectionKeys,
}


def read_config(path: Path) -> Config:
    """The contents of the file. Raises BadInputError that names file and key."""
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: not a TOML file: {error}") from error
    _refuse_unknown(path, "", table, Config)
    for name, kind in _SECTIONS.items():
        if isinstance(table.get(name), dict):
            _refuse_unknown(path, name, table[name], kind)
    try:
        config = msgspec.convert(table, Config)
    except msgspec.ValidationError as error:
        raise BadInputError(f"{path}: {error}") from error
    _check(path, config)
    return config


def value_at(path: Path, key: str, values: PerMass, mass: float) -> float:
    """The number for a mass. Raises BadInputError if a table has none: nothing is interpolated."""
    if not isinstance(values, dict):
        return values
    for name, value in values.items():
        if _mass(path, key, name) == mass:
            return value
    raise BadInputError(
        f"{path}: cross_section.{key} has no value for mass {mass:g}",
        hint=f"it has {', '.join(values) or 'none'}; a single number serves all masses",
    )


def _mass(path: Path, key: str, name: str) -> float:
    try:
        return float(name)
    except ValueError as error:
        raise BadInputError(f"{path}: cross_section.{key}: {name!r} is not a mass") from error


def _check(path: Path, config: Config) -> None:
    background = config.background
    if background.histogram and background.parameters is not None:
        raise BadInputError(f"{path}: background has both a histogram and parameters")
    if not (background.histogram or background.parameters or config.data):
        raise BadInputError(
            f"{path}: there is no background",
            hint="data = FILE to fit it to, or histogram or parameters in [background]",
        )
    if background.scale != 1 and not background.histogram:
        raise BadInputError(f"{path}: background.scale is for a background.histogram")
    if background.parameters is not None and background.parameters[0] <= 0:
        raise BadInputError(f"{path}: background.parameters: p1, the first, is above 0")
    section = config.cross_section
    if section is not None and (section.acceptance is None) == (section.generated is None):
        raise BadInputError(
            f"{path}: cross_section needs either acceptance or generated",
            hint="generated is the number of events that the template was made of",
        )


def _refuse_unknown(path: Path, section: str, table: Mapping[str, Any], kind: type[Struct]) -> None:
    known = kind.__struct_fields__
    for name in table:
        if name in known:
            continue
        dotted = f"{section}.{name}" if section else name
        raise BadInputError(f"{path}: unknown key {dotted}", hint=_suggestion(section, name, known))


def _suggestion(section: str, name: str, known: tuple[str, ...]) -> str:
    if near := nearest(name, known):
        return f"did you mean {near}?"
    for other, kind in _SECTIONS.items():
        if other != section and (near := nearest(name, kind.__struct_fields__)):
            return f"did you mean {near} in section [{other}]?"
    return f"the keys are {', '.join(known)}"
