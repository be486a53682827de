"""The log of an attempt as a person reads it: bytes made safe for a terminal, repetition folded.

Owns where one line ends, when lines count as repetition, and how that is marked. Memory is bounded
whatever the log's size. Refuses to find the log (`reports.attempt_log`) and to learn state from it.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from msgspec import Struct

from dask_runner.progress import printable

_CHUNK = 1 << 16
# A flood without line ends is cut into lines of this many bytes.
_LONGEST_LINE = 1 << 20
# More of one line helps nobody; --raw shows it.
_SHOWN_CHARACTERS = 2000
# Python's warnings have two lines, a Geant4 exception about ten.
_LONGEST_BLOCK = 12

_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")


class Block(Struct, frozen=True, kw_only=True):
    """Lines that stand `count` times in a row; not `exact`: the repetitions differ in numbers."""

    lines: tuple[str, ...]
    count: int = 1
    exact: bool = True


def read_bytes(path: Path, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
    """Bytes [offset, offset + length) of a file in chunks; what is there if it is shorter."""
    left = length
    with path.open("rb") as file:
        file.seek(offset)
        while chunk := file.read(_CHUNK if left is None else min(_CHUNK, left)):
            yield chunk
            if left is not None:
                left -= len(chunk)


def lines_of(chunks: Iterable[bytes]) -> Iterator[str]:
    r"""The lines of a log. A progress bar's carriage return ends a line too; bytes that are not
    UTF-8 are shown as `\xNN`.
    """
    rest = b""
    for chunk in chunks:
        # A carriage return at the end of the chunk may be half of a line end.
        *lines, rest = re.split(rb"\r\n|\n|\r(?!\Z)", rest + chunk)
        yield from map(_text, lines)
        while len(rest) > _LONGEST_LINE:
            yield _text(rest[:_LONGEST_LINE])
            rest = rest[_LONGEST_LINE:]
    if rest:
        yield _text(rest.removesuffix(b"\r"))


def _text(line: bytes) -> str:
    return line.decode("utf-8", errors="backslashreplace")


def fold(lines: Iterable[str]) -> Iterator[Block]:
    """Consecutive lines, or groups of up to 12 lines, that are the same but for their numbers
    become one block. Nothing is lost but those numbers: the blocks' lines times their counts are
    the lines that came in.
    """
    source = iter(lines)
    window: deque[tuple[str, str]] = deque()

    def fill(wanted: int) -> bool:
        window.extend((line, mask(line)) for line in islice(source, max(0, wanted - len(window))))
        return len(window) >= wanted

    while fill(2 * _LONGEST_BLOCK) or window:
        period = _period([masked for _, masked in window])
        block = [window.popleft() for _ in range(period or 1)]
        count, exact = 1, True
        while period and fill(period):
            following = list(islice(window, period))
            if any(new[1] != old[1] for new, old in zip(following, block, strict=True)):
                break
            exact = exact and following == block
            count += 1
            for _ in range(period):
                window.popleft()
        yield Block(lines=tuple(line for line, _ in block), count=count, exact=exact)


def mask(line: str) -> str:
    """The line with every number replaced: lines with the same mask say the same."""
    return _NUMBER.sub("#", line)


def _period(masks: list[str]) -> int:
    """The length of the group of lines that, repeated, covers most of the lines; 0 if none."""
    best, covered = 0, 0
    for period in range(1, min(_LONGEST_BLOCK, len(masks) // 2) + 1):
        same = 0
        for old, new in zip(masks, masks[period:], strict=False):
            if old != new:
                break
            same += 1
        repeated = (same // period + 1) * period
        if same >= period and repeated > covered:
            best, covered = period, repeated
    return best


def shown(blocks: Iterable[Block]) -> Iterator[str]:
    """The lines to print; what is folded is marked at the end of its last line."""
    for block in blocks:
        *first, last = [_shortened(printable(line.expandtabs())) for line in block.lines]
        yield from first
        yield last + _marker(block)


def _shortened(line: str) -> str:
    more = len(line) - _SHOWN_CHARACTERS
    return line if more <= 0 else f"{line[:_SHOWN_CHARACTERS]} [... {more} characters more]"


def _marker(block: Block) -> str:
    if block.count == 1:
        return ""
    what = "" if len(block.lines) == 1 else f"these {len(block.lines)} lines "
    how = "" if block.exact else ", numbers differ"
    return f"  [{what}x {block.count}{how}]"
