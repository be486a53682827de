"""Runs a command on a host for as long as somebody there listens: fed to the host's Python.

Reads its request from stdin, answers with the nonce on stdout and stderr, then relays the command's
streams. Stdin brings frames: a length of four bytes and so much for the command's stdin; length 0
says that the other end is still there, END_OF_INPUT that no more comes. When stdin ends, when no
frame comes for as long as the lease, and at SIGTERM or SIGHUP, the command and all below it are
ended, also what has left its session.

Standard library only, and nothing newer than Python 3.7: it needs no dask-runner on the host.
"""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import select
import signal
import struct
import subprocess
import sys
import time
from typing import Any, Dict, List, Set  # noqa: UP035  (Python 3.7)

END_OF_INPUT = 0xFFFFFFFF
NOT_FOUND = 127
NOT_EXECUTABLE = 126
_CHUNK = 1 << 16
_LENGTH = struct.Struct(">I")
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_KILL_PATIENCE = 5.0
_NO_STARTUP = {
    "bash": "--norc",
    "csh": "-f",
    "fish": "--no-config",
    "tcsh": "-f",
    "zsh": "-f",
}


def descendants(ancestor: int) -> Set[int]:  # noqa: UP006
    """All processes below `ancestor`, as /proc has them now; zombies too."""
    below: Dict[int, List[int]] = {}  # noqa: UP006
    for name in os.listdir("/proc"):  # noqa: PTH208  (names)
        if name.isdigit():
            try:
                with open("/proc/" + name + "/stat", "rb") as file:  # noqa: PTH123  (fast)
                    stat = file.read()
            except OSError:
                continue
            # The program's name stands in parentheses and may hold anything.
            parent = int(stat[stat.rindex(b")") + 2 :].split()[1])
            below.setdefault(parent, []).append(int(name))
    found = list(below.get(ancestor, ()))
    for pid in found:  # grows while it is walked
        found.extend(below.get(pid, ()))
    return set(found)


def _login_shell() -> List[bytes]:  # noqa: UP006
    """The user's shell without its start-up files: the one that started us has read them, so that
    their variables are set, and what they print is dropped.
    """
    shell = pwd.getpwuid(os.getuid()).pw_shell or "/bin/sh"
    option = _NO_STARTUP.get(os.path.basename(shell))  # noqa: PTH119
    return [os.fsencode(word) for word in (shell, option) if word]


class _Stream:
    """A stream of the command on its way to ours."""

    def __init__(self, source: int, target: int) -> None:
        self.source = source
        self.target = target
        self.waiting = b""
        self.open = True
        os.set_blocking(source, False)
        os.set_blocking(target, False)

    def fill(self) -> bool:
        """Take what there is; False if there is nothing now."""
        try:
            self.waiting = os.read(self.source, _CHUNK)
        except BlockingIOError:
            return False
        self.open = bool(self.waiting)
        return self.open

    def flush(self) -> None:
        try:
            written = os.write(self.target, self.waiting)
        except BlockingIOError:
            return
        self.waiting = self.waiting[written:]


class _Input:
    """Frames from our stdin, and what of them the command has not taken yet."""

    def __init__(self) -> None:
        self.waiting = b""
        self.complete = False
        self._raw = b""

    def feed(self, data: bytes) -> None:
        self._raw += data
        while len(self._raw) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._raw)
            if length == END_OF_INPUT:
                self.complete = True
                length = 0
            if len(self._raw) < _LENGTH.size + length:
                return
            self.waiting += self._raw[_LENGTH.size : _LENGTH.size + length]
            self._raw = self._raw[_LENGTH.size + length :]


