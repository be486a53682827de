"""What a batch process tells its slot about each batch, in frames on a private pipe."""

from typing import Final

import msgspec
from msgspec import Struct

from dask_runner.batch import OutputFile
from dask_runner.execution import wire
from dask_runner.execution.failures import Cause

REPORT: Final = 5


class Report(Struct, frozen=True, array_like=True):
    """The end of the batch at `position` of the group; `started` in seconds since the epoch.
    `files` are the contents of outputs that come back with the outcome.
    """

    position: int
    started: float = 0.0
    wall: float = 0.0
    cpu: float = 0.0
    max_rss: int = 0
    bytes_written: int = 0
    counters: dict[str, float] = {}
    cause: Cause | None = None
    outputs: tuple[OutputFile, ...] = ()
    files: dict[str, bytes] = {}


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Report)


def encode(report: Report) -> bytes:
    return wire.frame(REPORT, _encoder.encode(report))


def decode(tag: int, body: bytes) -> Report:
    """Raises GarbageError: any descendant of a payload may have written into the pipe."""
    if tag != REPORT:
        raise wire.GarbageError(f"a frame with tag {tag}")
    try:
        return _decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise wire.GarbageError(str(error)) from error
