"""Where settings come from: command line before environment before file before default.

Every value is checked where it is given, even if another one takes precedence. Refuses unknown
keys and variables, wrong types, and files that somebody else could have written.
"""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from dask_runner.errors import UsageError
from dask_runner.files import read_trusted
from dask_runner.settings import checks
from dask_runner.settings.keys import (
    ENVIRONMENT_PREFIX,
    KEYS,
    SECTION_TYPES,
    SECTIONS,
    STEP_KEYS,
    STEPS,
    VARIABLES,
    Key,
    hint_for_key,
    nearest,
)
from dask_runner.settings.schema import Settings
from dask_runner.settings.toml_lines import lines_of_keys

DEFAULT_FILE = "settings.toml"
_FILE_VARIABLE = "DASK_RUNNER_SETTINGS"
# Set for the programs of a batch, or read elsewhere; never settings.
_RESERVED = frozenset(
    {_FILE_VARIABLE}
    | {
        f"{ENVIRONMENT_PREFIX}{name}"
        for name in (*("RUN", "BATCH", "ATTEMPT", "SCRATCH"), *("CLUSTER", "HOST", "SHIPPED"))
    }
)
_RESERVED_PREFIX = f"{ENVIRONMENT_PREFIX}TEST_"
_PATHS = frozenset(
    {
        *("storage.runs", "storage.outputs", "storage.scratch"),
        *("generate.evnt_dir", "generate.pythia_card", "cluster.hostfile"),
    }
)


class LoadedSettings(Struct, frozen=True, kw_only=True):
    """`origin` says of every dotted key where its value is from; `file` is "" if none was read."""

    settings: Settings
    origin: dict[str, str]
    file: str = ""


class _Given(NamedTuple):
    key: Key
    value: Any
    origin: str


def load_settings(
    file: Path | None, environment: Mapping[str, str], overrides: Mapping[str, Any]
) -> LoadedSettings:
    """The settings in force. `file` None is the one that DASK_RUNNER_SETTINGS names, or
    settings.toml here if there is one. `overrides` are from the command line, by dotted key; None
    means that the option was not given.
    """
    path = _settings_file(file, environment)
    values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    origin = dict.fromkeys(KEYS, "default")
    for given in (
        *(_from_file(path) if path else ()),
        *_from_environment(environment),
        *_from_overrides(overrides),
    ):
        values[given.key.section][given.key.name] = given.value
        origin[given.key.dotted] = given.origin
    sections = {name: SECTION_TYPES[name](**values[name]) for name in SECTIONS}
    settings = msgspec.structs.replace(Settings(), **sections)
    checks.check(settings, origin)
    return LoadedSettings(settings=settings, origin=origin, file=str(path or ""))


def _settings_file(file: Path | None, environment: Mapping[str, str]) -> Path | None:
    if file is not None:
        return file
    if named := environment.get(_FILE_VARIABLE):
        return Path(named)
    default = Path(DEFAULT_FILE)
    # lexists: a dangling link is an error to be told, not a missing file.
    return default if default.exists() or default.is_symlink() else None


def _from_file(path: Path) -> Iterator[_Given]:
    text = read_trusted(path)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(
            f"{path}: not valid TOML: {error}",
            hint="text stands in quotes, a list in [ ], a section as [name] on a line of its own",
        ) from error
    lines = lines_of_keys(text)

    def place(dotted: str) -> str:
        return f"{path} line {lines[dotted]}" if dotted in lines else str(path)

    for section, table in document.items():
        if section not in SECTIONS:
            what = "section" if isinstance(table, dict) else "key"
            raise UsageError(
                f"{place(section)}: unknown {what} {section}", hint=hint_for_key("", section)
            )
        if not isinstance(table, dict):
            raise UsageError(f"{place(section)}: {section} is a section: write [{section}]")
        for name, value in table.items():
            dotted = f"{section}.{name}"
            if dotted not in KEYS:
                raise UsageError(
                    f"{place(dotted)}: unknown key {dotted}", hint=hint_for_key(section, name)
                )
            if dotted == STEPS:
                _check_step_tables(value, place)
            converted = _convert(KEYS[dotted], value, place(dotted))
            yield _Given(KEYS[dotted], converted, place(dotted))


def _check_step_tables(steps: Any, place: Any) -> None:
    """Name the line of a wrong key in a step; the whole is converted later."""
    for index, step in enumerate(steps if isinstance(steps, list) else ()):
        here = f"{STEPS}[{index}]"
        for name, value in step.items() if isinstance(step, dict) else ():
            if name not in STEP_KEYS:
                near = nearest(name, STEP_KEYS)
                raise UsageError(
                    f"{place(f'{here}.{name}')}: unknown key {here}.{name}",
                    hint=f"did you mean {near}?"
                    if near
                    else f"the keys of a step are {', '.join(STEP_KEYS)}",
                )
            _convert(STEP_KEYS[name], value, place(f"{here}.{name}"), shown=f"{here}.{name}")


def _from_environment(environment: Mapping[str, str]) -> Iterator[_Given]:
    for variable in sorted(environment):
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        if variable in _RESERVED or variable.startswith(_RESERVED_PREFIX):
            continue
        if variable not in VARIABLES:
            near = nearest(variable, VARIABLES)
            raise UsageError(
                f"environment variable {variable}: unknown",
                hint=f"did you mean {near}?" if near else "`dask-runner settings` lists the keys",
            )
        key = VARIABLES[variable]
        place = f"environment variable {variable}"
        yield _Given(key, _from_text(key, environment[variable], place), variable)


def _from_text(key: Key, text: str, place: str) -> Any:
    """Text is taken as it is, everything else is written as in settings.toml."""
    if isinstance(key.default, str):
        return _convert(key, text, place)
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        parsed = {}
    # More keys than one: a line feed in the text.
    if set(parsed) != {"value"}:
        raise UsageError(
            f"{place}: {key.dotted} = {text!r} is not a value as in settings.toml",
            hint=f'{key.description} Numbers stand as they are, a list as \'["a", "b"]\'',
        )
    return _convert(key, parsed["value"], place)


def _from_overrides(overrides: Mapping[str, Any]) -> Iterator[_Given]:
    for dotted, value in overrides.items():
        if dotted not in KEYS:
            section, _, name = dotted.rpartition(".")
            raise UsageError(
                f"command line: unknown key {dotted}", hint=hint_for_key(section, name)
            )
        if value is not None:
            key = KEYS[dotted]
            converted = _convert(key, msgspec.to_builtins(value), "command line")
            yield _Given(key, converted, "command line")


def _convert(key: Key, value: Any, place: str, *, shown: str = "") -> Any:
    try:
        converted = msgspec.convert(value, key.kind)
    except msgspec.ValidationError as error:
        what = str(error)
        raise UsageError(
            f"{place}: {shown or key.dotted} = {value!r}: {what[:1].lower()}{what[1:]}",
            hint=key.description,
        ) from error
    return _expanded(converted, place) if key.dotted in _PATHS else converted


def _expanded(path: str, place: str) -> str:
    """With `~` replaced, as a shell would: all who read the setting must mean the same folder."""
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError as error:
        raise UsageError(f"{place}: {path}: there is no such user, or no home folder") from error
