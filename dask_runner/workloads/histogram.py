"""The workload `histogram`: ranges of entries of any number of ROOT files -> exact sums.

Owns how files become batches and what a batch's file is. What is filled depends on the entries
alone: any batch size, and any order of batches, gives the same merged histograms.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from msgspec import Struct

from dask_runner.batch import Batch, InputFile, InputRange, PlannedOutput
from dask_runner.errors import BadInputError
from dask_runner.files import text_to_path
from dask_runner.histograms import combining, passes, sums
from dask_runner.histograms.result import HistogramResult
from dask_runner.histograms.spec import Job
from dask_runner.rootfiles.chunks import TreeShape, aligned, reader
from dask_runner.workloads import histogram_inputs, histogram_merge, names
from dask_runner.workloads.inputs import stem_path
from dask_runner.workloads.interface import MergedFile, MergeRequest, Plan, Results

# Entries that a user's function sees at once.
CHUNK = 50_000
# Sums that may be larger are a file, not returned with the outcome; in bytes.
_RETURNED = 4_000_000
_ENDING = ".hist"


class Histogram(Struct, frozen=True, kw_only=True):
    """The job on ranges of about `batch_size` entries of the files that match `files` (absolute
    patterns, or addresses) and those of the job's samples. `chunk` are the entries that a function
    sees at once; batches are of whole chunks then.
    """

    uses_folder: ClassVar[bool] = True

    job: Job
    files: tuple[str, ...]
    batch_size: int
    chunk: int = CHUNK
    notes: tuple[str, ...] = ()

    @property
    def preload(self) -> tuple[str, ...]:
        """All but a user's function: its module may do anything when it is imported."""
        return ("dask_runner.workloads.histogram",)

    def plan(self) -> Plan:
        """Open and count every file, then divide. Raises UsageError if a pattern has no file."""
        found = histogram_inputs.survey(self.job, self.files, passes.branches_of_job(self.job))
        empty = sum(file.entries == 0 for file in found.survey.files)
        notes = (f"{empty} files have no entries in {self.job.tree}",) if empty else ()
        return Plan(
            batches=list(self._batches(found)),
            inputs=found.survey.files,
            problems=found.survey.problems,
            notes=(*self.notes, *notes),
        )

    def run(self, batch: Batch, folder: Path) -> Results:
        """Fill from one range. Raises BadInputError that names the file for whatever is wrong
        there.
        """
        (part,) = batch.inputs
        work = passes.Pass(self.job)
        path = text_to_path(part.path)
        with reader(path, self.job.tree) as tree:
            planned = int(batch.parameters["entries"])
            if tree.entries != planned:
                raise BadInputError(
                    f"{path}: {tree.entries} entries, but {planned} when the run was planned",
                    hint="bring the file back, or start a new run with what is there now",
                )
            step = self.chunk if self.job.function else 0
            for chunk in tree.chunks(work.branches, part.first, part.first + part.count, step=step):
                work.add(part.path, chunk)
        if work.events != batch.count:
            raise BadInputError(f"{path}: {work.events} entries read of {batch.count}")
        data = sums.encode(work.sums)
        counters = {"events_read": float(work.events), "filled": float(work.filled)}
        output = batch.outputs[0]
        if output.returned:
            return Results(counters=counters, files={output.name: data})
        (folder / text_to_path(output.name)).write_bytes(data)
        return Results(counters=counters)

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

    def _batches(self, found: histogram_inputs.Surveyed) -> Iterator[Batch]:
        usable = found.survey.files
        stems = names.stems([stem_path(file.path) for file in usable])
        index = 0
        for file, stem in zip(usable, stems, strict=True):
            shape = found.shapes[file.path]
            for part in self._ranges(file, shape):
                yield Batch(
                    index=index,
                    workload="histogram",
                    count=part.count,
                    inputs=(part,),
                    parameters={"sample": found.samples[file.path], "entries": file.entries},
                    outputs=self._outputs(stem, part, file.entries),
                )
                index += 1

    def _ranges(self, file: InputFile, shape: TreeShape) -> Sequence[InputRange]:
        grid = self.chunk if self.job.function else 1
        return [
            InputRange(path=file.path, first=first, count=count)
            for first, count in aligned(shape.entries, self.batch_size, shape.boundaries, grid=grid)
        ]

    def _outputs(self, stem: str, part: InputRange, entries: int) -> tuple[PlannedOutput, ...]:
        width = len(str(max(0, entries - 1)))
        last = part.first + part.count - 1
        name = f"{stem}.{part.first:0{width}d}-{last:0{width}d}{_ENDING}"
        small = sums.bytes_at_most(self.job) <= _RETURNED
        return (PlannedOutput(name=name, returned=small),)
