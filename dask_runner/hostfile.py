"""hostfile.txt -> Hosts, with line numbers in errors.

    # one host, or a range of hosts, on a line; then key=value ...
    tev01
    tev[02-08,10].example.org slots=8 python=/opt/py/bin/python
    [2001:db8::7] user=ada port=2222 scratch="/data/my scratch"

Owns the syntax, what an address may be, and patterns of hosts (--hosts). Refuses what could mean
something to a shell or to ssh, duplicates, and a file that somebody else could have written.
Connects to nothing.
"""

import difflib
import fnmatch
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv6Address
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from dask_runner.errors import UsageError
from dask_runner.files import read_trusted


class Host(Struct, frozen=True, kw_only=True):
    """A machine. `address` is a name or an IP address (IPv6 without brackets). What is "" or 0 is
    not said in the hostfile: slots, as --slots says or AUTO; python, the same path as the driver's;
    user and port, from the ssh configuration; scratch and nice, from the settings; memory in MB
    for all batches together, what the host has; setup, a bash file sourced before python, none.
    """

    address: str
    slots: int = 0
    python: str = ""
    user: str = ""
    port: int = 0
    scratch: str = ""
    memory: int = 0
    nice: int = 0
    setup: str = ""


# Slots as many as cores (but one) and memory allow.
AUTO: Final = -1

HOSTFILE_TEXT = """\
# Hosts for dask-runner: one on a line, then key=value for what differs from the default.
#
#   tev01
#   tev[02-08,10].example.org slots=8
#   tev11 user=ada port=2222 python=/opt/python3.11/bin/python3 scratch="/data/my scratch"
#   [2001:db8::7]
#
# A range stands for all its hosts and keeps its zeros: tev02, tev03 ... tev08, tev10.
# An IPv6 address stands in brackets. A value with spaces stands in quotes.
#
#   slots    batches at a time, or auto: cores less one, fewer if memory is short; default: auto
#   python   absolute path of the Python that has dask-runner; default: the same as here
#   user     login name; default: what ssh takes
#   port     of sshd; default: what ssh takes
#   scratch  absolute path of a folder for temporary files; default: storage.scratch
#   memory   MB for all batches together; default: what the host has
#   nice     niceness of the batches, 1 to 19; default: run.nice
#   setup    absolute path of a bash file there, sourced before python is started; default: none
localhost
"""

