"""What is talked on a manager's unix socket: one JSON object a line, each way.

A request with an `id` gets a Reply with it. A run that is attached gets a View now and whenever
anything changes, and is over when its connection ends.
"""

from typing import Any, Final, Self

import msgspec
from msgspec import Struct, field

from dask_runner.cluster.interface import HostState
from dask_runner.cluster.status import ClusterStatus
from dask_runner.errors import (
    BadInputError,
    ClusterError,
    HostGoneError,
    RunnerError,
    StorageError,
    UsageError,
)

# Lines: lists of input files may be long.
LONGEST: Final = 1 << 26


class GetStatus(Struct, frozen=True, kw_only=True, tag="status"):
    """Answered by a ClusterStatus."""

    id: int


class Attach(Struct, frozen=True, kw_only=True, tag="attach"):
    """This connection is the driver of `run`; answered when the first View has been sent. What it
    leaves on hosts under the name `holder` is removed when it ends.
    """

    id: int
    run: str
    holder: str
    pid: int


class Demand(Struct, frozen=True, kw_only=True, tag="demand"):
    """How many slots the attached run could use, and on which hosts."""

    slots: int
    hosts: tuple[str, ...]


class CancelRun(Struct, frozen=True, kw_only=True, tag="cancel"):
    """Kill the batch processes of the attached run on all hosts."""


class Announce(Struct, frozen=True, kw_only=True, tag="announce"):
    """What the attached run found out about a host; "" takes it back. Without a host it is about
    the run's batches.
    """

    host: str
    text: str


class Ask(Struct, frozen=True, kw_only=True, tag="ask"):
    """Have an agent do an operation; answered by its value."""

    id: int
    host: str
    operation: str
    arguments: dict[str, Any] = field(default_factory=dict)


class Copy(Struct, frozen=True, kw_only=True, tag="copy"):
    """Copy a file: `there` is a path on the host, `here` on this machine (path text). With `fetch`
    from there to here, if it has no more than `limit` bytes; else the other way.
    """

    id: int
    host: str
    fetch: bool
    here: str
    there: str
    limit: int = 0


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


# What has to be told apart by who gets the answer; anything else is a ClusterError.
_KINDS: Final[dict[str, type[RunnerError]]] = {
    kind.__name__: kind
    for kind in (BadInputError, ClusterError, HostGoneError, StorageError, UsageError)
}


class Reply(Struct, frozen=True, kw_only=True, tag="reply", omit_defaults=True):
    """With an `error` the request failed; `kind` is the name of the error's class."""

    id: int
    value: Any = None
    error: str = ""
    hint: str = ""
    kind: str = ""

    @classmethod
    def failed(cls, number: int, error: RunnerError) -> Self:
        """The answer to a request that ended in `error`."""
        words = error.message or type(error).__name__
        return cls(id=number, error=words, hint=error.hint, kind=type(error).__name__)

    def exception(self) -> RunnerError:
        """The error to be raised where the request came from."""
        return _KINDS.get(self.kind, ClusterError)(self.error, hint=self.hint)


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
