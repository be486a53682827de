"""Finding the input files of a run and counting what is really in them.

Owns the survey: every file is opened, its events are counted in its tree, and everything that is
wrong with it is said with its name. Never believes a number in a file name.
"""

import os
import re
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from msgspec import Struct, structs

from dask_runner import downloads, files, rootfiles
from dask_runner.batch import InputFile
from dask_runner.chain import formats
from dask_runner.errors import BadInputError, UsageError
from dask_runner.workloads.names import natural_key

# Also in the middle of a name, as in EVNT.12345._000001.pool.root.1
_POOL_NAME = ".pool.root"
POOL_TREE = "CollectionTree"
# Opening a file waits for storage (NFS) as long as it computes.
_THREADS = 8
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

T = TypeVar("T")


class Survey(Struct, frozen=True, kw_only=True):
    """The usable files in natural order, and what is wrong with the others."""

    files: tuple[InputFile, ...]
    problems: tuple[str, ...]


class Found(Struct, frozen=True, kw_only=True):
    """A usable file, and what makes it one and the same under several names."""

    file: InputFile
    identity: tuple[int, int]


def find(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """All files of a folder that match, in natural order; hidden files are somebody's temporary."""
    found = {path for pattern in patterns for path in folder.glob(pattern)}
    visible = [p for p in found if not _hidden(p.relative_to(folder)) and not p.is_dir()]
    return sorted(visible, key=lambda path: natural_key(path.relative_to(folder)))


def tree_of(path: Path) -> str:
    """The tree in which events of an input file are counted."""
    return POOL_TREE if _POOL_NAME in path.name.lower() else formats.TREE


def survey(folder: Path, patterns: Sequence[str]) -> Survey:
    """Open and count every file of `folder` that matches one of `patterns`."""
    return survey_each(find(folder, patterns), _inspect)


def resolve(text: str, here: Path) -> str:
    """An input as given with --input, in the form that `survey_named` takes and that means the
    same everywhere: a URL, or path text. Raises UsageError for what we cannot read.
    """
    scheme = _SCHEME.match(text)
    if scheme is None:
        return files.path_to_text(os.path.abspath(here / Path(text).expanduser()))  # noqa: PTH100 - resolves no links
    if not downloads.is_url(text):
        raise UsageError(
            f"--input {text}: {scheme[0]} is not supported yet",
            hint="give a http:// or https:// address, or a copy of the file",
        )
    downloads.split_hash(text)
    return text


def survey_named(inputs: Sequence[str]) -> Survey:
    """Open and count these files (path text, or URL with an optional #sha256=HEX), which are
    brought here if they are elsewhere; in natural order.
    """
    return survey_each(sorted(inputs, key=natural_key), _inspect_named)


def stem_path(path: str) -> Path:
    """A path for the name of an input's outputs: different for all inputs, also for URLs that
    differ in the query only.
    """
    if not downloads.is_address(path):
        return files.text_to_path(path)
    return Path(path.replace("/", "%2F")) / files.text_to_path(downloads.name_of(path))


def survey_each(paths: Sequence[T], inspect: Callable[[T], "Found | str"]) -> Survey:
    """What `inspect` finds of each, in parallel; the same file under two names counts once."""
    pool = ThreadPoolExecutor(max_workers=_THREADS)
    try:
        results = list(pool.map(inspect, paths))
    finally:
        # Whoever is interrupted does not wait for thousands of files that are no longer wanted.
        pool.shutdown(wait=False, cancel_futures=True)
    usable: list[InputFile] = []
    problems: list[str] = []
    owners: dict[tuple[int, int], str] = {}
    for result in results:
        if isinstance(result, str):
            problems.append(result)
            continue
        owner = owners.get(result.identity)
        if owner is None:
            owners[result.identity] = result.file.path
            usable.append(result.file)
        else:
            problems.append(f"{result.file.path}: is the same file as {owner}")
    return Survey(files=tuple(usable), problems=tuple(problems))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _inspect_named(text: str) -> "Found | str":
    if not downloads.is_url(text):
        return _inspect(files.text_to_path(text))
    url, known = downloads.split_hash(text)
    try:
        copy, digest = downloads.local_copy(url, known)
    except BadInputError as error:
        return error.message
    found = _inspect(copy)
    if isinstance(found, str):
        return f"{url}: {found}"
    file = structs.replace(found.file, path=url, mtime_ns=0, sha256=digest)
    return structs.replace(found, file=file)


def _inspect(path: Path) -> "Found | str":
    """The file as it is, or what is wrong with it."""
    found = inspect(path, lambda local: rootfiles.count_entries(local, tree_of(local)))
    if isinstance(found, Found) and found.file.entries == 0:
        return f"{path}: has no events"
    return found


def inspect(path: Path, count: Callable[[Path], int]) -> "Found | str":
    """The file as it is with what `count` finds in it, or what is wrong with it."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            # Opening a pipe would wait for a writer for ever.
            return f"{path}: is not a regular file"
        entries = count(path)
        status = path.stat()
        file = InputFile(
            path=files.path_to_text(os.path.abspath(path)),  # noqa: PTH100 - resolves no links
            bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
            entries=entries,
            fingerprint=files.fingerprint(path),
        )
        return Found(file=file, identity=(status.st_dev, status.st_ino))
    except BadInputError as error:
        text = error.message
        return text if str(path) in text else f"{path}: {text}"
    except OSError as error:
        return f"{path}: {error.strerror or error}"
