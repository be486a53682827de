"""The batch process: runs the batches of a group, one after the other, and reports each.

Runs in a process that the slot has forked for it, which ends with it. Whatever the workload does
to this process (close descriptors, change folder, exit, crash) must not reach the slot.
"""

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TextIO

from msgspec import Struct, structs

from dask_runner import workloads
from dask_runner.batch import Attempt, Batch, BatchFailedError, FailureKind
from dask_runner.errors import RunnerError
from dask_runner.execution import marker, process_tree, reports, returns, wire
from dask_runner.execution.failures import Cause, cause_of
from dask_runner.execution.log_capture import mark
from dask_runner.execution.reports import Report
from dask_runner.execution.task import Group, Limits
from dask_runner.files import path_to_text, text_to_path
from dask_runner.run_folder import attempt_name
from dask_runner.workloads import shipped
from dask_runner.workloads.interface import Results, Workload

# Above the limit of the tree, which is sampled: the wall against growth between two samples. It
# counts private writable memory, so that reserving address space costs nothing.
_RLIMIT_FACTOR: Final = 1.25
_RLIMIT_MARGIN: Final = 1 << 29


class Seat(Struct, frozen=True, kw_only=True):
    """What the slot hands to a batch process: its private scratch folder, the two pipes."""

    scratch: Path
    nonce: bytes
    log: int
    reports: int
    room: int = 0


def run_batches(group: Group, seat: Seat) -> None:
    """The whole life of a batch process, after the slot's fork and `isolate`."""
    _set_environment(group, seat)
    _Batches(group, seat).run()


def isolate(limits: Limits, *, log: int, keep: tuple[int, ...], parent: int) -> None:
    """Cut this process off from the slot: process group, descriptors, signals, priority, limits.

    The session is the slot's, which has no terminal: a new one costs 1 ms, because the kernel
    makes a scheduling group for it, which moreover would undo the niceness (see `Slot`).
    """
    os.setpgid(0, 0)
    process_tree.die_with_parent(parent)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    _close_all_but({0, 1, 2, *keep})
    if limits.nice:
        os.nice(limits.nice)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if limits.memory:
        most = int(limits.memory * _RLIMIT_FACTOR) + _RLIMIT_MARGIN
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _close_all_but(keep: set[int]) -> None:
    # Not os.closerange: where the C library has no close_range(), it tries a million descriptors.
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  # names, fast
        if int(name) not in keep:
            try:
                os.close(int(name))
            except OSError:
                continue  # the one that listed the folder


def _set_environment(group: Group, seat: Seat) -> None:
    import faulthandler  # noqa: PLC0415  # nobody else needs it

    marker.show(seat.room, group.run)
    os.environ.update(
        {marker.RUN: group.run, marker.SCRATCH: str(seat.scratch), "TMPDIR": str(seat.scratch)}
    )
    shipped.show(text_to_path(group.shipped) if group.shipped else None)
    faulthandler.enable(file=2, all_threads=True)
    tempfile = sys.modules.get("tempfile")
    if tempfile is not None:
        tempfile.tempdir = None  # type: ignore[attr-defined]  # it remembers the zygote's TMPDIR
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        # Else all processes forked from one zygote draw the same "random" numbers.
        numpy_random.seed()
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # for the life of the process
    sys.stdout, sys.stderr = _text_stream(1), _text_stream(2)


def _text_stream(descriptor: int) -> TextIO:
    """Anew, because the zygote's streams may be of files, where these are of a pipe."""
    return open(descriptor, "w", buffering=1, errors="backslashreplace", closefd=False)


