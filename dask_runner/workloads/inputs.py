"""Finding the input files of a run and counting what is really in them.

Owns the survey: every file is opened, its events are counted in its tree, and everything that is
wrong with it is said with its name. Never believes a number in a file name.
"""

import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct

from dask_runner import files, rootfiles
from dask_runner.batch import InputFile
from dask_runner.chain import formats
from dask_runner.errors import BadInputError
from dask_runner.workloads.names import natural_key

# Also in the middle of a name, as in EVNT.12345._000001.pool.root.1
_POOL_NAME = ".pool.root"
POOL_TREE = "CollectionTree"
# Opening a file waits for storage (NFS) as long as it computes.
_THREADS = 8


class Survey(Struct, frozen=True, kw_only=True):
    """The usable files in natural order, and what is wrong with the others."""

    files: tuple[InputFile, ...]
    problems: tuple[str, ...]


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
    paths = find(folder, patterns)
    pool = ThreadPoolExecutor(max_workers=_THREADS)
    try:
        results = list(pool.map(_inspect, paths))
    finally:
        # Whoever is interrupted does not wait for thousands of files that are no longer wanted.
        pool.shutdown(wait=False, cancel_futures=True)
    usable: list[InputFile] = []
    problems: list[str] = []
    owners: dict[tuple[int, int], Path] = {}
    for path, result in zip(paths, results, strict=True):
        if isinstance(result, str):
            problems.append(result)
            continue
        status = path.stat()
        owner = owners.setdefault((status.st_dev, status.st_ino), path)
        if owner is path:
            usable.append(result)
        else:
            problems.append(f"{path}: is the same file as {owner}")
    return Survey(files=tuple(usable), problems=tuple(problems))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _inspect(path: Path) -> InputFile | str:
    """The file as it is, or what is wrong with it."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            # Opening a pipe would wait for a writer for ever.
            return f"{path}: is not a regular file"
        entries = rootfiles.count_entries(path, tree_of(path))
        if entries == 0:
            return f"{path}: has no events"
        status = path.stat()
        return InputFile(
            path=files.path_to_text(os.path.abspath(path)),  # noqa: PTH100 - resolves no links
            bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
            entries=entries,
            fingerprint=files.fingerprint(path),
        )
    except BadInputError as error:
        text = error.message
        return text if str(path) in text else f"{path}: {text}"
    except OSError as error:
        return f"{path}: {error.strerror or error}"
