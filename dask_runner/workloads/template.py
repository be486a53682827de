"""Command templates: words with {placeholders}, filled in without any chance of a quoting accident.

A template is split into words once, by the rules of the shell, when it is read. Each word stays
one argument whatever is put into it. Owns the syntax and its errors; knows no workload.

    {name}            the value of a placeholder       {{ and }}    a brace
    $NAME, ${NAME}    a variable of the environment    $$           a dollar
                      as it is after the setup
"""

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from enum import Enum

from msgspec import Struct

from dask_runner.errors import UsageError

_TOKEN = re.compile(
    r"(?P<brace>\{\{|\}\})|(?P<dollar>\$\$)|\$\{(?P<env1>[A-Za-z_]\w*)\}|\$(?P<env2>[A-Za-z_]\w*)"
    r"|\{(?P<name>[^{}]*)\}|(?P<stray>[{}])",
    re.ASCII,
)
# As words of their own these work only in a shell; passed on as arguments they would be accidents.
_OPERATORS = re.compile(r"(\d*(>>?|<)(&\d+)?|&>|\|\|?|&&?|;)")


class PieceKind(Enum):
    """What a piece of a word is."""

    TEXT = 0
    PLACEHOLDER = 1
    VARIABLE = 2


class Piece(Struct, frozen=True):
    """A part of a word: literal text, or the name of a placeholder or variable."""

    kind: PieceKind
    text: str


class Template(Struct, frozen=True, kw_only=True):
    """A parsed command: words of pieces."""

    words: tuple[tuple[Piece, ...], ...]

    @property
    def placeholders(self) -> frozenset[str]:
        """The names of all placeholders used."""
        return frozenset(p.text for w in self.words for p in w if p.kind is PieceKind.PLACEHOLDER)

    def text(self, values: Mapping[str, str]) -> str:
        """The words as they are, for a template that is no command."""
        return " ".join("".join(_plain(piece, values) for piece in word) for word in self.words)

    def shell_words(self, values: Mapping[str, str]) -> list[str]:
        """Each word as text for bash that expands to exactly one argument.

        A variable that is not set ends the shell with a message, instead of becoming "".
        """
        return ["".join(_shell(piece, values) for piece in word) or "''" for word in self.words]


def from_text(text: str, allowed: Collection[str], *, where: str) -> Template:
    """Parse a command line. `where` names the setting or option in errors."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{where}: {error} in {text!r}") from error
    for word in words:
        if _OPERATORS.fullmatch(word):
            raise UsageError(
                f"{where}: {word!r} needs a shell, and the command is run without one",
                hint="put it into a script, or write bash -c '...'",
            )
    return from_words(words, allowed, where=where)


def from_words(
    words: Sequence[str], allowed: Collection[str], *, where: str, variables: bool = True
) -> Template:
    """Parse a command that is split already. Without `variables`, a dollar is a dollar."""
    if not words:
        raise UsageError(f"{where}: the command is empty")
    return Template(
        words=tuple(tuple(_pieces(word, allowed, where, variables=variables)) for word in words)
    )


def _pieces(word: str, allowed: Collection[str], where: str, *, variables: bool) -> list[Piece]:
    pieces = []
    end = 0
    for match in _TOKEN.finditer(word):
        pieces.append(Piece(PieceKind.TEXT, word[end : match.start()]))
        end = match.end()
        if match["name"] is not None:
            _check(match["name"], allowed, where)
            pieces.append(Piece(PieceKind.PLACEHOLDER, match["name"]))
        elif match["stray"]:
            raise UsageError(
                f"{where}: a lone {match['stray']!r} in {word!r}", hint="write {{ or }} for a brace"
            )
        elif match["brace"]:
            pieces.append(Piece(PieceKind.TEXT, match[0][0]))
        elif not variables:
            pieces.append(Piece(PieceKind.TEXT, match[0]))
        elif match["dollar"]:
            pieces.append(Piece(PieceKind.TEXT, "$"))
        else:
            pieces.append(Piece(PieceKind.VARIABLE, match["env1"] or match["env2"]))
    pieces.append(Piece(PieceKind.TEXT, word[end:]))
    return [piece for piece in pieces if piece.text]


def _check(name: str, allowed: Collection[str], where: str) -> None:
    if name not in allowed:
        raise UsageError(
            f"{where}: unknown placeholder {{{name}}}",
            hint=f"known are {' '.join(f'{{{key}}}' for key in sorted(allowed))};"
            " write {{ and }} for braces",
        )


def _shell(piece: Piece, values: Mapping[str, str]) -> str:
    match piece.kind:
        case PieceKind.TEXT:
            return shlex.quote(piece.text)
        case PieceKind.PLACEHOLDER:
            return shlex.quote(values[piece.text])
        case PieceKind.VARIABLE:
            return f'"${{{piece.text}?is not set after the setup}}"'


def _plain(piece: Piece, values: Mapping[str, str]) -> str:
    assert piece.kind is not PieceKind.VARIABLE
    return values[piece.text] if piece.kind is PieceKind.PLACEHOLDER else piece.text
