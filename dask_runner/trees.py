"""Files and folders as one thing with a hash: to be copied, compared and made read-only.

The hash covers names, contents and which files are executable; `__pycache__` is no part of a tree.
Refuses links and special files: what is hashed here is the same wherever it is copied to.
"""

import hashlib
import os
import shutil
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from dask_runner.errors import UsageError
from dask_runner.files import fsync_file, fsync_folder, sha256

_LEFT_OUT = "__pycache__"
_FOLDER, _FILE, _PROGRAM = b"d", b"f", b"x"
_BLOCK = 1 << 20
# Of each entry of a packed tree: kind, length of the name, length of the content.
_ENTRY = struct.Struct(">cIQ")


class Measure(Struct, frozen=True, kw_only=True):
    """What a tree is: the hash of all of it, and the size of its files in bytes."""

    sha256: str
    bytes: int


def measure(path: Path) -> Measure:
    """Hash a file or folder; its own name does not count. Raises UsageError for links and special
    files, OSError for what cannot be read.
    """
    digest = hashlib.sha256()
    size = 0
    for name, kind, content, length in _lines(path, b""):
        digest.update(kind + content.encode() + b" " + name + b"\0")
        size += length
    return Measure(sha256=digest.hexdigest(), bytes=size)


def copy(source: Path, target: Path) -> None:
    """Copy a file or folder to the new path `target`, its files read-only and durable.

    Links inside a folder are followed as long as they stay inside. Raises UsageError for those that
    do not, OSError if the disk fails.
    """
    root = source.resolve()
    _copy(root, target, root, frozenset())


def pack(source: Path, target: Path) -> None:
    """Write a tree into one file, which passes through SFTP faster, and without losing which files
    are executable. Not tar: older Pythons extract what they should not, and lose odd names.
    """
    with target.open("wb") as file:
        for name, kind, _, length in _lines(source, b""):
            file.write(_ENTRY.pack(kind, len(name), length) + name)
            if kind != _FOLDER:
                with (source / os.fsdecode(name[1:])).open("rb") as content:
                    shutil.copyfileobj(content, file)


def unpack(source: Path, target: Path) -> None:
    """Undo `pack` at the new path `target`. What comes out is to be measured: a damaged file gives
    an OSError, a UsageError or something else.
    """
    with source.open("rb") as file:
        while head := file.read(_ENTRY.size):
            if len(head) < _ENTRY.size:
                raise UsageError(f"{source}: ends too early")
            kind, name_length, length = _ENTRY.unpack(head)
            parts = file.read(name_length).split(b"/")
            if parts[0] or any(part in {b"", b".", b".."} for part in parts[1:]):
                raise UsageError(f"{source}: is no packed tree")
            path = target.joinpath(*map(os.fsdecode, parts[1:]))
            if kind == _FOLDER:
                path.mkdir()
                continue
            with path.open("xb") as content:
                _copy_bytes(file, content, length)
            path.chmod(0o500 if kind == _PROGRAM else 0o400)


def remove(path: Path) -> None:
    """Remove a file or folder; what is gone already is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def size(path: Path) -> int:
    """The bytes of all files below a path, which others may be changing."""
    found = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                found += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118  (many)
            except FileNotFoundError:
                continue
    return found


def _lines(path: Path, name: bytes) -> Iterator[tuple[bytes, bytes, str, int]]:
    """Name, kind, hash and size of everything in a tree, in an order of its own."""
    state = path.lstat()
    if stat.S_ISDIR(state.st_mode):
        yield name, _FOLDER, "", 0
        for entry in _entries(path):
            yield from _lines(path / entry, name + b"/" + os.fsencode(entry))
    elif stat.S_ISREG(state.st_mode):
        kind = _PROGRAM if _executable(state.st_mode) else _FILE
        yield name, kind, sha256(path), state.st_size
    else:
        raise UsageError(f"{path}: is neither a file nor a folder")


def _copy_bytes(source: BinaryIO, target: BinaryIO, length: int) -> None:
    while length:
        block = source.read(min(length, _BLOCK))
        if not block:
            raise UsageError("a packed tree ends too early")
        target.write(block)
        length -= len(block)


def _entries(folder: Path) -> list[str]:
    names = (entry for entry in os.listdir(folder) if entry != _LEFT_OUT)  # noqa: PTH208  (names)
    return sorted(names, key=os.fsencode)


def _copy(source: Path, target: Path, root: Path, above: frozenset[Path]) -> None:
    """`source` is no link; `above` are the folders that it is in."""
    state = source.stat()
    if stat.S_ISREG(state.st_mode):
        shutil.copyfile(source, target)
        target.chmod(0o555 if _executable(state.st_mode) else 0o444)
        fsync_file(target)
    elif stat.S_ISDIR(state.st_mode):
        target.mkdir()
        for entry in _entries(source):
            _copy(
                _followed(source / entry, root, above | {source}),
                target / entry,
                root,
                above | {source},
            )
        fsync_folder(target)
    else:
        raise UsageError(f"{source}: is neither a file nor a folder, and cannot be copied")


def _followed(path: Path, root: Path, above: frozenset[Path]) -> Path:
    """What a path in a tree leads to. Raises UsageError if that is outside of it, or a circle."""
    if not path.is_symlink():
        return path
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise UsageError(f"{path}: is a link to nowhere", hint="remove it, or repair it") from None
    if not real.is_relative_to(root):
        raise UsageError(
            f"{path}: is a link to {real}, outside of {root}",
            hint="only links inside are followed; put a copy in its place",
        )
    if real in above:
        raise UsageError(f"{path}: is a link to a folder that it is in")
    return real


def _executable(mode: int) -> bool:
    return bool(mode & stat.S_IXUSR)
