"""The TOML file of a coincidence search and the lists of files that it names.

Owns the syntax and its errors. A class of detectors ([detector.NAME]) has what the top of the file
says, but for what it says itself. Refuses to read a map or an event.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from dask_runner.errors import BadInputError, UsageError
from dask_runner.settings.keys import nearest
from dask_runner.sky.odds import EnergyWeight, Window
from dask_runner.sky.toml import refuse_infinite

# The class of a file that has none.
ALL = "all"
_UNKNOWN = re.compile(r"unknown field `(?P<name>[^`]*)`")
Positive = Annotated[float, Meta(gt=0)]


class BackgroundKeys(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[background]: `events`, files of events from which each trial draws as many as `rate` (per
    second; that of the files without it) gives in the window, at random right ascensions and times;
    or `lists`, a file that names lists, one of which each trial takes whole, at random times, and
    at random right ascensions unless `keep_ra`.
    """

    events: str | tuple[str, ...] = ()
    lists: str = ""
    rate: Positive | None = None
    keep_ra: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        return (self.events,) if isinstance(self.events, str) else self.events


class ClassKeys(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a class of detectors is: the file `maps` names its maps, one a line, of which only those
    of these `instruments` count if they are given; `prior` is n_s / n_b; without `energy` it does
    not count; with `pairs` two events may be from the source, which needs the true `prior`.
    """

    maps: str = ""
    instruments: str = ""
    background: BackgroundKeys | None = None
    window: Window | None = None
    energy: EnergyWeight | None = None
    prior: Positive | None = None
    pairs: bool | None = None


class Config(ClassKeys, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file. Maps that are finer than `nside` are made that coarse (0: as they are)."""

    nside: Annotated[int, Meta(ge=0)] = 0
    detector: dict[str, ClassKeys] = {}


class ClassConfig(Struct, frozen=True, kw_only=True):
    """A class with all that holds for it; paths are absolute."""

    name: str
    maps: Path
    instruments: frozenset[str]
    background: BackgroundKeys
    window: Window
    energy: EnergyWeight | None
    prior: float
    pairs: bool


def read_config(path: Path) -> Config:
    """Read and check the file by itself. Raises BadInputError that names file and key."""
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: not a TOML file: {error}") from error
    try:
        config = msgspec.convert(table, Config)
    except msgspec.ValidationError as error:
        raise BadInputError(f"{path}: {error}", hint=_suggestion(str(error))) from error
    refuse_infinite(path, "", table)
    return config


def classes(path: Path, config: Config, items: Path | None) -> list[ClassConfig]:
    """The classes of detectors of the file, or the one class `all`; `items` names the maps of those
    that have no file of their own. Raises BadInputError for one that lacks something.
    """
    sections: Mapping[str, ClassKeys] = config.detector or {ALL: ClassKeys()}
    return [_class(path, name, keys, config, items) for name, keys in sections.items()]


def _class(
    path: Path, name: str, keys: ClassKeys, config: Config, items: Path | None
) -> ClassConfig:
    where = f"{path}: detector.{name}" if config.detector else f"{path}"
    own = keys.maps or ("" if items else config.maps)
    if not own and items is None:
        raise BadInputError(f"{where}: which maps?", hint="--items maps.txt, or maps = 'maps.txt'")
    maps = beside(path, own) if own else items
    assert maps is not None
    background = keys.background or config.background
    if background is None or bool(background.files) == bool(background.lists):
        raise BadInputError(
            f"{where}: [background] has either events or lists",
            hint="events = 'neutrinos.csv' to draw from, or lists = 'lists.txt' to choose from",
        )
    window, energy = keys.window or config.window or Window(), keys.energy or config.energy
    prior = keys.prior or config.prior
    pairs = config.pairs if keys.pairs is None else keys.pairs
    if pairs and prior is None:
        raise BadInputError(
            f"{where}: pairs need the prior",
            hint="prior = n_s / n_b, expected events of a source over those of chance; 0.001, say",
        )
    window.check(f"{where}: window")
    if energy is not None:
        energy.check(f"{where}: energy")
    return ClassConfig(
        name=name,
        maps=maps,
        instruments=instrument_names(keys.instruments or config.instruments),
        background=background,
        window=window,
        energy=energy,
        prior=prior or 1.0,
        pairs=bool(pairs),
    )


def instrument_names(text: str) -> frozenset[str]:
    """`H1,L1` or `H1L1` in any order."""
    return frozenset(re.findall(r"[A-Z][0-9]|[A-Za-z0-9]+", text))


def beside(path: Path, name: str) -> Path:
    """A file that is named in the file `path`: relative to its folder."""
    return path.parent / Path(name).expanduser()


def read_items(path: Path, option: str) -> list[Path]:
    """The paths in a file, one a line; blank lines and those that begin with # do not count. They
    are relative to the file's folder, or to the current one.

    Raises BadInputError for a file that is not there or is named twice, with its line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BadInputError(f"{option} {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInputError(
            f"{option} {path}: not a list of paths: {error}", hint="one path on each line"
        ) from error
    found: dict[Path, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        item = _item(path, name, f"{option} {path} line {number}")
        if item in found:
            raise BadInputError(
                f"{option} {path} line {number}: {name} is in line {found[item]} already",
                hint="each file counts once",
            )
        found[item] = number
    if not found:
        raise UsageError(f"{option} {path}: names no file", hint="one path on each line")
    return list(found)


def _item(path: Path, name: str, where: str) -> Path:
    given = Path(name).expanduser()
    for candidate in (path.parent / given, given):
        if candidate.is_file():
            return candidate.absolute()
    raise BadInputError(f"{where}: {name}: there is no such file")


def _suggestion(message: str) -> str:
    match = _UNKNOWN.search(message)
    if match is None:
        return ""
    kinds: tuple[Any, ...] = (Config, BackgroundKeys, Window, EnergyWeight)
    known = list(dict.fromkeys(name for kind in kinds for name in kind.__struct_fields__))
    near = nearest(match["name"], known)
    return f"did you mean {near}?" if near else f"the keys are {', '.join(known)}"