class _Batches:
    def __init__(self, group: Group, seat: Seat) -> None:
        self._group = group
        self._seat = seat
        self._attempts_folder = text_to_path(group.attempts_folder)
        self._workload: Workload | None = None
        self._before = _used()

    def run(self) -> None:
        broken = self._load()
        for position, attempt in enumerate(self._group.attempts):
            started, clock = time.time(), time.perf_counter()
            results, cause = Results(), None
            try:
                folder = self._enter(position, attempt)
            except OSError as error:
                cause = _cause_of_folder(error)
            else:
                results, cause = self._run_one(attempt, folder, broken)
            wall = time.perf_counter() - clock
            self._report(position, started, wall, results, cause)

    def _load(self) -> BaseException | None:
        try:
            folder = text_to_path(self._group.shipped) if self._group.shipped else None
            self._workload = workloads.load(self._group.workload, self._group.import_path, folder)
        except BaseException as error:  # noqa: BLE001  # foreign code runs when it is imported
            return error
        return None

    def _run_one(
        self, attempt: Attempt, folder: Path, broken: BaseException | None
    ) -> tuple[Results, Cause | None]:
        try:
            if self._workload is None:
                assert broken is not None
                raise broken  # noqa: TRY301  # to be reported as the batch's own
            told = self._workload.run(with_paths(attempt.batch, self._group.paths), folder)
            return returns.as_results(told), None
        except BaseException as error:  # noqa: BLE001  # the boundary to foreign code
            cause = _with_planned_path(cause_of(error), self._group.paths)
            _print_failure(error)
            return Results(), cause
        finally:
            _flush()

    def _enter(self, position: int, attempt: Attempt) -> Path:
        """Make the batch's folder the working directory, and begin its log."""
        os.environ[marker.BATCH] = attempt.batch.id
        os.environ[marker.ATTEMPT] = str(attempt.number)
        own = self._uses_folder()
        if own:
            folder = self._attempts_folder / attempt_name(attempt.batch.index, attempt.number)
            folder.parent.mkdir(parents=True, exist_ok=True)
            # An existing folder is another process's: never written to again.
            folder.mkdir(mode=0o700)
        else:
            folder = self._seat.scratch
        os.chdir(folder)
        self._restore_output()
        os.write(self._seat.log, mark(self._seat.nonce, position, own=own))
        return folder

    def _restore_output(self) -> None:
        """The batch before may have closed or redirected it."""
        for descriptor in (1, 2):
            os.dup2(self._seat.log, descriptor)
        if sys.stdout.closed:
            sys.stdout = _text_stream(1)
        if sys.stderr.closed:
            sys.stderr = _text_stream(2)

    def _uses_folder(self) -> bool:
        """A workload that cannot be loaded says why in a folder of its own."""
        return self._workload is None or self._workload.uses_folder

    def _report(
        self,
        position: int,
        started: float,
        wall: float,
        results: Results,
        cause: Cause | None,
    ) -> None:
        cpu, max_rss, written = _used()
        report = Report(
            position,
            started,
            wall,
            cpu - self._before[0],
            max_rss,
            written - self._before[2],
            results.counters,
            cause,
            files=results.files,
        )
        self._before = (cpu, max_rss, written)
        wire.write_all(self._seat.reports, reports.encode(report))


def with_paths(batch: Batch, paths: Mapping[str, str]) -> Batch:
    """The batch with its inputs where they are on this host."""
    if not paths:
        return batch
    inputs = tuple(structs.replace(i, path=paths.get(i.path, i.path)) for i in batch.inputs)
    return structs.replace(batch, inputs=inputs)


def _with_planned_path(cause: Cause, paths: Mapping[str, str]) -> Cause:
    """The input that is at fault under the name that the user knows."""
    planned = next((name for name, path in paths.items() if path == cause.path), cause.path)
    return structs.replace(cause, path=planned) if planned != cause.path else cause


def _used() -> tuple[float, int, int]:
    """CPU seconds, largest resident set and bytes written, of this process and its children."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    below = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (
        own.ru_utime + own.ru_stime + below.ru_utime + below.ru_stime,
        max(own.ru_maxrss, below.ru_maxrss) * 1024,
        (own.ru_oublock + below.ru_oublock) * 512,
    )


def _cause_of_folder(error: OSError) -> Cause:
    if isinstance(error, FileExistsError):
        return Cause(
            kind=FailureKind.INTERNAL,
            message=f"{path_to_text(error.filename)}: the folder of this attempt exists already",
            cause="the attempt's folder exists already",
        )
    return cause_of(error)


def _print_failure(error: BaseException) -> None:
    try:
        if isinstance(error, BatchFailedError | RunnerError):
            # A verdict, not a defect: our own frames would only hide the program's last words.
            said: BaseException | None = error
            while said is not None:
                print(f"{type(said).__name__}: {said}", file=sys.stderr)  # noqa: T201  # the log
                said = said.__cause__
        else:
            traceback.print_exception(error, file=sys.stderr)
    except BaseException:  # noqa: BLE001  # a foreign __str__ may raise; the report has the type
        os.write(2, b"(the traceback cannot be shown)\n")


def _flush() -> None:
    """Everything the batch has printed must be in the pipe before the next mark."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue  # closed or replaced by the workload: nothing is left in it
    process_tree.flush_c_streams()
