"""Runs of histograms: made from what the user says.

Owns what of a command line or a call becomes the workload, and that everything that can be found
out from the first file is found out before anything is started. Refuses to dispatch.
"""

import itertools
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from dask_runner.errors import BadInputError, RunnerError, UnreachableError, UsageError
from dask_runner.histograms import functions
from dask_runner.histograms.drafting import Asked, Draft, check_name, draft, with_samples
from dask_runner.histograms.passes import check_branches
from dask_runner.histograms.ranges import Measured, measure
from dask_runner.histograms.skimming import objects_of, resolve
from dask_runner.histograms.spec import FunctionSpec, HistogramSpec, Job
from dask_runner.host_imports import as_on_hosts, copied
from dask_runner.opening import Target
from dask_runner.prospect import Prospects
from dask_runner.rootfiles.chunks import Reader, reader
from dask_runner.settings import Settings
from dask_runner.workloads.histogram import CHUNK, Histogram
from dask_runner.workloads.histogram_inputs import absolute, matching, place_of

# Files of a pattern that are opened in search of one with entries, and how many of those may be
# damaged.
_TRIED = 100
_DAMAGED = 5


class HistogramRequest(Struct, frozen=True, kw_only=True):
    """What is wanted: `asked` as the options say it, batches of `batch_size` entries (0: by time).
    `chunk` is what a function sees at once. `ship` and `import_path` are what the batches get.
    """

    asked: Asked
    batch_size: int = 0
    chunk: int = CHUNK
    ship: tuple[Path, ...] = ()
    import_path: tuple[str, ...] = ()


class Planned(Struct, frozen=True, kw_only=True):
    """A workload, and all that has to be sent along."""

    workload: Any
    ship: tuple[Path, ...] = ()
    measured: Measured


def plan(request: HistogramRequest, settings: Settings, target: Target) -> Planned:
    """Complete the job and try it on the first entries of the first file that has any. Raises
    UsageError or BadInputError for whatever is wrong with it, before anything is started.
    """
    drafted = draft(request.asked)
    if request.chunk != CHUNK and not drafted.function:
        raise UsageError("--chunk is what a function sees at once, and there is no --function")
    name, file = _name_and_file(drafted)
    ship = tuple(dict.fromkeys(path.expanduser().absolute() for path in (*file, *request.ship)))
    job = _with_absolute_samples(drafted)
    files = tuple(absolute(pattern, drafted.files_folder) for pattern in drafted.files)
    # What a function prints is talk: stdout is for the result.
    with (
        copied(ship) as copy,
        as_on_hosts(copy, request.import_path),
        redirect_stdout(sys.stderr),
    ):
        job, measured = _Trying(
            job=job,
            files=files,
            drafted=drafted,
            name=name,
            chunk=request.chunk,
            timeout=settings.histogram.remote_timeout,
        ).tried()
    workload = Histogram(
        job=job,
        files=files,
        batch_size=request.batch_size,
        chunk=request.chunk,
        measured=measured,
        slots=max(1, Prospects(settings, target).tell(1_000_000, None).slots),
        batch_seconds=settings.histogram.batch_seconds,
        remote_timeout=settings.histogram.remote_timeout,
    )
    return Planned(workload=workload, ship=ship, measured=measured)


def _with_absolute_samples(drafted: Draft) -> Job:
    return replace(
        drafted.job,
        samples=tuple(
            replace(sample, pattern=absolute(sample.pattern, drafted.samples_folder))
            for sample in drafted.job.samples
        ),
    )


