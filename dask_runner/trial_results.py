"""The trials of runs as data, and how many of them failed; from the manifests of one or more runs.

Refuses to mix runs that are not of the same model.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from dask_runner.errors import BadInputError, FailedBatchesError, UsageError
from dask_runner.files import text_to_path
from dask_runner.manifest import RunState, Verdict, read_state
from dask_runner.seeds import Value
from dask_runner.stats.pvalues import clopper_pearson
from dask_runner.trials import models
from dask_runner.trials.loading import TrialData, TrialFile
from dask_runner.trials.model import describe_point
from dask_runner.workloads.trials import Trials

# A failure rate above this is worth a word: failures tend to be the hard fits, not any trials.
_BIASING = 0.001
_SHOWN = 10


class PointSummary(Struct, frozen=True, kw_only=True):
    """Trials of a point that are done, and how many of them failed; `low` and `high` bound the
    failure rate with 95 % confidence (Clopper-Pearson).
    """

    point: dict[str, Value]
    trials: int
    failed: int
    rate: float
    low: float
    high: float


class TrialSummary(Struct, frozen=True, kw_only=True):
    """The points of a run of trials, and what a user should be warned of."""

    points: tuple[PointSummary, ...]
    trials: int
    failed: int
    warnings: tuple[str, ...] = ()


def workload_of(state: RunState) -> Trials:
    """The workload of a run of trials. Raises UsageError if it is none."""
    name, spec = state.folder.timestamp, state.header.workload
    if spec.name != "trials":
        raise UsageError(
            f"run {name} is no run of trials but of {spec.name}",
            hint="`dask-runner runs` shows what runs are of",
        )
    try:
        # Not by `workloads.load`, which has this process import what the run has shipped.
        return msgspec.convert(spec.configuration, Trials)
    except msgspec.ValidationError as error:
        raise UsageError(f"run {name}: wrong configuration: {error}") from error


def load(paths: Sequence[Path], *, partial: bool = False) -> TrialData:
    """The trials of runs of the same model. Raises FailedBatchesError if batches are not done,
    unless `partial`; UsageError if the runs do not belong together or hold the same trials.
    """
    states = [read_state(path) for path in paths]
    workloads = [workload_of(state) for state in states]
    for state, workload in zip(states[1:], workloads[1:], strict=True):
        first = workloads[0]
        same = models.identity(workload.model) == models.identity(first.model)
        if not same or workload.fields != first.fields:
            raise UsageError(
                f"runs {states[0].folder.timestamp} and {state.folder.timestamp} are not of the "
                f"same model: {first.model.name} and {workload.model.name}"
                + (
                    ", with other configurations or code"
                    if first.model.name == workload.model.name
                    else ""
                )
            )
    files, missing = [], 0
    for state, workload in zip(states, workloads, strict=True):
        files += _files(state, workload.seed)
        missing += state.failed.events + state.pending.events
    if missing and not partial:
        raise FailedBatchesError(
            f"{missing} trials of {' '.join(s.folder.timestamp for s in states)} are not done",
            hint="`dask-runner rerun` does them; --partial takes what there is",
        )
    if not files:
        raise BadInputError("no trials are done yet")
    return TrialData(files, planned=sum(state.total.events for state in states))


def _files(state: RunState, seed: int) -> list[TrialFile]:
    return [
        TrialFile(
            path=state.folder.output(text_to_path(batch.outputs[0].name)),
            point=batch.parameters["point"],
            first=int(batch.parameters["first"]),
            count=batch.count,
            seed=seed,
        )
        for batch in state.batches
        if state.verdict(batch.index) is Verdict.DONE
    ]


def summarize_trials(state: RunState) -> TrialSummary:
    """How many trials failed at each point, from the counters of the outcomes."""
    workload = workload_of(state)
    counts: dict[str, list[int]] = {}
    points: dict[str, dict[str, Value]] = {}
    for index in state.indices(Verdict.DONE):
        batch, outcome = state.batches[index], state.last_outcome(index)
        if outcome is None:
            continue
        key = workload.cost_key(batch)
        points.setdefault(key, batch.parameters["point"])
        total = counts.setdefault(key, [0, 0])
        total[0] += batch.count
        total[1] += int(outcome.counters.get("failed_trials", 0))
    summaries = tuple(_point(points[key], *total) for key, total in counts.items())
    return TrialSummary(
        points=summaries,
        trials=sum(one.trials for one in summaries),
        failed=sum(one.failed for one in summaries),
        warnings=_warnings(summaries),
    )


def _point(point: dict[str, Value], trials: int, failed: int) -> PointSummary:
    low, high = clopper_pearson(failed, trials, 0.95)
    return PointSummary(
        point=point,
        trials=trials,
        failed=failed,
        rate=failed / trials,
        low=float(low),
        high=float(high),
    )


def _warnings(points: Sequence[PointSummary]) -> tuple[str, ...]:
    bad = sorted((one for one in points if one.rate > _BIASING), key=lambda one: -one.rate)
    lines = [
        f"{describe_point(one.point)}: {one.failed} of {one.trials} trials failed "
        f"({100 * one.low:.2g} to {100 * one.high:.2g} %)"
        for one in bad[:_SHOWN]
    ]
    if len(bad) > _SHOWN:
        lines.append(f"... and {len(bad) - _SHOWN} more points")
    if lines:
        lines.append(
            "failed trials are left out of all results; if the hard ones fail, that biases them"
        )
    return tuple(lines)
