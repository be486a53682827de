"""From scans of the sky to what they say: the hottest spots of a map, the hottest spot of each of
many skies, and the post-trial p-value of one that was observed.

Owns which skies may be compared: the same search, pixels and p-values, scrambled ones without
signal as the background, each counted once. Refuses a sky of which pixels are missing where the
hottest one counts.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from dask_runner.conclusions.sky_background import background, check_fit, identity_of
from dask_runner.conclusions.sky_results import HottestSpots, ObservedSpot, Seen, SkyView
from dask_runner.errors import BadInputError, FailedBatchesError, UsageError
from dask_runner.files import text_to_path
from dask_runner.manifest import NoteKind, RunState, Verdict, read_state
from dask_runner.scan_runs import scan_of
from dask_runner.sky import scans
from dask_runner.sky.pixels import resolution
from dask_runner.sky.skymaps import SkyMap, Spot, hottest_spots
from dask_runner.stats.looks import (
    Looks,
    effective_looks,
    post_trial,
    post_trial_of_ts,
)
from dask_runner.stats.quantiles import quantiles
from dask_runner.workloads.skyscan import SkyScan

__all__ = ["HottestSpots", "ObservedSpot", "Scan", "Seen", "SkyView", "hottest", "load", "view"]

BAND = (0.15865, 0.5, 0.84135)
_FEWEST = 10


class Scan(Struct, frozen=True, kw_only=True):
    """A run of the workload `skyscan`, as far as it is done."""

    state: RunState
    workload: SkyScan
    pieces: tuple[scans.Piece, ...]
    warnings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.state.folder.timestamp

    @property
    def skies(self) -> list[int]:
        """Those of which all pixels are done."""
        return scans.complete_skies(self.pieces, self.workload.pixels)

    @property
    def seen(self) -> Seen | None:
        """Who looked at the observed sky. Raises BadInputError if nobody wrote it down."""
        if not self.workload.unblind:
            return None
        for note in self.state.notes:
            if note.kind == NoteKind.UNBLINDED:
                return Seen(reason=str(note.data["reason"]), time=note.time, who=note.who)
        raise BadInputError(f"run {self.name} scanned the observed sky without a record of it")

    def map(self, sky: int) -> SkyMap:
        """The map of a sky. Raises UsageError if the scan kept none, or there is no such sky."""
        if self.workload.keep != "maps":
            raise UsageError(
                f"run {self.name} kept the hottest pixels only",
                hint="dask-runner skyscan --keep maps",
            )
        end = max((piece.first + piece.count for piece in self.pieces), default=0)
        if not 0 <= sky * self.workload.pixels < end:
            raise UsageError(f"run {self.name} has no sky {sky}")
        return self.workload.map_of(self.pieces, sky)

    def hottest(self) -> scans.Table:
        """The hottest pixel of each complete sky (`scans.HOTTEST`)."""
        if self.workload.keep == "hottest":
            rows = scans.read_hottest(self.pieces)
            return rows[np.isin(rows["sky"], self.skies)]
        found = [self.workload.hottest_row(self.map(sky), sky) for sky in self.skies]
        return np.concatenate(found) if found else np.zeros(0, scans.HOTTEST)


def load(
    path: Path,
    *,
    partial: bool = False,
    background_runs: Sequence[Path] = (),
    fit: str = "chi2",
) -> Scan:
    """A scan, with p-values from other background trials than it was made with, if runs of them are
    given. Raises FailedBatchesError if batches are not done, unless `partial`.
    """
    check_fit(fit, background_runs)
    state = read_state(path)
    workload = scan_of(state)
    missing = state.failed.events + state.pending.events
    if missing and not partial:
        raise FailedBatchesError(
            f"{missing} pixels of run {path.name} are not done",
            hint="`dask-runner rerun` does them; --partial takes what there is",
        )
    pieces = tuple(
        scans.Piece(
            path=state.folder.output(text_to_path(batch.outputs[0].name)),
            first=int(batch.parameters["first"]),
            count=batch.count,
        )
        for batch in state.batches
        if state.verdict(batch.index) is Verdict.DONE
    )
    if not pieces:
        raise BadInputError(f"run {path.name}: no pixel is done yet")
    warnings = [f"{missing} pixels of run {path.name} are not done"] if missing else []
    if background_runs:
        if workload.keep == "hottest":
            raise UsageError(
                f"run {path.name} kept the hottest pixels by the p-values it had",
                hint="--background is for maps; or scan again with it",
            )
        found = background(background_runs, workload.search, fit=fit)
        workload = replace(workload, significance=found.significance)
        warnings += found.warnings
    return Scan(state=state, workload=workload, pieces=pieces, warnings=tuple(warnings))


def view(scan: Scan, sky: int = 0, *, number: int = 10, apart: float = 3.0) -> SkyView:
    """The `number` hottest spots of a sky, at least `apart` degrees from each other."""
    if number < 1 or not apart >= 0:
        raise UsageError(f"{number} spots, {apart:g} degrees apart: not possible")
    found, workload = scan.map(sky), scan.workload
    significance = workload.significance
    missing = int(np.count_nonzero(~np.isfinite(found.columns["ts"])))
    return SkyView(
        run=scan.name,
        sky=sky,
        nside=workload.nside,
        pixels=workload.pixels - missing,
        missing=missing,
        resolution=float(np.degrees(resolution(workload.nside))),
        apart=apart,
        quantity=found.heat,
        spots=hottest_spots(found, number, float(np.radians(apart))),
        background=() if significance is None else significance.runs,
        injection=workload.source,
        unblinded=scan.seen,
        warnings=scan.warnings,
    )


def hottest(
    loaded: Sequence[Scan],
    *,
    observed: Scan | None = None,
    sky: int = 0,
    pre_trial: float | None = None,
) -> HottestSpots:
    """The distribution of the hottest spot of scrambled skies, and the post-trial p-value of that
    of sky `sky` of `observed`, or of the pre-trial p-value `pre_trial`.

    Raises UsageError for skies that cannot be compared, with signal, or there twice.
    """
    _check_comparable([*loaded, *([] if observed is None else [observed])])
    _check_background(loaded)
    rows = np.concatenate([scan.hottest() for scan in loaded])
    first = loaded[0].workload
    quantity = "ts" if first.significance is None else "mlog10p"
    if not len(rows):
        raise UsageError("no sky is complete", hint="dask-runner rerun TIMESTAMP")
    values = rows[quantity]
    by_p = quantity == "mlog10p"
    if pre_trial is not None and not by_p:
        raise UsageError(
            "the scans have no p-values: a pre-trial p-value is compared with nothing",
            hint="dask-runner skyscan --background TIMESTAMP",
        )
    if pre_trial is not None and not pre_trial > 0:
        raise UsageError(f"--pre-trial {pre_trial:g}: no hottest spot has such a p-value")
    looks = effective_looks(10.0**-values) if by_p and len(values) >= _FEWEST else None
    found = None
    if observed is not None:
        found = _observed(observed, sky, values, quantity)
    elif pre_trial is not None:
        found = _given(pre_trial, values)
    return HottestSpots(
        runs=tuple(scan.name for scan in loaded),
        skies=len(rows),
        quantity=quantity,
        values=tuple(values.tolist()),
        quantiles=tuple(quantiles(values, BAND)),
        looks=looks,
        observed=found,
        background=() if first.significance is None else first.significance.runs,
        warnings=_warnings(loaded, looks, found),
    )


def _warnings(
    loaded: Sequence[Scan], looks: Looks | None, found: ObservedSpot | None
) -> tuple[str, ...]:
    warnings = [line for scan in loaded for line in scan.warnings]
    if looks is not None and not looks.good:
        warnings.append(
            f"{looks.number:.4g} independent looks do not describe the skies (p = "
            f"{looks.fit_p:.2g}): post-trial p-values are counted only"
        )
    if found is not None and found.post_trial.warning:
        warnings.append(f"post-trial p-value: {found.post_trial.warning}")
    return tuple(dict.fromkeys(warnings))


def _check_comparable(loaded: Sequence[Scan]) -> None:
    if not loaded:
        raise UsageError("which scans? TIMESTAMP...")
    first = _what(loaded[0].workload)
    for scan in loaded[1:]:
        other = _what(scan.workload)
        for name, value in first.items():
            if other[name] != value:
                raise UsageError(
                    f"runs {loaded[0].name} and {scan.name} are not scans of the same kind: "
                    f"they differ in their {name}"
                )


def _what(workload: SkyScan) -> Mapping[str, Any]:
    return {
        "search": identity_of(workload.search),
        "nside": workload.nside,
        "declinations": (workload.first_pixel, workload.pixels),
        "p-values": workload.significance,
    }


def _check_background(loaded: Sequence[Scan]) -> None:
    seeds: dict[int, str] = {}
    for scan in loaded:
        workload = scan.workload
        if workload.unblind:
            raise UsageError(
                f"run {scan.name} is of the observed sky: it is no background",
                hint=f"--observed {scan.name}",
            )
        if workload.source is not None and workload.source.n_sig > 0:
            raise UsageError(f"run {scan.name} has an injected source: it is no background")
        if workload.seed in seeds:
            raise UsageError(
                f"runs {seeds[workload.seed]} and {scan.name} have the same seed, and so the same "
                "skies: they would count twice",
                hint="more skies of a run: dask-runner skyscan --extend TIMESTAMP -n NUMBER",
            )
        seeds[workload.seed] = scan.name


def _observed(scan: Scan, sky: int, values: Any, quantity: str) -> ObservedSpot:
    rows = scan.hottest()
    rows = rows[rows["sky"] == sky]
    if not len(rows):
        raise UsageError(f"run {scan.name} has no complete sky {sky}")
    row = rows[0]
    heat = float(row[quantity])
    mlog10p = float(row["mlog10p"])
    return ObservedSpot(
        name=f"run {scan.name}",
        heat=heat,
        post_trial=(
            post_trial(10.0**-values, 10.0**-heat)
            if quantity == "mlog10p"
            else post_trial_of_ts(values, heat)
        ),
        spot=Spot(
            ra=float(np.degrees(row["ra"])),
            dec=float(np.degrees(row["dec"])),
            ts=float(row["ts"]),
            n_s=float(row["n_s"]),
            gamma=float(row["gamma"]),
            mlog10p=None if np.isnan(mlog10p) else mlog10p,
            pixel=int(row["pixel"]),
        ),
        unblinded=scan.seen,
    )


def _given(p: float, values: Any) -> ObservedSpot:
    found = post_trial(10.0**-values, p)
    return ObservedSpot(name=f"p = {p:g}", heat=float(-np.log10(max(p, 1e-300))), post_trial=found)
