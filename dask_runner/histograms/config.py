"""The TOML file of a run of histograms: its keys, and errors that name file, line and key.

Owns the syntax. Refuses to open the inputs that it names. Relative paths in it begin in its folder.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from dask_runner.errors import UsageError
from dask_runner.settings.keys import nearest
from dask_runner.settings.toml_lines import lines_of_keys

Keys = TypeVar("Keys", bound=Struct)
Texts = str | tuple[str, ...]
Bins = str | tuple[float | tuple[float, ...], ...]


class HistogramKeys(Struct, frozen=True, kw_only=True):
    """[histograms.NAME]: `fill` is an expression, `x : y`, or two of them; `bins` as on the command
    line, [N, low, high], or two of these; or `edges`. `label` is that of the axis, or two.
    """

    fill: Texts
    bins: Bins = ""
    edges: tuple[float, ...] = ()
    label: Texts = ""
    weight: str = ""
    where: str = ""
    by_sample: bool | None = None


class ConfigKeys(Struct, frozen=True, kw_only=True):
    """The whole file. `samples` are patterns by name; `chunk` entries are what a function sees."""

    files: Texts = ()
    tree: str = ""
    where: str = ""
    where_event: Texts = ()
    weight: str = ""
    by_sample: bool = False
    samples: dict[str, str] = {}
    histograms: dict[str, HistogramKeys] = {}
    skim: Texts = ()
    function: str = ""
    branches: Texts = ()


class Config:
    """A file that was read. Without one all keys are empty."""

    def __init__(self, path: Path | None) -> None:
        """Raises UsageError that names file, line and key."""
        self.path = path
        self._lines: dict[str, int] = {}
        self.keys = ConfigKeys() if path is None else self._read(path)

    @property
    def folder(self) -> Path:
        """Where relative paths in it begin."""
        return Path.cwd() if self.path is None else self.path.absolute().parent

    def place(self, key: str) -> str:
        """Where a key stands, for messages."""
        line = self._lines.get(key)
        return f"{self.path}:{line}: {key}" if line else f"{self.path}: {key}"

    def _read(self, path: Path) -> ConfigKeys:
        try:
            text = path.read_text(encoding="utf-8")
            table = tomllib.loads(text)
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: not a TOML file: {error}") from error
        self._lines = lines_of_keys(text)
        self._refuse_unknown("", table, ConfigKeys)
        for name, keys in _tables(table.get("histograms")).items():
            self._refuse_unknown(f"histograms.{name}.", keys, HistogramKeys)
            if "fill" not in keys:
                raise UsageError(f"{self.place(f'histograms.{name}')}: has no fill")
            self._convert(keys, HistogramKeys, f"histograms.{name}.")
        return self._convert(table, ConfigKeys, "")

    def _convert(self, table: Mapping[str, Any], kind: type[Keys], prefix: str) -> Keys:
        try:
            return msgspec.convert(table, kind)
        except msgspec.ValidationError as error:
            said, _, where = str(error).partition(" - at `$.")
            key = re.sub(r"\[.*", "", where.rstrip("`"))
            raise UsageError(f"{self.place(prefix + key)}: {said}") from error

    def _refuse_unknown(self, prefix: str, table: Mapping[str, Any], kind: type[Struct]) -> None:
        known = kind.__struct_fields__
        for name in table:
            if name not in known:
                near = nearest(name, known)
                hint = f"did you mean {near}?" if near else f"the keys are {', '.join(known)}"
                raise UsageError(f"{self.place(prefix + name)}: unknown key", hint=hint)


def texts(value: Texts) -> tuple[str, ...]:
    """One text or several, as several."""
    return (value,) if isinstance(value, str) and value else tuple(value)


def _tables(found: object) -> dict[str, dict[str, Any]]:
    if not isinstance(found, dict):
        return {}
    return {name: keys for name, keys in found.items() if isinstance(keys, dict)}
