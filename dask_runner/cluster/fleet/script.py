"""A script of ours that runs on a host: over SSH, or as a child process on this machine.

The host needs a Python, not dask-runner: the script goes to it through stdin, with its request, and
nothing long or secret is on a command line. What comes before the nonce, on either stream, is a
shell's greeting and is dropped. Closing stdin ends the script; so does our silence, after LEASE.
"""

import asyncio
import json
import os
import secrets
import struct
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import asyncssh
from msgspec.structs import replace

from dask_runner.cluster.fleet.exec_script import END_OF_INPUT
from dask_runner.cluster.ssh.connector import Connector, is_local, python_of, remote_command
from dask_runner.errors import ClusterError
from dask_runner.hostfile import Host

# How long a host that is cut off from us goes on, in s; a connection silent for so long is lost.
LEASE: Final = 60.0
_BEATS_PER_LEASE: Final = 6
_CHUNK: Final = 1 << 16
_END_PATIENCE: Final = 15.0
_WORDS_KEPT: Final = 2000
_HOME: Final = os.path.expanduser("~")  # noqa: PTH111  (no error without one)
_LENGTH: Final = struct.Struct(">I")
_LOADER: Final = "import sys;r=sys.stdin.buffer;exec(r.read(int(r.readline())))"
# The hostfile's Python may be what is about to be installed: then any other will do.
_ANY_PYTHON: Final = (
    'for p in "$0" python3 /usr/bin/python3; do '
    'command -v "$p" >/dev/null 2>&1 && "$p" -I -c "" 2>/dev/null && exec "$p" -I -c "$1"; done; '
    'echo "no Python: neither $0 nor python3" >&2; exit 127'
)

Sink = Callable[[bool, bytes], None]


class Running:
    """A script that has started. `sink` gets what it writes: True for stderr, and the bytes."""

    def __init__(self, host: Host, wire: Any, sink: Sink) -> None:
        self._host = host
        self._wire = wire
        self._sink = sink
        self._nonce = secrets.token_hex(16)
        self._greeting = b""
        self._started = asyncio.Event()
        # Gets the error of a sink that takes no more.
        self._unheard: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, script: str, request: Mapping[str, Any], data: bytes | None) -> int:
        """Give it all it needs, and relay until it ends; its exit code. `data` is what the program
        gets on stdin. Raises ClusterError if it did not start, or the connection is lost.
        """
        body = json.dumps({**request, "nonce": self._nonce, "lease": LEASE}).encode()
        source = (Path(__file__).parent / f"{script}.py").read_bytes()
        readers = asyncio.gather(
            self._relay(self._wire.stdout, is_error=False),
            self._relay(self._wire.stderr, is_error=True),
        )
        feeder = asyncio.ensure_future(self._feed(_framed(source) + _framed(body), data))
        try:
            ends: list[asyncio.Future[Any]] = [readers, self._unheard]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if self._unheard.done():
                self._unheard.result()
            readers.result()
            return self._exit_code(await self._wire.wait())
        except (asyncssh.Error, OSError) as error:
            if self._unheard.done():
                raise
            raise self._lost(str(error)) from error
        finally:
            feeder.cancel()
            await self._end(readers)

    async def _end(self, readers: "asyncio.Future[Any]") -> None:
        """Close stdin, and see it end: it kills what it has started. Its last words are heard."""
        with suppress(OSError, asyncssh.Error, RuntimeError):
            self._wire.stdin.write_eof()
        try:
            async with asyncio.timeout(_END_PATIENCE):
                await asyncio.gather(readers, self._wire.wait(), return_exceptions=True)
        except TimeoutError:
            raise self._lost("it does not answer") from None

    async def _feed(self, head: bytes, data: bytes | None) -> None:
        with suppress(OSError, asyncssh.Error, RuntimeError):
            await self._write(head)
            # What comes earlier could get into the buffer from which it reads its request.
            await self._started.wait()
            beats = asyncio.ensure_future(self._beat())
            try:
                if data is not None:
                    for start in range(0, len(data), _CHUNK):
                        await self._write(_frame(data[start : start + _CHUNK]))
                    await self._write(_LENGTH.pack(END_OF_INPUT))
                await beats
            finally:
                beats.cancel()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(LEASE / _BEATS_PER_LEASE)
            await self._write(_LENGTH.pack(0))

    async def _write(self, data: bytes) -> None:
        self._wire.stdin.write(data)
        await self._wire.stdin.drain()

    async def _relay(self, stream: Any, *, is_error: bool) -> None:
        """Pass on what comes after the nonce."""
        nonce = self._nonce.encode() + b"\n"
        before: bytes | None = b""
        while block := await stream.read(_CHUNK):
            if before is None:
                self._tell(is_error, block)
                continue
            before += block
            at = before.find(nonce)
            if at < 0:
                # Enough of it to find a nonce in two pieces, and to say what went wrong.
                before = before[-_WORDS_KEPT:]
                continue
            rest, before = before[at + len(nonce) :], None
            self._started.set()
            if rest:
                self._tell(is_error, rest)
        if before is not None and (is_error or not self._greeting):
            self._greeting = before or self._greeting

    def _tell(self, is_error: bool, block: bytes) -> None:
        # Reading goes on without it: a full window would keep the script from ending.
        if self._unheard.done():
            return
        try:
            self._sink(is_error, block)
        except OSError as error:
            self._unheard.set_exception(error)

    def _exit_code(self, ended: Any) -> int:
        if isinstance(ended, int):  # of a child process
            code = 128 - ended if ended < 0 else ended
        elif ended.exit_signal:
            code = 128
        elif ended.exit_status is None:
            raise self._lost("")
        else:
            code = int(ended.exit_status)
        if not self._started.is_set():
            words = self._greeting.decode(errors="replace").strip().splitlines()
            said = words[-1] if words else "it said nothing"
            raise ClusterError(
                f"{self._host.address}: our script did not start there (exit code {code}): {said}",
                hint="does the hostfile name a Python of that host, python=PATH?",
            )
        return code

    def _lost(self, why: str) -> ClusterError:
        detail = f" ({why})" if why else ""
        return ClusterError(
            f"{self._host.address}: the connection was lost{detail}",
            hint=f"what was started there ends by itself within {LEASE:.0f} s",
        )


