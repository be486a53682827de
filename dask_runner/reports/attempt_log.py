"""Where the log of an attempt is, and its bytes as they grow.

Owns which attempt is meant and when following ends. Refuses to interpret the bytes (`log_view`).
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

from dask_runner.batch import LogSlice
from dask_runner.errors import UsageError
from dask_runner.files import path_to_text, text_to_path
from dask_runner.manifest import Follower, RunState
from dask_runner.reports.detail import AttemptDetail, batch_detail, check_batch
from dask_runner.reports.listing import driver_of
from dask_runner.reports.log_view import fold, lines_of, read_bytes, shown
from dask_runner.run_folder import LOG_NAME, RunFolder, group_log_name

_INTERVAL = 0.3
_MOST_AT_ONCE = 4 << 20


class AttemptLog(Struct, frozen=True, kw_only=True):
    """Bytes [offset, offset + length) of `path` are the log of an attempt; no `length`: all there
    is, and more may come if `running`. `dropped` bytes were cut by the cap. `shared`: other
    batches of the group write to the file too.
    """

    path: Path
    offset: int
    length: int | None
    dropped: int
    attempt: int
    status: str
    running: bool
    shared: bool


class LogText(Struct, frozen=True, kw_only=True):
    """The log of an attempt as lines: folded, or every one of them."""

    batch: int
    attempt: int
    status: str
    path: str
    shared: bool
    dropped: int
    lines: tuple[str, ...]


def locate(
    state: RunState, index: int, attempt: int | None = None, *, active: bool
) -> AttemptLog | None:
    """The log of an attempt, by default the latest; None if that has not started.

    Raises UsageError for a batch or attempt that does not exist.
    """
    check_batch(state, index)
    number = attempt if attempt is not None else state.attempts(index)
    if number == 0:
        return None
    found = [a for a in batch_detail(state, index, active=active).attempts if a.attempt == number]
    if not found:
        raise UsageError(
            f"batch {index} of run {state.folder.timestamp} has no attempt {number}",
            hint=f"it has had {state.attempts(index)}",
        )
    return _log(state, index, found[0])


def _log(state: RunState, index: int, attempt: AttemptDetail) -> AttemptLog:
    finished = attempt.log_slice
    own = state.folder.attempt(index, attempt.attempt) / LOG_NAME
    path, shared = own, False
    if finished is not None:
        path = state.folder.attempts / text_to_path(finished.path)
    elif index in state.running and not own.exists():
        group = state.folder.attempts / group_log_name(*state.running[index].group)
        path, shared = (group, True) if group.exists() else (own, False)
    place = finished or LogSlice(path="")
    return AttemptLog(
        path=path,
        offset=place.offset,
        length=None if finished is None else place.length,
        dropped=place.dropped,
        attempt=attempt.attempt,
        status=attempt.status,
        running=attempt.status == "running",
        shared=shared,
    )


class LogReader:
    """The log of one batch of one run, once or as it grows."""

    def __init__(
        self,
        run: Path,
        index: int,
        attempt: int | None = None,
        *,
        pause: Callable[[], None] | None = None,
    ) -> None:
        self._folder = RunFolder.at(run)
        self._follower = Follower(self._folder.manifest)
        self._index = index
        self._attempt = attempt
        self._pause = pause or (lambda: time.sleep(_INTERVAL))

    def find(self) -> AttemptLog | None:
        """Where the log is now; None if the batch has not started but may still do so.

        Raises UsageError if there is no log and will be none.
        """
        # The lock first: a driver that ends in between has written all it had to say.
        active = driver_of(self._folder) is not None
        log = locate(self._follower.poll(), self._index, self._attempt, active=active)
        name = self._folder.timestamp
        if log is None:
            if active:
                return None
            raise UsageError(
                f"batch {self._index} of run {name} has not been tried yet",
                hint=f"`dask-runner rerun {name}` does what is left",
            )
        if not log.path.exists() and not log.running:
            raise UsageError(
                f"attempt {log.attempt} of batch {self._index} left no log ({log.status})",
                hint=f"`dask-runner show {name} {self._index}` has what is known of it",
            )
        return log

    def _found(self) -> AttemptLog:
        log = self.find()
        if log is None:
            name = self._folder.timestamp
            raise UsageError(
                f"batch {self._index} of run {name} has not started yet", hint="wait for it with -f"
            )
        return log

    def read(self) -> Iterator[bytes]:
        """The bytes that are there now."""
        log = self._found()
        if log.path.exists():
            yield from read_bytes(log.path, log.offset, log.length)

    def text(self, *, every_line: bool) -> LogText:
        """The log that is there now, as lines."""
        lines = lines_of(self.read())
        log = self._found()
        return LogText(
            batch=self._index,
            attempt=log.attempt,
            status=log.status,
            path=path_to_text(log.path),
            shared=log.shared,
            dropped=log.dropped,
            lines=tuple(lines if every_line else shown(fold(lines))),
        )

    def follow(self) -> Iterator[bytes]:
        """The bytes as they come, until the attempt has its outcome or nobody drives the run; one
        chunk, perhaps empty, for each look.
        """
        path, position = Path(), 0
        while True:
            log = self.find()
            if log is not None:
                self._attempt = log.attempt
                if log.path != path:
                    path, position = log.path, log.offset
                chunk = b"".join(_new(log, position))
                position += len(chunk)
                yield chunk
                if len(chunk) == _MOST_AT_ONCE:
                    continue
                if not log.running:
                    return
            self._pause()


def _new(log: AttemptLog, position: int) -> Iterator[bytes]:
    """What lies between `position` and the end, at most 4 MiB."""
    if log.path.exists():
        end = _MOST_AT_ONCE if log.length is None else log.offset + log.length - position
        yield from read_bytes(log.path, position, max(0, min(end, _MOST_AT_ONCE)))


def whole_lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes, cut so that each piece but the last ends with a line."""
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        end = data.rfind(b"\n") + 1
        rest = data[end:]
        if end:
            yield data[:end]
    if rest:
        yield rest