class _Trying(Struct, frozen=True, kw_only=True):
    """A job that is completed and tried on files: `name` is that of its function, if it has one."""

    job: Job
    files: tuple[str, ...]
    drafted: Draft
    name: str
    chunk: int
    timeout: float

    def tried(self) -> tuple[Job, Measured]:
        """The complete job, and what it takes. A damaged file does not stop it, if others can be
        read: its own batches will say so.
        """
        said: RunnerError | None = None
        for path in itertools.islice(self._with_entries(), _DAMAGED):
            try:
                with self._open(path) as tree:
                    job = self._completed(tree)
                return job, self._measured(job, path)
            except (BadInputError, UnreachableError) as error:
                said = said or error
        if said is not None:
            raise said
        raise UsageError(
            f"no file with entries in {self.job.tree}",
            hint="look at what --files and --sample match",
        )

    def _open(self, path: str) -> AbstractContextManager[Reader]:
        return reader(place_of(path), self.job.tree, timeout=self.timeout)

    def _with_entries(self) -> Iterator[str]:
        """Files that can be opened and have entries. Raises what is wrong with the first if none
        can.
        """
        said: RunnerError | None = None
        found = False
        for path in _candidates(self.job, self.files):
            try:
                with self._open(path) as tree:
                    entries = tree.entries
            except (BadInputError, UnreachableError) as error:
                said = said or error
                continue
            found = True
            if entries:
                yield path
        if said is not None and not found:
            raise said

    def _completed(self, tree: Reader) -> Job:
        job = self.job
        check_branches(job, tree, self.drafted.places)
        if self.name:
            job = self._with_function(job, tree)
        if job.skim:
            columns = resolve(job.skim, tree.types)
            pruned = objects_of(tree, columns, job.where)
            job = replace(job, skim=columns, skim_objects=pruned)
        return job

    def _measured(self, job: Job, path: str) -> Measured:
        with self._open(path) as tree:
            if not self.name:
                return measure(job, tree, path, chunk=0)
            with _as_user_error(self.name):
                return measure(job, tree, path, chunk=self.chunk)

    def _with_function(self, job: Job, tree: Reader) -> Job:
        """The job with what the function makes of the first chunk."""
        name, branches = self.name, functions.needed(self.name, self.drafted.branches)
        spec = FunctionSpec(name=name, branches=branches, sha256=functions.source_hash(name))
        call = functions.UserFunction(spec)
        piece = next(tree.chunks(branches, 0, min(tree.entries, self.chunk), step=self.chunk))
        with _as_user_error(name):
            made = call(piece, np.ones(piece.entries, np.bool_))
        taken = {one.name for one in job.histograms}
        specs: list[HistogramSpec] = []
        for key, histogram in made.items():
            check_name(key, f"function {name}")
            if key in taken:
                raise UsageError(f"function {name}: there is another histogram {key!r}")
            own = functions.described(key, histogram)
            functions.contents(key, histogram)
            by_sample = self.drafted.by_sample
            specs.append(with_samples(own, job.samples, "by_sample") if by_sample else own)
        return replace(job, histograms=(*job.histograms, *specs), function=spec)


def _candidates(job: Job, files: Sequence[str]) -> Iterator[str]:
    for pattern in (*files, *(sample.pattern for sample in job.samples)):
        yield from matching(pattern)[:_TRIED]


@contextmanager
def _as_user_error(name: str) -> Iterator[None]:
    """What the user's code raises is told with its place."""
    try:
        yield
    except RunnerError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"function {name}: failed on the first entries: {type(error).__name__}: {error}",
            hint="does it read what is not in its branches?" if isinstance(error, KeyError) else "",
        ) from error


def _name_and_file(drafted: Draft) -> tuple[str, tuple[Path, ...]]:
    """The function's name, and its file if it is given as FILE.py:function."""
    place, colon, function = drafted.function.rpartition(":")
    if not (colon and place.endswith(".py")):
        return drafted.function, ()
    path = drafted.function_folder / Path(place).expanduser()
    if not path.is_file():
        raise UsageError(f"--function {drafted.function}: {path} does not exist")
    if not path.stem.isidentifier():
        raise UsageError(
            f"--function {drafted.function}: {path.name} cannot be imported under its name"
        )
    return f"{path.stem}:{function}", (path.absolute(),)
