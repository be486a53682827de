"""What the history of a run adds up to. Verdicts are derived (by the `ledger`) and stored nowhere.

Answers questions; outcomes, failures and outputs are read from the file when asked for. Refuses to
write.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import cast

from msgspec import Struct

from dask_runner.batch import Batch, Failure, InputFile, Outcome, OutputFile
from dask_runner.errors import ManifestError
from dask_runner.files import text_to_path
from dask_runner.manifest.encoding import decode
from dask_runner.manifest.ledger import (
    DONE,
    FAILED,
    PENDING,
    VERDICTS,
    HostTotals,
    Ledger,
    Verdict,
)
from dask_runner.manifest.plan import Lines, Plan
from dask_runner.manifest.records import Header, Note, NoteKind, Record
from dask_runner.manifest.views import BatchView, View
from dask_runner.run_folder import RunFolder


class Running(Struct, frozen=True, kw_only=True):
    """A started attempt without an outcome; `host` may be "" until the outcome says it. `group` is
    the first (batch index, attempt number) of those that were sent with it.
    """

    attempt: int
    host: str
    started: str
    group: tuple[int, int]


class Count(Struct, frozen=True, kw_only=True):
    """A number of batches, and of the events in them."""

    batches: int
    events: int


class RunState:
    """The state of a run after the records folded so far; read-only but for `fold`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = Lines(path)
        self._ledger = Ledger(Plan(self._lines))

    @property
    def header(self) -> Header:
        header = self._ledger.header
        assert header is not None, "checked when the manifest was opened"
        return header

    @property
    def folder(self) -> RunFolder:
        """The run's folders, wherever the run folder is now."""
        here = self.path.absolute().parent
        return RunFolder(
            path=here,
            outputs=here / text_to_path(self.header.outputs),
            attempts=here / text_to_path(self.header.attempts),
        )

    @property
    def inputs(self) -> Sequence[InputFile]:
        return self._ledger.inputs

    @property
    def batches(self) -> Sequence[Batch]:
        """Index -> Batch, read from the file when asked for; parts of split batches at the end."""
        return self._ledger.plan

    @property
    def notes(self) -> Sequence[Note]:
        return self._ledger.notes

    @property
    def hosts(self) -> Mapping[str, HostTotals]:
        return self._ledger.hosts

    @property
    def wall(self) -> float:
        """Seconds of all attempts together."""
        return sum(host.wall for host in self.hosts.values())

    @property
    def cpu(self) -> float:
        """CPU seconds of all attempts together."""
        return sum(host.cpu for host in self.hosts.values())

    @property
    def first_time(self) -> str:
        return self.header.created

    @property
    def last_time(self) -> str:
        """When the last record that has a time was written; "" if there is none but the plan."""
        return self._ledger.last_time

    @property
    def done(self) -> Count:
        return self._count(DONE)

    @property
    def failed(self) -> Count:
        return self._count(FAILED)

    @property
    def pending(self) -> Count:
        return self._count(PENDING)

    @property
    def total(self) -> Count:
        """All batches that are to be done: done, failed and pending together."""
        return self._count(PENDING, DONE, FAILED)

    @property
    def done_walls(self) -> list[float]:
        """The wall seconds of each done batch, in the order of batches."""
        return list(compress(self._ledger.walls, self._is_done()))

    @property
    def output_bytes(self) -> int:
        """The size of all published files."""
        return sum(compress(self._ledger.output_bytes, self._is_done()))

    def _is_done(self) -> Iterator[bool]:
        return (code == DONE for code in self._ledger.verdicts)

    @property
    def label(self) -> str:
        """The text to know the run by: the last one that was given."""
        given = (n.data.get("label") for n in reversed(self.notes) if n.kind == NoteKind.RERUN)
        return next(filter(None, given), self.header.label)

    @property
    def interrupted(self) -> bool:
        """True if the user ended the last dispatch, or nobody did: its driver was killed."""
        for note in reversed(self.notes):
            if note.kind == NoteKind.ENDED:
                return bool(note.data.get("interrupted_by"))
            if note.kind == NoteKind.CLUSTER:
                return True
        return False

    @property
    def running(self) -> dict[int, Running]:
        """Started in the current driver session, without an outcome yet."""
        attempts = self._ledger.started
        return {
            index: Running(
                attempt=attempts[index],
                host=record.host,
                started=record.time,
                group=record.attempts[0],
            )
            for index, record in self._ledger.running.items()
        }

    @property
    def accepted(self) -> list[Outcome]:
        """Outcomes that are `done` by word of the worker but not yet published: to be published,
        or finished if `has_intent`.
        """
        outcomes = (self.last_outcome(index) for index in sorted(self._ledger.accepted))
        return [outcome for outcome in outcomes if outcome is not None]

    def has_intent(self, index: int) -> bool:
        """True if the publication of an accepted batch may have begun."""
        return index in self._ledger.intents

    def verdict(self, index: int) -> Verdict:
        return VERDICTS[self._ledger.verdicts[index]]

    def indices(self, *verdicts: Verdict) -> Iterator[int]:
        """The indices with one of these verdicts, ascending."""
        wanted = {code for code, verdict in enumerate(VERDICTS) if verdict in verdicts}
        # A snapshot: the caller may record outcomes while it walks.
        table = bytes(self._ledger.verdicts)
        return (index for index, code in enumerate(table) if code in wanted)

    def attempts(self, index: int) -> int:
        """The highest attempt number that was started; 0 if none was."""
        return self._ledger.started[index]

    def failed_attempts(self, index: int) -> int:
        return self._ledger.failures[index]

    def done_attempt(self, index: int) -> int:
        """The attempt whose outputs are published; 0 if the batch is not done."""
        return self._ledger.done_by[index]

    def last_outcome(self, index: int) -> Outcome | None:
        """The outcome that decided last: of the published or accepted attempt, or of the last
        failure. None if there was none, or its outputs were lost.
        """
        offset = self._ledger.outcome_at[index]
        if not offset:  # the header is at 0
            return None
        return cast("Outcome", decode(self._lines.at(offset)))

    def failure(self, index: int) -> Failure | None:
        """Why the batch failed last, also while it is tried again; None once it succeeded."""
        outcome = self.last_outcome(index)
        return None if outcome is None else outcome.failure

    def outputs(self, index: int) -> tuple[OutputFile, ...]:
        """The published files of a done batch; () if it is not done."""
        outcome = self.last_outcome(index)
        if outcome is None or outcome.attempt != self.done_attempt(index):
            return ()
        return outcome.outputs

    def fold(self, records: Sequence[View | Record], offsets: Sequence[int]) -> None:
        """Take in records that stand at these offsets of the file."""
        if {type(record) for record in records} <= {Batch, BatchView}:
            self._ledger.add_batches(cast("Sequence[Batch | BatchView]", records), offsets)
        else:
            self._ledger.fold(records, offsets)

    def check(self, records: Sequence[Record]) -> None:
        """Raise LookupError or ManifestError if the records do not fit to this run."""
        self._ledger.check(records)

    def check_plan(self, end: int) -> None:
        """Raise ManifestError unless the plan is whole: it was durable before it had its name."""
        if self._ledger.header is None:
            raise ManifestError(
                f"{self.path} is damaged at byte {end}: it has no readable first line",
                hint="restore the file from a backup; its outputs are untouched",
            )
        if len(self.batches) < self.header.batches or len(self.inputs) < self.header.inputs:
            raise ManifestError(
                f"{self.path} is damaged at byte {end}: the plan has {len(self.batches)} of "
                f"{self.header.batches} batches",
                hint="restore the file from a backup; its outputs are untouched",
            )

    def _count(self, *codes: int) -> Count:
        return Count(
            batches=sum(self._ledger.batches[code] for code in codes),
            events=sum(self._ledger.events[code] for code in codes),
        )