class _Command:
    def __init__(self, request: Dict[str, Any]) -> None:  # noqa: UP006
        self._libc = ctypes.CDLL(None)
        # What the command leaves behind comes back to us instead of to init.
        self._libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._lease = float(request["lease"])
        self._grace = float(request["grace"])
        self._input = _Input()
        self._heard = time.monotonic()
        self._status = None  # type: Any
        self._ending = False
        self._wake, wake = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, self._end)
        words = [word.encode("utf-8", "surrogateescape") for word in request["words"]]
        if request["shell"]:
            words = [*_login_shell(), b"-c", words[0]]
        self._child = subprocess.Popen(
            words,
            stdin=subprocess.PIPE if request["input"] else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=self._die_with_us,  # noqa: PLW1509  (no threads here)
        )
        assert self._child.stdout is not None
        assert self._child.stderr is not None
        self._streams = [
            _Stream(self._child.stdout.fileno(), 1),
            _Stream(self._child.stderr.fileno(), 2),
        ]
        self._stdin = self._child.stdin.fileno() if self._child.stdin else -1
        if self._stdin >= 0:
            os.set_blocking(self._stdin, False)

    def _die_with_us(self) -> None:
        self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    def _end(self, *_: object) -> None:
        self._ending = True

    def run(self) -> int:
        """Relay until the command ends; its exit code, 128 + the signal that ended it."""
        try:
            while self._status is None and not self._ending:
                self._turn()
            if self._status is not None:
                self._drain()
        except BrokenPipeError:
            self._ending = True
        if self._ending:
            self._kill_tree()
        if self._status is None:
            return 128 + signal.SIGKILL
        if os.WIFSIGNALED(self._status):
            return 128 + os.WTERMSIG(self._status)
        return os.WEXITSTATUS(self._status)

    def _turn(self) -> None:
        poll = select.poll()
        poll.register(0, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        for stream in self._streams:
            if stream.waiting:
                poll.register(stream.target, select.POLLOUT)
            elif stream.open:
                poll.register(stream.source, select.POLLIN)
        if self._stdin >= 0 and self._input.waiting:
            poll.register(self._stdin, select.POLLOUT)
        left = self._heard + self._lease - time.monotonic()
        self._act_on({descriptor for descriptor, _ in poll.poll(max(0.0, left) * 1000)})

    def _act_on(self, ready: Set[int]) -> None:  # noqa: UP006
        if self._wake in ready:
            os.read(self._wake, _CHUNK)
        self._reap()
        if 0 in ready:
            self._take_frames()
        elif time.monotonic() - self._heard > self._lease:
            self._ending = True
        for stream in self._streams:
            if stream.source in ready and not stream.waiting:
                stream.fill()
            if stream.target in ready:
                stream.flush()
        self._give_input()

    def _take_frames(self) -> None:
        data = os.read(0, _CHUNK)
        self._heard = time.monotonic()
        if not data:
            self._ending = True
        self._input.feed(data)

    def _give_input(self) -> None:
        if self._stdin < 0:
            return
        try:
            if self._input.waiting:
                written = os.write(self._stdin, self._input.waiting[:_CHUNK])
                self._input.waiting = self._input.waiting[written:]
        except BlockingIOError:
            return
        except BrokenPipeError:
            # It wants no more.
            self._input.waiting = b""
            self._input.complete = True
        if self._input.complete and not self._input.waiting:
            os.close(self._stdin)
            self._stdin = -1

    def _reap(self) -> None:
        """Note the end of the command, and of whatever else has become our child."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self._child.pid:
                self._status = status

    def _drain(self) -> None:
        """What the command has said to the end. What it left in the background goes on, unheard."""
        for stream in self._streams:
            while stream.waiting or stream.fill():
                ready, _, _ = select.select([0], [stream.target], [])
                if 0 in ready and not os.read(0, _CHUNK):
                    return
                stream.flush()

    def _kill_tree(self) -> None:
        for number, patience in ((signal.SIGTERM, self._grace), (signal.SIGKILL, _KILL_PATIENCE)):
            deadline = time.monotonic() + patience
            sent = set()  # type: Set[int]
            while time.monotonic() < deadline:
                self._reap()
                below = descendants(os.getpid())
                if not below:
                    return
                for pid in below - sent:
                    try:
                        os.kill(pid, number)
                    except OSError:
                        continue  # gone, or another user's by now
                    if number == signal.SIGTERM:
                        sent.add(pid)
                        # A stopped one takes it only when it goes on.
                        os.kill(pid, signal.SIGCONT)
                time.sleep(0.01)


def main() -> None:
    """Take the request, run it, exit as the command did."""
    stdin = sys.stdin.buffer
    request = json.loads(stdin.read(int(stdin.readline())))
    nonce = request["nonce"].encode() + b"\n"
    os.write(1, nonce)
    os.write(2, nonce)
    try:
        code = _Command(request).run()
    except OSError as error:
        name = request["words"][0].encode("utf-8", "backslashreplace")
        os.write(2, name + b": " + os.strerror(error.errno or 0).encode() + b"\n")
        code = NOT_EXECUTABLE if isinstance(error, PermissionError) else NOT_FOUND
    os._exit(code)


if __name__ == "__main__":
    main()
