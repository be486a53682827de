r"""A record as one line of bytes and back; the JSON that holds what plain JSON cannot.

A line is `{"type":"<kind>",...,"seq":<n>,"crc":"<8 hex digits>"}` and a newline; the check sum is
the CRC-32 of all bytes before `,"crc"`. It is always checked on the bytes, never on a re-encoding.

Three values have a declared encoding, wherever they stand in a record:
    a float that is not finite      {"$float": "nan" | "inf" | "-inf"}
    text that UTF-8 cannot hold     {"$text": "..."}, with Python's escapes (\udcff)
    an object with a key of that kind, or a key that begins with "$"
                                    {"$dict": [[key, value], ...]}
"""

import math
from typing import Any
from zlib import crc32

import msgspec

from dask_runner.batch import Batch, InputFile, Outcome
from dask_runner.manifest.records import (
    Done,
    Extension,
    Header,
    Intent,
    Note,
    Record,
    Split,
    Started,
)

# Bytes of `,"crc":"` + 8 hex digits + `"}`, at the end of every line before the newline.
TAIL = 18

KINDS: dict[str, type[Any]] = {
    "header": Header,
    "input": InputFile,
    "batch": Batch,
    "started": Started,
    "outcome": Outcome,
    "intent": Intent,
    "done": Done,
    "note": Note,
    "split": Split,
    "extension": Extension,
}
_PREFIXES = {kind: b'{"type":"%s",' % name.encode() for name, kind in KINDS.items()}
_DECODERS = {name: msgspec.json.Decoder(kind) for name, kind in KINDS.items()}
_START = len(b'{"type":"')
_encode = msgspec.json.Encoder().encode


def encode(record: Record, seq: int) -> bytes:
    """The line of a record, with its newline."""
    try:
        body = _encode(record)
    except UnicodeEncodeError:
        body = b"null"
    # msgspec writes null for a float that is not finite; the search is cheaper than a walk.
    if b"null" in body or b'"$' in body:
        body = _encode(_to_json(msgspec.to_builtins(record)))
    line = b'%s%s,"seq":%d' % (_PREFIXES[type(record)], body[1:-1], seq)
    return b'%s,"crc":"%08x"}\n' % (line, crc32(line))


def kind_of(line: bytes) -> str:
    """The type of a checked line."""
    return line[_START : line.index(b'"', _START)].decode()


def decode(line: bytes) -> Record:
    """The record of a checked line. Raises msgspec.MsgspecError or KeyError if it is none."""
    name = kind_of(line)
    if b'"$' in line:
        value = _from_json(msgspec.json.decode(line))
        record: Record = msgspec.convert(value, KINDS[name])
        return record
    plain: Record = _DECODERS[name].decode(line)
    return plain


def is_intact(line: bytes) -> bool:
    """True if the line (without its newline) ends in the check sum of its bytes."""
    return line.endswith(b',"crc":"%08x"}' % crc32(line[:-TAIL]))


def _to_json(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": str(value)}
    if isinstance(value, str):
        return value if _is_utf8(value) else {"$text": value.encode("unicode_escape").decode()}
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, dict):
        if all(_is_plain_key(key) for key in value):
            return {key: _to_json(item) for key, item in value.items()}
        return {"$dict": [[_to_json(key), _to_json(item)] for key, item in value.items()]}
    return value


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_plain_key(key: Any) -> bool:
    return not isinstance(key, str) or (not key.startswith("$") and _is_utf8(key))


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    if isinstance(value, dict):
        if "$float" in value:
            return float(value["$float"])
        if "$text" in value:
            return value["$text"].encode().decode("unicode_escape")
        if "$dict" in value:
            return {_from_json(key): _from_json(item) for key, item in value["$dict"]}
        return {key: _from_json(item) for key, item in value.items()}
    return value
