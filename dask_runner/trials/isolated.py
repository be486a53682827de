"""Trials of a scalar model in a forked child: a segfault or an endless loop in one of them ends the
child and not the batch. The trial is recorded as failed, and another child goes on behind it.

The child writes rows into shared memory, and tells failures through a pipe.
"""

import mmap
import os
import signal
import sys
import time
from collections.abc import Mapping
from math import inf
from typing import Any, Final

import numpy as np
from msgspec import json

from dask_runner.batch import BatchFailedError, FailureKind
from dask_runner.seeds import TrialStreams
from dask_runner.trials.forked import Child, ending
from dask_runner.trials.job import Failures, Job, check_names, host_trouble
from dask_runner.trials.model import ScalarTrial, describe_point
from dask_runner.trials.tables import Table, blank, fill, table_type

# Trials that the child keeps to itself before it writes them down, and for how long, in s.
_CHUNK: Final = 512
_CHUNK_SECONDS: Final = 0.1
_MESSAGE: Final = 500
# A crash of the model's code. Other signals come from outside, and are about the whole batch.
_CRASHES: Final = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP}
)
# The shared words.
_AT, _STORED, _BEGAN, _FIRST = _WORDS = range(4)


class _Shared:
    """What parent and child both see: `words` are the trial at work (from 1; 0 is none), the rows
    that are written, when the trial began (ns), and how long the first one took (ns).
    """

    def __init__(self, job: Job) -> None:
        kind = table_type(job.fields)
        memory = mmap.mmap(-1, max(1, kind.itemsize * job.count))
        self.table: Table = np.frombuffer(memory, kind, job.count)
        self.words = np.frombuffer(mmap.mmap(-1, len(_WORDS) * 8), np.int64, len(_WORDS))


class Children:
    """The parent's side: forks, listens, and decides what an end of a child means."""

    def __init__(self, trial: ScalarTrial, job: Job, failures: Failures) -> None:
        self._trial = trial
        self._job = job
        self._failures = failures
        self._shared = _Shared(job)
        self._words = self._shared.words

    def run(self) -> Table:
        before = signal.signal(signal.SIGTERM, self._on_term)
        try:
            while self._words[_STORED] < self._job.count:
                self._run_child()
        finally:
            signal.signal(signal.SIGTERM, before)
        return self._shared.table

    @property
    def first_seconds(self) -> float:
        """What the first trial took."""
        return float(self._words[_FIRST]) / 1e9

    def _run_child(self) -> None:
        with Child(self._work) as child:
            timed_out = self._listen(child)
            status = child.end()
        self._judge(status, timed_out=timed_out)

    def _work(self, report: int) -> int:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        writer = _Writer(self._trial, self._job, self._shared, report, self._failures.trials)
        try:
            writer.run()
        except BaseException:
            writer.give_up()
            raise
        return 0

    def _listen(self, child: Child) -> bool:
        """Take in failures until the child has ended. True if it was killed for a trial that takes
        too long.
        """
        rest, timed_out = b"", False
        patience = min(1.0, self._job.timeout / 4) if self._job.timeout else inf
        while (data := child.read(patience)) != b"":
            if data:
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._take(*json.decode(line, type=tuple[int, str, FailureKind | None]))
            elif not timed_out and self._overdue():
                timed_out = True
                child.kill()
        return timed_out

    def _take(self, trial: int, message: str, trouble: FailureKind | None) -> None:
        if trouble is not None:
            raise BatchFailedError(
                trouble,
                f"trial {trial} at {describe_point(self._job.point)}: {message}",
                cause=message,
            )
        self._failures.add(trial, message)

    def _overdue(self) -> bool:
        # In this order, and written in the other: the time is never that of a trial before.
        running = bool(self._words[_AT])
        began = int(self._words[_BEGAN])
        return running and time.monotonic_ns() - began > self._job.timeout * 1e9

    def _judge(self, status: int, *, timed_out: bool) -> None:
        if self._words[_STORED] >= self._job.count and status == 0:
            return
        at = int(self._words[_AT]) - 1
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if at < 0 or (number and number not in _CRASHES and not timed_out):
            raise BatchFailedError(
                FailureKind.SIGNAL,
                f"the process of the trials ended with {ending(status)}"
                + ("" if at < 0 else f" in trial {at} at {describe_point(self._job.point)}"),
                cause=f"trials ended with {ending(status)}",
            )
        message = (
            f"took longer than {self._job.timeout:g} s (--trial-timeout)"
            if timed_out
            else f"crashed: {ending(status)}"
        )
        print(f"trial {at}: {message}", file=sys.stderr)  # noqa: T201  # the batch's log
        self._failures.add(at, message)

    def _on_term(self, *_: object) -> None:
        """The batch is being ended: say at which trial, for that is what the user needs to know."""
        text = f"ended in trial {int(self._words[_AT]) - 1} at {describe_point(self._job.point)}\n"
        os.write(2, text.encode())
        os._exit(128 + signal.SIGTERM)