async def run_script(
    host: Host,
    connector: Connector,
    script: str,
    request: Mapping[str, Any],
    *,
    sink: Sink,
    data: bytes | None = None,
) -> int:
    """Run a script (the name of its module, without .py) on the host; its exit code. When this is
    cancelled, nothing that it started there goes on. Raises ClusterError.
    """
    async with _opened(host, connector) as wire:
        return await Running(host, wire, sink).run(script, request, data)


async def ask_script(
    host: Host, connector: Connector, script: str, request: Mapping[str, Any]
) -> Any:
    """The JSON value with which a script answers. Raises ClusterError with its last words."""
    answer, words = bytearray(), bytearray()
    code = await run_script(
        host,
        connector,
        script,
        request,
        sink=lambda error, data: (words if error else answer).extend(data),
    )
    try:
        return json.loads(answer)
    except ValueError:
        said = words.decode(errors="replace").strip().splitlines() or ["no answer"]
        raise ClusterError(f"{host.address}: exit code {code}: {said[-1]}") from None


@asynccontextmanager
async def connected(host: Host, connector: Connector) -> AsyncIterator[Any]:
    """A connection that is closed at the end, and given up when the host is silent for long."""
    connection = await connector.connect(host)
    try:
        connection.set_keepalive(interval=LEASE / 4, count_max=3)
        yield connection
    finally:
        connection.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(2):
                await connection.wait_closed()


@asynccontextmanager
async def _opened(host: Host, connector: Connector) -> AsyncIterator[Any]:
    if is_local(host):
        if sys.version_info < (3, 12):
            # Python 3.11 waits for children in threads, which outlive the loop and complain.
            watcher = asyncio.PidfdChildWatcher()
            watcher.attach_loop(asyncio.get_running_loop())
            asyncio.set_child_watcher(watcher)
        yield await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-c", _LOADER),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            start_new_session=True,
            cwd=_HOME,
        )
        return
    words = ["/bin/sh", "-c", _ANY_PYTHON, python_of(host), _LOADER]
    # These scripts need nothing that `setup` may bring.
    command = remote_command(replace(host, setup=""), words)
    async with connected(host, connector) as connection:
        try:
            # encoding=None: a byte that is not UTF-8 would otherwise end the whole connection.
            process = await connection.create_process(command, encoding=None)
        except (asyncssh.Error, OSError) as error:
            raise ClusterError(f"{host.address}: no program can be started: {error}") from error
        yield process


def _framed(data: bytes) -> bytes:
    return b"%d\n%s" % (len(data), data)


def _frame(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data
