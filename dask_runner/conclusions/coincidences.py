"""Coincidences of runs: one table of all trials with their maps and batches, and p-values of odds.

Owns which trials are the background of which others: those of the same model and class of detectors
without injected signal, and never the trials themselves. Refuses runs of another model.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dask_runner import trial_results
from dask_runner.conclusions.coincidence_background import Background
from dask_runner.conclusions.results import Account, Unblinded
from dask_runner.errors import UsageError
from dask_runner.files import text_to_path
from dask_runner.manifest import RunState, Verdict, read_state
from dask_runner.seeds import Value
from dask_runner.stats.pvalues import p_to_sigma
from dask_runner.stats.tails import TailP
from dask_runner.trials import models
from dask_runner.trials.models.coincidence import Coincidence
from dask_runner.trials.models.coincidence_config import ALL
from dask_runner.trials.tables import FAILED

Rows = npt.NDArray[np.void]

MODEL: Final = "coincidence"
_FIELDS: Final = ("log10_odds", "n_events", "n_injected", "space", "time", "energy")
_TYPE: Final = np.dtype(
    [
        ("run", "<i4"),
        ("batch", "<i4"),
        ("detector", "<i4"),
        ("n_sig", "<f8"),
        ("trial", "<i8"),
        ("map", "<i4"),
        ("log10_odds", "<f8"),
        ("n_events", "<i4"),
        ("n_injected", "<i4"),
        ("space", "<f8"),
        ("time", "<f8"),
        ("energy", "<f8"),
    ]
)
_THREE_SIGMA: Final = 3.0


class Row(Struct, frozen=True, kw_only=True):
    """A trial: where it is, the odds, the number of events with those from the source, the map, and
    the factors of the event that says most; `p` if there is a background.
    """

    run: str
    batch: int
    detector: str
    n_sig: float
    trial: int
    log10_odds: float
    n_events: int
    n_injected: int
    map: str
    space: float
    time: float
    energy: float
    p: TailP | None = None


class CoincidenceTable(Struct, frozen=True, kw_only=True):
    """The trials with the highest odds first; `account` is of all, and `file` has them all."""

    runs: tuple[str, ...]
    account: Account
    maps: int
    rows: tuple[Row, ...]
    file: str = ""
    distribution: str = ""
    warnings: tuple[str, ...] = ()


class PointPs(Struct, frozen=True, kw_only=True):
    """p-values at a point: their median, and the shares (0 to 1) of trials above 3 and 5 sigma, of
    `background` trials that they were compared with.
    """

    detector: str
    n_sig: float
    trials: int
    background: int
    median: float
    above_3_sigma: float
    above_5_sigma: float
    tail: str


class GivenOdds(Struct, frozen=True, kw_only=True):
    """A p-value of odds from elsewhere: given, or of an observed pair."""

    detector: str
    log10_odds: float
    p: TailP
    unblinded: Unblinded | None = None


class CoincidencePs(Struct, frozen=True, kw_only=True):
    """p-values of trials, those with the highest odds first, and of odds that the user gave."""

    runs: tuple[str, ...]
    background: tuple[str, ...]
    points: tuple[PointPs, ...]
    rows: tuple[Row, ...]
    given: tuple[GivenOdds, ...] = ()
    file: str = ""
    warnings: tuple[str, ...] = ()


class Trials(Struct, frozen=True, kw_only=True, eq=False):
    """All good trials of some runs: `rows` with places in `runs`, `detectors` and `maps`."""

    paths: tuple[Path, ...]
    model: Coincidence
    rows: Rows
    detectors: tuple[str, ...]
    account: Account
    warnings: tuple[str, ...] = ()

    @property
    def runs(self) -> tuple[str, ...]:
        return tuple(path.name for path in self.paths)

    @property
    def maps(self) -> tuple[str, ...]:
        return tuple(file.path for file in self.model.maps)

    def row(self, number: int, p: TailP | None = None) -> Row:
        found = {name: self.rows[name][number].item() for name in self.rows.dtype.names or ()}
        return Row(
            **{
                **found,
                "run": self.runs[found["run"]],
                "detector": self.detectors[found["detector"]],
                "map": self.maps[found["map"]],
            },
            p=p,
        )

    def points(self) -> Iterator[tuple[int, float, npt.NDArray[np.intp]]]:
        """Each class (its place) and strength, with the rows of its trials."""
        pairs = np.unique(self.rows[["detector", "n_sig"]])
        for detector, n_sig in pairs.tolist():
            same = (self.rows["detector"] == detector) & (self.rows["n_sig"] == n_sig)
            yield int(detector), float(n_sig), np.flatnonzero(same)


def load(paths: Sequence[Path], *, partial: bool = False) -> Trials:
    """The trials of runs of one model `coincidence`. Raises FailedBatchesError if batches are not
    done, unless `partial`; UsageError for runs of another model.
    """
    states = [read_state(path) for path in paths]
    spec = _spec(states)
    loaded = trial_results.load(paths, partial=partial)
    detectors: dict[str, int] = {}
    parts, failed = [], 0
    for number, state in enumerate(states):
        for batch in state.batches:
            if state.verdict(batch.index) is not Verdict.DONE:
                continue
            table = np.load(state.folder.output(text_to_path(batch.outputs[0].name)))
            part = _rows(table, batch.parameters, detectors)
            part["run"], part["batch"] = number, batch.index
            good = ~table[FAILED]
            failed += len(table) - int(good.sum())
            parts.append(part[good])
    warnings = []
    if loaded.planned is not None and loaded.planned != len(loaded):
        warnings.append(f"only {len(loaded)} of {loaded.planned} trials are done")
    model = models.load(spec)
    assert isinstance(model, Coincidence)
    return Trials(
        paths=tuple(paths),
        model=model,
        rows=np.concatenate(parts),
        detectors=tuple(detectors),
        account=Account(trials=len(loaded), failed=failed, not_converged=0),
        warnings=tuple(warnings),
    )


def _spec(states: Sequence[RunState]) -> models.ModelSpec:
    for state in states:
        spec = trial_results.workload_of(state).model
        if spec.name != MODEL:
            raise UsageError(
                f"run {state.folder.timestamp} is of model {spec.name}, not of {MODEL}",
                hint="`dask-runner runs` shows what runs are of",
            )
    return trial_results.workload_of(states[0]).model


def _rows(table: Rows, parameters: Mapping[str, Any], detectors: dict[str, int]) -> Rows:
    """A batch's table with what is the same for all of it."""
    point: Mapping[str, Value] = parameters["point"]
    rows = np.zeros(len(table), _TYPE)
    rows["detector"] = detectors.setdefault(str(point.get("detector", ALL)), len(detectors))
    rows["n_sig"] = float(point.get("n_sig", 0))
    rows["trial"] = int(parameters["first"]) + np.arange(len(table))
    for name in ("map", *_FIELDS):
        rows[name] = table[name]
    return rows


