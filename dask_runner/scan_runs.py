"""Scans of skies, made from what the user says: which pixels of which skies, how many to a batch.

Owns what of a command line or a call becomes the workload, and the pilot that tells what a pixel
costs: always on a scrambled sky. Refuses to dispatch: `pipeline` does.
"""

import time
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import Struct

from dask_runner import model_files
from dask_runner.batch import RETURNED_MAX, Batch
from dask_runner.conclusions.sky_background import background
from dask_runner.errors import UsageError
from dask_runner.identity import whoami
from dask_runner.manifest import Extension, Note, NoteKind, RunState, utc_now
from dask_runner.opening import Target
from dask_runner.progress import duration
from dask_runner.prospect import Prospects
from dask_runner.settings import Settings
from dask_runner.sky import pixels, scans
from dask_runner.sky.config import SearchConfig, read_search
from dask_runner.sky.search import Search
from dask_runner.stats.forecast import forecast
from dask_runner.workloads.skyscan import InjectedSource, SkyScan

KEEPS: Final = ("maps", "hottest")
# Of the pilot: places in the band, pixels at each, seconds in all.
_PLACES, _PIXELS, _SECONDS = 8, 48, 1.5
# In a run that is short, each slot gets at least so many batches, none shorter than this (s).
_ROUNDS, _SHORTEST = 4, 0.5
_SPARE = 1_000_000
# Of an injected source: expected events, degrees.
_MOST_SIGNAL, _MOST_EXTENSION = 1e6, 30.0


class ScanRequest(Struct, frozen=True, kw_only=True):
    """What is wanted: declinations in degrees; `unblind` is the reason to scan the observed sky,
    None for scrambled ones; `inject` as --inject says it; `keep` "" is maps of one sky, the hottest
    pixels of many; `batch_size` in pixels, 0 if by time; `background` are runs of trials.
    """

    config: Path
    nside: int = 64
    min_dec: float = -90.0
    max_dec: float = 90.0
    skies: int = 1
    unblind: str | None = None
    inject: str = ""
    keep: str = ""
    batch_size: int = 0
    background: tuple[Path, ...] = ()
    fit: str = "chi2"


class Cost(Struct, frozen=True, kw_only=True):
    """Seconds for each pixel, before the first one of each sky, and before a batch's first sky."""

    pixel: float
    sky: float
    batch: float = 0.0


class PlannedScan(Struct, frozen=True, kw_only=True):
    """A workload, and what goes into the manifest before anything is done."""

    workload: SkyScan
    notes: tuple[Note, ...] = ()


def plan(request: ScanRequest, settings: Settings, target: Target) -> PlannedScan:
    """Read the search, try some pixels of a scrambled sky, and divide the work. Raises UsageError
    or BadInputError for whatever is wrong, before anything is started.
    """
    _check(request)
    search = read_search(request.config)
    first, count = pixels.band(
        request.nside, np.radians(request.min_dec), np.radians(request.max_dec)
    )
    loaded = background(request.background, search, fit=request.fit)
    workload = SkyScan(
        search=search,
        seed=settings.run.seed,
        nside=request.nside,
        first_pixel=first,
        pixels=count,
        size=1,
        skies=request.skies,
        keep="hottest" if _keeps_hottest(request) else "maps",
        unblind=(request.unblind or "").strip(),
        source=_source(request.inject, search),
        significance=loaded.significance,
    )
    began = time.process_time()
    made = Search.load(search)
    loading = time.process_time() - began
    cost = msgspec.structs.replace(_pilot(workload, made), batch=loading)
    slots = max(1, Prospects(settings, target).tell(request.skies, None).slots)
    size = batch_size(
        workload, cost, slots=slots, fixed=request.batch_size, target=settings.trials.batch_seconds
    )
    notes = (*_notes(workload, cost, slots), *_empty(workload, made), *loaded.warnings)
    workload = msgspec.structs.replace(workload, size=size, notes=notes)
    return PlannedScan(workload=workload, notes=_record(workload))


