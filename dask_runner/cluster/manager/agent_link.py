"""The manager's end of the line to one agent, over SSH or over a pipe: start, commands, events.

Never stops reading what the agent says, on both streams; asyncio only. Refuses to decide what an
event means for the host.
"""

import asyncio
import itertools
import logging
import os
import sys
from asyncio.subprocess import PIPE
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

import asyncssh
import msgspec

from dask_runner.cluster.channel import (
    AgentConfig,
    Call,
    Cancel,
    Command,
    Event,
    encode_message,
)
from dask_runner.errors import ClusterError, HostGoneError

_log = logging.getLogger(__name__)

AGENT: Final = "dask_runner.cluster.host.host_agent"
_TAIL_LINES: Final = 20
_LONGEST_LINE: Final = 1 << 24
_LOG_LIMIT: Final = 10_000_000


class Wire(Protocol):
    """A started agent's streams, in the terms that asyncio and asyncssh share."""

    stdin: Any
    stdout: Any
    stderr: Any

    async def wait(self) -> Any: ...


async def start_piped(environment: Mapping[str, str]) -> Wire:
    """An agent as a child process."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-m", AGENT),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        start_new_session=True,
        env={**os.environ, **environment},
        limit=_LONGEST_LINE,
    )


async def start_remote(connection: asyncssh.SSHClientConnection, command: str) -> Wire:
    """An agent at the other end of an SSH connection."""
    # encoding=None: a byte that is not UTF-8 would otherwise end the whole connection.
    process: Wire = await connection.create_process(command, encoding=None)
    return process


class AgentLink:
    """One agent from its start to its end; `on_event` gets what it tells. `log` is the file that
    its stderr goes to.
    """

    def __init__(self, wire: Wire, *, log: Path, on_event: Callable[[Event], None]) -> None:
        self._wire = wire
        self._log = log
        self._on_event = on_event
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._ids = itertools.count(1)
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self.abandoned = False

    @property
    def tail(self) -> str:
        """The end of what it said on stderr."""
        return "\n".join(self._tail)

    async def run(self, config: AgentConfig) -> str:
        """Give it its configuration and read until it ends; how it ended ("" if well)."""
        stderr = asyncio.ensure_future(self._read_stderr())
        try:
            self._write(encode_message(config))
            await self._read_stdout(config.nonce.encode())
            # What it said last comes on the other stream.
            await asyncio.wait({stderr}, timeout=2)
            return await self._ending()
        finally:
            stderr.cancel()
            self._give_up_calls()

    def tell(self, command: Command) -> None:
        """Send a command; if the agent is gone, that is seen elsewhere."""
        self._write(encode_message(command))

    def cancel(self, driver: str) -> None:
        self.tell(Cancel(driver=driver))

    def forget(self, holder: str) -> None:
        """A driver is gone: remove what it left there."""
        # Nobody waits for the answer: its number is nobody's.
        self.tell(Call(id=0, operation="driver-over", arguments={"holder": holder}))

    async def call(self, operation: str, arguments: dict[str, Any]) -> Any:
        """The value of an operation. Raises ClusterError with the agent's words."""
        number = next(self._ids)
        answer = self._calls[number] = asyncio.get_running_loop().create_future()
        self.tell(Call(id=number, operation=operation, arguments=arguments))
        try:
            return await answer
        finally:
            # Who gave up waiting is not waited for.
            self._calls.pop(number, None)

    def hang_up(self) -> None:
        """End its stdin: it ends everything below it, then itself."""
        with suppress(OSError, asyncssh.Error, RuntimeError):
            self._wire.stdin.write_eof()

    def abandon(self) -> None:
        """Stop waiting for its end; what it has told and nobody has read yet is of the past."""
        self.abandoned = True
        self._on_event = _ignore
        self.hang_up()
        if isinstance(self._wire, asyncio.subprocess.Process):
            # It stands still, or it had ended. Over SSH its connection is what must end.
            with suppress(ProcessLookupError):
                self._wire.kill()

    def _write(self, data: bytes) -> None:
        # A closed pipe or connection: the reader learns of it.
        with suppress(OSError, asyncssh.Error, RuntimeError):
            self._wire.stdin.write(data)

    async def _read_stdout(self, nonce: bytes) -> None:
        started = False
        async for line in _lines(self._wire.stdout):
            if not started:
                # What comes before it is a shell's greeting.
                started = line.strip() == nonce
                continue
            try:
                event = msgspec.json.decode(line, type=Event)
            except msgspec.DecodeError:
                _log.warning("unexpected line from an agent: %r", line[:200])
                continue
            if event.kind == "answer":
                self._answer(event)
            else:
                self._on_event(event)

    async def _read_stderr(self) -> None:
        written = 0
        with self._log.open("ab") as file:
            async for line in _lines(self._wire.stderr):
                self._tail.append(line.decode(errors="replace").rstrip())
                written += len(line)
                if written < _LOG_LIMIT:
                    file.write(line)
                    file.flush()

    def _answer(self, event: Event) -> None:
        answer = self._calls.pop(event.id, None)
        if answer is None or answer.done():
            return
        if event.text:
            answer.set_exception(ClusterError(event.text))
        else:
            answer.set_result(event.value)

    def _give_up_calls(self) -> None:
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(HostGoneError("its agent ended before it answered"))
        self._calls.clear()

    async def _ending(self) -> str:
        ended = await self._wire.wait()
        if isinstance(ended, int):  # of a child process
            return "" if ended == 0 else _describe(ended)
        if ended.exit_signal:
            return f"killed by SIG{ended.exit_signal[0]}"
        if ended.exit_status is None:
            return "its connection was lost"
        return "" if ended.exit_status == 0 else _describe(ended.exit_status)


def _ignore(_event: Event) -> None:
    """Of an agent that was given up."""


def _describe(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


async def _lines(stream: Any) -> Any:
    """Lines until the stream or its connection ends."""
    while True:
        try:
            line = await stream.readline()
        except ValueError:
            # Longer than any line of ours: it is dropped, and what comes behind it is read.
            continue
        except (OSError, asyncssh.Error):
            return
        if not line:
            return
        yield line
