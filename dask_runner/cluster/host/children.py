"""Child processes of the agent: how they are started, spoken to, read, and swept away."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

import msgspec

from dask_runner.cluster.channel import encode_message
from dask_runner.execution import process_tree

BACKOFF: Final = (0.1, 30.0)
# So many in a row may end before they are ready; then no new one will do better.
VAIN_STARTS: Final = 5
# After so long a life, the next start is the first of a new count, in s.
_GOOD_TIME: Final = 60.0
_LONGEST_LINE: Final = 1 << 20


class Hands:
    """Starts processes and kills them, never both at a time: what has just been started would be
    taken for a leftover.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._kept: set[int] = set()

    async def start(self, module: str, *, keep: bool = False) -> Process:
        """Start a module of ours; `keep`: it and what is below it is never swept."""
        async with self._lock:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-m", f"dask_runner.cluster.host.{module}"),
                stdin=PIPE,
                stdout=PIPE,
                limit=_LONGEST_LINE,
            )
            if keep:
                self._kept.add(process.pid)
            return process

    def forget(self, process: Process) -> None:
        """It has ended; somebody else may get its number."""
        self._kept.discard(process.pid)

    async def sweep(self) -> list[int]:
        """Kill what a dead worker left: its zygote, slots and batches. Returns who cannot be."""
        async with self._lock:
            _, immortal = await asyncio.to_thread(
                process_tree.kill_until_empty, keep=frozenset(self._kept)
            )
            return immortal


class Delay:
    """How long to wait before the next start: longer each time, until one has had a good life."""

    def __init__(self) -> None:
        self._next = BACKOFF[0]

    def after(self, life: float) -> float:
        if life >= _GOOD_TIME:
            self._next = BACKOFF[0]
        now, self._next = self._next, min(self._next * 2, BACKOFF[1])
        return now


async def lines_of(stream: asyncio.StreamReader | None) -> AsyncIterator[bytes]:
    """The lines of a child's stdout, without their ends."""
    assert stream is not None
    while True:
        try:
            line = await stream.readline()
        except ValueError:
            continue  # longer than any of ours
        if not line:
            return
        yield line.rstrip()


async def send(process: Process, message: msgspec.Struct) -> None:
    """Send a message to a process; if it died at once, whoever waits for it learns that."""
    assert process.stdin is not None
    with suppress(ConnectionError):
        process.stdin.write(encode_message(message))
        await process.stdin.drain()


async def ending(process: Process) -> str:
    """How a process ended, as soon as it has."""
    return describe(await process.wait())


def describe(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
