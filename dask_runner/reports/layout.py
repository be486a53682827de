"""What all terminal reports share: cells that cannot steer the terminal, tables, units.

Nothing needs colour to be understood; nothing that may be copied (paths, commands) is wrapped.
"""

from collections.abc import Iterable, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from dask_runner.progress import printable

# In the order in which they are printed; Text is never wrapped or cut, tables fit the terminal.
Pieces = list[RenderableType]

_KILO = 1000
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")

STYLES = {"done": "green", "failed": "red", "incomplete": "yellow", "running": "cyan"}


def cell(value: object, style: str = "") -> Text:
    """A value as text on one line."""
    return Text(printable(str(value)), style)


def verdict(value: str) -> Text:
    """A verdict in its colour; it may be followed by `: ` and an explanation."""
    return cell(value, STYLES.get(value.partition(":")[0], ""))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table; a column whose heading begins with `>` is aligned to the right, with `*` it is cut
    when space is short, and no other column is.
    """
    result = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        kind, heading = (column[0], column[1:]) if column[0] in "*>" else ("", column)
        result.add_column(
            heading,
            justify="right" if kind == ">" else "left",
            no_wrap=kind != "*",
            overflow="fold",
        )
    for row in rows:
        result.add_row(*(item if isinstance(item, Text) else cell(item) for item in row))
    return result


def fields(pairs: Iterable[tuple[str, object]], indent: str = "") -> list[RenderableType]:
    """Names and values, one pair a line; pairs without a value are left out."""
    kept = [(name, value) for name, value in pairs if value is not None and value != ""]
    width = max((len(name) for name, _ in kept), default=0)
    return [Text.assemble(f"{indent}{name.ljust(width)}  ", cell(value)) for name, value in kept]


def more(shown: int, total: int, what: str) -> Pieces:
    """A line that says how many were not shown."""
    return [Text(f"... and {total - shown} more {what}")] if total > shown else []


def size(count: float) -> str:
    """Bytes as a person says them."""
    place = 0
    # Three digits are shown: 999.6 would be written as 1e+03.
    while count >= _KILO - 0.5 and place < len(_UNITS) - 1:
        count /= _KILO
        place += 1
    return (
        f"{count:.0f} {_UNITS[place]}" if count >= _KILO // 10 else f"{count:.3g} {_UNITS[place]}"
    )


def moment(time: str) -> str:
    """A time of the record without its fraction: `2026-11-20 22:57:45Z`."""
    return f"{time[:10]} {time[11:19]}Z" if time else ""


def plural(count: int, noun: str) -> str:
    """`1 batch`, `2 batches`, `2 entries`."""
    if count == 1:
        return f"1 {noun}"
    if noun.endswith("ch"):
        return f"{count} {noun}es"
    return f"{count} {noun[:-1]}ies" if noun.endswith("ry") else f"{count} {noun}s"
