"""Output of many hosts on one stream: each line whole, with its host before it.

To a file or a pipe bytes go as they are. To a terminal, what could move its cursor or change its
state is shown as an escape sequence, and hosts have colours.
"""

import os
import sys
from collections.abc import Sequence
from typing import BinaryIO, Final

_COLOURS: Final = (36, 33, 35, 32, 34, 31)
# A longer line is broken: it may never end.
_LONGEST: Final = 1 << 20


class PrefixedOutput:
    """stdout and stderr for blocks of bytes of several hosts. Lines are written when they are
    complete; `close` writes what was left without a line end.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._width = max(map(len, names), default=0)
        self._names = list(names)
        self._streams = (_Stream(sys.stdout), _Stream(sys.stderr))
        self._waiting: dict[tuple[str, bool], bytes] = {}

    def write(self, host: str, is_error: bool, data: bytes) -> None:
        """Raises BrokenPipeError if nobody reads stdout any more."""
        *lines, rest = (self._waiting.pop((host, is_error), b"") + data).split(b"\n")
        while len(rest) >= _LONGEST:
            lines.append(rest[:_LONGEST])
            rest = rest[_LONGEST:]
        if rest:
            self._waiting[host, is_error] = rest
        stream = self._streams[is_error]
        prefix = self._prefix(host, coloured=stream.coloured)
        stream.write(b"".join(prefix + stream.shown(line) + b"\n" for line in lines))

    def close(self) -> None:
        for host, is_error in list(self._waiting):
            self.write(host, is_error, b"\n")

    def _prefix(self, host: str, *, coloured: bool) -> bytes:
        text = f"{host:<{self._width}}| "
        if coloured:
            colour = _COLOURS[self._names.index(host) % len(_COLOURS)]
            text = f"\x1b[{colour}m{text}\x1b[0m"
        return text.encode()


class _Stream:
    def __init__(self, stream: object) -> None:
        self._buffer: BinaryIO = stream.buffer  # type: ignore[attr-defined]
        self._terminal = self._buffer.isatty()
        self.coloured = self._terminal and "NO_COLOR" not in os.environ

    def shown(self, line: bytes) -> bytes:
        return _harmless(line) if self._terminal else line

    def write(self, data: bytes) -> None:
        self._buffer.write(data)
        self._buffer.flush()


def _harmless(line: bytes) -> bytes:
    text = line.removesuffix(b"\r").decode("utf-8", "backslashreplace")
    return "".join(
        char if char.isprintable() or char == "\t" else char.encode("unicode_escape").decode()
        for char in text
    ).encode()
