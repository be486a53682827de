"""Asks a host's Python what the host is: sends probe_script through stdin, reads its answer.

The host needs a Python and nothing else, and nothing on it is changed. Bounded in time.
"""

import ast
import asyncio
import os
import secrets
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import asyncssh
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from dask_runner.cluster.ssh.connector import python_of, remote_command
from dask_runner.cluster.ssh.report import HostFacts
from dask_runner.errors import ClusterError
from dask_runner.hostfile import Host

_BLOCK: Final = 1 << 16
_LONGEST: Final = 1 << 20
_WORDS_KEPT: Final = 600
_LINES_SHOWN: Final = 3
_CALL_PATIENCE: Final = 2.0
_NOT_FOUND: Final = 127
_NOT_EXECUTABLE: Final = 126
# Older ones would only report that they do not understand the script.
_BOOT: Final = """\
import sys
nonce, source, request = {nonce!r}, {source!r}, {request!r}
if sys.version_info < (3, 7):
    sys.stdout.write(nonce + '\\n{{"old": "' + sys.version.split()[0] + '"}}\\n')
    sys.exit()
space = {{"__name__": "probe"}}
exec(compile(source, "probe", "exec"), space)
space["main"](request)
"""


class Request(Struct, frozen=True, kw_only=True):
    """What the script needs. `call_port` is where we listen (0: ports are not tried), `probe` a
    file that the driver has written ("": none); the `token` is what is found at both. `patience`
    in s is for the self-test.
    """

    scratch: str
    packages: tuple[str, ...]
    token: str
    probe: str = ""
    call_port: int = 0
    thorough: bool = False
    selftest: bool = False
    patience: float = 60.0


class OldPythonError(ClusterError):
    """The host's Python is so old that it cannot even run the script; `version` is its own."""

    def __init__(self, version: str) -> None:
        super().__init__(f"python {version}")
        self.version = version


class _Answer:
    """The script's lines as they come, after what the login shell has to say."""

    def __init__(self) -> None:
        self.nonce = secrets.token_hex(16)
        self.greeting = b""
        self.words = b""
        self.lines: list[bytes] = []
        self.times: list[float] = []
        self._rest = b""
        self.begun = False

    def feed(self, block: bytes) -> None:
        self._rest += block
        while b"\n" in self._rest:
            line, self._rest = self._rest.split(b"\n", 1)
            if self.begun:
                self.lines.append(line)
                self.times.append(time.time())
            elif line.endswith(self.nonce.encode()):
                self.begun = True
            else:
                self.greeting = (self.greeting + line + b"\n")[-_WORDS_KEPT:]
        if not self.begun:
            self._rest = self._rest[-_LONGEST:]

    def source(self, request: Request) -> bytes:
        """The program for `python -`."""
        wanted = {
            **msgspec.to_builtins(request),
            "nonce": self.nonce,
            "call_patience": _CALL_PATIENCE,
        }
        script = Path(__file__).with_name("probe_script.py").read_text()
        text = _BOOT.format(nonce=self.nonce, source=script, request=wanted)
        return text.encode("ascii", "backslashreplace")

    def last_words(self) -> str:
        """The end of what the host said, to stderr if there is any."""
        said = (self.words.strip() or self.greeting.strip()).decode(errors="replace")
        lines = said.splitlines()[-_LINES_SHOWN:]
        return f": {' / '.join(lines)}" if lines else ", and says nothing"

    def clock(self, began: float) -> tuple[float, float]:
        """How far the host's clock is ahead, give or take: it told its time between two of ours."""
        theirs = float(_literal(self.lines[0]).get("time", 0.0))
        latest, earliest = theirs - began, theirs - self.times[0]
        return (latest + earliest) / 2, (latest - earliest) / 2

    def facts(self) -> HostFacts | None:
        """None if the last line has not come, or is not what it should be."""
        if self.lines and (old := _literal(self.lines[0]).get("old")):
            raise OldPythonError(str(old))
        if len(self.lines) <= 1:
            return None
        try:
            return msgspec.convert(_literal(self.lines[1]), HostFacts)
        except msgspec.ValidationError:
            return None


async def probe_remote(
    host: Host, connection: Any, request: Request, *, patience: float
) -> HostFacts:
    """The facts of a host over its connection. Raises ClusterError, with the host's own words."""
    if not connection.get_extra_info("peername")[0]:
        # Behind a bastion: what would answer at our address is not us.
        request = replace(request, call_port=0)
    answer = _Answer()
    exchange = _Exchange(host, connection, request, answer)
    try:
        async with asyncio.timeout(patience):
            return await exchange.run()
    except TimeoutError:
        raise ClusterError(
            f"{host.address}: {python_of(host)} did not answer within {patience:g} s"
            + answer.last_words(),
            hint="the home folder or the disk that has Python may be slow, or hang (NFS)",
        ) from None
    except (asyncssh.Error, OSError) as error:
        raise ClusterError(
            f"{host.address}: the connection was lost while the host was examined: {error}",
            hint="try again",
        ) from error


