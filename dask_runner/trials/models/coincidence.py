"""The trial model `coincidence`: a map of a source's direction meets a list of neutrinos by chance.

Owns what is planned: which maps and lists a class of detectors has, all read once before anything
is started. The trials themselves are `coincidence_trials`, the formula of the odds `sky.odds` with
its derivation in docs/coincidence.md. No observed pair enters a trial: each map meets events at
random times and right ascensions.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
from msgspec import Struct, structs

from dask_runner import model_files
from dask_runner.errors import BadInputError, UsageError
from dask_runner.model_files import ModelFile, model_file
from dask_runner.seeds import Value
from dask_runner.sky.healpix import SkyDensity, read_map
from dask_runner.sky.lists import SECONDS_A_DAY, EventList, joined, read_list
from dask_runner.sky.odds import EnergyWeight, Window, log10_odds
from dask_runner.sky.rings import average
from dask_runner.trials.model import BlockTrial, Parameters
from dask_runner.trials.models.coincidence_config import (
    ALL,
    ClassConfig,
    beside,
    classes,
    instrument_names,
    read_config,
    read_items,
)
from dask_runner.trials.models.coincidence_trials import (
    REALS,
    Chance,
    Events,
    Maps,
    Pairing,
    Pool,
    WholeLists,
    pair_sums,
    rings_of,
)
from dask_runner.trials.points import Point

# Expected events in a window: a trial has room for all that may come.
_MOST_EVENTS = 20_000.0


class DetectorClass(Struct, frozen=True, kw_only=True):
    """A class of detectors: `maps` and `lists` are places in those of the model. With a `rate` (per
    second) the lists are a pool to draw from; else each trial takes one, with its own right
    ascensions if `keep_ra`. `prior` is n_s / n_b. With `pairs`, two events may be from the source.
    """

    maps: tuple[int, ...]
    lists: tuple[int, ...]
    window: Window
    energy: EnergyWeight | None = None
    rate: float = 0.0
    keep_ra: bool = False
    prior: float = 1.0
    pairs: bool = False


class Coincidence(Struct, frozen=True, kw_only=True):
    """Maps and lists, and the classes that use them. Maps finer than `nside` are made that coarse.

    Parameters of a point: `detector`, a class by name, and `n_sig`, the expected number of
    neutrinos that come from the source of the map.
    """

    maps: tuple[ModelFile, ...]
    lists: tuple[ModelFile, ...]
    classes: dict[str, DetectorClass]
    nside: int = 0
    notes: tuple[str, ...] = ()

    @classmethod
    def from_options(
        cls,
        *,
        config: Path | str | None = None,
        items: Path | str | None = None,
        points: Sequence[Mapping[str, Value]] = (),  # noqa: ARG003  # all classes are planned
    ) -> Self:
        """As the TOML file says, with the maps that `items` names. Every map and list is read.

        Raises UsageError and BadInputError with file, line and key.
        """
        if config is None:
            raise UsageError(
                "model coincidence needs --config FILE.toml", hint="see docs/coincidence.md"
            )
        path, given = Path(config), None if items is None else Path(items)
        keys = read_config(path)
        planner = _Planner(keys.nside)
        found = {one.name: planner.plan(one, path) for one in classes(path, keys, given)}
        return cls(
            maps=tuple(planner.maps),
            lists=tuple(planner.lists),
            classes=found,
            nside=keys.nside,
            notes=tuple(planner.notes),
        )

    @staticmethod
    def identity(configuration: Mapping[str, Any]) -> dict[str, Any]:
        """What two runs must share to be of one model: files by their content, which is looked at
        beside this, wherever they are.
        """
        left_out = {"maps", "lists", "notes"}
        return {name: value for name, value in configuration.items() if name not in left_out}

    def files(self) -> tuple[ModelFile, ...]:
        return (*self.maps, *self.lists)

    def located(self, places: Mapping[str, Path]) -> Self:
        return structs.replace(
            self,
            maps=tuple(model_files.located(file, places) for file in self.maps),
            lists=tuple(model_files.located(file, places) for file in self.lists),
        )

    def spread(self, points: list[Point]) -> list[Point]:
        """All classes for points that name none, if there are several."""
        if list(self.classes) == [ALL] or any("detector" in point for point in points):
            return points
        return [{"detector": name, **point} for name in self.classes for point in points]

    def parameters(self) -> Parameters:
        if list(self.classes) == [ALL]:
            return Parameters(optional={"detector": ALL, "n_sig": 0})
        return Parameters(required=("detector",), optional={"n_sig": 0})

    def fields(self) -> dict[str, str]:
        """`map` and `list` are places in the model's (-1: a pool); `n_events` are all in the window
        and `n_injected` those from the source; `ts` is 2 ln(1 + odds), which grows as the odds do
        and is 0 for none, for conclusions that need a test statistic; `space`, `time` and `energy`
        are the factors of the event that says most for a common source, 0 without any.
        """
        whole = dict.fromkeys(("map", "list", "n_events", "n_injected"), "<i4")
        return {**whole, **dict.fromkeys(REALS, "<f8")}

    def sampler(self, point: Mapping[str, Value]) -> BlockTrial:
        """Prepare for a class. Raises UsageError for an unknown one, and for a signal that is no
        number of events.
        """
        found = self.detector(point)
        pairing = Pairing(
            maps=Maps([self.maps[k].local for k in found.maps], self.nside),
            places=found.maps,
            chance=self._chance(found),
            chosen=found.lists,
            n_sig=_events(point),
            window=found.window,
            energy=found.energy,
            prior=found.prior,
            pairs=found.pairs,
        )
        return BlockTrial(words=pairing.words, run=pairing.run, rows=pairing.rows)

    def digest(self, name: str) -> str:
        """The same for the same class: all that its odds depend on, with the content of its files.
        Raises UsageError for an unknown class.
        """
        found = self.detector({"detector": name})
        parts = {
            **msgspec.to_builtins(found),
            "nside": self.nside,
            "maps": [self.maps[k].sha256 for k in found.maps],
            "lists": [self.lists[k].sha256 for k in found.lists],
        }
        return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()

    def detector(self, point: Mapping[str, Value]) -> DetectorClass:
        """The class of a point. Raises UsageError."""
        name = str(point.get("detector", ALL))
        if name not in self.classes:
            raise UsageError(
                f"model coincidence has no class of detectors {name!r}",
                hint=f"--grid detector={','.join(self.classes)}",
            )
        return self.classes[name]

    def _chance(self, found: DetectorClass) -> Chance:
        lists = [read_list(self.lists[k].local) for k in found.lists]
        if found.rate:
            return Pool(joined(lists), expected=found.rate * found.window.width)
        return WholeLists(lists, keep_ra=found.keep_ra)


def observed(
    model: Coincidence, detector: str, sky: SkyDensity, events: EventList, time: float
) -> dict[str, float]:
    """The same numbers as those of a trial for an observed map and the neutrinos around it; `time`
    is that of the map's event in days (MJD). Events outside the window do not count. Only for those
    who unblind. Raises UsageError for an unknown class.
    """
    found = model.detector({"detector": detector})
    delay = (events.time - time) * SECONDS_A_DAY
    inside = (delay >= found.window.begin) & (delay <= found.window.end)
    place = np.flatnonzero(inside)
    near = Events(
        trial=np.zeros(len(place), np.int64),
        delay=delay[place],
        **{name: getattr(events, name)[place] for name in ("ra", "dec", "sigma", "energy")},
    )
    space = average(rings_of(sky.nside), sky.density, near.ra, near.dec, near.sigma)
    when = found.window.factor(near.delay)
    strong = np.ones_like(space) if found.energy is None else found.energy.factor(near.energy)
    value = space * when * strong
    total = np.array([value.sum()])
    if found.pairs:
        total += found.prior * pair_sums(sky, near, when * strong, np.array([len(value)]))
    best = int(value.argmax()) if len(value) else -1
    return {
        "log10_odds": float(log10_odds(total, found.prior)[0]),
        "n_events": len(value),
        "space": float(space[best]) if len(value) else 0.0,
        "time": float(when[best]) if len(value) else 0.0,
        "energy": float(strong[best]) if len(value) else 0.0,
    }


class _Planner:
    """Collects files, each once, while classes are planned."""

    def __init__(self, nside: int) -> None:
        self.maps: list[ModelFile] = []
        self.lists: list[ModelFile] = []
        self.notes: list[str] = []
        self._nside = nside
        self._places: dict[Path, int] = {}
        self._headers: dict[int, SkyDensity] = {}
        self._events: dict[int, EventList] = {}

    def plan(self, one: ClassConfig, config: Path) -> DetectorClass:
        maps = [self._map(path) for path in read_items(one.maps, "--items")]
        chosen = [k for k in maps if self._has(k, one.instruments)]
        if not chosen:
            names = ",".join(sorted(one.instruments))
            raise BadInputError(f"{config}: detector.{one.name}: no map is of instruments {names}")
        keys = one.background
        files = (
            [beside(config, name) for name in keys.files]
            if keys.files
            else read_items(beside(config, keys.lists), "background.lists")
        )
        lists = [self._list(path) for path in files]
        rate = self._rate(one, lists, config) if keys.files else 0.0
        count = f"{rate * one.window.width:.4g} events" if rate else f"one of {len(lists)} lists"
        self.notes.append(f"class {one.name}: {len(chosen)} maps, each trial has {count}")
        return DetectorClass(
            maps=tuple(chosen),
            lists=tuple(lists),
            window=one.window,
            energy=one.energy,
            rate=rate,
            keep_ra=keys.keep_ra,
            prior=one.prior,
            pairs=one.pairs,
        )

    def _rate(self, one: ClassConfig, lists: list[int], config: Path) -> float:
        events = joined([self._events[k] for k in lists])
        where = f"{config}: detector.{one.name}: background"
        if not len(events):
            raise BadInputError(f"{where}: there are no events to draw from")
        rate = one.background.rate or (len(events) / events.span if events.span else 0.0)
        if not rate:
            raise BadInputError(
                f"{where}: all events have the same time: what is their rate?",
                hint="rate = 0.006  # per second",
            )
        expected = rate * one.window.width
        if not math.isfinite(expected) or expected > _MOST_EVENTS:
            raise BadInputError(
                f"{where}: {expected:.3g} events are expected in the window",
                hint=f"at most {_MOST_EVENTS:g}; times are in days (MJD), the rate is per second",
            )
        return rate

    def _map(self, path: Path) -> int:
        if path not in self._places:
            place = self._places[path] = len(self.maps)
            self.maps.append(model_file(path))
            # Whatever is wrong with a map is found out here. Pixels are not kept.
            found = read_map(path, nside=self._nside)
            self._headers[place] = structs.replace(found, density=found.density[:0])
        return self._places[path]

    def _has(self, place: int, wanted: frozenset[str]) -> bool:
        return not wanted or instrument_names(self._headers[place].instruments) == wanted

    def _list(self, path: Path) -> int:
        whole = path.absolute()
        if whole not in self._places:
            self._places[whole] = len(self.lists)
            self.lists.append(model_file(whole))
            self._events[self._places[whole]] = read_list(whole)
        return self._places[whole]


def _events(point: Mapping[str, Value]) -> float:
    value = point.get("n_sig", 0)
    if isinstance(value, str) or not 0 <= value <= _MOST_EVENTS:
        raise UsageError(
            f"model coincidence: n_sig={value!r} is not a number of events up to {_MOST_EVENTS:g}"
        )
    return float(value)
