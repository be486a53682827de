"""Starts and ends the processes that hold namespaces (init.py)."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

INIT = Path(__file__).with_name("init.py")
PATIENCE = 60.0


class Keeper:
    """One init.py: `pid` is process 1 of its namespaces, as seen from here."""

    def __init__(self, folder: Path, name: str, plan: dict[str, Any]) -> None:
        self.name = name
        self.errors = folder / f"{name}.err"
        with self.errors.open("wb") as errors:
            self._outer = subprocess.Popen(
                # The folder on the command line is what a later clean-up goes by.
                [sys.executable, "-I", "-S", str(INIT), str(folder), name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        self._pid = 0
        self._buffer = b""
        try:
            self.say(plan)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        if not self._pid:
            self._pid = int(self.hear("inner"))
        return self._pid

    def say(self, words: Any) -> None:
        assert self._outer.stdin is not None
        try:
            self._outer.stdin.write(json.dumps(words).encode() + b"\n")
            self._outer.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None

    def hear(self, word: str) -> Any:
        """The next answer that has this word."""
        deadline = time.monotonic() + PATIENCE
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if newline:
                self._buffer = rest
                answer = json.loads(line)
                if "inner" in answer:
                    self._pid = answer["inner"]
                if word in answer:
                    return answer[word]
                continue
            self._buffer += self._read(deadline)

    def _read(self, deadline: float) -> bytes:
        assert self._outer.stdout is not None
        if not select.select([self._outer.stdout], [], [], max(0, deadline - time.monotonic()))[0]:
            raise TimeoutError(f"{self.name} does not come up: {self.errors.read_text()}")
        data = os.read(self._outer.stdout.fileno(), 65536)
        if not data:
            raise self._failure()
        return data

    def _failure(self) -> OSError:
        return OSError(f"{self.name} cannot be built: {self.errors.read_text(errors='replace')}")

    @property
    def alive(self) -> bool:
        return self._outer.poll() is None

    def close(self) -> None:
        """Power off: afterwards no process of its namespaces is left."""
        with contextlib.suppress(ProcessLookupError, OSError, TimeoutError):
            if self.alive:
                os.kill(self.pid, signal.SIGKILL)
        if not self._pid:
            self._outer.kill()
        self._outer.wait(PATIENCE)
        for pipe in (self._outer.stdin, self._outer.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
