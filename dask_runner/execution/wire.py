"""Frames on a stream socket or a pipe: length, one tag byte, body.

Refuses to know what they mean.
"""

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

_HEAD: Final = struct.Struct(">IB")
# Far above any honest frame: what claims more is garbage in a pipe that a payload could write to.
_MAX_BODY: Final = 1 << 28


class GarbageError(Exception):
    """The other end does not speak this protocol."""


def frame(tag: int, body: bytes) -> bytes:
    return _HEAD.pack(len(body), tag) + body


class Channel:
    """Both directions of a stream socket, one user a direction."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, tag: int, body: bytes = b"") -> None:
        """Raises OSError if the other end is gone."""
        self._socket.sendall(frame(tag, body))

    def receive(self) -> tuple[int, bytes] | None:
        """The next frame, or None at the end of the stream (also in the middle of a frame)."""
        head = self._read(_HEAD.size)
        if head is None:
            return None
        length, tag = _HEAD.unpack(head)
        body = self._read(length) if length else b""
        return None if body is None else (tag, body)

    def _read(self, count: int) -> bytes | None:
        parts = []
        while count:
            try:
                part = self._socket.recv(min(count, 1 << 20))
            except ConnectionError:
                return None
            if not part:
                return None
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        # shutdown first: a thread that is blocked in recv on this socket wakes up only by it.
        with contextlib.suppress(OSError):  # the other end is gone already
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class FrameParser:
    """Frames out of the bytes of a pipe, as they come."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._needed = 0

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the complete frames. Raises GarbageError for an impossible length."""
        if self._rest or self._needed:
            self._rest += data
            # A frame of many pieces is looked at once, when the last one is there.
            if len(self._rest) < self._needed:
                return
            data = bytes(self._rest)
            self._rest.clear()
        position, end = 0, len(data)
        self._needed = 0
        while end - position >= _HEAD.size:
            length, tag = _HEAD.unpack_from(data, position)
            if length > _MAX_BODY:
                raise GarbageError(f"a frame of {length} bytes")
            start = position + _HEAD.size
            if end - start < length:
                self._needed = _HEAD.size + length
                break
            position = start + length
            yield tag, data[start:position]
        self._rest += data[position:]


def write_all(descriptor: int, data: bytes) -> None:
    """Write everything; a pipe takes large frames in pieces."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
