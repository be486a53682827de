"""One forked process of a slot, from fork to the death of its last descendant.

Owns the limits in time and memory, and the end: TERM, KILL, kill until empty, drain the pipes.
Refuses to know what the process works on.
"""

import contextlib
import fcntl
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from enum import Enum
from typing import Final

from msgspec import Struct

from dask_runner.batch import FailureKind
from dask_runner.execution import failures, payload, process_tree, reports, wire
from dask_runner.execution.failures import Cause
from dask_runner.execution.process_tree import Usage
from dask_runner.execution.reports import Report
from dask_runner.execution.task import Limits

_F_SETPIPE_SZ: Final = getattr(fcntl, "F_SETPIPE_SZ", 1031)
_PIPE_SIZE: Final = 1 << 20
_READ: Final = 1 << 18
# With little to read, the pipes are left alone for so long: else every line of a group's output
# would wake the slot, and take its time from the batches.
_REST_MS: Final = 10
_SAMPLE: Final = 0.5
_SAMPLE_NEAR: Final = 0.05
_HOLD_ROUNDS: Final = 5


class WorkerGoneError(Exception):
    """The worker has closed its socket: nobody waits for outcomes any more."""


class Ending(Struct, kw_only=True):
    """How the process ended: `cause` is None if it left with exit code 0. `immortal` descendants
    survived SIGKILL.
    """

    cause: Cause | None
    usage: Usage
    immortal: list[int]


