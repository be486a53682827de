"""Outputs that come back with the outcome: are they those that were planned, what are they?

They are bytes that the batch's process has sent: nobody can change them any more.
"""

import hashlib
from collections.abc import Mapping

import msgspec

from dask_runner.batch import RETURNED_MAX, Batch, BatchFailedError, FailureKind, OutputFile
from dask_runner.execution.failures import Cause
from dask_runner.workloads.interface import Results


def as_results(told: Mapping[str, float] | Results) -> Results:
    """What `run` returned, checked. Raises BatchFailedError for contents that are too large."""
    results = told if isinstance(told, Results) else Results(counters=dict(told))
    size = sum(map(len, results.files.values()))
    if size > RETURNED_MAX:
        raise BatchFailedError(
            FailureKind.OUTPUT,
            f"the batch returns {size / 1e6:.1f} MB, more than {RETURNED_MAX / 1e6:.0f} MB",
            cause="returns too much",
            final=True,
        )
    # Whatever counts as a number (NumPy's too) is one; the rest is the workload's error.
    counters = {str(name): float(value) for name, value in results.counters.items()}
    return msgspec.structs.replace(results, counters=counters)


def complaint(batch: Batch, contents: Mapping[str, bytes]) -> Cause | None:
    """Why the contents are not what the batch was to return; None if they are."""
    planned = {output.name: output for output in batch.outputs if output.returned}
    missing = [n for n, output in planned.items() if n not in contents and not output.optional]
    if missing:
        return Cause(
            kind=FailureKind.OUTPUT,
            message=f"the batch did not return {', '.join(missing)}",
            cause="an output was not returned",
        )
    unplanned = sorted(contents.keys() - planned.keys())
    if unplanned:
        return Cause(
            kind=FailureKind.OUTPUT,
            message=f"the batch returned what was not planned: {', '.join(unplanned)}",
            cause="an unplanned output was returned",
        )
    return None


def described(contents: Mapping[str, bytes]) -> tuple[OutputFile, ...]:
    """The outputs with these contents."""
    return tuple(
        OutputFile(name=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in contents.items()
    )
