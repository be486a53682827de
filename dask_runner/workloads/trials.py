"""The workload `trials`: trials of a model over a grid of points. A batch is a point and a range.

Owns how ranges become batches, and what their files are called. The trials themselves depend on
(seed, model, point, index) alone, so that another batch size, an extension or a division of a batch
gives the same numbers in other files.
"""

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import ClassVar

import numpy as np
from msgspec import Struct

from dask_runner import model_files
from dask_runner.batch import Batch, InputRange, PlannedOutput
from dask_runner.errors import UsageError
from dask_runner.files import text_to_path
from dask_runner.seeds import Value, canonical_point
from dask_runner.trials import models, running, tables
from dask_runner.trials.job import Job
from dask_runner.trials.model import describe_point
from dask_runner.trials.models import ModelSpec
from dask_runner.trials.points import Demand, point_label
from dask_runner.workloads.interface import (
    PREPARE_SECONDS,
    MergedFile,
    MergeRequest,
    Plan,
    Results,
)

_FAILED = ".failed.json"


class Trials(Struct, frozen=True, kw_only=True):
    """Trials 0 to `demand.trials - 1` of each demand's point, in batches of the size that stands at
    the same place in `sizes`. `fields` are those of a trial; `trial_timeout` in s (0: none);
    `max_failed` is the share of failed trials with which a batch is still done.
    """

    uses_folder: ClassVar[bool] = False

    model: ModelSpec
    seed: int
    demands: tuple[Demand, ...]
    sizes: tuple[int, ...]
    fields: dict[str, str]
    trial_timeout: float = 0.0
    max_failed: float = 0.1
    notes: tuple[str, ...] = ()

    @property
    def preload(self) -> tuple[str, ...]:
        """With the module of a built-in model; a user's may do anything when it is imported."""
        module, _, _ = models.MODELS.get(self.model.name, "").partition(":")
        common = ("dask_runner.workloads.trials", "scipy.special")
        own = models.PRELOAD.get(self.model.name, ())
        return (*common, module, *own) if module else common

    def plan(self) -> Plan:
        """The batches in the order of the grid. Raises UsageError if there is nothing to do,
        BadInputError if a file of the model has changed.
        """
        if not self.demands:
            raise UsageError("no points: nothing to do")
        tables.check_fields(self.fields, {name for one in self.demands for name in one.point})
        ranges = (
            (demand.point, 0, demand.trials, size)
            for demand, size in zip(self.demands, self.sizes, strict=True)
        )
        return Plan(
            batches=self.batches(ranges, first_index=0),
            inputs=model_files.planned(self.model.files),
            notes=self.notes,
        )

    def batches(
        self, ranges: Iterable[tuple[dict[str, Value], int, int, int]], *, first_index: int
    ) -> list[Batch]:
        """Batches, numbered from `first_index`, for ranges of trials: the point, the first, the one
        behind the last, and how many go into a batch.
        """
        pieces = (
            (point, begin, count)
            for point, first, end, size in ranges
            for begin, count in _pieces(first, end, size)
        )
        inputs = model_files.ranges(self.model.files)
        return [
            _batch(index, point, begin, count, inputs)
            for index, (point, begin, count) in enumerate(pieces, start=first_index)
        ]

    def cost_key(self, batch: Batch) -> str:
        """Trials of a point cost about the same."""
        return self.point_key(batch.parameters["point"])

    @staticmethod
    def point_key(point: Mapping[str, Value]) -> str:
        """Equal for equal points."""
        return canonical_point(point).hex()

    def divide(self, batch: Batch, size: int, *, first_index: int) -> list[Batch]:
        """The batch as batches of at most `size` trials."""
        first = int(batch.parameters["first"])
        point = batch.parameters["point"]
        return self.batches([(point, first, first + batch.count, size)], first_index=first_index)

    def run(self, batch: Batch, folder: Path) -> Results:  # noqa: ARG002  # nothing is written
        """Run the batch's trials. Raises BatchFailedError if too many fail."""
        began = time.perf_counter()
        point = batch.parameters["point"]
        sampler = models.load_at(self.model, batch.inputs).sampler(point)
        prepared = time.perf_counter() - began
        job = Job(
            model=self.model.name,
            seed=self.seed,
            point=point,
            first=int(batch.parameters["first"]),
            count=batch.count,
            fields=self.fields,
            timeout=self.trial_timeout,
            max_failed=self.max_failed,
        )
        done = running.run(sampler, job)
        table_name, failed_name = (output.name for output in batch.outputs)
        files = {table_name: tables.encode_table(done.table)}
        if done.failures:
            files[failed_name] = tables.encode_failures(done.failures)
        counters = {
            "trials": float(batch.count),
            "failed_trials": float(done.failed),
            PREPARE_SECONDS: prepared + done.warm_up,
        }
        return Results(counters=counters, files=files)

    def merge(self, request: MergeRequest) -> list[MergedFile]:
        """All trials in one table, with the point's parameters and the trial's index in front; in
        the order of points and indices, whatever the batches were.
        """
        order = {canonical_point(demand.point): k for k, demand in enumerate(self.demands)}
        parts = sorted(
            request.parts,
            key=lambda part: (
                order.get(canonical_point(part.batch.parameters["point"]), len(order)),
                canonical_point(part.batch.parameters["point"]),
                part.batch.parameters["first"],
            ),
        )
        names = list(dict.fromkeys(n for part in parts for n in part.batch.parameters["point"]))
        pieces = [
            (
                np.load(part.folder / text_to_path(part.batch.outputs[0].name)),
                part.batch.parameters["point"],
                int(part.batch.parameters["first"]),
            )
            for part in parts
        ]
        table = tables.joined(pieces, names)
        target = request.folder / "trials.npy"
        data = tables.encode_table(table)
        target.write_bytes(data)
        content = hashlib.sha256(table.tobytes()).hexdigest()
        # Made here and not by `joining`, which would have every host import uproot.
        return [
            MergedFile(
                path=os.fspath(target), bytes=len(data), entries=len(table), content_hash=content
            )
        ]


