"""The one writer of a run's manifest: `Manifest`.

Owns the order lock, recovery, fold, append. Never fork while a manifest is open (the child would
keep the lock), and daemonize before opening.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from dask_runner.batch import Batch, InputFile
from dask_runner.errors import ManifestError, RunnerError, StorageError
from dask_runner.files import beside, fsync_folder, path_to_text
from dask_runner.manifest.journal import Journal, Scanner, cut_torn_tail
from dask_runner.manifest.lock import Lock
from dask_runner.manifest.reader import load
from dask_runner.manifest.records import FORMAT, Header, Note, NoteKind, Record
from dask_runner.manifest.state import RunState
from dask_runner.run_folder import RunFolder

_CHUNK = 1000


class Manifest:
    """An open manifest: locked, folded, ready to append. Use as a context manager."""

    def __init__(
        self, folder: RunFolder, descriptor: int, lock: Lock, state: RunState, journal: Journal
    ) -> None:
        self.folder = folder
        self.state = state
        self._descriptor = descriptor
        self._lock = lock
        self._journal = journal
        self._recording = threading.Lock()

    @classmethod
    def create(
        cls,
        folder: RunFolder,
        header: Header,
        inputs: Sequence[InputFile],
        batches: Sequence[Batch],
    ) -> Self:
        """Write the plan of a new run, durably and under its name only when complete."""
        header = msgspec.structs.replace(
            header,
            format=FORMAT,
            outputs=_folder_text(folder.outputs, folder.path),
            attempts=_folder_text(folder.attempts, folder.path),
            inputs=len(inputs),
            batches=len(batches),
        )
        state = RunState(folder.manifest)
        with ExitStack() as undo:
            try:
                temporary = undo.enter_context(beside(folder.manifest))
                descriptor = _open(temporary)
                undo.callback(os.close, descriptor)
                lock = Lock.acquire(folder, descriptor)
                undo.callback(lock.release)
                journal = Journal(folder.manifest, descriptor, offset=0, seq=0)
                for records in _chunks([header], inputs, batches):
                    state.fold(records, journal.append(records))
                journal.sync()
                os.fchmod(descriptor, 0o644)
                os.link(temporary, folder.manifest)
                temporary.unlink()
                fsync_folder(folder.path)
                # The run's own name is as new as the manifest's.
                fsync_folder(folder.path.parent)
            except FileExistsError:
                raise ManifestError(f"{folder.manifest} exists already") from None
            except OSError as error:
                raise StorageError(
                    f"cannot write the plan to {folder.path}: {error.strerror}",
                    hint="nothing was started; make space, or choose another folder with --runs",
                ) from error
            undo.pop_all()
        return cls(folder, descriptor, lock, state, journal)

    @classmethod
    def open(cls, folder: RunFolder | Path, *, break_lock: bool = False) -> Self:
        """Take the lock of an existing run, keep a torn tail aside, fold, and be ready to append.

        Raises LockedError, ManifestError (damage) or StorageError.
        """
        path = folder.path if isinstance(folder, RunFolder) else folder.absolute()
        here = RunFolder.at(path)
        with ExitStack() as undo:
            try:
                descriptor = _open(here.manifest)
                undo.callback(os.close, descriptor)
                lock = Lock.acquire(here, descriptor, break_lock=break_lock)
                undo.callback(lock.release)
                state, scanner = RunState(here.manifest), Scanner(here.manifest)
                load(state, scanner)
                torn = cut_torn_tail(here.manifest, descriptor, scanner.offset)
                # What a killed writer left may be in the page cache only; we shall act on it.
                os.fsync(descriptor)
            except OSError as error:
                raise _translated(error, here) from error
            undo.pop_all()
        journal = Journal(here.manifest, descriptor, offset=scanner.offset, seq=scanner.seq)
        manifest = cls(state.folder, descriptor, lock, state, journal)
        manifest._note_opening(torn)
        return manifest

    def record(self, *records: Record, durable: bool = False) -> None:
        """Append records and fold them into `state`. When this returns they survive the death of
        this process; `durable` ones survive the machine's. The rest follow within 50 ms.

        Raises StorageError, and from then on always: stop dispatching, end the payloads.
        """
        # The order of the file is the order of the fold, whichever thread comes first.
        with self._recording:
            self.state.check(records)
            self.state.fold(records, self._journal.append(records))
        if durable:
            self._journal.sync()
        else:
            self._journal.commit_soon()

    def check(self) -> None:
        """Raise the StorageError that a commit in the background met, if one did."""
        self._journal.check()

    def close(self) -> None:
        """Make everything durable and give up the lock. Closing twice does nothing."""
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        try:
            self._journal.close()
        finally:
            self._lock.release()
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _note_opening(self, torn: Path | None) -> None:
        previous, notes = self._lock.previous, []
        if torn is not None:
            data: dict[str, Any] = {"file": torn.name, "bytes": torn.stat().st_size}
            text = f"the end of the manifest was torn; the cut bytes are in {torn.name}"
            notes.append(Note(kind=NoteKind.TORN_TAIL, text=text, data=data))
        if previous is not None:
            data = msgspec.to_builtins(previous)
            text = f"the lock was taken over from {previous}"
            notes.append(Note(kind=NoteKind.TAKEOVER, text=text, data=data))
        if notes:
            self.record(*notes, durable=True)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)


def _translated(error: OSError, folder: RunFolder) -> RunnerError:
    if isinstance(error, FileNotFoundError):
        return ManifestError(
            f"no manifest in {folder.path}", hint="`dask-runner runs` lists the runs that have one"
        )
    return StorageError(f"cannot write to the manifest {folder.manifest}: {error.strerror}")


def _folder_text(folder: Path, run: Path) -> str:
    inside = folder.is_relative_to(run)
    return path_to_text(folder.relative_to(run) if inside else folder)


def _chunks(*parts: Sequence[Record]) -> Iterator[Sequence[Record]]:
    for part in parts:
        for first in range(0, len(part), _CHUNK):
            yield part[first : first + _CHUNK]
