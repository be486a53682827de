"""What the agent tells, written by a thread of its own: a line that nobody reads any more (a host
cut off, a driver that stands still) must hold up nothing else, least of all the end of the lease.
"""

import logging
import os
import select
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Final

import msgspec

from dask_runner.cluster.channel import Event, send_line

# Heartbeats that wait for so many other lines are dropped: a new one says more.
_CROWD: Final = 4


class Outbox:
    """Lines for stdout, in their order. Thread safe; nothing here waits, except `flush`."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        self._changed = threading.Condition()
        threading.Thread(target=self._write, name="stdout", daemon=True).start()

    def tell(self, event: Event) -> None:
        """Raises TypeError if the event's value is not JSON."""
        self.tell_line(msgspec.json.encode(event) + b"\n")

    def tell_line(self, line: bytes) -> None:
        with self._changed:
            self._lines.append(line)
            self._changed.notify_all()

    def beat(self, event: Event) -> None:
        """As `tell`, but dropped if others wait already."""
        if len(self._lines) < _CROWD:
            self.tell(event)

    def flush(self, patience: float) -> None:
        """Wait until all is written, at most `patience` seconds."""
        deadline = time.monotonic() + patience
        with self._changed:
            while self._lines and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)

    def _write(self) -> None:
        while True:
            with self._changed:
                while not self._lines:
                    self._changed.wait()
                line = self._lines[0]
            send_line(line)
            with self._changed:
                self._lines.popleft()
                self._changed.notify_all()


def write_away(text: bytes) -> None:
    """A line to stderr, for whoever reads it; dropped if there is no room for it at once."""
    room = select.poll()
    # Not made non-blocking: it may be the terminal, which others share.
    room.register(2, select.POLLOUT)
    with suppress(OSError):
        if any(events & select.POLLOUT for _, events in room.poll(0)):
            os.write(2, text[: select.PIPE_BUF - 1] + b"\n")


class AwayHandler(logging.Handler):
    """Logs by `write_away`."""

    def emit(self, record: logging.LogRecord) -> None:
        write_away(self.format(record).encode(errors="replace"))
