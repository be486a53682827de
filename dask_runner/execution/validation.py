"""Do the planned outputs exist, can they be read in full, do they hold what was asked for?

Runs in a process of its own, after everything that the batch started is dead: reading a damaged
file may crash or hang the reader, and an open descriptor could change a file behind our back.
"""

import hashlib
import os
import stat
import time
from pathlib import Path

from dask_runner.batch import (
    Attempt,
    Batch,
    BatchFailedError,
    FailureKind,
    OutputFile,
    PlannedOutput,
    least_accepted,
)
from dask_runner.errors import BadInputError
from dask_runner.execution import reports, wire
from dask_runner.execution.failures import cause_of
from dask_runner.execution.reports import Report
from dask_runner.files import text_to_path

_BLOCK = 1 << 20


def validate_batches(work: list[tuple[int, Attempt, Path]], report_to: int) -> None:
    """Report on the batch at each position, whose outputs are in the folder beside it."""
    for position, attempt, folder in work:
        started, clock = time.time(), time.perf_counter()
        try:
            outputs, cause = validate_outputs(attempt.batch, folder), None
        except BaseException as error:  # noqa: BLE001  # readers of damaged files raise anything
            outputs, cause = (), cause_of(error)
        wall = time.perf_counter() - clock
        report = Report(position, started, wall, cause=cause, outputs=outputs)
        wire.write_all(report_to, reports.encode(report))


def validate_outputs(batch: Batch, folder: Path) -> tuple[OutputFile, ...]:
    """The outputs of a batch, made read-only. Raises BatchFailedError."""
    found = []
    for planned in batch.outputs:
        output = None if planned.returned else _validated(planned, folder)
        if output is not None:
            found.append(output)
    return tuple(found)


def _validated(planned: PlannedOutput, folder: Path) -> OutputFile | None:
    name = text_to_path(planned.name)
    if len(name.parts) != 1 or name.parts[0] in {"..", "/"}:
        raise _wrong(planned, "is not the name of a file", "an output has a path for a name")
    path = folder / name
    try:
        state = path.lstat()
    except FileNotFoundError:
        if planned.optional:
            return None
        raise _wrong(planned, "is missing", "an output is missing") from None
    if not stat.S_ISREG(state.st_mode):
        raise _wrong(planned, "is not a regular file", "an output is not a regular file")
    if state.st_nlink != 1:
        raise _wrong(planned, "is a hard link to another file", "an output is a hard link")
    size, mtime, digest = _stored(path)
    entries = _entries(planned, path) if planned.tree else None
    # Nobody writes to it any more, and its owner can read it, whatever the program left.
    path.chmod((stat.S_IMODE(state.st_mode) & ~0o222) | stat.S_IRUSR)
    return OutputFile(name=planned.name, bytes=size, sha256=digest, entries=entries, mtime_ns=mtime)


def _stored(path: Path) -> tuple[int, int, str]:
    """Size, time of change and SHA-256 of a file that the disk has accepted. Behind NFS or a quota,
    only fsync on the host that wrote it says whether the file has arrived.
    """
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
        size = 0
        while block := os.read(descriptor, _BLOCK):
            digest.update(block)
            size += len(block)
        mtime = os.fstat(descriptor).st_mtime_ns
    finally:
        os.close(descriptor)
    return size, mtime, digest.hexdigest()


def _entries(planned: PlannedOutput, path: Path) -> int:
    from dask_runner import rootfiles  # noqa: PLC0415  # uproot is heavy, and often not needed

    try:
        entries = rootfiles.validate(path, planned.tree)
    except BadInputError as error:
        raise _wrong(
            planned, f"is unreadable: {error.message}", "an output is unreadable"
        ) from error
    if planned.entries is not None:
        least = least_accepted(planned.entries, planned.acceptance)
        if not least <= entries <= planned.entries:
            wanted = (
                f"{planned.entries}"
                if least == planned.entries
                else (f"{least} to {planned.entries}")
            )
            raise _wrong(
                planned,
                f"has {entries} entries in {planned.tree}, not {wanted}",
                "an output has the wrong number of entries",
            )
    return entries


def _wrong(planned: PlannedOutput, what: str, cause: str) -> BatchFailedError:
    return BatchFailedError(FailureKind.OUTPUT, f"output {planned.name} {what}", cause=cause)