_KEYS = tuple(name for name in Host.__struct_fields__ if name != "address")
_ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
_ZONE = re.compile(r"[A-Za-z0-9._-]+")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@\\-]*\$?")
_TOKEN = re.compile(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""")
_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+))?")
_LONGEST_ADDRESS = 253  # of a DNS name
_LAST_PORT = 65535
# Far more than a department has; a slip like [1-10000000] must not fill the memory.
_MOST_HOSTS = 10_000
_NAMES_SHOWN = 8  # in a hint


def load_hosts(path: Path) -> tuple[Host, ...]:
    """The hosts of a hostfile, in its order."""
    return parse_hosts(read_trusted(path), str(path))


def parse_hosts(text: str, source: str) -> tuple[Host, ...]:
    """The hosts of the text of a hostfile; `source` names it in errors."""
    hosts: dict[str, tuple[Host, int]] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            for host in _hosts_of(line):
                _add(host, number, hosts)
        except _LineError as error:
            raise UsageError(f"{source}:{number}: {error.message}", hint=error.hint) from None
    if not hosts:
        raise UsageError(f"{source}: no hosts", hint="write one host on each line")
    return tuple(host for host, _ in hosts.values())


def overlaid(known: Host | None, said: Host) -> Host:
    """A host with what is `said` of it, and what was known for the rest."""
    if known is None:
        return said
    said_keys = {key: value for key in _KEYS if (value := getattr(said, key))}
    return replace(known, **said_keys)


def select_hosts(hosts: Sequence[Host], pattern: str) -> tuple[Host, ...]:
    """The hosts that `pattern` names, in their order: shell patterns with commas between them,
    `!x` takes those of x away again; only such ones begin with all hosts. "" is all hosts. Raises
    UsageError for a pattern without any host: most likely a slip.
    """
    chosen = select_names([host.address for host in hosts], pattern)
    return tuple(host for host in hosts if host.address in chosen)


def select_names(names: Sequence[str], pattern: str) -> frozenset[str]:
    """As `select_hosts`, of the names of hosts."""
    for word in _words(pattern):
        if not any(_matches(name, word.removeprefix("!")) for name in names):
            raise _no_such_host(names, word)
    chosen = frozenset(name for name in names if is_selected(name, pattern))
    if names and not chosen:
        raise UsageError(f"{pattern!r} leaves no host", hint=_names_hint(names))
    return chosen


def is_selected(name: str, pattern: str) -> bool:
    """Whether `pattern` names a host, whatever others there are."""
    if not pattern.strip():
        return True
    words = _words(pattern)
    # Those to take away come last, wherever they stand.
    if any(_matches(name, word[1:]) for word in words if word.startswith("!")):
        return False
    into = [word for word in words if not word.startswith("!")]
    return any(_matches(name, word) for word in into) if into else bool(words)


def _words(pattern: str) -> list[str]:
    return [word.strip() for word in pattern.split(",") if word.strip()]


def _matches(name: str, word: str) -> bool:
    # Brackets around an IPv6 address, as in the hostfile, are no set of characters.
    literal = word.strip("[]").lower() if ":" in word else word.lower()
    return name.lower() == literal or fnmatch.fnmatchcase(name.lower(), literal)


def _no_such_host(names: Sequence[str], word: str) -> UsageError:
    near = next(iter(difflib.get_close_matches(word.removeprefix("!"), names, n=1)), "")
    hint = f"did you mean {near}?" if near else _names_hint(names)
    return UsageError(f"no host matches {word!r}", hint=hint)


def _names_hint(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    return f"the hosts are {shown}" + (" ..." if len(names) > _NAMES_SHOWN else "")


def _add(host: Host, number: int, hosts: dict[str, tuple[Host, int]]) -> None:
    # Names of hosts do not depend on case.
    name = host.address.lower()
    if name in hosts:
        first = hosts[name][1]
        where = "this line" if first == number else f"line {first}"
        raise _LineError(f"{host.address} is on {where} already", "remove one of them")
    if len(hosts) == _MOST_HOSTS:
        raise _LineError(f"more than {_MOST_HOSTS} hosts")
    hosts[name] = (host, number)


class _LineError(Exception):
    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def _hosts_of(line: str) -> Iterator[Host]:
    tokens = _tokens(line)
    if not tokens:
        return
    first, *rest = tokens
    addresses = _addresses(first)
    options: dict[str, str | int] = {}
    for token in rest:
        key, value = _option(token)
        if key in options:
            raise _LineError(f"{key} is given twice")
        options[key] = value
    for address in addresses:
        yield msgspec.convert({"address": address, **options}, Host)


def _tokens(line: str) -> list[str]:
    """Words with their quotes; a word that begins with # begins a comment."""
    tokens: list[str] = []
    end = 0
    while True:
        start = end + len(line[end:]) - len(line[end:].lstrip())
        if start == len(line) or line[start] == "#":
            return tokens
        match = _TOKEN.match(line, start)
        end = match.end() if match else start
        if match is None or line[end : end + 1] in {'"', "'"}:
            raise _LineError(f"a quote is not closed: {line[start:].strip()}", "close it")
        tokens.append(match[0])


def _unquoted(text: str) -> str:
    return re.sub(r""""([^"]*)"|'([^']*)'""", lambda m: m[1] or m[2] or "", text)


def _option(token: str) -> tuple[str, str | int]:
    key, equals, text = token.partition("=")
    if not equals:
        hint = "one host on a line; options are key=value"
        if near := _nearest_key(key):
            hint = f"write {near}=VALUE"
        raise _LineError(f"{token}: not key=value", hint)
    if key not in _KEYS:
        near = _nearest_key(key)
        hint = f"did you mean {near}?" if near else f"the keys are {', '.join(_KEYS)}"
        raise _LineError(f"{token}: unknown key {key}", hint)
    value = _unquoted(text)
    return key, _VALUES[key](token, value)


def _nearest_key(key: str) -> str:
    return next(iter(difflib.get_close_matches(key.lower(), _KEYS, n=1)), "")


def _integer(token: str, value: str, most: int) -> int:
    # No more digits than `most` has: int() of thousands of them raises.
    if re.fullmatch(r"[0-9]{1,9}", value) and 1 <= int(value) <= most:
        return int(value)
    raise _LineError(f"{token}: not a whole number from 1 to {most}")


def _folder(token: str, value: str) -> str:
    if not value.startswith("/"):
        raise _LineError(f"{token}: not an absolute path", "begin it with /")
    if not value.isprintable():
        raise _LineError(f"{token!r}: unprintable characters in a path")
    return value


def _user(token: str, value: str) -> str:
    if not _USER.fullmatch(value):
        raise _LineError(f"{token}: not a login name")
    return value


_VALUES: dict[str, Callable[[str, str], str | int]] = {
    "slots": lambda token, value: AUTO if value == "auto" else _integer(token, value, 4096),
    "memory": lambda token, value: _integer(token, value, 100_000_000),
    "nice": lambda token, value: _integer(token, value, 19),
    "setup": _folder,
    "port": lambda token, value: _integer(token, value, _LAST_PORT),
    "python": _folder,
    "scratch": _folder,
    "user": _user,
}


def _addresses(token: str) -> list[str]:
    if "=" in token:
        raise _LineError(f"{token}: no host before it", "a line begins with the host")
    if token.startswith("[") and ":" in token:
        return [_ipv6(token)]
    addresses = _expand(token) if "[" in token or "]" in token else [token]
    for address in addresses:
        if not _ADDRESS.fullmatch(address):
            raise _LineError(f"{address!r} is not an address", _address_hint(address))
        if len(address) > _LONGEST_ADDRESS:
            raise _LineError(f"{address}: longer than {_LONGEST_ADDRESS} characters")
    return addresses


def _ipv6(token: str) -> str:
    if token.count("]") != 1 or not token.endswith("]"):
        raise _LineError(f"{token}: an IPv6 address is [address]", "port=N gives a port")
    try:
        address = IPv6Address(token[1:-1])
    except ValueError as error:
        raise _LineError(f"{token}: not an IPv6 address: {error}") from error
    if address.scope_id is not None and not _ZONE.fullmatch(address.scope_id):
        raise _LineError(f"{token}: {address.scope_id!r} is not the name of an interface")
    return str(address)


def _address_hint(address: str) -> str:
    name, at, rest = address.rpartition("@")
    if at and _ADDRESS.fullmatch(rest):
        return f"write {rest} user={name}"
    name, _, port = address.partition(":")
    if port.isdecimal() and _ADDRESS.fullmatch(name):
        return f"write {name} port={port}"
    if ":" in address:
        return f"an IPv6 address stands in brackets: [{address}]"
    return "letters, digits, dots and hyphens; a range of hosts is tev[02-08,10]"


def _expand(token: str) -> list[str]:
    """tev[02-03].n[1,2] -> tev02.n1 tev02.n2 tev03.n1 tev03.n2."""
    pieces = re.split(r"\[([^\[\]]*)\]", token)
    for text in pieces[::2]:
        if "[" in text or "]" in text:
            raise _LineError(f"{token}: a bracket has no partner", "a range is tev[02-08,10]")
    choices: list[list[str]] = []
    size = 1
    for index, piece in enumerate(pieces):
        numbers = _numbers(piece, token) if index % 2 else [piece]
        size *= len(numbers)
        if size > _MOST_HOSTS:
            raise _LineError(f"{token}: more than {_MOST_HOSTS} hosts")
        choices.append(numbers)
    return ["".join(parts) for parts in itertools.product(*choices)]


def _numbers(text: str, token: str) -> list[str]:
    numbers: list[str] = []
    for item in text.split(","):
        match = _RANGE.fullmatch(item)
        if not match or len(item) > 2 * len("999999999") + 1:
            raise _LineError(
                f"{token}: {item!r} is not a number or a range of numbers",
                "a range is tev[02-08,10]; an IPv6 address has colons",
            )
        first, last = match[1], match[2] or match[1]
        padded = any(number.startswith("0") and len(number) > 1 for number in (first, last))
        if padded and len(first) != len(last):
            width = max(len(first), len(last))
            raise _LineError(
                f"{token}: {item} has {len(first)} digits first and {len(last)} last",
                f"write {int(first):0{width}d}-{int(last):0{width}d}",
            )
        if int(first) > int(last):
            raise _LineError(f"{token}: {item} runs backwards", f"write {last}-{first}")
        if int(last) - int(first) >= _MOST_HOSTS:
            raise _LineError(f"{token}: more than {_MOST_HOSTS} hosts")
        width = len(first) if padded else 0
        numbers += [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
    return numbers
