"""Trials of the model `coincidence`: who meets whom, where injected events come from, the odds.

Many trials at once, map by map, so that each map is loaded once for a block. Owns which random
words a trial uses for what: word 0 chooses the map, 1 the number of background events (or the
list), 2 the number of injected ones, 3 their direction; then each background event has its words,
and behind them each injected one.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dask_runner.errors import UsageError
from dask_runner.sky.healpix import SkyDensity, read_map
from dask_runner.sky.lists import EventList, joined
from dask_runner.sky.odds import EnergyWeight, Window, log10_odds
from dask_runner.sky.pairs import pairs_of
from dask_runner.sky.pixels import centres
from dask_runner.sky.rings import Rings, average
from dask_runner.trials.models.counting import PoissonInverse

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# Fields that are no whole numbers.
REALS: Final = ("log10_odds", "ts", "space", "time", "energy")
# What a trial uses before its events.
_HEAD: Final = 4
# Of each injected event: which one of the lists lends its error, distance, angle, time, energy.
_INJECTED: Final = 5
# Words of the trials that are computed together, and how many of them should share a map that has
# to be read for them, as far as memory for so many words allows.
_BLOCK_WORDS: Final = 1 << 22
_MOST_WORDS: Final = 1 << 24
_SHARING: Final = 100
# Bytes of maps that a process keeps.
_KEPT: Final = 1 << 28


class Events(Struct, frozen=True, kw_only=True, eq=False):
    """Events of some trials, arrays (n,): whose they are (`trial`, a row), where (radians), when
    (`delay` in s against the map's event), and their energy in GeV.
    """

    trial: Integers
    ra: Floats
    dec: Floats
    sigma: Floats
    delay: Floats
    energy: Floats


class Chance(Protocol):
    """Where background events come from. `words` are those that an event uses, `most` is how many
    events a trial may have.
    """

    @property
    def words(self) -> int: ...
    @property
    def most(self) -> int: ...
    @property
    def events(self) -> EventList:
        """All that there are."""

    def chosen(self, uniforms: Floats) -> Integers:
        """Which list each trial takes, -1 if none, (n,)."""

    def number(self, uniforms: Floats) -> Integers:
        """How many events each trial has, (n,)."""

    @property
    def keep_ra(self) -> bool:
        """Whether events have their own right ascensions."""

    def place(self, uniforms: Floats, nth: Integers, drawn: Floats) -> Integers:
        """Which of `events` each event is: the `nth` of a trial with these `uniforms`, as for
        `number`; `drawn` is its own uniform number. All of shape (n,).
        """


class Pool:
    """Each trial has a Poisson number of events, each any of the pool."""

    keep_ra = False
    words = 3

    def __init__(self, events: EventList, *, expected: float) -> None:
        self.events = events
        self._number = PoissonInverse(expected)
        self.most = int(self._number.counts[-1])

    def chosen(self, uniforms: Floats) -> Integers:
        return np.full(len(uniforms), -1)

    def number(self, uniforms: Floats) -> Integers:
        return self._number.counts[self._number.places(uniforms)].astype(np.int64)

    def place(self, uniforms: Floats, nth: Integers, drawn: Floats) -> Integers:  # noqa: ARG002
        return _choice(drawn, len(self.events))


class WholeLists:
    """Each trial has the events of one list."""

    words = 3

    def __init__(self, lists: Sequence[EventList], *, keep_ra: bool) -> None:
        self.keep_ra = keep_ra
        self.events = joined(list(lists))
        self._sizes = np.array([len(one) for one in lists], np.int64)
        self._first = np.cumsum(self._sizes) - self._sizes
        self.most = int(self._sizes.max())

    def chosen(self, uniforms: Floats) -> Integers:
        return _choice(uniforms, len(self._sizes))

    def number(self, uniforms: Floats) -> Integers:
        return self._sizes[self.chosen(uniforms)]

    def place(self, uniforms: Floats, nth: Integers, drawn: Floats) -> Integers:  # noqa: ARG002
        return self._first[self.chosen(uniforms)] + nth


class Maps:
    """Maps by their place. As many are kept as fit, the first ones: each block of trials goes
    through all of them in order, so that keeping the last ones would have each read every time.
    """

    def __init__(self, paths: Sequence[Path], nside: int) -> None:
        self._paths = paths
        self._nside = nside
        self._kept: dict[int, SkyDensity] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, place: int) -> SkyDensity:
        """Raises BadInputError."""
        found = self._kept.get(place)
        if found is None:
            found = read_map(self._paths[place], nside=self._nside)
            if self._bytes + found.density.nbytes <= _KEPT:
                self._kept[place] = found
                self._bytes += found.density.nbytes
        return found


class Pairing:
    """The trials of a class. `places` are the numbers of the maps and `chosen` those of the lists
    in the results.
    """

    def __init__(
        self,
        *,
        maps: Maps,
        places: Sequence[int],
        chance: Chance,
        chosen: Sequence[int],
        n_sig: float,
        window: Window,
        energy: EnergyWeight | None,
        prior: float,
        pairs: bool,
    ) -> None:
        self._maps, self._chance = maps, chance
        self._places = np.array(places, np.int32)
        # Behind the last one, where -1 points to: no list.
        self._lists = np.array([*chosen, -1], np.int32)
        self._window, self._energy, self._prior, self._pairs = window, energy, prior, pairs
        if n_sig and not len(chance.events):
            raise UsageError(
                "n_sig: the lists have no event whose error an injected one could have"
            )
        self._signal = PoissonInverse(n_sig) if n_sig else None
        self._most_signal = int(self._signal.counts[-1]) if self._signal else 0
        self._behind = _HEAD + chance.most * chance.words
        self.words = self._behind + self._most_signal * _INJECTED
        wanted = max(_BLOCK_WORDS // self.words, _SHARING * len(maps))
        self.rows = max(64, min(wanted, _MOST_WORDS // self.words))

    def run(self, uniforms: Floats) -> dict[str, npt.NDArray[Any]]:
        """The fields of some trials from their words, (trials, words)."""
        head = np.ascontiguousarray(uniforms[:, :_HEAD].T)
        which = _choice(head[0], len(self._maps))
        columns: dict[str, npt.NDArray[Any]] = {
            "map": self._places[which],
            "list": self._lists[self._chance.chosen(head[1])],
            **{name: np.zeros(len(which), "<i4") for name in ("n_events", "n_injected")},
            **{name: np.zeros(len(which)) for name in REALS},
        }
        for place in np.unique(which):
            rows = np.flatnonzero(which == place)
            found = self._of_map(self._maps[int(place)], uniforms[rows])
            for name, values in found.items():
                columns[name][rows] = values
        return columns

    def _of_map(self, sky: SkyDensity, uniforms: Floats) -> dict[str, npt.NDArray[Any]]:
        background = self._background(uniforms)
        parts = [background]
        injected = np.zeros(len(uniforms), np.int64)
        if self._signal is not None:
            places = self._signal.places(uniforms[:, 2].copy())
            injected = self._signal.counts[places].astype(np.int64)
            parts.append(self._injected(sky, uniforms, injected))
        events = _in_order(parts)
        n = len(uniforms)
        space = average(rings_of(sky.nside), sky.density, events.ra, events.dec, events.sigma)
        time = self._window.factor(events.delay)
        energy = np.ones_like(space) if self._energy is None else self._energy.factor(events.energy)
        number = np.bincount(events.trial, minlength=n)
        value = space * time * energy
        sums = np.bincount(events.trial, value, n).astype(np.float64)
        if self._pairs:
            sums += self._prior * pair_sums(sky, events, time * energy, number)
        best = _best(events.trial, value, number)
        there = number > 0
        return {
            "n_events": number,
            "n_injected": injected,
            "log10_odds": log10_odds(sums, self._prior),
            "ts": 2 * np.log1p(self._prior * sums),
            **{
                name: _spread(factor[best], there)
                for name, factor in (("space", space), ("time", time), ("energy", energy))
            },
        }

    def _background(self, uniforms: Floats) -> Events:
        heads = uniforms[:, 1].copy()
        trial, nth = _expanded(self._chance.number(heads))
        words = self._chance.words
        pick, turn, when = (uniforms[trial, _HEAD + nth * words + k] for k in range(words))
        place = self._chance.place(heads[trial], nth, pick)
        events = self._chance.events
        return Events(
            trial=trial,
            ra=events.ra[place] if self._chance.keep_ra else 2 * np.pi * turn,
            dec=events.dec[place],
            sigma=events.sigma[place],
            delay=self._window.begin + when * self._window.width,
            energy=events.energy[place],
        )

    def _injected(self, sky: SkyDensity, uniforms: Floats, number: Integers) -> Events:
        """Events from one direction of the map for each trial: the centre of a pixel, drawn with
        its probability; each scattered by the error of some event of the lists.
        """
        below = np.cumsum(sky.density)
        pixel = np.searchsorted(below, uniforms[:, 3] * below[-1], side="right")
        pixel = np.minimum(pixel, len(below) - 1)
        ra, dec = centres(sky.nside, pixel)
        trial, nth = _expanded(number)
        first = self._behind + nth * _INJECTED
        lend, far, angle, when, strong = (uniforms[trial, first + k] for k in range(_INJECTED))
        place = _choice(lend, len(self._chance.events))
        sigma = self._chance.events.sigma[place]
        energy = self._chance.events.energy[place]
        at_ra, at_dec = scattered(ra[trial], dec[trial], sigma, far, angle)
        return Events(
            trial=trial,
            ra=at_ra,
            dec=at_dec,
            sigma=sigma,
            delay=self._window.delays(when),
            energy=energy if self._energy is None else self._energy.energies(strong),
        )


def pair_sums(sky: SkyDensity, events: Events, factor: Floats, number: Integers) -> Floats:
    """The sum over pairs of events of each trial, (trials,): overlap of the two, mean of the map
    where both say that the source is, and the `factor` of time and energy of each.
    """
    found = pairs_of(events.ra, events.dec, events.sigma, number)
    space = average(rings_of(sky.nside), sky.density, found.ra, found.dec, found.sigma)
    value = found.overlap * space * factor[found.first] * factor[found.second]
    return np.bincount(events.trial[found.first], value, len(number)).astype(np.float64)


@lru_cache(maxsize=8)
def rings_of(nside: int) -> Rings:
    """The rings of a grid, made once."""
    return Rings.of(nside)


def scattered(
    ra: Floats, dec: Floats, sigma: Floats, far: Floats, angle: Floats
) -> tuple[Floats, Floats]:
    """Directions around others with a von Mises-Fisher distribution of concentration 1 / sigma^2;
    `far` and `angle` are uniform numbers. All in radians, (n,).

    1 - cos(psi) = -sigma^2 ln(1 - u (1 - exp(-2 / sigma^2))), the inverse of its distribution.
    """
    away = -(sigma**2) * np.log1p(far * np.expm1(-2 / sigma**2))
    cosine, sine = 1 - away, np.sqrt(np.maximum(away * (2 - away), 0.0))
    turn = 2 * np.pi * angle
    height = np.sin(dec) * cosine + np.cos(dec) * sine * np.cos(turn)
    new_dec = np.arcsin(np.clip(height, -1, 1))
    across = sine * np.sin(turn) * np.cos(dec)
    new_ra = ra + np.arctan2(across, cosine - np.sin(dec) * height)
    return np.mod(new_ra, 2 * np.pi), new_dec


def _choice(uniforms: Floats, number: int) -> Integers:
    return np.asarray(np.minimum((uniforms * number).astype(np.int64), max(0, number - 1)))


def _expanded(number: Integers) -> tuple[Integers, Integers]:
    """For each event the row of its trial, and which one of the trial's it is."""
    trial = np.repeat(np.arange(len(number)), number)
    return trial, np.arange(len(trial)) - np.repeat(np.cumsum(number) - number, number)


def _in_order(parts: Sequence[Events]) -> Events:
    """All events, trial by trial."""
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in Events.__struct_fields__
    }
    order = np.argsort(columns["trial"], kind="stable")
    return Events(**{name: column[order] for name, column in columns.items()})


def _best(trial: Integers, value: Floats, number: Integers) -> Integers:
    """The event with the largest value of each trial that has events."""
    order = np.lexsort((-value, trial))
    first = np.cumsum(number) - number
    return np.asarray(order[first[number > 0]])


def _spread(values: Floats, there: npt.NDArray[np.bool_]) -> Floats:
    whole = np.zeros(len(there))
    whole[there] = values
    return whole
