"""Reading a manifest without its lock, also while it is being written.

Owns loading, following and the history of one batch. Refuses to change the file: a torn tail is
ignored, it may be a line that is being written right now.
"""

import time
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import msgspec

from dask_runner.batch import Batch, Outcome
from dask_runner.errors import ManifestError
from dask_runner.manifest.encoding import decode
from dask_runner.manifest.journal import Block, Scanner
from dask_runner.manifest.records import Done, Intent, Note, Record, Split, Started
from dask_runner.manifest.state import RunState
from dask_runner.manifest.views import views
from dask_runner.run_folder import RunFolder

# On a network file system a reader may see the end of a large write before its middle.
_SECOND_LOOK = 0.2


class Follower:
    """The state of a run, kept up to date: `poll` reads only what was appended since."""

    def __init__(self, path: Path) -> None:
        self._path = manifest_path(path)
        self._inode = -1
        self._restart()

    def poll(self) -> RunState:
        """Read on and return the state; the same object as long as the file is the same."""
        try:
            status = self._path.stat()
        except OSError as error:
            raise ManifestError(f"cannot read {self._path}: {error.strerror}") from error
        if status.st_ino != self._inode or status.st_size < self._scanner.offset:
            self._restart()
            self._inode = status.st_ino
        try:
            load(self.state, self._scanner)
        except ManifestError:
            time.sleep(_SECOND_LOOK)
            self._restart()
            load(self.state, self._scanner)
        return self.state

    def _restart(self) -> None:
        self.state = RunState(self._path)
        self._scanner = Scanner(self._path)


def manifest_path(path: Path) -> Path:
    """The manifest at `path`, which may also be the run's folder."""
    return RunFolder.at(path).manifest if path.is_dir() else path


def read_state(path: Path) -> RunState:
    """The state of the run whose manifest (or folder) is at `path`. Needs no lock.

    Raises ManifestError if the file is damaged, naming the byte.
    """
    return Follower(path).poll()


def load(state: RunState, scanner: Scanner) -> None:
    """Fold all valid lines from where the scanner is, and check that the plan is whole."""
    for block in scanner.blocks():
        try:
            state.fold(views(block), _offsets(block))
        except (msgspec.MsgspecError, LookupError, UnicodeDecodeError) as error:
            raise ManifestError(
                f"{state.path}: a record between bytes {block.offset} and {scanner.offset} is none "
                f"that this version knows: {error}",
                hint="was it written by a newer version?",
            ) from error
    state.check_plan(scanner.offset)


def history(path: Path, index: int) -> list[Record]:
    """The records that concern one batch, in order; groups are reduced to this batch."""
    path = manifest_path(path)
    return [
        record
        for block in Scanner(path).blocks()
        for line in block.lines
        # Cheap first: most lines do not even hold the number.
        if str(index).encode() in line and (record := _about(decode(line), index)) is not None
    ]


def _about(record: Record, index: int) -> Record | None:
    match record:
        case Started() | Intent() | Done():
            mine = tuple(pair for pair in record.attempts if pair[0] == index)
            return msgspec.structs.replace(record, attempts=mine) if mine else None
        case Outcome():
            return record if record.batch == index else None
        case Batch():
            return record if record.index == index else None
        case Split():
            mine_too = {record.batch, *(part.index for part in record.parts)}
            return record if index in mine_too else None
        case Note():
            return record if index in record.data.get("batches", ()) else None
        case _:
            return None


def _offsets(block: Block) -> list[int]:
    lengths = [len(line) + 1 for line in block.lines]
    return list(accumulate(lengths, initial=block.offset))[:-1]


def records(path: Path) -> Iterator[Record]:
    """Every record in full, in order."""
    for block in Scanner(manifest_path(path)).blocks():
        yield from map(decode, block.lines)
