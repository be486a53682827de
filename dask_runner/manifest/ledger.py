"""The rules of the fold: how each record changes what is known of the batches.

Order is the order of records; no clock is read or compared. Folding a record twice changes
nothing, and neither does an outcome that comes late (of an attempt that is not the batch's latest,
or after the batch is done). `RunState` answers questions from what stands here.
"""

from array import array
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, cast

from msgspec import Struct

from dask_runner.batch import Batch, InputFile, Outcome, OutcomeStatus
from dask_runner.errors import ManifestError
from dask_runner.manifest.plan import Plan
from dask_runner.manifest.records import (
    FORMAT,
    Done,
    Extension,
    Header,
    Intent,
    Note,
    NoteKind,
    Record,
    Split,
    Started,
)
from dask_runner.manifest.views import (
    BatchView,
    DoneView,
    IntentView,
    OutcomeView,
    StartedView,
    View,
)


class Verdict(StrEnum):
    """What a batch is now. PENDING includes what is running, returned, or accepted but not yet
    published; SUPERSEDED batches were split and count nowhere.
    """

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"
    SUPERSEDED = "superseded"


# The codes of the verdict table; ACCEPTED is done by word of the worker and not yet published.
PENDING, ACCEPTED, DONE, FAILED, SUPERSEDED = range(5)
VERDICTS = (Verdict.PENDING, Verdict.PENDING, Verdict.DONE, Verdict.FAILED, Verdict.SUPERSEDED)

_COUNTED = (PENDING, PENDING, DONE, FAILED, SUPERSEDED)
_CLOSED = (DONE, SUPERSEDED)
_NEW_SESSION = (NoteKind.RERUN, NoteKind.TAKEOVER)


class HostTotals(Struct, kw_only=True):
    """What a host did. Times in s, over all its attempts."""

    done: int = 0
    failed: int = 0
    returned: int = 0
    wall: float = 0.0
    cpu: float = 0.0
    max_rss: int = 0


