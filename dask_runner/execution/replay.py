"""One batch here, in this process and terminal, for `dask-runner replay`: no slot, no limits.

The interpreter should have been started with the environment of `numerics`, or the outputs need
not equal the published ones.
"""

import os
import pdb as debugger  # noqa: T100  # the user asks for it
import tempfile
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from dask_runner import workloads
from dask_runner.batch import (
    Attempt,
    Batch,
    BatchFailedError,
    Outcome,
    OutcomeStatus,
    OutputFile,
    WorkloadSpec,
)
from dask_runner.errors import StorageError
from dask_runner.execution import marker, returns, validation
from dask_runner.execution.failures import Cause, cause_of
from dask_runner.files import text_to_path
from dask_runner.workloads.interface import Results
from dask_runner.workloads.shipped import show


def replay(
    attempt: Attempt,
    spec: WorkloadSpec,
    folder: Path,
    *,
    shipped: Path | None = None,
    pdb: bool = False,
) -> Outcome:
    """Run the batch in the new folder `folder`, which is kept; validate and hash its outputs.
    `shipped` is the folder of what the run has shipped.

    With `pdb`, an exception opens the debugger where it was raised. The process's working
    directory and environment stay changed, as after the batch itself.
    """
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise StorageError(
            f"cannot make the folder {folder}: {error.strerror}",
            hint="a replay needs a new folder in a place that you can write to",
        ) from error
    started, clock, cpu = datetime.now(UTC), time.perf_counter(), time.process_time()
    counters: dict[str, float] = {}
    outputs: tuple[OutputFile, ...] = ()
    cause: Cause | None = None
    with tempfile.TemporaryDirectory(prefix="dask-runner-") as scratch:
        try:
            results = _run(attempt, spec, folder, scratch, shipped)
            counters = results.counters
            outputs = (
                *validation.validate_outputs(attempt.batch, folder),
                *_returned(attempt.batch, results.files, folder),
            )
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  # the boundary to foreign code
            traceback.print_exception(error)
            cause = cause_of(error)
            if pdb:
                debugger.post_mortem(error.__traceback__)
    return Outcome(
        batch=attempt.batch.index,
        attempt=attempt.number,
        status=OutcomeStatus.DONE if cause is None else OutcomeStatus.FAILED,
        started=started.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        wall=time.perf_counter() - clock,
        cpu=time.process_time() - cpu,
        outputs=outputs,
        failure=None if cause is None else cause.failure(),
        counters=counters,
    )


def _run(
    attempt: Attempt, spec: WorkloadSpec, folder: Path, scratch: str, shipped: Path | None
) -> Results:
    show(shipped)
    workload = workloads.load(spec, shipped=shipped)
    os.environ.update(
        {
            marker.BATCH: attempt.batch.id,
            marker.ATTEMPT: str(attempt.number),
            marker.SCRATCH: scratch,
            "TMPDIR": scratch,
        }
    )
    os.chdir(folder)
    return returns.as_results(workload.run(attempt.batch, folder))


def _returned(batch: Batch, contents: Mapping[str, bytes], folder: Path) -> tuple[OutputFile, ...]:
    """Put what a batch gave back beside its files. Raises BatchFailedError."""
    if (cause := returns.complaint(batch, contents)) is not None:
        raise BatchFailedError(cause.kind, cause.message, cause=cause.cause)
    for name, data in contents.items():
        (folder / text_to_path(name)).write_bytes(data)
    return returns.described(contents)