def _pieces(first: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    """Ranges of equal size as far as possible: (first, count)."""
    number = ceil((end - first) / size)
    for k in range(number):
        begin = first + (end - first) * k // number
        yield begin, first + (end - first) * (k + 1) // number - begin


def _batch(
    index: int, point: dict[str, Value], first: int, count: int, inputs: tuple[InputRange, ...]
) -> Batch:
    stem = f"{_label(point)}.{first:09d}-{first + count - 1:09d}"
    return Batch(
        index=index,
        workload="trials",
        count=count,
        inputs=inputs,
        parameters={"point": point, "first": first},
        outputs=(
            PlannedOutput(name=f"{stem}.npy", returned=True),
            PlannedOutput(name=f"{stem}{_FAILED}", returned=True, optional=True),
        ),
    )


def _label(point: dict[str, Value]) -> str:
    """A part of file names that no other point has."""
    label = point_label(point) or "trials"
    plain = ",".join(f"{name}={value}" for name, value in point.items())
    if point and (label != plain or any(isinstance(value, str) for value in point.values())):
        label += f"-{hashlib.sha256(canonical_point(point)).hexdigest()[:8]}"
    return label


def wanted_ranges(
    batches: Iterable[Batch], demands: Sequence[Demand], sizes: Sequence[int]
) -> list[tuple[dict[str, Value], int, int, int]]:
    """The ranges that are in none of the `batches` yet, for `Trials.batches`. Raises UsageError if
    there are more trials of a point than are wanted.
    """
    there: dict[bytes, int] = {}
    points: dict[bytes, dict[str, Value]] = {}
    for batch in batches:
        point = batch.parameters["point"]
        key = canonical_point(point)
        points[key] = point
        there[key] = max(there.get(key, 0), int(batch.parameters["first"]) + batch.count)
    ranges = []
    for demand, size in zip(demands, sizes, strict=True):
        key = canonical_point(demand.point)
        have = there.get(key, 0)
        if have > demand.trials:
            raise UsageError(
                f"the point {describe_point(demand.point)} has {have} trials already, more than "
                f"{demand.trials}",
                hint="-n is the number of trials in all; -n +1000 adds 1000",
            )
        if have < demand.trials:
            ranges.append((points.get(key, demand.point), have, demand.trials, size))
    return ranges
