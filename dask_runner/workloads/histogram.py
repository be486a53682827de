"""The workload `histogram`: ranges of entries of any number of ROOT files -> exact sums.

Owns how files become batches and what a batch's file is. What is filled depends on the entries
alone: any batch size, and any order of batches, gives the same merged histograms.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from msgspec import Struct

from dask_runner.batch import (
    Batch,
    BatchFailedError,
    FailureKind,
    InputFile,
    InputRange,
    PlannedOutput,
)
from dask_runner.downloads import is_address
from dask_runner.errors import BadInputError
from dask_runner.files import text_to_path
from dask_runner.histograms import combining, passes, skimming, sums
from dask_runner.histograms.ranges import Measured, RangeWork
from dask_runner.histograms.result import HistogramResult
from dask_runner.histograms.spec import Job
from dask_runner.rootfiles.chunks import TreeShape, reader
from dask_runner.workloads import histogram_inputs, histogram_merge, names
from dask_runner.workloads.inputs import stem_path
from dask_runner.workloads.interface import MergedFile, MergeRequest, Plan, Results

# Entries that a user's function sees at once.
CHUNK = 50_000
# Sums that may be larger are a file, not returned with the outcome; in bytes.
_RETURNED = 4_000_000
_ENDING = ".hist"
_SKIM_ENDING = ".SKIM.root"
# Without -b: batches of this many s of CPU, but at least so many for each slot, none shorter.
_ROUNDS, _SHORTEST = 4, 0.5
# What a batch takes before its first entry, in s of CPU: its process, and opening the file.
_OPENING = 0.05


class Histogram(Struct, frozen=True, kw_only=True):
    """The job on ranges of about `batch_size` entries of the files that match `files` (absolute
    patterns, or addresses) and those of the job's samples. `chunk` are the entries that a function
    sees at once; batches are of whole chunks then. With `batch_size` 0, batches take about
    `batch_seconds`, as far as `measured` tells; the forecast is for `slots` slots. A server of
    remote inputs has `remote_timeout` s for each request.
    """

    uses_folder: ClassVar[bool] = True

    job: Job
    files: tuple[str, ...]
    batch_size: int
    chunk: int = CHUNK
    measured: Measured | None = None
    slots: int = 1
    batch_seconds: float = 30.0
    remote_timeout: float = 60.0

    @property
    def preload(self) -> tuple[str, ...]:
        """All but a user's function: its module may do anything when it is imported."""
        # awkward imports masked arrays when it first makes an array.
        return ("dask_runner.workloads.histogram", "numpy.ma")

    def plan(self) -> Plan:
        """Open and count every file, then divide. Raises UsageError if a pattern has no file."""
        found = histogram_inputs.survey(
            self.job, self.files, self._branches(), timeout=self.remote_timeout
        )
        batches = list(self._batches(found))
        return Plan(
            batches=batches,
            inputs=found.survey.files,
            problems=found.survey.problems,
            notes=tuple(self._notes(found, batches)),
        )

    def run(self, batch: Batch, folder: Path) -> Results:
        """Fill from one range. Raises BatchFailedError that names the file for whatever is wrong
        there.
        """
        (part,) = batch.inputs
        output, *skim = batch.outputs
        target = folder / text_to_path(skim[0].name) if skim else None
        try:
            work = self._filled(part, int(batch.parameters["entries"]), target)
        except BadInputError as error:
            raise BatchFailedError(FailureKind.BAD_INPUT, error.message, path=part.path) from error
        data = sums.encode(work.work.sums)
        counters = {"events_read": float(work.work.events), "filled": float(work.work.filled)}
        if skim:
            counters["skimmed"] = float(work.skimmed)
        if output.returned:
            return Results(counters=counters, files={output.name: data})
        (folder / text_to_path(output.name)).write_bytes(data)
        return Results(counters=counters)

    def _filled(self, part: InputRange, planned: int, skim: Path | None) -> RangeWork:
        """The range of a file that should have `planned` entries. Raises BadInputError."""
        path = part.path if part.remote else text_to_path(part.path)
        with reader(path, self.job.tree, timeout=self.remote_timeout) as tree:
            if tree.entries != planned:
                raise BadInputError(
                    f"{path}: {tree.entries} entries, but {planned} when the run was planned: "
                    "bring the file back, or start a new run with what is there now"
                )
            step = self.chunk if self.job.function else 0
            work = RangeWork(self.job, tree, part.path)
            work.run(part.first, part.first + part.count, step=step, target=skim)
        if work.work.events != part.count:
            raise BadInputError(f"{path}: {work.work.events} entries read of {part.count}")
        return work

    def result(self, request: MergeRequest) -> HistogramResult:
        """The exact sum of all parts. Raises BadInputError for a part that is damaged."""
        missing = [
            f"{item.path} entries {item.first} to {item.first + item.count - 1}"
            for batch in request.missing
            for item in batch.inputs
        ]
        asked = sum(part.batch.count for part in request.parts) + sum(
            batch.count for batch in request.missing
        )
        return combining.combine(self.job, self._parts(request), asked=asked, missing=missing)

    def merge(self, request: MergeRequest) -> list[MergedFile]:
        """The merged histograms in the formats that are wanted."""
        result = self.result(request)
        done = sum(part.batch.count for part in request.parts)
        if result.events_read != done:
            raise BadInputError(f"{result.events_read} events were read of {done}")
        return histogram_merge.write(result, request, skim=bool(self.job.skim), tree=self.job.tree)

    def check_merged_name(self, name: str) -> None:
        """Raises UsageError for a name that no format has."""
        histogram_merge.check_name(name, skim=bool(self.job.skim))

    def _parts(self, request: MergeRequest) -> Iterator[tuple[int, sums.Sums]]:
        for part in request.parts:
            path = part.folder / text_to_path(part.batch.outputs[0].name)
            try:
                data = path.read_bytes()
            except OSError as error:
                raise BadInputError(f"{path}: {error.strerror}") from error
            yield int(part.batch.parameters["sample"]), sums.decode(data, str(path))

    def _branches(self) -> tuple[str, ...]:
        """What is read of each file."""
        own = skimming.branches_of_columns(self.job.skim)
        return tuple(dict.fromkeys((*passes.branches_of_job(self.job), *own)))

    def _size(self, entries: int) -> int:
        """Entries of a batch."""
        if self.batch_size or self.measured is None:
            return self.batch_size or max(1, entries)
        seconds = max(self.measured.entry, 1e-9) * entries
        goal = min(self.batch_seconds, max(_SHORTEST, seconds / (_ROUNDS * self.slots)))
        return max(1, int(goal / max(self.measured.entry, 1e-9)))

    def _notes(self, found: histogram_inputs.Surveyed, batches: Sequence[Batch]) -> Iterator[str]:
        files = found.survey.files
        entries = sum(file.entries for file in files)
        yield f"{entries} entries of {self.job.tree} in {len(files)} files"
        empty = sum(file.entries == 0 for file in files)
        if empty:
            yield f"{empty} of them have none"
        if self.measured is not None:
            one = self.measured
            cpu = one.entry * entries + _OPENING * len(batches)
            size = one.part_bytes * len(batches) + one.entry_bytes * entries
            yield (
                f"expected: {_seconds(cpu)} of CPU, {_seconds(cpu / self.slots)} on {self.slots} "
                f"slots, {size / 1e6:.1f} MB (from the first {one.entries} entries)"
            )

    def _batches(self, found: histogram_inputs.Surveyed) -> Iterator[Batch]:
        usable = found.survey.files
        size = self._size(sum(file.entries for file in usable))
        stems = names.stems([stem_path(file.path) for file in usable])
        index = 0
        for file, stem in zip(usable, stems, strict=True):
            shape = found.shapes[file.path]
            for part in self._ranges(file, shape, size):
                yield Batch(
                    index=index,
                    workload="histogram",
                    count=part.count,
                    inputs=(part,),
                    parameters={"sample": found.samples[file.path], "entries": file.entries},
                    outputs=self._outputs(stem, part, file.entries),
                )
                index += 1

    def _ranges(self, file: InputFile, shape: TreeShape, size: int) -> Sequence[InputRange]:
        grid = self.chunk if self.job.function else 1
        ranges = histogram_inputs.aligned(shape.entries, size, shape.boundaries, grid=grid)
        return [
            InputRange(path=file.path, first=first, count=count, remote=is_address(file.path))
            for first, count in ranges
        ]

    def _outputs(self, stem: str, part: InputRange, entries: int) -> tuple[PlannedOutput, ...]:
        width = len(str(max(0, entries - 1)))
        last = part.first + part.count - 1
        name = f"{stem}.{part.first:0{width}d}-{last:0{width}d}"
        small = sums.bytes_at_most(self.job) <= _RETURNED
        outputs = [PlannedOutput(name=f"{name}{_ENDING}", returned=small)]
        if self.job.skim:
            tree = self.job.tree.rpartition("/")[2]
            outputs.append(
                PlannedOutput(
                    name=f"{name}{_SKIM_ENDING}", tree=tree, entries=part.count, acceptance=0.0
                )
            )
        return tuple(outputs)


def _seconds(value: float) -> str:
    return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"  # noqa: PLR2004