def background_of(trials: Trials) -> Background:
    """The odds of all trials without signal, by class. Raises UsageError if there are none."""
    odds = {
        trials.detectors[detector]: trials.rows["log10_odds"][rows]
        for detector, n_sig, rows in trials.points()
        if n_sig == 0
    }
    if not odds:
        raise UsageError(
            f"run {' '.join(trials.runs)} has no trials without signal",
            hint="dask-runner trials --extend TIMESTAMP --set n_sig=0 ..., or --background RUN",
        )
    return Background(
        odds,
        runs=trials.runs,
        digests={name: trials.model.digest(name) for name in odds},
    )


def table(trials: Trials, *, top: int) -> CoincidenceTable:
    """The `top` trials with the highest odds (0: all)."""
    return CoincidenceTable(
        runs=trials.runs,
        account=trials.account,
        maps=len(trials.maps),
        rows=tuple(trials.row(k) for k in _highest(trials, top)),
        warnings=trials.warnings,
    )


def _highest(trials: Trials, top: int) -> list[int]:
    # By odds; equal ones in the order of runs, batches and trials.
    rows = trials.rows
    order = np.lexsort((rows["trial"], rows["batch"], rows["run"], -rows["log10_odds"]))
    chosen: list[int] = (order[:top] if top else order).tolist()
    return chosen


