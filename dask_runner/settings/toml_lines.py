"""On which line of a TOML file a key stands, for messages; tomllib does not tell."""

import tomllib
from collections.abc import Iterator
from typing import Any


def lines_of_keys(text: str) -> dict[str, int]:
    """Line numbers by dotted key, also of tables; elements of arrays of tables as `a.b[0].c`.

    `text` must be valid TOML. A statement (a header, or `key = value`) ends where the lines taken
    so far parse on their own: a value cut within quotes or brackets never does.
    """
    lines: dict[str, int] = {}
    prefix = ""
    counts: dict[str, int] = {}
    for number, statement, parsed in _statements(text):
        if statement.startswith("[["):
            name = _header(parsed)
            prefix = f"{name}[{counts.get(name, 0)}]"
            counts[name] = counts.get(name, 0) + 1
            lines.setdefault(name, number)
            lines[prefix] = number
        elif statement.startswith("["):
            prefix = _header(parsed)
            lines.setdefault(prefix, number)
        else:
            for key in _paths(parsed, prefix):
                lines.setdefault(key, number)
    return lines


def _statements(text: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    taken: list[str] = []
    # tomllib knows \n and \r\n only, so not splitlines().
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        taken.append(line)
        statement = "\n".join(taken)
        try:
            parsed = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        if parsed:
            yield number - len(taken) + 1, statement.strip(), parsed
        taken = []


def _header(parsed: Any) -> str:
    names = []
    while parsed:
        parsed = parsed[0] if isinstance(parsed, list) else parsed
        if not parsed:
            break
        name, parsed = next(iter(parsed.items()))
        names.append(name)
    return ".".join(names)


def _paths(value: Any, path: str) -> Iterator[str]:
    if path:
        yield path
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _paths(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            if isinstance(inner, dict):
                yield from _paths(inner, f"{path}[{index}]")
