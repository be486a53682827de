"""The logs of a group: bytes from a pipe, cut into batches at marks, capped in the middle.

Owns the mark, the head of a log, and the cap. A log keeps its first and its last half cap; what
was between is counted. Memory is constant whatever is written. Bytes are never decoded.
"""

import os
import struct
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dask_runner.batch import LogSlice

TAIL: Final = 2048
_MARK: Final = struct.Struct(">IB")
# Output before the first mark (of imports), kept until it is known where the log is.
_EARLY_MAX: Final = 1 << 16
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


def mark(nonce: bytes, position: int, *, own: bool) -> bytes:
    """What a payload writes before a batch: `nonce` is random, so no output looks like it. With
    `own`, the batch has a folder with a log of its own.
    """
    return nonce + _MARK.pack(position, own)


class BatchLog:
    """The log of one batch: a part of the file `descriptor`, from where the file ends now on."""

    def __init__(self, descriptor: int, name: str, cap: int) -> None:
        self._descriptor = descriptor
        self._name = name
        self._offset = os.fstat(descriptor).st_size
        self._length = 0
        self._room = max(cap // 2, 1) if cap else 1 << 62
        self._late: deque[bytes] = deque()
        self._late_room = max(cap - cap // 2, 1)
        self._late_size = 0
        self._dropped = 0
        self._recent = b""

    @property
    def size(self) -> int:
        """What the batch has written so far, dropped bytes included."""
        return self._length + self._late_size + self._dropped

    @property
    def tail(self) -> bytes:
        return self._recent

    def head(self, text: bytes) -> None:
        """Write what does not count for the cap, nor for the tail."""
        self._put(text, ours=True)

    def write(self, data: bytes) -> None:
        self._recent = data[-TAIL:] if len(data) >= TAIL else (self._recent + data)[-TAIL:]
        if self._room:
            part, data = data[: self._room], data[self._room :]
            self._room -= len(part)
            self._put(part)
        if data:
            self._keep_late(data)

    def _keep_late(self, data: bytes) -> None:
        self._late.append(data)
        self._late_size += len(data)
        while self._late_size - len(self._late[0]) >= self._late_room:
            gone = len(self._late.popleft())
            self._late_size -= gone
            self._dropped += gone

    def close(self) -> LogSlice:
        """Write the kept end, after a line that says what is missing."""
        over = self._late_size - self._late_room
        if over > 0:
            self._late[0] = self._late[0][over:]
            self._late_size -= over
            self._dropped += over
        if self._dropped:
            self._put(b"\n[dask-runner: %d bytes dropped here]\n" % self._dropped, ours=True)
        late, self._late = b"".join(self._late), deque()
        self._late_size = 0
        self._put(late)
        return LogSlice(
            path=self._name, offset=self._offset, length=self._length, dropped=self._dropped
        )

    def _put(self, data: bytes, *, ours: bool = False) -> None:
        """Write as much as the disk takes: a full disk must not stop the batch's supervisor."""
        view = memoryview(data)
        while view:
            try:
                count = os.write(self._descriptor, view)
            except OSError:
                self._dropped += 0 if ours else len(view)
                return
            self._length += count
            view = view[count:]


class GroupLogs:
    """All logs of a group, fed from one pipe.

    A batch with a folder of its own has the file `name_of(position)`, made when its mark arrives;
    the others share the file `group_log`, made at the first byte. Names are relative to
    `attempts`. `head_of(position)` gives the head of a log.
    """

    def __init__(
        self,
        *,
        attempts: Path,
        group_log: str,
        name_of: Callable[[int], str],
        head_of: Callable[[int], bytes],
        cap: int,
        nonce: bytes,
    ) -> None:
        self._attempts = attempts
        self._group_log = group_log
        self._name_of = name_of
        self._head_of = head_of
        self._cap = cap
        self._nonce = nonce
        self._rest = b""
        self._early = b""
        self._shared = -1
        self._own = -1
        self._log: BatchLog | None = None
        self._closed: dict[int, tuple[LogSlice, bytes]] = {}
        self.position = -1  # the batch that is writing now

    def feed(self, data: bytes) -> None:
        """Take bytes as they come out of the pipe."""
        if self._rest:
            data = self._rest + data
        head, *marked = data.split(self._nonce)
        last = marked[-1] if marked else head
        # A mark may be cut in two by the end of the data: keep from where one may begin.
        if marked and len(last) < _MARK.size:
            self._rest = self._nonce + marked.pop()
        else:
            self._rest = self._begun_nonce(last[_MARK.size :] if marked else last)
            kept = last[: len(last) - len(self._rest)]
            if marked:
                marked[-1] = kept
            else:
                head = kept
        if head:
            self._write(head)
        for piece in marked:
            self._begin(*_MARK.unpack_from(piece))
            if len(piece) > _MARK.size:
                self._write(piece[_MARK.size :])

    def _begun_nonce(self, data: bytes) -> bytes:
        start = data.find(self._nonce[:1], max(0, len(data) - len(self._nonce) + 1))
        while start >= 0:
            if self._nonce.startswith(data[start:]):
                return data[start:]
            start = data.find(self._nonce[:1], start + 1)
        return b""

    def finish(self) -> None:
        """The pipe has ended."""
        rest, self._rest = self._rest, b""
        if rest:
            self._write(rest)
        if self._early:
            self._begin(0, 0)
        self._close()
        if self._shared >= 0:
            os.close(self._shared)
            self._shared = -1

    def say(self, text: bytes) -> None:
        """Add a line of our own to the log of the current batch."""
        if self._log is None:
            self._open()
        if self._log is not None:
            self._log.head(text)

    def take(self, position: int) -> tuple[LogSlice | None, bytes]:
        """The finished log of a batch and its tail; None if it wrote nothing."""
        return self._closed.pop(position, (None, b""))

    def _begin(self, position: int, own: int) -> None:
        self._close()
        self.position = position
        if own:
            self._open(self._name_of(position))
        if self._early:
            early, self._early = self._early, b""
            self._write(early)

    def _write(self, data: bytes) -> None:
        if self.position < 0:
            self._early = (self._early + data)[:_EARLY_MAX]
            return
        if self._log is None:
            self._open()
        if self._log is not None:
            self._log.write(data)

    def _open(self, own: str = "") -> None:
        """Open the log of the current batch. If that is impossible (disk full) its output is lost;
        the batch fails on its own account if it writes anything else.
        """
        try:
            if own:
                self._own = os.open(self._attempts / own, _FLAGS, 0o644)
            elif self._shared < 0:
                path = self._attempts / self._group_log
                path.parent.mkdir(parents=True, exist_ok=True)
                self._shared = os.open(path, _FLAGS, 0o644)
            descriptor, name = (self._own, own) if own else (self._shared, self._group_log)
            self._log = BatchLog(descriptor, name, self._cap)
            self._log.head(self._head_of(max(self.position, 0)))
        except OSError:
            self._log = None

    def _close(self) -> None:
        if self._log is not None:
            tail = self._log.tail
            self._closed[max(self.position, 0)] = (self._log.close(), tail)
            self._log = None
        if self._own >= 0:
            os.close(self._own)
            self._own = -1