class Order(Enum):
    """What the worker may want of a running group."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"


class Control(Struct, kw_only=True):
    """The slot's own descriptors, watched during each run, and what to do about them.
    `on_control` gives the order that has come, if it is one, and raises WorkerGoneError at the end
    of the stream. `on_tick` is called several times a second and may raise to end the run.
    `paused` outlives a run: what comes after it in the same group stands still too.
    """

    control: int
    wakeup: int
    on_control: Callable[[], Order | None]
    on_tick: Callable[[], None]
    paused: bool = False


class Supervisor:
    """Runs `work(log, reports)` in a forked process, where it writes to these descriptors."""

    def __init__(
        self,
        *,
        control: Control,
        limits: Limits,
        on_log: Callable[[bytes], None],
        on_report: Callable[[Report], None],
    ) -> None:
        self._control = control
        self._limits = limits
        self._on_log = on_log
        self._on_report = on_report
        self._parser = wire.FrameParser()
        self._cause: Cause | None = None
        self._status: int | None = None
        self._usage = Usage()
        self._kills_before = failures.kernel_kills() if limits.memory else 0

    def run(self, work: Callable[[int, int], None]) -> Ending:
        """Returns when nothing that the process started is alive."""
        log_read, log_write = os.pipe()
        report_read, report_write = os.pipe()
        self._pipes = (log_read, report_read)
        with contextlib.suppress(OSError):  # above the user's quota for pipes: smaller does too
            fcntl.fcntl(log_write, _F_SETPIPE_SZ, _PIPE_SIZE)
        self._pid = _fork(work, self._limits, log_write, report_write)
        os.close(log_write)
        os.close(report_write)
        try:
            self._watch()
        finally:
            immortal = self._end()
            os.close(log_read)
            os.close(report_read)
        if self._cause is None and self._status != 0:
            self._cause = self._cause_of_death()
        return Ending(cause=self._cause, usage=self._usage, immortal=immortal)

    def _cause_of_death(self) -> Cause:
        if self._status is None:
            return Cause(kind=FailureKind.INTERNAL, message="the batch process cannot be killed")
        short = bool(self._limits.memory) and failures.kernel_kills() > self._kills_before
        return failures.cause_of_death(self._status, memory_was_short=short)

    def _watch(self) -> None:
        urgent, everything = select.poll(), select.poll()
        for descriptor in (self._control.control, self._control.wakeup):
            urgent.register(descriptor, select.POLLIN)
            everything.register(descriptor, select.POLLIN)
        for descriptor in self._pipes:
            os.set_blocking(descriptor, False)
            everything.register(descriptor, select.POLLIN)
        now = time.monotonic()
        self._restart_timeout(now)
        self._next_sample = now + _SAMPLE
        self._kill_at = float("inf")
        self._held_since = now
        if self._control.paused:
            self._hold()
        quiet = False
        while self._status is None:
            ready = urgent.poll(_REST_MS) if quiet else []
            if not ready:
                ready = everything.poll(self._wait_ms())
            size = self._serve([descriptor for descriptor, _ in ready], everything)
            quiet = size < _READ // 8
            self._enforce(time.monotonic())
            self._control.on_tick()

    def _wait_ms(self) -> int:
        deadline = float("inf") if self._control.paused else self._deadline
        until = min(self._next_sample, deadline, self._kill_at) - time.monotonic()
        return max(0, min(200, int(until * 1000) + 1))

    def _serve(self, ready: list[int], everything: select.poll) -> int:
        size = 0
        for descriptor in ready:
            if descriptor == self._control.wakeup:
                os.read(descriptor, 4096)
                self._look_for_end()
            elif descriptor == self._control.control:
                self._obey(self._control.on_control())
            else:
                count = self._read(descriptor)
                if count == 0:
                    everything.unregister(descriptor)
                size += max(count, 0)
        return size

    def _obey(self, order: Order | None) -> None:
        if order is Order.CANCEL:
            self._stop(Cause(kind=FailureKind.CANCELLED, message="cancelled"), at_once=True)
        elif order is Order.PAUSE and not self._control.paused:
            self._control.paused = True
            self._held_since = time.monotonic()
            self._hold()
        elif order is Order.RESUME and self._control.paused:
            self._control.paused = False
            self._deadline += time.monotonic() - self._held_since
            self._signal_tree(signal.SIGCONT)

    def _hold(self) -> None:
        """Stop the tree, unless it is being ended. A descendant may have been forked while they
        were listed, hence again, now and at each tick: a stopped process forks no more.
        """
        for _ in range(_HOLD_ROUNDS):
            moving = process_tree.moving(os.getpid()) if self._cause is None else []
            if not moving:
                return
            process_tree.send(moving, signal.SIGSTOP)

    def _look_for_end(self) -> None:
        ended = process_tree.reap(self._pid)
        if ended is not None:
            self._status, usage = ended
            self._usage.add(usage)

    def _read(self, descriptor: int) -> int:
        """How much was read; 0 at the end of the pipe, -1 if it is empty."""
        try:
            data = os.read(descriptor, _READ)
        except BlockingIOError:
            return -1
        if descriptor == self._pipes[0]:
            if data:
                self._on_log(data)
        else:
            self._take_reports(data)
        return len(data)

    def _take_reports(self, data: bytes) -> None:
        if self._cause is not None and self._cause.kind is FailureKind.INTERNAL:
            return
        try:
            for tag, body in self._parser.feed(data):
                self._on_report(reports.decode(tag, body))
                self._restart_timeout(time.monotonic())
        except wire.GarbageError as error:
            message = f"the batch wrote into the pipe of its reports: {error}"
            self._stop(Cause(kind=FailureKind.INTERNAL, message=message), at_once=True)

    def _restart_timeout(self, now: float) -> None:
        self._deadline = now + self._limits.timeout if self._limits.timeout else float("inf")

    def _enforce(self, now: float) -> None:
        if now >= self._kill_at:
            self._signal_tree(signal.SIGKILL)
            self._kill_at = now + 1
        elif self._control.paused:
            self._hold()
        elif self._cause is None and now >= self._deadline:
            message = f"ran longer than its limit of {self._limits.timeout:g} s"
            self._stop(Cause(kind=FailureKind.TIMEOUT, message=message), at_once=False)
        if now >= self._next_sample:
            self._sample(now)

    def _sample(self, now: float) -> None:
        tree = [self._pid, *process_tree.descendants(self._pid)]
        # Those whose parent has ended are children of the slot.
        tree += [pid for pid in process_tree.descendants(os.getpid()) if pid not in set(tree)]
        used = process_tree.resident(tree)
        self._usage.max_rss = max(self._usage.max_rss, used)
        limit = self._limits.memory
        near = limit and used > limit // 2
        self._next_sample = now + (_SAMPLE_NEAR if near else _SAMPLE)
        if limit and used > limit and self._cause is None:
            exact = process_tree.proportional(tree)
            if exact > limit:
                message = f"used {exact / 1e6:.0f} MB of memory, more than its {limit / 1e6:.0f} MB"
                self._stop(Cause(kind=FailureKind.MEMORY, message=message), at_once=True)

    def _stop(self, cause: Cause, *, at_once: bool) -> None:
        if self._cause is None or at_once:
            self._cause = self._cause or cause
            self._signal_tree(signal.SIGKILL if at_once else signal.SIGTERM)
            self._kill_at = time.monotonic() + (1.0 if at_once else self._limits.grace)
            self._deadline = float("inf")

    def _signal_tree(self, number: signal.Signals) -> None:
        process_tree.send(process_tree.descendants(os.getpid()), number)

    def _end(self) -> list[int]:
        """Kill what is left, then read what it has left in the pipes."""
        usage, immortal = process_tree.kill_until_empty()
        self._usage.add(usage)
        for descriptor in self._pipes:
            os.set_blocking(descriptor, False)
            while self._read(descriptor) > 0:
                continue
        return immortal


def _fork(work: Callable[[int, int], None], limits: Limits, log: int, report: int) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 70  # EX_SOFTWARE: an error of ours before the work began
    try:
        payload.isolate(limits, log=log, keep=(log, report), parent=parent)
        work(log, report)
        code = 0
    except BaseException:  # noqa: BLE001  # nothing may pass the fork
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)
