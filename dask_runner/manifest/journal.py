"""The file: lines appended by one writer, checked by any number of readers.

Owns what is a valid prefix, what is a torn tail and what is damage, and when written means durable.
Refuses to know what the records mean.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

from msgspec import Struct

from dask_runner.errors import ManifestError, StorageError
from dask_runner.files import fsync_folder
from dask_runner.manifest.encoding import TAIL, encode, is_intact
from dask_runner.manifest.records import Record

# The records that are not worth an fsync of their own share one within this time.
COMMIT_WINDOW = 0.05

_BLOCK = 1 << 20
# Whether damage is a torn tail: at most this many lines follow the first bad one.
_TORN_LINES_AFTER = 1


class Block(Struct, frozen=True):
    """Verified lines, without their newlines; the first is at byte `offset` of the file."""

    offset: int
    lines: list[bytes]


class Scanner:
    """Reads a journal forward. `offset` and `seq` are the end of the valid prefix seen so far."""

    def __init__(self, path: Path, offset: int = 0, seq: int = 0) -> None:
        self.path = path
        self.offset = offset
        self.seq = seq

    def blocks(self) -> Iterator[Block]:
        """All verified lines from here on; a torn tail is left where it is.

        Raises ManifestError at damage that is followed by valid lines.
        """
        with self._open() as file:
            file.seek(self.offset)
            rest = b""
            while data := file.read(_BLOCK):
                rest += data
                end = rest.rfind(b"\n")
                if end < 0:
                    continue
                lines = rest[:end].split(b"\n")
                rest = rest[end + 1 :]
                good = self._count_good(lines)
                block = Block(self.offset, lines[:good] if good < len(lines) else lines)
                self.seq += good
                self.offset += sum(map(len, block.lines)) + good
                if good:
                    yield block
                if good < len(lines):
                    self._judge(file)
                    return

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise ManifestError(
                f"cannot read the manifest {self.path}: {error.strerror}",
                hint="`dask-runner runs` lists the runs that have one",
            ) from error

    def _count_good(self, lines: list[bytes]) -> int:
        sums = map(crc32, [line[:-TAIL] for line in lines])
        tails = [b',"seq":%d,"crc":"%08x"}' % pair for pair in enumerate(sums, self.seq)]
        # Comparisons in C: this is most of the time of `status` on a million batches.
        good = list(map(bytes.endswith, lines, tails))
        return len(lines) if all(good) else good.index(False)

    def _judge(self, file: BinaryIO) -> None:
        """Return if the bad line at `offset` belongs to a torn tail, raise if it is damage."""
        file.seek(self.offset)
        file.readline()
        following, intact = 0, False
        for line in file:
            # A flipped bit may have made a newline: only what begins like a line is one.
            following += line.startswith(b'{"type":"')
            intact = intact or is_intact(line.rstrip(b"\n"))
            if intact and following > _TORN_LINES_AFTER:
                raise ManifestError(
                    f"the manifest {self.path} is damaged at byte {self.offset} (line "
                    f"{self.seq + 1}), and valid lines follow: it was changed after it was written",
                    hint="restore the file from a backup; its outputs are untouched. Nothing was "
                    "changed or dispatched",
                )


class Journal:
    """Appends to an open manifest, for one thread at a time. After the first error every call
    raises it again: what the disk holds is then unknown, and trying again could report success for
    data that is lost.
    """

    def __init__(self, path: Path, descriptor: int, *, offset: int, seq: int) -> None:
        self.path = path
        self.offset = offset
        self.seq = seq
        self.error: StorageError | None = None
        self._descriptor = descriptor
        self._sync_lock = threading.Lock()
        self._synced = offset
        self._dirty = threading.Event()
        self._closing = threading.Event()
        self._committer: threading.Thread | None = None

    def append(self, records: Sequence[Record]) -> list[int]:
        """Hand the records to the operating system (they survive the death of this process) and
        return their offsets; durable within the commit window, or at the next `sync`.
        """
        self.check()
        lines = [encode(record, seq) for seq, record in enumerate(records, self.seq)]
        self._write(b"".join(lines))
        offsets = list(accumulate(map(len, lines), initial=self.offset))
        self.offset = offsets.pop()
        self.seq += len(lines)
        return offsets

    def commit_soon(self) -> None:
        """Make what was appended durable within the commit window, in the background."""
        if self._committer is None:
            self._committer = threading.Thread(
                target=self._commit_forever, name="manifest-commit", daemon=True
            )
            self._committer.start()
        self._dirty.set()

    def sync(self) -> None:
        """Make all that was appended so far durable before returning."""
        # One at a time: the kernel reports a write error once, to only one of two callers.
        with self._sync_lock:
            self.check()
            target = self.offset
            if target == self._synced:
                return
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                raise self._fail("make durable", error) from error
            self._synced = target

    def check(self) -> None:
        """Raise the error that ended this journal, if one did."""
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """End the background commits and make everything durable."""
        self._closing.set()
        self._dirty.set()
        if self._committer is not None:
            self._committer.join()
        if self.error is None:
            self.sync()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            raise self._fail("write", error) from error

    def _fail(self, verb: str, error: OSError) -> StorageError:
        self.error = StorageError(
            f"cannot {verb} the manifest {self.path}: {error.strerror}",
            hint="the run is stopped: what happens now could not be recorded. Make space or repair "
            "the disk, then `dask-runner rerun` continues from the last durable record",
        )
        return self.error

    def _commit_forever(self) -> None:
        while True:
            self._dirty.wait()
            if self._closing.wait(COMMIT_WINDOW):
                return
            self._dirty.clear()
            # That may have undone the wake-up of a close() that came in between.
            if self._closing.is_set():
                return
            try:
                self.sync()
            except StorageError:
                return  # kept in `error`; the next append raises it


def cut_torn_tail(path: Path, descriptor: int, end: int) -> Path | None:
    """Cut the file to its valid prefix of `end` bytes; keep what is cut in `manifest.torn-N`.

    The copy is durable before the file is touched. Returns the copy, None if there was no tail.
    """
    size = os.fstat(descriptor).st_size
    if size == end:
        return None
    try:
        copy = _copy_tail(path, end)
        os.ftruncate(descriptor, end)
        os.fsync(descriptor)
    except OSError as error:
        raise StorageError(
            f"cannot keep the torn tail of {path}: {error.strerror}",
            hint="the manifest was not changed; make space and try again",
        ) from error
    return copy


def _copy_tail(path: Path, end: int) -> Path:
    with path.open("rb") as whole:
        whole.seek(end)
        tail = whole.read()
    number = 1
    while True:
        copy = path.with_name(f"manifest.torn-{number}")
        try:
            file = copy.open("xb")
        except FileExistsError:
            number += 1
            continue
        try:
            with file:
                file.write(tail)
                file.flush()
                os.fsync(file.fileno())
            fsync_folder(path.parent)
        except OSError:
            copy.unlink()
            raise
        return copy
