"""The odds of an observed pair: a map and the neutrinos around it, with the p-value that trials
give. Looked at with a reason, which is recorded in the runs of the trials.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, to_builtins

from dask_runner.conclusions.coincidence_background import Background
from dask_runner.conclusions.coincidences import GivenOdds, Trials, given
from dask_runner.conclusions.unblinding import Unblinding, unblind
from dask_runner.errors import BadInputError
from dask_runner.files import path_to_text, sha256
from dask_runner.sky.healpix import SkyDensity, read_map
from dask_runner.sky.lists import COLUMNS, SECONDS_A_DAY, EventList, read_list
from dask_runner.trials.models.coincidence import observed

# 1970-01-01 as MJD.
_EPOCH: Final = 40587.0


class Pair(Struct, frozen=True, kw_only=True):
    """What was observed: a map, a list of events, when (MJD; None: what the map says), by which
    class of detectors, and why it may be looked at.
    """

    map: Path
    events: Path
    detector: str
    reason: str
    time: float | None = None


def observe(trials: Trials, background: Background, pair: Pair) -> GivenOdds:
    """Raises BadInputError for a map that does not say its time if none is given, and UsageError
    for an unknown class, before anything is recorded.
    """
    background.check(pair.detector, trials.model.digest(pair.detector))
    sky, time = _map(trials, pair)
    if not pair.events.is_file():
        raise BadInputError(f"--list {pair.events}: there is no such file")
    found: list[GivenOdds] = []

    def look() -> Mapping[str, Any]:
        row = observed(trials.model, pair.detector, sky, read_list(pair.events), time)
        result = given(background, pair.detector, row["log10_odds"])
        found.append(result)
        place = {"map": path_to_text(pair.map.absolute()), "map_sha256": sha256(pair.map)}
        return {**place, "time": time, "detector": pair.detector, **row, "p": to_builtins(result.p)}

    order = Unblinding(reason=pair.reason, source=str(pair.events))
    seen = unblind(trials.paths, order, look)
    (result,) = found
    return GivenOdds(
        detector=result.detector, log10_odds=result.log10_odds, p=result.p, unblinded=seen
    )


def around(trials: Trials, pair: Pair) -> tuple[SkyDensity, EventList]:
    """The map and the events in its window, to be drawn after they were looked at."""
    sky, time = _map(trials, pair)
    events = read_list(pair.events)
    window = trials.model.detector({"detector": pair.detector}).window
    delay = (events.time - time) * SECONDS_A_DAY
    inside = (delay >= window.begin) & (delay <= window.end)
    return sky, EventList(**{name: getattr(events, name)[inside] for name in COLUMNS})


def _map(trials: Trials, pair: Pair) -> tuple[SkyDensity, float]:
    """The map and its time in days (MJD)."""
    sky = read_map(pair.map, nside=trials.model.nside)
    return sky, _time(sky, pair.map) if pair.time is None else pair.time


def _time(sky: SkyDensity, path: Path) -> float:
    """MJD of DATE-OBS, which is in UTC."""
    try:
        when = datetime.fromisoformat(sky.time)
    except ValueError:
        raise BadInputError(
            f"{path}: its header does not say when (DATE-OBS is {sky.time!r})",
            hint="--time MJD",
        ) from None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return _EPOCH + when.timestamp() / SECONDS_A_DAY
