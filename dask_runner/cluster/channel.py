"""The line between the driver, a host's agent and the agent's children.

Downwards (stdin): messages with a four-byte length before the JSON, so that nothing secret is on
a command line; the first is the configuration, then come commands. End of file means: end
everything. Upwards (stdout): one JSON object a line, after a line with the nonce, so that what a
shell's start-up files print does no harm.
"""

import os
import struct
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct, field

from dask_runner.cluster.credentials import Credentials

_LENGTH = struct.Struct(">I")
_LARGEST = 1 << 24

T = TypeVar("T")


class Politeness(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When a host's batches are paused, from the settings: `quiet_hours` as HH:MM-HH:MM of the
    host's own time ("": none), `user_idle` minutes without a key pressed before a logged-in user
    counts as away (0: users are not looked at), `load` of the others above which batches wait
    (0: not looked at).
    """

    quiet_hours: str = ""
    user_idle: float = 0.0
    load: float = 0.0


class AgentConfig(Struct, frozen=True, kw_only=True):
    """What a host's agent needs.

    With an empty `scheduler` it starts one that listens at `bind`, port `scheduler_port` (0: any);
    with no `slots` it starts no worker. The worker listens at `bind`, and others reach it there,
    or at `contact` (a tunnel's end) if that is not empty. `lease` in s is how long the host may
    work without an echo (0: for as long as stdin is open). `memory` in bytes is what the batches
    may use on this host in all (0: what it has), above `memory_ceiling` (a share) of it no new
    batch starts; `scratch_floor` is the free space in bytes below which none does. `umask` is the
    user's own, which the batches get.
    """

    nonce: str
    cluster: str
    host: str
    bind: str
    slots: int
    umask: int
    scheduler: str = ""
    scheduler_port: int = 0
    contact: str = ""
    contact_port: int = 0
    scratch: str = ""
    import_path: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    lease: float = 0.0
    nice: int = 0
    memory: int = 0
    memory_ceiling: float = 0.9
    scratch_floor: int = 0
    cache: str = ""
    cache_limit: int = 0
    dashboard: bool = False
    politeness: Politeness = field(default_factory=Politeness)
    credentials: Credentials


class WorkerConfig(Struct, frozen=True, kw_only=True):
    """What a Dask worker process needs; `name` is new at each start, `lease` is the path of the
    lease that its slots read ("": none).
    """

    agent: AgentConfig
    scheduler: str
    name: str
    lease: str = ""


class Echo(Struct, frozen=True, kw_only=True, tag="echo"):
    """The `reading` of a heartbeat, sent back: the lease runs from there."""

    reading: float


class Cancel(Struct, frozen=True, kw_only=True, tag="cancel"):
    """Kill the batch processes of a driver (the name that is in its groups)."""

    driver: str


class Pause(Struct, frozen=True, kw_only=True, tag="pause"):
    """From the agent to its worker: stop all batch processes, and start none, until `paused` is
    False again.
    """

    paused: bool


class Restart(Struct, frozen=True, kw_only=True, tag="restart"):
    """Kill the worker with its batches and start a new one, which goes to `scheduler`."""

    scheduler: str


class Call(Struct, frozen=True, kw_only=True, tag="call"):
    """Do `operation` (a key of host_operations.OPERATIONS); an `answer` event has the same id."""

    id: int
    operation: str
    arguments: dict[str, Any] = field(default_factory=dict)


Command = Echo | Cancel | Pause | Restart | Call


class SlotReport(Struct, frozen=True, kw_only=True):
    """A busy slot: `batch` is the index of the running batch of `run`, `seconds` since its group
    began, `rss` in bytes.
    """

    run: str
    batch: int
    pid: int
    seconds: float
    rss: int


class Vitals(Struct, frozen=True, kw_only=True):
    """A host at one moment. `reading` is its CLOCK_BOOTTIME in s, to be echoed; `load` its load
    average of one minute; memory and disk in bytes; `users` are those logged in; `refusal` is why
    no new batch may start there now ("" if one may), `paused` why running ones stand still.
    """

    reading: float
    load: float = 0.0
    cores: int = 0
    memory_free: int = 0
    memory_total: int = 0
    scratch_free: int = 0
    users: tuple[str, ...] = ()
    refusal: str = ""
    paused: str = ""
    slots: tuple[SlotReport, ...] = ()


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is told upwards, by `kind`:

    - from the agent: `folder` (its private one, in `text`), `scheduler` (started at `address`),
      `heartbeat` (`vitals`), `worker-died` (with everything below it, cause in `text`),
      `scheduler-died`, `answer` (to the Call with this `id`: `value`, or an error in `text`),
      `error` (it ends, for the reason in `text`);
    - from the worker, passed on: `worker` (ready at `address`, where it listens at `port`, with
      the hash of its `numerics` self-test); and `slots` (the busy ones, every 2 s), not passed on:
      a worker that does not tell it for long is killed.
    """

    kind: str
    address: str = ""
    pid: int = 0
    text: str = ""
    numerics: str = ""
    id: int = 0
    value: Any = None
    vitals: Vitals | None = None
    slots: tuple[SlotReport, ...] = ()
    dashboard: int = 0
    port: int = 0


HEARTBEATS_PER_LEASE: Final = 10


def encode_message(message: Struct) -> bytes:
    """A message with its length before it."""
    body = msgspec.json.encode(message)
    return _LENGTH.pack(len(body)) + body


def read_message(kind: type[T]) -> T:
    """Read one message from stdin; the end of the process if it ends before that."""
    body = _next_body()
    if body is None:
        # Who started us is gone, and nobody is left to whom an error would tell anything.
        raise SystemExit(f"{sys.argv[0]}: stdin ended before the configuration came")
    return msgspec.json.decode(body, type=kind)


def _next_body() -> bytes | None:
    """The next message on stdin, or None if it ends before that."""
    head = _read_stdin(_LENGTH.size)
    length = _LENGTH.unpack(head)[0] if head else 0
    return _read_stdin(length) if 0 < length <= _LARGEST else None


def _read_stdin(count: int) -> bytes | None:
    """So many bytes. Not through sys.stdin, whose buffer would swallow what comes after them."""
    parts = []
    while count:
        part = os.read(0, min(count, 1 << 16))
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def send_event(event: Event) -> None:
    """Tell one event on stdout."""
    send_line(msgspec.json.encode(event) + b"\n")


def send_line(line: bytes) -> None:
    """Write a line to stdout. If nobody is there any more, stdin has ended too, and its end is what
    is acted on: here it is no error, which would keep us from ending in order.
    """
    # A pipe takes long lines in pieces, and two threads may have something to tell.
    with suppress(BrokenPipeError), _stdout:
        while line:
            line = line[os.write(1, line) :]


_stdout = threading.Lock()


def follow_commands(act: Callable[[Command], None], at_end: Callable[[], None]) -> None:
    """In a thread of its own: call `act` with each command that comes on stdin, and `at_end` as
    soon as that is at its end, or no longer makes sense.
    """

    def follow() -> None:
        try:
            while (body := _next_body()) is not None:
                act(msgspec.json.decode(body, type=Command))
        finally:
            at_end()

    threading.Thread(target=follow, name="stdin", daemon=True).start()


def when_stdin_ends(action: Callable[[], None]) -> None:
    """Call `action` in a thread of its own as soon as stdin is at its end."""
    follow_commands(lambda _command: None, action)
