"""What is talked on a manager's unix socket: one JSON object a line, each way.

A request with an `id` gets a Reply with it. A run that is attached gets a View now and whenever
anything changes, and is over when its connection ends.
"""

from typing import Any, Final

import msgspec
from msgspec import Struct, field

from dask_runner.cluster.interface import HostState
from dask_runner.cluster.status import ClusterStatus

# Lines: lists of input files may be long.
LONGEST: Final = 1 << 26


class GetStatus(Struct, frozen=True, kw_only=True, tag="status"):
    """Answered by a ClusterStatus."""

    id: int


class Attach(Struct, frozen=True, kw_only=True, tag="attach"):
    """This connection is the driver of `run`; answered when the first View has been sent."""

    id: int
    run: str
    pid: int


class Demand(Struct, frozen=True, kw_only=True, tag="demand"):
    """How many slots the attached run could use, and on which hosts."""

    slots: int
    hosts: tuple[str, ...]


class CancelRun(Struct, frozen=True, kw_only=True, tag="cancel"):
    """Kill the batch processes of a run on all hosts."""

    run: str


class Announce(Struct, frozen=True, kw_only=True, tag="announce"):
    """What the attached run found out about a host; "" takes it back."""

    host: str
    text: str


class Ask(Struct, frozen=True, kw_only=True, tag="ask"):
    """Have an agent do an operation; answered by its value."""

    id: int
    host: str
    operation: str
    arguments: dict[str, Any] = field(default_factory=dict)


class Copy(Struct, frozen=True, kw_only=True, tag="copy"):
    """Copy a file or folder: `there` is a path on the host, `here` on this machine (path text).
    With `fetch` from there to here, else the other way.
    """

    id: int
    host: str
    fetch: bool
    here: str
    there: str


class Add(Struct, frozen=True, kw_only=True, tag="add"):
    """Add hosts (lines of a hostfile), or try those again that are left out or drained."""

    id: int
    hosts: str


class Drain(Struct, frozen=True, kw_only=True, tag="drain"):
    """Let a host's batches end and give it no new ones; answered at once."""

    id: int
    host: str


class Down(Struct, frozen=True, kw_only=True, tag="down"):
    """End the cluster; answered by a Farewell when everything is gone."""

    id: int


Request = GetStatus | Attach | Demand | CancelRun | Announce | Ask | Copy | Add | Drain | Down


class Farewell(Struct, frozen=True, kw_only=True):
    """What is left at the end: of each host that did not confirm its end, why."""

    seconds: float
    unconfirmed: dict[str, str]


class Reply(Struct, frozen=True, kw_only=True, tag="reply", omit_defaults=True):
    """With an `error` the request failed."""

    id: int
    value: Any = None
    error: str = ""
    hint: str = ""


class View(Struct, frozen=True, kw_only=True, tag="view", omit_defaults=True):
    """The cluster for the attached run: `address` of the scheduler ("" while there is none),
    `generation` of it, and a `failure` that ends it for good.
    """

    address: str
    generation: int
    hosts: tuple[HostState, ...]
    failure: str = ""


Answer = Reply | View

_decoder: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_answer_decoder: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


def encode_line(message: Struct) -> bytes:
    """A message as a line."""
    return msgspec.json.encode(message) + b"\n"


def decode_request(line: bytes) -> Request:
    """Raises msgspec.DecodeError for what is no request."""
    return _decoder.decode(line)


def decode_answer(line: bytes) -> Answer:
    return _answer_decoder.decode(line)


def decode_status(value: Any) -> ClusterStatus:
    """The value of the answer to GetStatus."""
    return msgspec.convert(value, ClusterStatus)
