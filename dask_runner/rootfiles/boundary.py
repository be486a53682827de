"""Where uproot's exceptions become ours: opening files and naming what is wrong with them.

The fault is one of: missing, not readable, not a ROOT file, truncated, damaged, no such tree.
"""

import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cramjam
import uproot
from uproot.deserialization import DeserializationError
from uproot.interpretation.objects import CannotBeAwkward
from uproot.source.file import MultithreadedFileSource as _FileSource

from dask_runner.errors import BadInputError, UnreachableError

_MAGIC = b"root"
_HEADER = 64
_WIDE_VERSION = 1_000_000
# What uproot is known to raise on damaged bytes. It has no base class for them: a flipped bit in a
# length or a class name ends in almost any lookup or conversion error.
_DAMAGE = (
    DeserializationError,
    CannotBeAwkward,
    uproot.KeyInFileError,
    zlib.error,
    cramjam.DecompressionError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An open ROOT file. Whatever goes wrong inside is a BadInputError with the file's name.

    It is read here and now: uproot's own way starts a thread and an event loop in each process.
    """
    with translated(path), uproot.open(path, handler=_FileSource, use_threads=False) as file:
        check_length(path)
        yield file


@contextmanager
def translated(path: Path | str) -> Iterator[None]:
    """Turn every exception of the libraries below into a BadInputError about `path`, which is an
    address if it is text.
    """
    try:
        yield
    except (BadInputError, UnreachableError):
        raise
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise BadInputError(f"{path}: {error.strerror or 'cannot be opened'}") from error
    except OSError as error:
        raise BadInputError(f"{path}: {_fault(path)} ({_first_line(error)})") from error
    except _DAMAGE as error:
        raise BadInputError(
            f"{path}: {_fault(path)} ({type(error).__name__}: {_first_line(error)})",
            hint="copy it again from where it came from, or make it anew",
        ) from error


def check_length(path: Path) -> None:
    """Refuse a file that ends before the place where its header says that it ends."""
    size, end = _lengths(path)
    if end is not None and size < end:
        raise _truncated(path, size, end)


def damaged_end(url: str, head: bytes, size: int) -> None:
    """The same for a remote file of `size` bytes that begins with `head`; also for one that is not
    ROOT.
    """
    end = _end(head)
    if end is None:
        raise BadInputError(f"{url}: {'not a ROOT file' if size else 'empty file'}")
    if size < end:
        raise _truncated(url, size, end)


def _truncated(path: Path | str, size: int, end: int) -> BadInputError:
    return BadInputError(
        f"{path}: truncated: {size} bytes instead of {end}",
        hint="copy it again from where it came from, or make it anew",
    )


def tree_in(file: Any, path: Path | str, name: str) -> Any:
    """The tree (TTree or RNTuple) called `name`."""
    try:
        kind = file.classname_of(name)
    except uproot.KeyInFileError:
        kind = ""
    if kind != "TTree" and "RNTuple" not in kind:
        raise no_tree(path, name, tree_names(file))
    return file[name]


def no_tree(path: Path | str, name: str, trees: Iterable[str]) -> BadInputError:
    """The error for a tree that is not there."""
    return BadInputError(f"{path}: has no tree {name!r} (its trees: {', '.join(trees) or 'none'})")


def tree_names(file: Any) -> list[str]:
    """The names of all trees in all folders of a file, sorted."""
    classes = file.classnames(recursive=True, cycle=False)
    return sorted(name for name, kind in classes.items() if kind == "TTree" or "RNTuple" in kind)


def _fault(path: Path | str) -> str:
    """What is wrong with a file that could not be read, as far as its first bytes tell."""
    if isinstance(path, str):
        return "damaged"
    try:
        size, end = _lengths(path)
    except OSError:
        return "cannot be read"
    if size == 0:
        return "empty file"
    if end is None:
        return "not a ROOT file"
    return "truncated" if size < end else "damaged"


def _lengths(path: Path) -> tuple[int, int | None]:
    """The size of the file, and what its header says about it; None if it is not ROOT."""
    with path.open("rb") as file:
        header = file.read(_HEADER)
        size = os.fstat(file.fileno()).st_size
    return size, _end(header)


def _end(header: bytes) -> int | None:
    """Where a file says that it ends, by its first bytes; None if it is not ROOT."""
    if header[:4] != _MAGIC:
        return None
    # Files beyond 2 GB have wide offsets.
    version = int.from_bytes(header[4:8], "big")
    return int.from_bytes(header[12:20] if version >= _WIDE_VERSION else header[12:16], "big")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "no message")
