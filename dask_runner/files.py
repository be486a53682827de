"""Writing so that a crash leaves the old content or the new, never a mixture; hashes; path text.

Refuses to know what the files mean.
"""

import hashlib
import os
import shlex
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from dask_runner.errors import UsageError

_EDGE = 1 << 16


def path_to_text(path: str | os.PathLike[str]) -> str:
    """A path as text that JSON can hold: as it is, except that `%` is `%25` and a byte that is
    not UTF-8 is `%XX`. Undone by `text_to_path`.
    """
    name = os.fspath(path)
    if "%" not in name:
        try:
            name.encode()
        except UnicodeEncodeError:
            return _quote(name)
        return name
    return _quote(name)


def _quote(name: str) -> str:
    parts = []
    for char in name:
        if char == "%":
            parts.append("%25")
        elif "\udc80" <= char <= "\udcff":
            parts.append(quote_from_bytes(os.fsencode(char), safe=""))
        else:
            parts.append(char)
    return "".join(parts)


def text_to_path(text: str) -> Path:
    """The path that `path_to_text` wrote."""
    if "%" not in text:
        return Path(text)
    return Path(os.fsdecode(unquote_to_bytes(text.encode())))


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path) -> str:
    """SHA-256 of the first and the last 64 KiB and the size: cheap for files of many GB."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(str(size).encode())
        digest.update(file.read(_EDGE))
        if size > _EDGE:
            file.seek(max(_EDGE, size - _EDGE))
            digest.update(file.read(_EDGE))
    return digest.hexdigest()


def fsync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    """Make a file's content durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `content`, durably: beside, fsync, rename, fsync of the folder."""
    with beside(path) as temporary:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
        fsync_folder(path.parent)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A fresh name in the folder of `path` that is gone afterwards unless renamed."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def read_trusted(path: Path) -> str:
    """The text of a file that decides what is run: ours, and writable by nobody else.

    The check is made on the open descriptor, so that the file cannot be exchanged in between.
    """
    try:
        # Opening a pipe would wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        _refuse_untrusted(path, os.fstat(descriptor))
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read()
    finally:
        os.close(descriptor)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path} line {line}: not UTF-8 text") from error


def _refuse_untrusted(path: Path, status: os.stat_result) -> None:
    name = shlex.quote(str(path))
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path}: is not a regular file")
    if status.st_uid != os.geteuid():
        raise UsageError(
            f"{path}: belongs to another user (uid {status.st_uid}), who could have anything run "
            "in your name",
            hint=f"read it, then use a copy of your own: cp {name} MY_COPY",
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UsageError(
            f"{path}: others may write to it (mode {stat.S_IMODE(status.st_mode):03o}), and have "
            "anything run in your name",
            hint=f"look at it, then: chmod go-w {name}",
        )


def current_umask() -> int:
    """The umask of this process, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
