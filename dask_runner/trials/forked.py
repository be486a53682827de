"""Forked children that run foreign code. None outlives its parent or leaves processes behind.

Owns the life of such a child: a process group of its own, which is killed when the child has ended;
SIGKILL when its parent dies; and the pipe on which it tells. Refuses to know what is told.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from math import inf
from types import TracebackType
from typing import Final, Self

_PR_SET_PDEATHSIG: Final = 1
_SOFTWARE: Final = 70  # EX_SOFTWARE: an error of ours
# How often it is looked whether a child has ended whose pipe somebody else holds open, in s.
_LOOK: Final = 0.25
_libc: Final = ctypes.CDLL(None)


class Child:
    """A fork that does `work` with the descriptor on which it tells, and ends with the exit code
    that this returns. Leaving the context kills the child, and all that is left of its group.
    """

    def __init__(self, work: Callable[[int], int]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._read, write = os.pipe()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._read)
            _live(work, write, parent)
        os.close(write)
        # The child does it too: whoever comes first.
        with contextlib.suppress(OSError):
            os.setpgid(self._pid, self._pid)
        self._poll = select.poll()
        self._poll.register(self._read, select.POLLIN)
        self._told_all = False
        self._status: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def read(self, patience: float = inf) -> bytes | None:
        """Some of what the child tells; empty if it has ended and told all, None if nothing came
        within `patience` s.
        """
        deadline, pause = time.monotonic() + patience, 0.0005
        while True:
            # A process that the child has started may hold the pipe open: its end is not awaited.
            ended = self._ended()
            left = max(0.0, deadline - time.monotonic())
            wait = 0.0 if ended else min(left, _LOOK)
            if not self._told_all and self._poll.poll(wait * 1000):
                if data := os.read(self._read, 1 << 16):
                    return data
                self._told_all = True
                continue
            if ended:
                return b""
            if not left:
                return None
            if self._told_all:  # it is about to end, or has closed the pipe
                time.sleep(min(pause, left))
                pause = min(2 * pause, _LOOK)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)

    def end(self) -> int:
        """Kill what is left. The wait status of the child, which may have ended before."""
        if self._status is None:
            self.kill()
            self._status = os.waitpid(self._pid, 0)[1]
            os.close(self._read)
        return self._status

    def _ended(self) -> bool:
        """Without reaping it: until then nobody else gets the number of its group."""
        return os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def ending(status: int) -> str:
    """A wait status in words: SIGSEGV, exit code 3."""
    if os.WIFSIGNALED(status):
        with contextlib.suppress(ValueError):
            return signal.Signals(os.WTERMSIG(status)).name
        return f"signal {os.WTERMSIG(status)}"
    return f"exit code {os.waitstatus_to_exitcode(status)}"


def _live(work: Callable[[int], int], write: int, parent: int) -> None:
    code = _SOFTWARE
    try:
        os.setpgid(0, 0)
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == parent:  # else it ended before the call above
            code = work(write)
    except BaseException:  # noqa: BLE001  # nothing may pass the fork
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # closed by foreign code
                stream.flush()
        os._exit(code)
