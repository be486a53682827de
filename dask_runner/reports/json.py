"""A view as one JSON document.

Numbers that are not finite become null; text that UTF-8 cannot hold (a name from a log or an
exception) has its odd bytes written out, so that the document can always be read.
"""

from typing import Any

import msgspec
from rich.console import Console


def write(view: Any, console: Console) -> None:
    """Write `view` and a line end to the console's file, unwrapped."""
    console.file.write(encode(view) + "\n")


def encode(view: Any) -> str:
    """The document, indented by two."""
    try:
        data = msgspec.json.encode(view, enc_hook=_plain)
    except UnicodeEncodeError:
        data = msgspec.json.encode(_readable(msgspec.to_builtins(view, enc_hook=_plain)))
    return msgspec.json.format(data, indent=2).decode()


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no JSON")


def _readable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {_readable(key): _readable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_readable(item) for item in value]
    return value
