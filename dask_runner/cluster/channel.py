"""The line between the driver, a host's agent and the agent's children.

Downwards (stdin): messages with a four-byte length before the JSON, so that nothing secret is on
a command line. End of file means: end everything. Upwards (stdout): one JSON object a line, after
a line with the nonce, so that what a shell's start-up files print does no harm.
"""

import os
import struct
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import msgspec
from msgspec import Struct

from dask_runner.cluster.tls import Credentials

_LENGTH = struct.Struct(">I")
_LARGEST = 1 << 24

T = TypeVar("T")


class AgentConfig(Struct, frozen=True, kw_only=True):
    """What a host's agent needs. With an empty `scheduler` it starts one at `bind`. `umask` is
    the user's own, which the batches get.
    """

    nonce: str
    cluster: str
    host: str
    bind: str
    slots: int
    umask: int
    scheduler: str = ""
    scratch: str = ""
    import_path: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    credentials: Credentials


class WorkerConfig(Struct, frozen=True, kw_only=True):
    """What a Dask worker process needs; `name` is new at each start."""

    agent: AgentConfig
    scheduler: str
    name: str


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the agent tells: `kind` is folder (its private one, in `text`), scheduler, worker,
    worker-died, scheduler-died or error. A worker tells the hash of its numerics self-test.
    """

    kind: str
    address: str = ""
    pid: int = 0
    text: str = ""
    numerics: str = ""


def encode_message(message: Struct) -> bytes:
    """A message with its length before it."""
    body = msgspec.json.encode(message)
    return _LENGTH.pack(len(body)) + body


def read_message(kind: type[T]) -> T:
    """Read one message from stdin; the end of the process if it ends before that."""
    stream = sys.stdin.buffer
    head = stream.read(_LENGTH.size)
    length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else 0
    body = stream.read(length) if 0 < length <= _LARGEST else b""
    if not body or len(body) != length:
        # Who started us is gone, and nobody is left to whom an error would tell anything.
        raise SystemExit(f"{sys.argv[0]}: stdin ended before the configuration came")
    return msgspec.json.decode(body, type=kind)


def send_event(event: Event) -> None:
    """Tell one event on stdout."""
    send_line(msgspec.json.encode(event) + b"\n")


def send_line(line: bytes) -> None:
    """Write a line to stdout. If nobody is there any more, stdin has ended too, and its end is what
    is acted on: here it is no error, which would keep us from ending in order.
    """
    with suppress(BrokenPipeError):
        os.write(1, line)


def when_stdin_ends(action: Callable[[], None]) -> None:
    """Call `action` in a thread of its own as soon as stdin is at its end."""

    def watch() -> None:
        while os.read(0, 4096):
            continue
        action()

    threading.Thread(target=watch, name="stdin", daemon=True).start()
