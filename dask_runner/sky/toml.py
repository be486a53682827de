"""TOML files of searches and detectors: read, and unknown keys refused with a suggestion.

Owns the errors that are the same for all of them.
"""

import tomllib
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any, get_args

import msgspec
from msgspec import Struct

from dask_runner.errors import BadInputError
from dask_runner.settings.keys import nearest


def read_toml(path: Path, kind: type[Struct]) -> dict[str, Any]:
    """The file as it is, with only such keys as `kind` and the structs in it have, and only finite
    numbers: a plan, which is JSON, has no others.

    Raises BadInputError that names file and key.
    """
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: not a TOML file: {error}") from error
    _refuse_unknown(path, "", table, kind)
    refuse_infinite(path, "", table)
    return table


def refuse_infinite(path: Path, key: str, value: Any) -> None:
    """Raises BadInputError for a number that is inf or nan, in whatever of TOML `value` is."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            refuse_infinite(path, f"{key}.{name}" if key else name, inner)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            refuse_infinite(path, f"{key}[{place}]", inner)
    elif isinstance(value, float) and not isfinite(value):
        raise BadInputError(f"{path}: {key} = {value:g} is not a finite number")


def _refuse_unknown(path: Path, section: str, table: Mapping[str, Any], kind: type[Struct]) -> None:
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    for name, value in table.items():
        dotted = f"{section}.{name}" if section else name
        if name not in fields:
            near = nearest(name, fields)
            raise BadInputError(
                f"{path}: unknown key {dotted}",
                hint=f"did you mean {near}?" if near else f"the keys are {', '.join(fields)}",
            )
        inner = _struct_in(fields[name])
        if inner is not None and isinstance(value, Mapping):
            _refuse_unknown(path, dotted, value, inner)


def _struct_in(kind: Any) -> type[Struct] | None:
    for one in (kind, *get_args(kind)):
        if isinstance(one, type) and issubclass(one, Struct):
            return one
    return None