def _check(request: ScanRequest) -> None:
    pixels.check_nside(request.nside)
    for name, value in (("--min-dec", request.min_dec), ("--max-dec", request.max_dec)):
        if not -90 <= value <= 90:  # noqa: PLR2004  (degrees)
            raise UsageError(f"{name} {value:g}: a declination is between -90 and 90 degrees")
    if request.skies < 1:
        raise UsageError(f"-n {request.skies}: at least one sky")
    if request.keep not in {"", *KEEPS}:
        raise UsageError(f"--keep {request.keep}", hint=f"one of {', '.join(KEEPS)}")
    if request.unblind is None:
        return
    if not request.unblind.strip():
        raise UsageError("--unblind needs a reason", hint="--unblind 'approved 2026-11-20'")
    if request.skies != 1 or request.inject:
        raise UsageError(
            "there is one observed sky, and nothing is injected into it",
            hint="leave -n and --inject out, or --unblind",
        )


def _keeps_hottest(request: ScanRequest) -> bool:
    return request.keep == "hottest" or (not request.keep and request.skies > 1)


def _source(text: str, search: SearchConfig) -> InjectedSource | None:
    """From `dec=..,ra=..,n_sig=..`, with the spectrum of the search if it names none."""
    if not text:
        return None
    parts = [part.partition("=")[::2] for part in text.split(",")]
    words = {name.strip(): value for name, value in parts}
    if len(words) < len(parts):
        raise UsageError(f"--inject {text}: a name is there twice")
    given: dict[str, float] = {}
    for name, value in words.items():
        try:
            given[name] = float(value)
        except ValueError:
            raise UsageError(
                f"--inject: {name}={value} is no number", hint="--inject dec=10,ra=120,n_sig=30"
            ) from None
    flux = search.flux()
    defaults: dict[str, Any] = {
        "index": flux.index,
        "cutoff": flux.cutoff,
        "extension": search.signal.extension,
    }
    try:
        found = msgspec.convert({**defaults, **given}, InjectedSource, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"--inject {text}: {error}") from error
    unknown = [name for name in given if name not in InjectedSource.__struct_fields__]
    if unknown:
        raise UsageError(
            f"--inject has no {unknown[0]!r}",
            hint=f"it has: {', '.join(InjectedSource.__struct_fields__)}",
        )
    if (
        not all(np.isfinite(getattr(found, name)) for name in found.__struct_fields__)
        or not 0 <= found.n_sig <= _MOST_SIGNAL
        or not 0 <= found.extension <= _MOST_EXTENSION
        or not -90 <= found.dec <= 90  # noqa: PLR2004  (degrees)
        or not -180 <= found.ra <= 360  # noqa: PLR2004  (both manners of counting)
    ):
        raise UsageError(
            f"--inject {text}: no such source",
            hint="dec is within -90 to 90 deg, ra within -180 to 360 deg, "
            f"n_sig within 0 to {_MOST_SIGNAL:g}, extension within 0 to {_MOST_EXTENSION:g} deg",
        )
    found.flux.check("--inject")
    return found


