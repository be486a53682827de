"""What the fold needs of each record and no more: a block of lines is decoded in one call.

Reading a million whole outcomes costs seconds and hundreds of MB; their outputs and failures are
read from the file when somebody asks for them.
"""

from typing import cast

import msgspec
from msgspec import Struct

from dask_runner.batch import OutcomeStatus
from dask_runner.manifest.encoding import decode
from dask_runner.manifest.journal import Block
from dask_runner.manifest.records import Done, Intent, Record, Started


class BatchView(Struct, frozen=True, gc=False, tag_field="type", tag="batch"):
    index: int
    count: int = 1


class SizeView(Struct, frozen=True, gc=False):
    bytes: int


class OutcomeView(Struct, frozen=True, gc=False, tag_field="type", tag="outcome"):
    batch: int
    attempt: int
    status: OutcomeStatus
    host: str = ""
    wall: float = 0.0
    cpu: float = 0.0
    max_rss: int = 0
    outputs: tuple[SizeView, ...] = ()


class StartedView(Started, frozen=True, gc=False, tag_field="type", tag="started"):
    pass


class IntentView(Intent, frozen=True, gc=False, tag_field="type", tag="intent"):
    pass


class DoneView(Done, frozen=True, gc=False, tag_field="type", tag="done"):
    pass


class _Whole(Struct, frozen=True, gc=False):
    """Stands for a rare record, which is then read in full."""


class _Header(_Whole, frozen=True, gc=False, tag_field="type", tag="header"):
    pass


class _Input(_Whole, frozen=True, gc=False, tag_field="type", tag="input"):
    pass


class _Note(_Whole, frozen=True, gc=False, tag_field="type", tag="note"):
    pass


class _Split(_Whole, frozen=True, gc=False, tag_field="type", tag="split"):
    pass


class _Extension(_Whole, frozen=True, gc=False, tag_field="type", tag="extension"):
    pass


View = BatchView | OutcomeView | StartedView | IntentView | DoneView
_ANY = View | _Header | _Input | _Note | _Split | _Extension
_decoder = msgspec.json.Decoder(_ANY)


def views(block: Block) -> list[View | Record]:
    """The records of a block, in their short form where there is one."""
    text = b"\n".join(block.lines)
    if b'"$' in text:
        return [decode(line) for line in block.lines]
    found = _decoder.decode_lines(text)
    if any(issubclass(kind, _Whole) for kind in set(map(type, found))):
        return [
            decode(line) if isinstance(view, _Whole) else view
            for view, line in zip(found, block.lines, strict=True)
        ]
    return cast("list[View | Record]", found)
