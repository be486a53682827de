"""The trials of one batch: a failed trial is data, a crash of one does not lose the others.

Trials of a vectorised model run here, in blocks; those of a scalar one in children (`isolated`).
"""

from typing import Any, Final

import numpy as np
from msgspec import Struct

from dask_runner.seeds import trial_uniforms
from dask_runner.trials.isolated import Children
from dask_runner.trials.job import Failures, Job, check_names
from dask_runner.trials.model import BlockTrial, ScalarTrial
from dask_runner.trials.tables import FailedTrials, Table, blank, fill, table_type

# Numbers for a vectorised model at a time: a few MB, so that they stay in the cache.
_BLOCK_WORDS: Final = 1 << 17


class Done(Struct, frozen=True, kw_only=True):
    """The rows in order of the trials, and the failed ones by cause."""

    table: Any
    failures: tuple[FailedTrials, ...] = ()

    @property
    def failed(self) -> int:
        return sum(len(one.trials) for one in self.failures)


def run(sampler: ScalarTrial | BlockTrial, job: Job) -> Done:
    """All trials of the job. Raises BatchFailedError if too many of them fail."""
    failures = Failures(job)
    if isinstance(sampler, BlockTrial):
        table = _run_blocks(sampler, job, failures)
    else:
        table = Children(sampler, job, failures).run()
    return Done(table=table, failures=failures.grouped())


def _run_blocks(block: BlockTrial, job: Job, failures: Failures) -> Table:
    table = np.zeros(job.count, table_type(job.fields))
    size = max(1, _BLOCK_WORDS // block.words)
    for start in range(0, job.count, size):
        count = min(size, job.count - start)
        uniforms = trial_uniforms(
            seed=job.seed,
            model=job.model,
            point=job.point,
            first=job.first + start,
            count=count,
            words=block.words,
        )
        columns = block.run(uniforms)
        check_names(columns, job.fields)
        for name, values in columns.items():
            if np.shape(values) != (count,):
                raise ValueError(f"field {name!r} has shape {np.shape(values)}, not ({count},)")
        fill(table, start, columns)
    _refuse_nan(table, 0, job, failures)
    return table


def _refuse_nan(table: Table, start: int, job: Job, failures: Failures) -> None:
    """NaN is no result: it would pass silently through every quantile."""
    empty = blank(job.fields)
    for name in job.fields:
        if table.dtype[name].kind != "f":
            continue
        for row in np.flatnonzero(np.isnan(table[name][start:])) + start:
            if not table["failed"][row]:
                failures.add(job.first + int(row), f"field {name!r} is NaN")
                table[row] = empty
