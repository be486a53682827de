"""Follows a file on a host, or the log of a running attempt: fed to the host's Python.

Reads its request from stdin, answers with the nonce on stdout and stderr, then writes the end of
the file and what comes to it. A file that is replaced or cut is read from its start again. Ends
when stdin does or is silent for as long as the lease, and for an attempt when its log is gone.

Standard library only, and nothing newer than Python 3.7.
"""

from __future__ import annotations

import json
import os
import re
import select
import sys
import time
from typing import Any, Dict, Optional  # noqa: UP035  (Python 3.7)

_CHUNK = 1 << 16
_INTERVAL = 0.25
NO_SUCH_FILE = 1


class _File:
    """A file by its name, whatever file that is at the moment."""

    def __init__(self, path: bytes) -> None:
        self._path = path
        self._descriptor = -1
        self._position = 0

    def open(self) -> bool:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._position = descriptor, 0
        return True

    def start_at(self, lines: int) -> None:
        """Go to where the last `lines` lines begin."""
        position = os.fstat(self._descriptor).st_size
        last = os.pread(self._descriptor, 1, position - 1) if position else b""
        # A newline at the very end begins no line.
        wanted = lines + 1 if last == b"\n" else lines
        while position > 0 and wanted > 0:
            size = min(_CHUNK, position)
            block = os.pread(self._descriptor, size, position - size)
            at = len(block)
            while wanted > 0 and at >= 0:
                at = block.rfind(b"\n", 0, at)
                wanted -= at >= 0
            if wanted == 0:
                self._position = position - size + at + 1
                return
            position -= size
        self._position = position

    def copy(self) -> None:
        """Write out what is new."""
        while True:
            data = os.pread(self._descriptor, _CHUNK, self._position)
            if not data:
                return
            self._position += len(data)
            _write(data)

    def changed(self) -> bool:
        """True if the name means another file now, or the file was cut."""
        here = os.fstat(self._descriptor)
        if here.st_size < self._position:
            return True
        try:
            named = os.stat(self._path)  # noqa: PTH116
        except OSError:
            return False
        return (named.st_dev, named.st_ino) != (here.st_dev, here.st_ino)

    def gone(self) -> bool:
        return os.fstat(self._descriptor).st_nlink == 0


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def attempt_log(run: bytes, batch: int) -> Optional[bytes]:  # noqa: UP045
    """The log of the attempt at a batch that runs here, found by where its process works."""
    marker = b"DASK_RUNNER_RUN=" + run
    wanted = re.compile(rb"(.*/0*%d\.[0-9]+)(/.*)?" % batch, re.DOTALL)
    for name in os.listdir(b"/proc"):  # noqa: PTH208  (names)
        process = b"/proc/" + name
        try:
            with open(process + b"/environ", "rb") as file:  # noqa: PTH123  (fast)
                marked = marker in file.read().split(b"\0")
            match = wanted.fullmatch(os.readlink(process + b"/cwd")) if marked else None  # noqa: PTH115
        except OSError:
            continue
        if match:
            own = match.group(1) + b"/log.txt"
            return own if os.path.exists(own) else _group_log(process)  # noqa: PTH110
    return None


def _group_log(process: bytes) -> Optional[bytes]:  # noqa: UP045
    """The log of a group of short batches: a file that the slot, the parent, has open."""
    with open(process + b"/stat", "rb") as file:  # noqa: PTH123
        stat = file.read()
    descriptors = b"/proc/" + stat[stat.rindex(b")") + 2 :].split()[1] + b"/fd/"
    for name in os.listdir(descriptors):  # noqa: PTH208
        target = os.readlink(descriptors + name)  # noqa: PTH115
        if re.search(rb"/groups/[0-9.]+\.log$", target):
            return target
    return None


def follow(request: Dict[str, Any]) -> int:  # noqa: UP006
    """The exit code: 0, or NO_SUCH_FILE with a word on stderr."""
    attempt = request.get("run")
    path = attempt_log(attempt.encode(), int(request["batch"])) if attempt else _path(request)
    if path is None:
        return 0  # it runs on another host
    file = _File(path)
    if not file.open():
        os.write(2, path + b": cannot be read\n")
        return NO_SUCH_FILE
    file.start_at(int(request["lines"]))
    heard = time.monotonic()
    while time.monotonic() - heard < request["lease"]:
        file.copy()
        if not request["follow"] or (attempt and file.gone()):
            break
        if file.changed():
            file.copy()
            if file.open():
                continue
        if select.select([0], [], [], _INTERVAL)[0]:
            heard = time.monotonic()
            if not os.read(0, _CHUNK):
                break
    return 0


def _path(request: Dict[str, Any]) -> bytes:  # noqa: UP006
    text = str(request["path"])
    return os.path.expanduser(text.encode("utf-8", "surrogateescape"))  # noqa: PTH111


def main() -> None:
    stdin = sys.stdin.buffer
    request = json.loads(stdin.read(int(stdin.readline())))
    nonce = request["nonce"].encode() + b"\n"
    os.write(1, nonce)
    os.write(2, nonce)
    try:
        code = follow(request)
    except BrokenPipeError:
        code = 0
    except OSError as error:
        os.write(2, str(error).encode("utf-8", "backslashreplace") + b"\n")
        code = NO_SUCH_FILE
    os._exit(code)


if __name__ == "__main__":
    main()
