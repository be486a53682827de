"""The files of a run of histograms: found, counted, and divided into ranges.

Owns that a file is in the run once, and what is said of files that do not fit the others.
"""

import glob
import os
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from msgspec import Struct

from dask_runner import files
from dask_runner.batch import InputFile
from dask_runner.downloads import check_address, is_address
from dask_runner.errors import BadInputError, UnreachableError, UsageError
from dask_runner.histograms.skimming import branches_of_columns, plain_type
from dask_runner.histograms.spec import Job
from dask_runner.rootfiles import remote
from dask_runner.rootfiles.chunks import TreeShape, reader
from dask_runner.workloads import inputs
from dask_runner.workloads.inputs import Found, Survey
from dask_runner.workloads.names import natural_key


class Surveyed(Struct, frozen=True, kw_only=True):
    """The usable files in natural order with what their trees are and the number of their sample,
    and what is wrong with others.
    """

    survey: Survey
    shapes: dict[str, TreeShape]
    samples: dict[str, int]


def survey(
    job: Job, patterns: Sequence[str], branches: Sequence[str], *, timeout: float
) -> Surveyed:
    """Open and count all files that match; in parallel, for opening waits for storage and servers,
    which have `timeout` s for each request. Raises UsageError if a pattern has no file, or a file
    is of several samples.
    """
    paths, samples = _named(job, patterns)
    shapes: dict[str, TreeShape] = {}

    def inspect(path: str) -> Found | str:
        if is_address(path):
            return _inspect_remote(path, lambda: look(path), timeout)
        return inputs.inspect(files.text_to_path(path), lambda _: look(path))

    def look(path: str) -> int:
        with reader(place_of(path), job.tree, timeout=timeout) as tree:
            shapes[path] = tree.shape(branches)
        return shapes[path].entries

    found = inputs.survey_each(paths, inspect)
    odd = {**_other_types(job, found, shapes), **_odd(found, shapes, branches)}
    usable = tuple(file for file in found.files if file.path not in odd)
    return Surveyed(
        survey=Survey(files=usable, problems=(*found.problems, *odd.values())),
        shapes=shapes,
        samples=samples,
    )


def place_of(path: str) -> Path | str:
    """Where the input of this name is read: a file, or an address."""
    return path if is_address(path) else files.text_to_path(path)


def _inspect_remote(url: str, count: Callable[[], int], timeout: float) -> Found | str:
    try:
        facts = remote.facts(url, timeout=timeout)
        entries = count()
    except (BadInputError, UnreachableError) as error:
        return error.message if url in error.message else f"{url}: {error.message}"
    file = InputFile(
        path=url, bytes=facts.bytes, mtime_ns=0, entries=entries, fingerprint=facts.stamp
    )
    return Found(file=file, identity=(-1, hash(url)))


def absolute(pattern: str, here: Path) -> str:
    """A pattern in the form that means the same everywhere. Raises UsageError for an address from
    which we cannot read.
    """
    if is_address(pattern):
        check_address(pattern)
        return pattern
    path = here / Path(pattern).expanduser()
    if not path.exists() and not Path(pattern).expanduser().is_absolute():
        # The folder itself is no pattern, whatever it is called.
        path = Path(glob.escape(os.fspath(here))) / pattern
    return files.path_to_text(os.path.abspath(path))  # noqa: PTH100 - resolves no links


def matching(pattern: str) -> list[str]:
    """The paths that an absolute pattern stands for; itself, if it has nothing of a pattern or if
    there is a file of that name. Raises UsageError if there is none.
    """
    if is_address(pattern):
        return [pattern]
    local = os.fspath(files.text_to_path(pattern))
    if Path(local).is_dir():
        raise UsageError(f"{pattern} is a folder", hint=f"'{pattern}/*.root' names its files")
    if Path(local).exists() or not glob.has_magic(local):
        return [pattern]
    found = [path for path in glob.glob(local, recursive=True) if not Path(path).is_dir()]  # noqa: PTH207 - patterns with folders
    if not found:
        raise UsageError(f"no file matches {pattern}", hint="quoted? as in --files 'data/*.root'")
    return sorted((files.path_to_text(path) for path in found), key=natural_key)


def _named(job: Job, patterns: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """All paths in natural order, and the sample of each."""
    paths: dict[str, None] = {}
    for pattern in (*patterns, *(sample.pattern for sample in job.samples)):
        paths.update(dict.fromkeys(matching(pattern)))
    samples = dict.fromkeys(paths, 0)
    if job.samples:
        owned: dict[str, int] = {}
        for number, sample in enumerate(job.samples):
            for path in matching(sample.pattern):
                if path in owned:
                    other = job.samples[owned[path]].name
                    raise UsageError(f"{path} is of the samples {other} and {sample.name}")
                owned[path] = number
        for path in paths:
            if path not in owned:
                raise UsageError(
                    f"{path} is of no sample",
                    hint="--sample NAME=GLOB names its files; without --files there are no others",
                )
        samples = owned
    return sorted(paths, key=natural_key), samples


def _odd(found: Survey, shapes: dict[str, TreeShape], branches: Sequence[str]) -> dict[str, str]:
    """Files in which a branch has lists where it has single values in the first, or the reverse:
    what expressions mean would differ.
    """
    odd: dict[str, str] = {}
    first: tuple[str, dict[str, bool]] | None = None
    for file in found.files:
        lists = {name: _has_lists(shapes[file.path], name) for name in branches}
        if first is None:
            first = file.path, lists
            continue
        for name, one in lists.items():
            if one != first[1][name]:
                what = "lists" if one else "single values"
                odd[file.path] = f"{file.path}: the branch {name!r} has {what}, not in {first[0]}"
    return odd


def _other_types(job: Job, found: Survey, shapes: dict[str, TreeShape]) -> dict[str, str]:
    """Files in which a branch of a skim has another type than in the first: their skims could not
    be joined.
    """
    odd: dict[str, str] = {}
    first: tuple[str, dict[str, str]] | None = None
    for file in found.files:
        types = {
            name: plain_type(shapes[file.path].branches[name])
            for name in branches_of_columns(job.skim)
        }
        if first is None:
            first = file.path, types
        for name, kind in types.items():
            if kind != first[1][name]:
                other = f"not {first[1][name]} as in {first[0]}"
                odd[file.path] = f"{file.path}: the branch {name!r} is {kind}, {other}"
    return odd


def _has_lists(shape: TreeShape, name: str) -> bool:
    kind = shape.branches[name]
    return "[" in kind or "vector" in kind


def aligned(
    entries: int, size: int, boundaries: Sequence[int], *, grid: int = 1
) -> list[tuple[int, int]]:
    """The entries as ranges (first, count) of about `size`: cut at the nearest of the ascending
    `boundaries` if one is within a quarter of the size; at multiples of `grid` if that is above 1.
    """
    if not entries:
        return []
    if grid > 1:
        size = max(grid, round(size / grid) * grid)
    cuts = [0]
    while cuts[-1] + size < entries:
        ideal = cuts[-1] + size
        near = ideal if grid > 1 else _nearest(boundaries, ideal)
        cut = near if abs(near - ideal) <= size // 4 else ideal
        if cut >= entries:
            break
        cuts.append(cut)
    return [(a, b - a) for a, b in pairwise([*cuts, entries])]


def _nearest(boundaries: Sequence[int], place: int) -> int:
    """The boundary that is nearest to a place; the place itself if there are none."""
    behind = bisect_left(boundaries, place)
    around = boundaries[max(0, behind - 1) : behind + 1]
    return min(around, key=lambda one: abs(one - place), default=place)