def _pilot(workload: SkyScan, search: Search) -> Cost:
    """What a pixel costs: some that follow each other at several declinations, of sky 0, scrambled
    also if the observed one is wanted. In seconds of the processor: what else runs here is no
    matter of the hosts'.
    """
    blind = msgspec.structs.replace(workload, unblind="", keep="maps")
    began = time.process_time()
    evaluator = blind.evaluator(search, 0)
    prepared = time.process_time() - began
    number = min(_PIXELS, workload.pixels)
    places = np.linspace(0, workload.pixels - number, _PLACES).astype(int)
    blind.scan(evaluator, 0, int(places[_PLACES // 2]), min(4, number))  # warms up
    began, done = time.process_time(), 0
    # From the middle outwards in turn, so that a pilot that is cut short is not all of one pole.
    for place in places[np.argsort(np.arange(_PLACES) % 3, kind="stable")]:
        blind.scan(evaluator, 0, int(place), number)
        done += number
        if time.process_time() - began > _SECONDS:
            break
    return Cost(pixel=(time.process_time() - began) / done, sky=prepared)


def batch_size(workload: SkyScan, cost: Cost, *, slots: int, fixed: int, target: float) -> int:
    """Pixels in a batch: whole skies if they are short, else equal parts of one. `fixed` is what
    the user wants, 0 if by time.
    """
    most = (RETURNED_MAX - _SPARE) // scans.PIXEL.itemsize
    if fixed:
        return min(fixed, most)
    sky = cost.sky + workload.pixels * cost.pixel
    share = max(_SHORTEST, workload.skies * sky / (_ROUNDS * slots))
    goal = min(target, share)
    if goal >= sky:
        return min(int(goal / sky) * workload.pixels, most // workload.pixels * workload.pixels)
    # The pixels of a batch take no less than what is prepared for them.
    before = cost.batch + cost.sky
    parts = ceil(workload.pixels * cost.pixel / max(goal - before, before))
    return min(ceil(workload.pixels / parts), most)


def _notes(workload: SkyScan, cost: Cost, slots: int) -> tuple[str, ...]:
    total = workload.skies * workload.pixels
    expected = forecast(total, cost.pixel + cost.sky / workload.pixels, slots=slots)
    what = "the observed sky" if workload.unblind else f"{workload.skies} scrambled skies"
    if workload.skies == 1 and not workload.unblind:
        what = "a scrambled sky"
    grid = f"nside {workload.nside} ({np.degrees(pixels.resolution(workload.nside)):.3g} deg)"
    speed = f"{1 / cost.pixel:.0f} pixels/s on a core"
    time_text = f"{duration(expected.cpu)} of CPU, {duration(expected.wall)} on {slots} slots"
    return (
        f"{what}: {workload.pixels} pixels of {grid} each",
        f"expected: {time_text} ({speed})",
    )


def _empty(workload: SkyScan, search: Search) -> tuple[str, ...]:
    """Where the experiment has no events nothing can be found."""
    rings, number = pixels.rings(workload.nside, workload.first_pixel, workload.pixels)
    empty = np.array([_has_no_events(search, float(ring)) for ring in rings])
    if not empty.any():
        return ()
    low, high = np.degrees([rings[empty].min(), rings[empty].max()])
    where = f"{int(number[empty].sum())} pixels between {low:.1f} and {high:.1f} deg"
    why = "the experiment has no events there, so TS is 0; --min-dec and --max-dec leave them out"
    return (f"{where}: {why}",)


def _has_no_events(search: Search, dec: float) -> bool:
    try:
        search.check_background(dec)
    except UsageError:
        return True
    return False


def _record(workload: SkyScan) -> tuple[Note, ...]:
    """Who looks at the observed sky, and why: durable before the first pixel."""
    if not workload.unblind:
        return ()
    files = [{"path": file.path, "sha256": file.sha256} for file in workload.search.files()]
    return (
        Note(
            kind=NoteKind.UNBLINDED,
            text=f"the observed sky is scanned: {workload.unblind}",
            data={"reason": workload.unblind, "samples": files},
            time=utc_now(),
            who=whoami(),
        ),
    )


def scan_of(state: RunState) -> SkyScan:
    """The workload of a scan. Raises UsageError if the run is none."""
    name, spec = state.folder.timestamp, state.header.workload
    if spec.name != "skyscan":
        raise UsageError(
            f"run {name} is no scan of a sky but of {spec.name}",
            hint="`dask-runner runs` shows what runs are of",
        )
    try:
        return msgspec.convert(spec.configuration, SkyScan)
    except msgspec.ValidationError as error:
        raise UsageError(f"run {name}: wrong configuration: {error}") from error


def more_skies(state: RunState, skies: int) -> Extension:
    """The batches that a scan lacks to `skies` skies in all. Raises UsageError for the observed
    sky, and for fewer than there are, and BadInputError for samples that have changed.
    """
    workload = scan_of(state)
    if workload.unblind:
        raise UsageError("there is one observed sky: nothing to add")
    have = _end(state.batches)
    wanted = skies * workload.pixels
    if wanted < have:
        raise UsageError(
            f"run {state.folder.timestamp} has {have // workload.pixels} skies, more than {skies}"
        )
    model_files.check(model_files.files_of(workload.search))
    ranges = [(have, wanted)] if wanted > have else []
    batches = workload.batches(ranges, first_index=len(state.batches))
    return Extension(batches=tuple(batches), text=f"-n {skies}", who=whoami())


def _end(batches: Sequence[Batch]) -> int:
    return max(int(batch.parameters["first"]) + batch.count for batch in batches)