def pvalues(trials: Trials, background: Background, *, top: int) -> CoincidencePs:
    """p-values of all trials with signal, or of all of a run that is not the background's own; the
    `top` highest in full. Raises UsageError for trials that would be compared with themselves, and
    for another model.
    """
    foreground = _foreground(trials, background)
    points = []
    for detector, n_sig, of in foreground.points():
        known = background.of(foreground.detectors[detector])
        p, _ = known.p_values(foreground.rows["log10_odds"][of])
        sigma = p_to_sigma(p)
        points.append(
            PointPs(
                detector=foreground.detectors[detector],
                n_sig=n_sig,
                trials=len(of),
                background=len(known),
                median=float(np.median(p)),
                above_3_sigma=float(np.mean(sigma >= _THREE_SIGMA)),
                above_5_sigma=float(np.mean(sigma >= 5)),  # noqa: PLR2004  (it says so)
                tail="" if known.tail is None else known.tail.text,
            )
        )
    rows = tuple(
        foreground.row(k, background.p_value(_class(foreground, k), _odds(foreground, k)))
        for k in _highest(foreground, top)
    )
    return CoincidencePs(
        runs=trials.runs,
        background=background.names,
        points=tuple(points),
        rows=rows,
        warnings=(*trials.warnings, *_doubts(points, rows)),
    )


def _foreground(trials: Trials, background: Background) -> Trials:
    for detector, _, _ in trials.points():
        name = trials.detectors[detector]
        background.check(name, trials.model.digest(name))
    own = set(trials.runs) & set(background.runs)
    if not own:
        return trials
    places = [k for k, run in enumerate(trials.runs) if run in own]
    rows = trials.rows
    kept = rows[(rows["n_sig"] > 0) | ~np.isin(rows["run"], places)]
    if not len(kept):
        raise UsageError(
            f"all trials of {' '.join(trials.runs)} are the background themselves",
            hint="p-values are of other trials: --background ANOTHER_RUN, or points with n_sig > 0",
        )
    return _with_rows(trials, kept)


def _with_rows(trials: Trials, rows: Rows) -> Trials:
    return Trials(
        paths=trials.paths,
        model=trials.model,
        rows=rows,
        detectors=trials.detectors,
        account=trials.account,
        warnings=trials.warnings,
    )


def _class(trials: Trials, number: int) -> str:
    return trials.detectors[int(trials.rows["detector"][number])]


def _odds(trials: Trials, number: int) -> float:
    return float(trials.rows["log10_odds"][number])


def _doubts(points: Sequence[PointPs], rows: Sequence[Row]) -> list[str]:
    lines = [
        f"class {one.detector}: no tail describes the largest of {one.background} trials"
        for one in {point.detector: point for point in points}.values()
        if not one.tail
    ]
    return lines + sorted({row.p.warning for row in rows if row.p is not None and row.p.warning})


def full_table(trials: Trials, background: Background | None = None) -> Rows:
    """All rows with names in place of numbers, and their p-values if there is a background."""
    if background is not None:
        trials = _foreground(trials, background)
    rows = trials.rows
    columns: dict[str, npt.NDArray[Any]] = {
        "log10_odds": rows["log10_odds"],
        "n_events": rows["n_events"],
        "map": np.array(trials.maps)[rows["map"]],
        "batch": rows["batch"],
        "run": np.array(trials.runs)[rows["run"]],
        "detector": np.array(trials.detectors)[rows["detector"]],
        **{name: rows[name] for name in ("n_sig", "trial", "n_injected")},
        **{name: rows[name] for name in ("space", "time", "energy")},
    }
    if background is not None:
        p, beyond = np.ones(len(rows)), np.zeros(len(rows), np.bool_)
        for detector, _, of in trials.points():
            known = background.of(trials.detectors[detector])
            p[of], beyond[of] = known.p_values(rows["log10_odds"][of])
        columns |= {"p": p, "from_tail": beyond}
    whole = np.empty(len(rows), [(name, column.dtype.str) for name, column in columns.items()])
    for name, column in columns.items():
        whole[name] = column
    return whole


def given(background: Background, detector: str, log10_odds: float) -> GivenOdds:
    """The p-value of odds from elsewhere. Raises UsageError for an unknown class."""
    if math.isnan(log10_odds):
        raise UsageError("--odds: not a number")
    return GivenOdds(
        detector=detector, log10_odds=log10_odds, p=background.p_value(detector, log10_odds)
    )
