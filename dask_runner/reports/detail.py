"""One run, its failures, or one batch in full: what `show` and `errors` say.

Reads the manifest, takes no lock. Refuses to lay anything out.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from dask_runner.batch import Batch, Failure, InputFile, LogSlice, Outcome, OutputFile
from dask_runner.errors import UsageError
from dask_runner.files import path_to_text, text_to_path
from dask_runner.manifest import (
    Done,
    Header,
    Note,
    NoteKind,
    Record,
    RunState,
    Split,
    Started,
    Verdict,
    history,
)
from dask_runner.reports.listing import Driver
from dask_runner.summary import Cause, Summary, causes, rerun_command, summarize

_EDGE = 2
_ON_HOSTS = {
    NoteKind.QUARANTINE,
    NoteKind.TRUSTED,
    NoteKind.LOST_HOST,
    NoteKind.REFUSED,
    NoteKind.POISON,
}


class RunDetail(Struct, frozen=True, kw_only=True):
    """A run: how it was made, what it reads, its first and last batches, its numbers, its notes."""

    header: Header
    summary: Summary
    driver: Driver | None
    inputs: tuple[InputFile, ...]
    first: tuple[Batch, ...]
    last: tuple[Batch, ...]
    notes: tuple[Note, ...]


class PublishedFile(Struct, frozen=True, kw_only=True):
    """A published output under its final name."""

    path: str
    bytes: int
    sha256: str
    entries: int | None


class AttemptDetail(Struct, frozen=True, kw_only=True):
    """One attempt. `status` is done, failed, returned, running, or unfinished (its driver died).
    `sent` is when the driver sent it, `started` when it began on the host; `log` is the file that
    holds its log at the bytes of `log_slice`.
    """

    attempt: int
    status: str
    published: bool
    host: str
    sent: str
    started: str
    wall: float
    cpu: float
    max_rss: int
    bytes_written: int
    outputs: tuple[OutputFile, ...]
    failure: Failure | None
    log: str
    log_slice: LogSlice | None
    counters: dict[str, float]


class BatchDetail(Struct, frozen=True, kw_only=True):
    """A batch with its whole history. `parts` are the batches that replace it, `part_of` the one
    that it is a part of.
    """

    timestamp: str
    batch: Batch
    id: str
    verdict: Verdict
    running: bool
    attempts: tuple[AttemptDetail, ...]
    outputs: tuple[PublishedFile, ...]
    parts: tuple[int, ...]
    part_of: int | None


def run_detail(state: RunState, driver: Driver | None) -> RunDetail:
    """All that the manifest says of the run as a whole."""
    edge = max(0, len(state.batches) - _EDGE)
    return RunDetail(
        header=state.header,
        summary=summarize(state, active=driver is not None),
        driver=driver,
        inputs=tuple(state.inputs),
        first=tuple(state.batches[:_EDGE]),
        last=tuple(state.batches[max(edge, _EDGE) :]),
        notes=tuple(state.notes),
    )


class Errors(Struct, frozen=True, kw_only=True):
    """The failed batches of a run by cause, the most frequent first. `failed_attempts` counts also
    those after which a batch was tried again; `hosts` are the notes on hosts and on what was held
    against them, or not.
    """

    timestamp: str
    failed: int
    failed_attempts: int
    causes: tuple[Cause, ...]
    hosts: tuple[Note, ...]
    rerun: str


def errors_of(state: RunState) -> Errors:
    """Why batches of the run failed."""
    return Errors(
        timestamp=state.folder.timestamp,
        failed=state.failed.batches,
        failed_attempts=sum(host.failed for host in state.hosts.values()),
        causes=causes(state),
        hosts=tuple(note for note in state.notes if note.kind in _ON_HOSTS),
        rerun=rerun_command(state),
    )


def check_batch(state: RunState, index: int) -> None:
    """Raise UsageError if the run has no such batch."""
    if not 0 <= index < len(state.batches):
        raise UsageError(
            f"run {state.folder.timestamp} has no batch {index}",
            hint=f"its batches are 0 to {len(state.batches) - 1}",
        )


def batch_detail(state: RunState, index: int, *, active: bool) -> BatchDetail:
    """All that the manifest says of one batch. `active`: a driver is at work on the run."""
    check_batch(state, index)
    records = history(state.path, index)
    batch = state.batches[index]
    splits = [record for record in records if isinstance(record, Split)]
    return BatchDetail(
        timestamp=state.folder.timestamp,
        batch=batch,
        id=batch.id,
        verdict=state.verdict(index),
        running=active and index in state.running,
        attempts=tuple(_attempts(state, index, records, active=active)),
        outputs=tuple(_published(state, file) for file in state.outputs(index)),
        parts=tuple(p.index for split in splits if split.batch == index for p in split.parts),
        part_of=next((split.batch for split in splits if split.batch != index), None),
    )


def _published(state: RunState, file: OutputFile) -> PublishedFile:
    return PublishedFile(
        path=path_to_text(state.folder.output(text_to_path(file.name))),
        bytes=file.bytes,
        sha256=file.sha256,
        entries=file.entries,
    )


def _attempts(
    state: RunState, index: int, records: Iterable[Record], *, active: bool
) -> list[AttemptDetail]:
    found: dict[int, AttemptDetail] = {}
    for record in records:
        match record:
            case Started(attempts=((_, number), *_)):
                running = active and index in state.running and number == state.attempts(index)
                status = "running" if running else "unfinished"
                found[number] = _attempt(number, status, host=record.host, sent=record.time)
            case Outcome():
                known = found.get(record.attempt) or _attempt(record.attempt, "")
                found[record.attempt] = _with_outcome(state, known, record)
            case Done(attempts=((_, number), *_)) if number in found:
                found[number] = msgspec.structs.replace(found[number], published=True)
            case Note(kind=NoteKind.LOST_OUTPUT):
                found = {
                    number: msgspec.structs.replace(attempt, published=False)
                    for number, attempt in found.items()
                }
            case _:
                pass
    return [found[number] for number in sorted(found)]


def _attempt(number: int, status: str, *, host: str = "", sent: str = "") -> AttemptDetail:
    return AttemptDetail(
        attempt=number,
        status=status,
        published=False,
        host=host,
        sent=sent,
        started="",
        wall=0.0,
        cpu=0.0,
        max_rss=0,
        bytes_written=0,
        outputs=(),
        failure=None,
        log="",
        log_slice=None,
        counters={},
    )


def _with_outcome(state: RunState, attempt: AttemptDetail, outcome: Outcome) -> AttemptDetail:
    # An attempt that was refused at publication has two outcomes; only the first has the log.
    log = outcome.log or attempt.log_slice
    changes: dict[str, Any] = {
        "status": outcome.status.value,
        "host": outcome.host or attempt.host,
        "started": outcome.started or attempt.started,
        "wall": outcome.wall or attempt.wall,
        "cpu": outcome.cpu or attempt.cpu,
        "max_rss": outcome.max_rss or attempt.max_rss,
        "bytes_written": outcome.bytes_written or attempt.bytes_written,
        "outputs": outcome.outputs,
        "failure": outcome.failure,
        "log": path_to_text(state.folder.attempts / text_to_path(log.path)) if log else "",
        "log_slice": log,
        "counters": outcome.counters or attempt.counters,
    }
    return msgspec.structs.replace(attempt, **changes)