class _Writer:
    """The child's side: runs trials, and writes them down in chunks."""

    def __init__(
        self, trial: ScalarTrial, job: Job, shared: _Shared, report: int, known: set[int]
    ) -> None:
        self._trial = trial
        self._job = job
        self._table = shared.table
        self._words = shared.words
        self._report = report
        self._known = known
        self._blank = blank(job.fields)
        self._streams = TrialStreams(seed=job.seed, model=job.model, point=job.point)

    def run(self) -> None:
        row, job = int(self._words[_STORED]), self._job
        while row < job.count:
            # The first one by itself: it also warms up what the model keeps.
            began, size = time.monotonic_ns(), _CHUNK if row else 1
            row = self._run_chunk(row, min(row + size, job.count))
            self._words[_AT] = 0
            if size == 1:
                self._words[_FIRST] = time.monotonic_ns() - began
            self._words[_STORED] = row

    def give_up(self) -> None:
        """No trial is to blame for what happens now."""
        self._words[_AT] = 0

    def _run_chunk(self, row: int, end: int) -> int:
        """Run trials of rows [row, end), fewer if they take long; the row after the last."""
        results: list[Mapping[str, Any] | None] = []
        deadline = time.monotonic() + _CHUNK_SECONDS
        first, words, streams, trial = self._job.first, self._words, self._streams, self._trial
        timed = self._job.timeout > 0
        for index in range(first + row, first + end):
            if timed:
                words[_BEGAN] = time.monotonic_ns()
            words[_AT] = index + 1
            results.append(None)
            if index not in self._known:
                try:
                    results[-1] = trial(streams.at(index))
                except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever it raises is data
                    message = f"{type(error).__name__}: {error}"
                    self._fail(index, message, host_trouble(error))
            if time.monotonic() >= deadline:
                break
        self._store(row, results)
        return row + len(results)

    def _store(self, row: int, results: list[Mapping[str, Any] | None]) -> None:
        good = [result for result in results if result is not None]
        if len(good) == len(results) and self._fill(row, good):
            return
        # Something is wrong with at least one: one by one, so that each says it for itself.
        for offset, result in enumerate(results):
            if result is None:
                self._table[row + offset] = self._blank
                continue
            try:
                check_names(result, self._job.fields)
                fill(self._table, row + offset, {key: [value] for key, value in result.items()})
                self._check_nan(row + offset)
            except (ValueError, TypeError, OverflowError) as error:
                self._fail(self._job.first + row + offset, str(error))
                self._table[row + offset] = self._blank

    def _fill(self, row: int, results: list[Mapping[str, Any]]) -> bool:
        try:
            names = self._job.fields
            if any(result.keys() != names.keys() for result in results):
                return False
            fill(self._table, row, {name: [r[name] for r in results] for name in names})
        except (ValueError, TypeError, OverflowError):
            return False
        rows = self._table[row : row + len(results)]
        return not any(np.isnan(rows[name]).any() for name in names if rows.dtype[name].kind == "f")

    def _check_nan(self, row: int) -> None:
        for name in self._job.fields:
            if self._table.dtype[name].kind == "f" and np.isnan(self._table[name][row]):
                raise ValueError(f"field {name!r} is NaN")

    def _fail(self, trial: int, message: str, trouble: FailureKind | None = None) -> None:
        text = message[:_MESSAGE].encode(errors="replace").decode()
        view = memoryview(json.encode((trial, text, trouble)) + b"\n")
        while view:
            view = view[os.write(self._report, view) :]
