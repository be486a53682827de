"""How long this host may go on without a word from the driver: one page that all slots read.

The agent writes the deadline, slots look at it on their own: so an agent or a worker that stands
still cannot keep batches alive that have been sent elsewhere meanwhile. The clock is
CLOCK_BOOTTIME, which also counts the time of a suspended machine.
"""

import mmap
import os
import struct
import tempfile
import time
from typing import IO, Final

from dask_runner.errors import ClusterError

_DEADLINE: Final = struct.Struct("=d")
_MEMORY: Final = "/dev/shm"  # noqa: S108  # the file there never has a name


def now() -> float:
    """The clock of leases, in s."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """The writer's end. Each renewal lasts `seconds` from the reading of the clock that was sent
    out and has come back, so that time on the way counts as time without a word.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._file = _nameless_page()
        self._page = mmap.mmap(self._file.fileno(), mmap.PAGESIZE)
        self._last = now()
        self._write(self._last + seconds)

    @property
    def path(self) -> str:
        """Where processes of the same user open it for as long as this one lives."""
        return f"/proc/{os.getpid()}/fd/{self._file.fileno()}"

    def renew(self, reading: float) -> None:
        """Take an echo in; one that is late, or of another clock, changes nothing."""
        if self._last < reading <= now():
            self._last = reading
            self._write(reading + self._seconds)

    def left(self) -> float:
        """The seconds that are left, not below 0."""
        return max(0.0, self._last + self._seconds - now())

    def close(self) -> None:
        """Give the page back; readers that have it open keep its last deadline."""
        self._page.close()
        self._file.close()

    def _write(self, deadline: float) -> None:
        self._page[: _DEADLINE.size] = _DEADLINE.pack(deadline)


def _nameless_page() -> IO[bytes]:
    """A file of one page that nobody finds by a name; in memory where that is possible, so that no
    slow or full disk keeps the agent from writing or a slot from reading. (Many builds of Python
    have no os.memfd_create.)
    """
    try:
        return _written(tempfile.TemporaryFile(dir=_MEMORY, buffering=0))
    except OSError:
        return _written(tempfile.TemporaryFile(buffering=0))


def _written(file: IO[bytes]) -> IO[bytes]:
    # In full, so that its memory is ours: a page without any would kill who writes to it.
    file.write(bytes(mmap.PAGESIZE))
    return file


class LeaseReader:
    """A reader's end; with the path "" a lease that never ends."""

    def __init__(self, path: str) -> None:
        self._page: mmap.mmap | None = None
        if not path:
            return
        try:
            with open(path, "rb") as file:  # noqa: PTH123  # not a file of any folder
                self._page = mmap.mmap(file.fileno(), mmap.PAGESIZE, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ClusterError(
                f"the lease {path} cannot be read: {error}", hint="its agent has ended?"
            ) from error

    def over(self) -> bool:
        """True if the deadline has passed. Costs less than a microsecond."""
        # The second look is for a deadline that was half written at the first.
        return self._passed() and self._passed()

    def _passed(self) -> bool:
        if self._page is None:
            return False
        deadline: float = _DEADLINE.unpack_from(self._page)[0]
        return now() >= deadline
