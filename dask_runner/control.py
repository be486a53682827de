"""The user's wish to end a run: first drain, then stop.

Drain: start nothing new, let running batches end. Stop: end them now. Before there is anything to
drain (planning, recovery, start of the cluster) the first request ends the command.
"""

import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Control:
    """Set from a signal handler or another thread, read by dispatch."""

    def __init__(self) -> None:
        self.dispatching = False
        self.draining = False
        self.stopping = False
        self.reason = ""

    def request(self, reason: str) -> None:
        """The first request drains, the next one stops."""
        self.stopping = self.draining
        self.draining = True
        self.reason = self.reason or reason

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Act on SIGINT, SIGTERM and SIGHUP alike while the context lasts.

        Raises KeyboardInterrupt where they come before dispatch: whatever is interrupted there is
        safe to be killed, too.
        """

        def handle(number: int, _frame: FrameType | None) -> None:
            if number == signal.SIGHUP:
                _leave_terminal()
            self.request(signal.Signals(number).name)
            if not self.dispatching:
                raise KeyboardInterrupt

        before = {number: signal.signal(number, handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, action in before.items():
                signal.signal(number, action)


def _leave_terminal() -> None:
    """The terminal is gone: writing to it would raise in the middle of anything."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        # isatty() denies a terminal that has hung up; no character device is missed.
        if stat.S_ISCHR(os.fstat(descriptor).st_mode):
            os.dup2(null, descriptor)
    os.close(null)
