"""The trials of one batch: a failed trial is data, a crash of one does not lose the others.

Trials of a vectorised model run here, in blocks; those of a scalar one in children (`isolated`).
"""

import time
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
    """The rows in order of the trials, and the failed ones by cause. `warm_up` are the seconds
    that the first trial took more than the others.
    """

    table: Any
    failures: tuple[FailedTrials, ...] = ()
    warm_up: float = 0.0

    @property
    def failed(self) -> int:
        return sum(one.count for one in self.failures)


def run(sampler: ScalarTrial | BlockTrial, job: Job) -> Done:
    """All trials of the job. Raises BatchFailedError if too many of them fail."""
    failures, began = Failures(job), time.perf_counter()
    if isinstance(sampler, BlockTrial):
        table, first = _run_blocks(sampler, job, failures)
    else:
        children = Children(sampler, job, failures)
        table, first = children.run(), children.first_seconds
    others = (time.perf_counter() - began - first) / max(1, job.count - 1)
    warm_up = max(0.0, first - others) if job.count > 1 else 0.0
    return Done(table=table, failures=failures.grouped(), warm_up=warm_up)


def _run_blocks(block: BlockTrial, job: Job, failures: Failures) -> tuple[Table, float]:
    """The rows, and the seconds of the first one: it goes alone, to see what warming up costs."""
    table = np.zeros(job.count, table_type(job.fields))
    size = block.rows or max(1, _BLOCK_WORDS // block.words)
    began = time.perf_counter()
    _run_block(block, job, table[:1], 0)
    first = time.perf_counter() - began
    for start in range(1, job.count, size):
        _run_block(block, job, table[start : start + size], start)
    _refuse_nan(table, job, failures)
    return table, first


def _run_block(block: BlockTrial, job: Job, rows: Table, start: int) -> None:
    uniforms = trial_uniforms(
        seed=job.seed,
        model=job.model,
        point=job.point,
        first=job.first + start,
        count=len(rows),
        words=block.words,
    )
    columns = block.run(uniforms)
    check_names(columns, job.fields)
    for name, values in columns.items():
        if np.shape(values) != rows.shape:
            raise ValueError(f"field {name!r} has shape {np.shape(values)}, not {rows.shape}")
    fill(rows, 0, columns)


def _refuse_nan(table: Table, job: Job, failures: Failures) -> None:
    """NaN is no result: it would pass silently through every quantile."""
    empty = blank(job.fields)
    for name in job.fields:
        if table.dtype[name].kind != "f":
            continue
        for row in np.flatnonzero(np.isnan(table[name])):
            if not table["failed"][row]:
                failures.add(job.first + int(row), f"field {name!r} is NaN")
                table[row] = empty