def probe_local(host: Host, request: Request, *, patience: float) -> HostFacts:
    """The same for this machine, as a child process. Raises ClusterError."""
    answer = _Answer()
    command = remote_command(host, _words(host))
    # How we came here ourselves says nothing about how the host is reached.
    environment = {name: text for name, text in os.environ.items() if name != "SSH_CONNECTION"}
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            env=environment,
            input=answer.source(replace(request, call_port=0)),
            capture_output=True,
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ClusterError(
            f"{host.address}: {python_of(host)} did not answer within {patience:g} s",
            hint="the disk that has Python may be slow, or hang (NFS)",
        ) from None
    answer.feed(done.stdout)
    answer.words = done.stderr[-_WORDS_KEPT:]
    facts = answer.facts()
    if facts is None:
        raise _no_answer(host, answer, done.returncode)
    return replace(facts, reached=True, reaches_us=True)


class _Exchange:
    """One run of the script on a host."""

    def __init__(self, host: Host, connection: Any, request: Request, answer: _Answer) -> None:
        self._host = host
        self._connection = connection
        self._request = request
        self._answer = answer
        self._call: asyncio.Task[bool] | None = None

    async def run(self) -> HostFacts:
        command = remote_command(self._host, _words(self._host))
        process = await self._connection.create_process(command, encoding=None)
        errors = asyncio.ensure_future(self._read_errors(process.stderr))
        try:
            began = time.time()
            with suppress(OSError, asyncssh.Error):
                process.stdin.write(self._answer.source(self._request))
                process.stdin.write_eof()
            while block := await process.stdout.read(_BLOCK):
                self._answer.feed(block)
                self._call_back()
            ended = await process.wait()
            await errors
            facts = self._answer.facts()
            if facts is None:
                raise _no_answer(self._host, self._answer, ended.exit_status)
            offset, doubt = self._answer.clock(began)
            reached = self._call is not None and await self._call
            return replace(facts, reached=reached, clock_offset=offset, clock_error=doubt)
        finally:
            errors.cancel()
            if self._call is not None:
                self._call.cancel()
            process.close()

    async def _read_errors(self, stream: Any) -> None:
        while block := await stream.read(_BLOCK):
            self._answer.words = (self._answer.words + block)[-_WORDS_KEPT:]

    def _call_back(self) -> None:
        """Connect to the port that the host has just told, while it waits there."""
        if self._call is not None or not self._answer.lines:
            return
        hello = _literal(self._answer.lines[0])
        port, address = hello.get("port"), hello.get("address")
        if port and address:
            self._call = asyncio.ensure_future(_reaches(address, port, self._request.token))


async def _reaches(address: str, port: int, token: str) -> bool:
    """True if who listens there answers with the token."""
    try:
        async with asyncio.timeout(_CALL_PATIENCE):
            reader, writer = await asyncio.open_connection(address, port)
            try:
                return await reader.read(_BLOCK) == token.encode()
            finally:
                writer.close()
    except OSError:  # TimeoutError is one
        return False


def _words(host: Host) -> list[str]:
    # -B: nothing is changed on the host, nor are .pyc files written.
    return [python_of(host), "-I", "-B", "-"]


def _literal(line: bytes) -> dict[str, Any]:
    try:
        value = ast.literal_eval(line.decode())
    except (ValueError, SyntaxError):
        return {}
    return value if isinstance(value, dict) else {}


def _no_answer(host: Host, answer: _Answer, code: int | None) -> ClusterError:
    """Why the script did not come to its end, by its exit code and its words."""
    python = python_of(host)
    if code in {_NOT_FOUND, _NOT_EXECUTABLE}:
        problem = "is not there" if code == _NOT_FOUND else "cannot be executed"
        return ClusterError(
            f"{host.address}: python {python} {problem}" + answer.last_words(),
            hint="say where the Python with dask-runner is on this host: python=/PATH in the "
            "hostfile; a folder that all hosts see is the simplest",
        )
    if not answer.begun:
        return ClusterError(
            f"{host.address}: the login works, but {python} was not run (exit code {code})"
            + answer.last_words(),
            hint=f"try: ssh {host.address} {python} -V; the login shell may refuse commands, or "
            "the hostfile's setup may fail",
        )
    return ClusterError(
        f"{host.address}: {python} failed while it examined the host (exit code {code})"
        + answer.last_words(),
        hint="is this Python whole? try another one: python=/PATH in the hostfile",
    )
