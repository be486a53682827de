"""Runs of histograms: made from what the user says.

Owns what of a command line or a call becomes the workload, and that everything that can be found
out from the first file is found out before anything is started. Refuses to dispatch.
"""

import glob
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from dask_runner.errors import BadInputError, UsageError
from dask_runner.files import text_to_path
from dask_runner.histograms import functions
from dask_runner.histograms.drafting import Asked, Draft, draft, with_samples
from dask_runner.histograms.ranges import Measured, measure
from dask_runner.histograms.skimming import resolve
from dask_runner.histograms.spec import FunctionSpec, HistogramSpec, Job
from dask_runner.host_imports import as_on_hosts, copied
from dask_runner.opening import Target
from dask_runner.prospect import Prospects
from dask_runner.rootfiles.chunks import reader
from dask_runner.settings import Settings
from dask_runner.workloads.histogram import CHUNK, Histogram
from dask_runner.workloads.histogram_inputs import absolute
from dask_runner.workloads.inputs import is_address
from dask_runner.workloads.names import natural_key

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
    name, file = _name_and_file(drafted)
    ship = tuple(dict.fromkeys(path.expanduser().absolute() for path in (*file, *request.ship)))
    job = _with_absolute_samples(drafted)
    files = tuple(absolute(pattern, drafted.files_folder) for pattern in drafted.files)
    with copied(ship) as copy, as_on_hosts(copy, request.import_path):
        job, measured = _tried(job, files, drafted, name, request.chunk)
    workload = Histogram(
        job=job,
        files=files,
        batch_size=request.batch_size,
        chunk=request.chunk,
        measured=measured,
        slots=max(1, Prospects(settings, target).tell(1_000_000, None).slots),
        batch_seconds=settings.trials.batch_seconds,
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


def _tried(
    job: Job, files: Sequence[str], drafted: Draft, name: str, chunk: int
) -> tuple[Job, Measured]:
    """The complete job, and what it takes. A damaged file does not stop it, if others can be read:
    its own batches will say so.
    """
    said: BadInputError | None = None
    for path in itertools.islice(_with_entries(job, files), _DAMAGED):
        try:
            whole = _with_function(job, name, drafted, path, chunk) if name else job
            if job.skim:
                whole = replace(whole, skim=_skim_of(whole, path))
            return whole, measure(whole, text_to_path(path), path, chunk=chunk if name else 0)
        except BadInputError as error:
            said = said or error
    if said is not None:
        raise said
    raise UsageError(
        f"no file with entries in {job.tree}", hint="look at what --files and --sample match"
    )


def _with_entries(job: Job, files: Sequence[str]) -> Iterator[str]:
    """Files that can be opened and have entries. Raises what is wrong with the first if none is."""
    said: BadInputError | None = None
    found = False
    for path in _candidates(job, files):
        try:
            with reader(text_to_path(path), job.tree) as tree:
                entries = tree.entries
        except BadInputError as error:
            said = said or error
            continue
        found = True
        if entries:
            yield path
    if said is not None and not found:
        raise said


def _candidates(job: Job, files: Sequence[str]) -> Iterator[str]:
    patterns = (*files, *(sample.pattern for sample in job.samples))
    for pattern in patterns:
        if is_address(pattern) or not glob.has_magic(pattern):
            yield pattern
            continue
        found = glob.glob(pattern, recursive=True)  # noqa: PTH207 - patterns with folders
        if not found:
            raise UsageError(f"no file matches {pattern}", hint="quote it: 'data/*.root'")
        yield from sorted(found, key=natural_key)[:_TRIED]


def _with_function(job: Job, name: str, drafted: Draft, first: str, chunk: int) -> Job:
    """The job with what the function makes of the first chunk."""
    branches = functions.needed(name, drafted.branches)
    spec = FunctionSpec(name=name, branches=branches, sha256=functions.source_hash(name))
    call = functions.UserFunction(spec)
    with reader(text_to_path(first), job.tree) as tree:
        piece = next(tree.chunks(branches, 0, min(tree.entries, chunk), step=chunk))
    with _as_user_error(name):
        made = call(piece, np.ones(piece.entries, np.bool_))
    specs: list[HistogramSpec] = []
    for key, histogram in made.items():
        own = functions.described(key, histogram)
        functions.contents(key, histogram)
        by_sample = bool(job.samples)
        specs.append(with_samples(own, job.samples, name) if by_sample else own)
    taken = {one.name for one in job.histograms}
    twice = [one.name for one in specs if one.name in taken]
    if twice:
        raise UsageError(f"two histograms have the name {twice[0]}")
    return replace(job, histograms=(*job.histograms, *specs), function=spec)


@contextmanager
def _as_user_error(name: str) -> Iterator[None]:
    """What the user's code raises is told with its place."""
    try:
        yield
    except (UsageError, BadInputError):
        raise
    except Exception as error:
        raise UsageError(
            f"function {name}: failed on the first chunk: {type(error).__name__}: {error}"
        ) from error


def _skim_of(job: Job, first: str) -> tuple[str, ...]:
    with reader(text_to_path(first), job.tree) as tree:
        return resolve(job.skim, tree.types)


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
