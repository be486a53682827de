"""Known host keys: which are recorded for a name, in which line, and how a new one is recorded.

Reads as OpenSSH does (patterns, hashed names, `[name]:port`, @revoked, @cert-authority), matches
names only, never addresses, and never changes a line. Refuses to decide by itself that a key is
good: that is the user's to say.
"""

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import asyncssh
from msgspec import Struct

from dask_runner.errors import StorageError

DEFAULT_PORT: Final = 22

State = Literal["known", "unknown", "changed", "revoked"]


class KnownKey(Struct, frozen=True, kw_only=True):
    """A line of a known_hosts file. `marker` is "", revoked or cert-authority; `key` is asyncssh's;
    `exact` is False where a line without a port was taken for want of one with it.
    """

    file: str
    line: int
    marker: str
    key: Any
    exact: bool

    @property
    def place(self) -> str:
        return f"line {self.line} of {self.file}"


class ShownKey(Struct, frozen=True, kw_only=True):
    """The key that a host has shown. `name` is what known_hosts calls the host, `file` the one in
    which a new key is recorded, `place` where another key of the host is ("" if nowhere).
    """

    host: str
    name: str
    type: str
    fingerprint: str
    key: str
    state: State
    file: str
    place: str = ""


def recorded_name(name: str, port: int) -> str:
    """What a host is called in known_hosts."""
    return name.lower() if port == DEFAULT_PORT else f"[{name.lower()}]:{port}"


def lookup(files: Sequence[Path], name: str, port: int) -> tuple[KnownKey, ...]:
    """The keys recorded for a host in any of the files, those that are missing left out.

    Where there are none for another port than 22, those without a port are given, as OpenSSH does.
    """
    found = tuple(_entries(files, recorded_name(name, port), exact=True))
    if port != DEFAULT_PORT and not any(entry.marker == "" for entry in found):
        found += tuple(_entries(files, name.lower(), exact=False))
    return found


def judge(entries: Sequence[KnownKey], key: Any) -> tuple[State, str]:
    """What the recorded keys say about a key that was shown, and the line that says it."""
    for entry in entries:
        if entry.marker == "revoked" and entry.key == key:
            return "revoked", entry.place
    plain = [entry for entry in entries if entry.marker == ""]
    for entry in plain:
        if entry.key == key:
            return "known", entry.place
    exact = [entry for entry in plain if entry.exact]
    # The line of the same kind of key is the one to be looked at.
    exact.sort(key=lambda entry: entry.key.algorithm != key.algorithm)
    return ("changed", exact[0].place) if exact else ("unknown", "")


def record(keys: Sequence[ShownKey]) -> None:
    """Append keys to their files, which are made if need be. Raises StorageError; ValueError for a
    key that is not new.
    """
    for key in keys:
        if key.state != "unknown":
            raise ValueError(f"the key of {key.host} is {key.state}")
        _append(Path(key.file), f"{key.name} {key.key}\n".encode())


def key_type(key: Any) -> str:
    """ssh-ed25519, ssh-rsa ..."""
    return str(key.get_algorithm())


def _append(path: Path, line: bytes) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line
            os.write(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StorageError(
            f"{path}: the host key cannot be recorded: {error.strerror}",
            hint="look at the permissions and the space there",
        ) from error


def _entries(files: Sequence[Path], name: str, *, exact: bool) -> Iterator[KnownKey]:
    for file in files:
        try:
            content = file.read_text(errors="replace")
        except OSError:
            continue
        for number, line in enumerate(content.splitlines(), 1):
            marker, names, data = _split(line)
            if data and _matches(names, name):
                try:
                    key = asyncssh.import_public_key(data)
                except asyncssh.KeyImportError:
                    continue  # of a kind that asyncssh does not know: cannot be shown either
                yield KnownKey(file=str(file), line=number, marker=marker, key=key, exact=exact)


def _split(line: str) -> tuple[str, str, str]:
    """Marker, names and key of a line; an empty key if it has none."""
    line = line.strip()
    if line.startswith("#"):
        return "", "", ""
    marker = ""
    if line.startswith("@"):
        marker, _, line = line[1:].partition(" ")
        if marker not in {"revoked", "cert-authority"}:
            return "", "", ""
    names, _, data = line.strip().partition(" ")
    return marker, names, data.strip()


def _matches(names: str, name: str) -> bool:
    if names.startswith("|"):
        return _hash_matches(names, name)
    found = False
    for pattern in names.lower().split(","):
        if _glob(pattern.removeprefix("!"), name):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _glob(pattern: str, name: str) -> bool:
    """As ssh does: only `*` and `?` are special; fnmatch would take the brackets of a port."""
    if not set(pattern) & {"*", "?"}:
        return pattern == name
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, name, re.DOTALL) is not None


def _hash_matches(names: str, name: str) -> bool:
    try:
        _, version, salt, known = names.split("|")
        digest = hmac.new(base64.b64decode(salt), name.encode(), hashlib.sha1).digest()
        return version == "1" and hmac.compare_digest(digest, base64.b64decode(known))
    except (ValueError, binascii.Error):
        return False