class Ledger:
    """One entry a batch in each table: 49 bytes, where objects would be hundreds."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.header: Header | None = None
        self.inputs: list[InputFile] = []
        self.notes: list[Note] = []
        self.hosts: dict[str, HostTotals] = {}
        self.last_time = ""
        self.running: dict[int, Started] = {}
        self.accepted: set[int] = set()
        self.intents: set[int] = set()
        # Batches and events by verdict code; what is accepted is counted as pending.
        self.batches = [0] * len(VERDICTS)
        self.events = [0] * len(VERDICTS)
        self.sizes = array("Q")
        self.verdicts = bytearray()
        self.started = array("I")  # highest attempt number that was started
        self.settled = array("I")  # highest attempt number that has an outcome
        self.done_by = array("I")  # the attempt whose outputs are published
        self.failures = array("I")
        self.outcome_at = array("Q")  # offset of the outcome that decided last
        self.walls = array("f")  # of the accepted attempt, in s
        self.output_bytes = array("Q")  # of the accepted attempt

    def fold(self, records: Sequence[View | Record], offsets: Sequence[int]) -> None:
        """Take in records (or views of them) that stand at these offsets of the file."""
        for record, offset in zip(records, offsets, strict=True):
            _RULES[type(record)](self, record, offset)

    def check(self, records: Sequence[Record]) -> None:
        """Refuse records that could not be folded, before they are written and stay for ever."""
        for record in records:
            for index in _concerned(record):
                if not 0 <= index < len(self.verdicts):
                    raise LookupError(f"{type(record).__name__} of batch {index}, which is not")
            if isinstance(record, Split):
                self._check_split(record)
            elif isinstance(record, Extension):
                self._check_numbers(record.batches, "the batches of an extension")

    def add_batches(self, batches: Sequence[Batch | BatchView], offsets: Sequence[int]) -> None:
        """Take in a stretch of the plan at once."""
        first = len(self.plan)
        if [batch.index for batch in batches] != list(range(first, first + len(batches))):
            raise ManifestError("the batches of the plan are not numbered from 0 up")
        self.plan.extend(offsets)
        self._make_room([batch.count for batch in batches])

    def on_header(self, header: Header, _offset: int) -> None:
        if header.format != FORMAT:
            raise ManifestError(
                f"the manifest is of format {header.format}; this version knows {FORMAT}",
                hint=f"use the version that wrote it: {header.code_version or 'unknown'}",
            )
        self.header = header

    def on_input(self, file: InputFile, _offset: int) -> None:
        self.inputs.append(file)

    def on_batch(self, batch: Batch | BatchView, offset: int) -> None:
        self.add_batches([batch], [offset])

    def on_started(self, record: Started, _offset: int) -> None:
        self.last_time = record.time
        verdicts, started, settled, running = (
            self.verdicts,
            self.started,
            self.settled,
            self.running,
        )
        for index, number in record.attempts:
            verdict = verdicts[index]
            if number < started[index] or verdict in _CLOSED:
                continue
            started[index] = number
            if number > settled[index]:
                running[index] = record
                if verdict != PENDING:
                    self._move(index, PENDING)

    def on_outcome(self, outcome: Outcome | OutcomeView, offset: int) -> None:
        index, number = outcome.batch, outcome.attempt
        verdict = self.verdicts[index]
        if number < self.started[index] or verdict in _CLOSED:
            return
        host = self.hosts.get(outcome.host)
        if host is None:
            host = self.hosts[outcome.host] = HostTotals()
        if number <= self.settled[index]:
            # Known already; but an accepted attempt may fail when it is to be published.
            if verdict == ACCEPTED and outcome.status is OutcomeStatus.FAILED:
                host.done -= 1
                self._fail(index, host, offset)
            return
        self.started[index] = self.settled[index] = number
        self.running.pop(index, None)
        host.wall += outcome.wall
        host.cpu += outcome.cpu
        host.max_rss = max(outcome.max_rss, host.max_rss)
        if outcome.status is OutcomeStatus.DONE:
            host.done += 1
            self.outcome_at[index] = offset
            self.walls[index] = outcome.wall
            if outcome.outputs:
                self.output_bytes[index] = sum(file.bytes for file in outcome.outputs)
            self.accepted.add(index)
            if verdict == PENDING:
                self.verdicts[index] = ACCEPTED  # counted as pending still
            else:
                self._move(index, ACCEPTED)
        elif outcome.status is OutcomeStatus.FAILED:
            self._fail(index, host, offset)
        else:
            host.returned += 1

    def on_intent(self, intent: Intent, _offset: int) -> None:
        self.last_time = intent.time
        self.intents.update(index for index, _ in intent.attempts if index in self.accepted)

    def on_done(self, done: Done, _offset: int) -> None:
        self.last_time = done.time
        for index, number in done.attempts:
            if self.verdicts[index] not in _CLOSED:
                self.done_by[index] = number
                self.running.pop(index, None)
                self._move(index, DONE)

    def on_note(self, note: Note, _offset: int) -> None:
        # Who looks at observed data long after the last batch does not make the run longer.
        if note.kind != NoteKind.UNBLINDED:
            self.last_time = note.time
        self.notes.append(note)
        if note.kind in _NEW_SESSION:
            self.running.clear()
        elif note.kind == NoteKind.LOST_OUTPUT:
            for index in note.data["batches"]:
                if self.verdicts[index] == DONE:
                    self.done_by[index] = self.outcome_at[index] = 0
                    self._move(index, PENDING)

    def on_split(self, split: Split, _offset: int) -> None:
        self.last_time = split.time
        if self.verdicts[split.batch] == SUPERSEDED:
            return
        self._check_split(split)
        self.running.pop(split.batch, None)
        self._move(split.batch, SUPERSEDED)
        self.plan.add_parts(split.parts)
        self._make_room([part.count for part in split.parts])

    def on_extension(self, extension: Extension, _offset: int) -> None:
        self.last_time = extension.time
        self._check_numbers(extension.batches, "the batches of an extension")
        self.plan.add_parts(extension.batches)
        self._make_room([batch.count for batch in extension.batches])

    def _check_numbers(self, batches: Sequence[Batch], what: str) -> None:
        first = len(self.plan)
        if [batch.index for batch in batches] != list(range(first, first + len(batches))):
            raise ManifestError(f"{what} are not numbered from {first} up")

    def _check_split(self, split: Split) -> None:
        self._check_numbers(split.parts, f"the parts of batch {split.batch}")
        if self.verdicts[split.batch] in (ACCEPTED, DONE):
            raise ManifestError(f"batch {split.batch} has its result and cannot be split")

    def _make_room(self, sizes: list[int]) -> None:
        self.sizes.extend(sizes)
        self.batches[PENDING] += len(sizes)
        self.events[PENDING] += sum(sizes)
        self.verdicts.extend(bytes(len(sizes)))
        tables: tuple[array[int] | array[float], ...] = (
            self.started,
            self.settled,
            self.done_by,
            self.failures,
            self.outcome_at,
            self.walls,
            self.output_bytes,
        )
        for table in tables:
            table.frombytes(bytes(len(sizes) * table.itemsize))

    def _move(self, index: int, verdict: int) -> None:
        old = self.verdicts[index]
        self.verdicts[index] = verdict
        if old == ACCEPTED:
            self.accepted.discard(index)
            self.intents.discard(index)
        size, before, after = self.sizes[index], _COUNTED[old], _COUNTED[verdict]
        self.batches[before] -= 1
        self.batches[after] += 1
        self.events[before] -= size
        self.events[after] += size

    def _fail(self, index: int, host: HostTotals, offset: int) -> None:
        host.failed += 1
        self.failures[index] += 1
        self.outcome_at[index] = offset
        self._move(index, FAILED)


def _concerned(record: Record) -> Sequence[int]:
    """The planned batches that a record speaks of."""
    match record:
        case Outcome():
            return (record.batch,)
        case Started() | Intent() | Done():
            return [index for index, _ in record.attempts]
        case Split():
            return (record.batch,)
        case Note(kind=NoteKind.LOST_OUTPUT):
            return cast("list[int]", record.data["batches"])
        case _:
            return ()


_RULES: dict[type[Any], Callable[[Ledger, Any, int], None]] = {
    Header: Ledger.on_header,
    InputFile: Ledger.on_input,
    Batch: Ledger.on_batch,
    BatchView: Ledger.on_batch,
    Started: Ledger.on_started,
    StartedView: Ledger.on_started,
    Outcome: Ledger.on_outcome,
    OutcomeView: Ledger.on_outcome,
    Intent: Ledger.on_intent,
    IntentView: Ledger.on_intent,
    Done: Ledger.on_done,
    DoneView: Ledger.on_done,
    Note: Ledger.on_note,
    Split: Ledger.on_split,
    Extension: Ledger.on_extension,
}
