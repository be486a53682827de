"""What is known of each attempt of a group, and the Outcome that it becomes.

Owns the rule of blame: when the process of a group dies, the batch that was running has failed,
those before it keep their outcome, those after it go back as if they had never been sent.
"""

import socket
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from dask_runner.batch import Attempt, FailureKind, Outcome, OutcomeStatus
from dask_runner.execution import failures, returns
from dask_runner.execution.failures import Cause
from dask_runner.execution.log_capture import GroupLogs
from dask_runner.execution.process_tree import Usage
from dask_runner.execution.reports import Report
from dask_runner.execution.task import Delivery, Group
from dask_runner.execution.wire import GarbageError
from dask_runner.files import path_to_text, text_to_path
from dask_runner.run_folder import LOG_NAME, attempt_name, group_log_name


class Ledger:
    """Reports and logs come in, outcomes go out, in the order of the group's attempts."""

    def __init__(self, group: Group, *, host: str, user: str, nonce: bytes) -> None:
        self._group = group
        self._host = host
        self._user = user
        self._attempts_folder = text_to_path(group.attempts_folder)
        first = group.attempts[0]
        self.logs = GroupLogs(
            attempts=self._attempts_folder,
            group_log=group_log_name(first.batch.index, first.number),
            name_of=self._log_name,
            head_of=self._head,
            cap=group.limits.log_cap,
            nonce=nonce,
        )
        self._reports: list[Report] = []
        self._verdicts: dict[int, Report] = {}
        self._made = 0
        self._with_outputs = any(attempt.batch.outputs for attempt in group.attempts)
        self._last_clock = time.perf_counter()
        self._last_time = time.time()
        self._second = (0, "")

    @property
    def current(self) -> int:
        """The position of the batch that is running."""
        return len(self._reports)

    @property
    def settled(self) -> int:
        """How many attempts have been given an outcome."""
        return self._made

    def folder(self, position: int) -> Path:
        attempt = self._group.attempts[position]
        return self._attempts_folder / attempt_name(attempt.batch.index, attempt.number)

    def accept(self, report: Report) -> None:
        """The running batch has ended. Raises GarbageError if it is not the one that runs."""
        if report.position != self.current or report.position >= len(self._group.attempts):
            raise GarbageError(f"a report on batch {report.position}, {self.current} is running")
        self._reports.append(report)
        self._last_clock = time.perf_counter()
        self._last_time = time.time()

    def early(self) -> list[Delivery]:
        """Outcomes that are final while the process still runs: not those with outputs, which
        are read only when nobody is left who could change them, or are too large to be streamed.
        """
        if self._with_outputs:
            return []
        # The log of a batch is complete when the next one has begun to write.
        ready = min(len(self._reports), max(self.logs.position, 0))
        return self._outcomes(ready)

    def end(self, cause: Cause | None, usage: Usage) -> None:
        """The process is gone. If it had not done all its work, blame the running batch."""
        position = self.current
        if position < len(self._group.attempts):
            cause = cause or failures.cause_of_death(0)
            self.logs.say(f"\n[dask-runner: {cause.kind}: {cause.message}]\n".encode())
            known = sum(report.cpu for report in self._reports)
            self._reports.append(
                Report(
                    position,
                    self._last_time,
                    time.perf_counter() - self._last_clock,
                    max(0.0, usage.cpu - known),
                    usage.max_rss,
                    max(0, usage.bytes_written - sum(r.bytes_written for r in self._reports)),
                    cause=cause,
                )
            )
        elif len(self._reports) == 1:
            self._reports[0] = _with_usage(self._reports[0], usage)
        self.logs.finish()

    def to_validate(self) -> list[tuple[int, Attempt, Path]]:
        """The batches whose work went well, whose outputs nobody has looked at yet."""
        return [
            (position, attempt, self.folder(position))
            for position, attempt in enumerate(self._group.attempts[: len(self._reports)])
            if any(not output.returned for output in attempt.batch.outputs)
            and position not in self._verdicts
            and self._reports[position].cause is None
        ]

    def validated(self, verdict: Report) -> None:
        """The outputs of a batch have been read, or could not be."""
        self._verdicts[verdict.position] = verdict

    def fail_validation(self, position: int, cause: Cause, tail: bytes = b"") -> None:
        """The process that read the outputs died of them."""
        if cause.kind is not FailureKind.CANCELLED:
            said = tail.decode(errors="replace").strip()
            message = f"reading the outputs: {cause.message}" + (f": {said}" if said else "")
            cause = Cause(
                kind=FailureKind.OUTPUT, message=message, cause=f"reading outputs: {cause.message}"
            )
        self._verdicts[position] = Report(position, cause=cause)

    def fail_all(self, cause: Cause) -> None:
        """Nothing of what ran can be trusted or published."""
        for position, report in enumerate(self._reports):
            if report.cause is None:
                self._verdicts[position] = Report(position, cause=cause)

    def rest(self) -> list[Outcome]:
        """The outcomes of all attempts that have none yet, after `end`."""
        ran: list[Outcome] = [*self._outcomes(len(self._reports))]
        returned = [
            Outcome(
                batch=attempt.batch.index,
                attempt=attempt.number,
                status=OutcomeStatus.RETURNED,
                host=self._host,
            )
            for attempt in self._group.attempts[self._made :]
        ]
        self._made = len(self._group.attempts)
        return ran + returned

    def _outcomes(self, until: int) -> list[Delivery]:
        made = [self._outcome(position) for position in range(self._made, until)]
        self._made = max(self._made, until)
        return made

    def _outcome(self, position: int) -> Delivery:
        attempt, report = self._group.attempts[position], self._reports[position]
        verdict = self._verdicts.get(position)
        cause = report.cause or (verdict.cause if verdict is not None else None)
        cause = cause or returns.complaint(attempt.batch, report.files)
        contents = report.files if cause is None else {}
        if report.files:
            # They may be large, and the ledger is in a cycle that nobody collects for long.
            self._reports[position] = msgspec.structs.replace(report, files={})
        log, tail = self.logs.take(position)
        if cause is not None:
            folders = [self._attempts_folder, *self._scratch_folders()]
            cause = failures.or_disk_full(cause, folders)
        checked = verdict.outputs if cause is None and verdict is not None else ()
        return Delivery(
            batch=attempt.batch.index,
            attempt=attempt.number,
            status=OutcomeStatus.DONE if cause is None else OutcomeStatus.FAILED,
            host=self._host,
            started=self._stamp(report.started),
            wall=report.wall,
            cpu=report.cpu,
            max_rss=report.max_rss,
            bytes_written=report.bytes_written,
            log=log,
            outputs=(*checked, *returns.described(contents)),
            failure=None if cause is None else cause.failure(tail),
            counters=report.counters,
            contents=contents,
        )

    def _scratch_folders(self) -> list[Path]:
        scratch = self._group.limits.scratch
        return [text_to_path(scratch)] if scratch else []

    def _stamp(self, moment: float) -> str:
        second = int(moment)
        if self._second[0] != second:
            text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            self._second = (second, text)
        return f"{self._second[1]}.{int(moment % 1 * 1000):03d}Z"

    def _log_name(self, position: int) -> str:
        attempt = self._group.attempts[position]
        return f"{attempt_name(attempt.batch.index, attempt.number)}/{LOG_NAME}"

    def _head(self, position: int) -> bytes:
        """What a log opens with."""
        attempt = self._group.attempts[position]
        versions = " ".join(f"{name}={value}" for name, value in self._group.versions.items())
        lines = {
            "host": f"{self._host} ({socket.gethostname()})",
            "user": self._user,
            "folder": path_to_text(self.folder(position)),
            "start": self._stamp(time.time()),
            "versions": versions,
            "run": self._group.run,
            "attempt": str(attempt.number),
            "batch": msgspec.json.encode(attempt.batch).decode(),
        }
        text = "".join(f"# {name}: {_on_one_line(value)}\n" for name, value in lines.items())
        return text.encode(errors="backslashreplace")


def _on_one_line(value: str) -> str:
    """A folder's name may hold a newline, and must not look like a line of the head."""
    if value.isprintable():
        return value
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in value
    )


def _with_usage(report: Report, usage: Usage) -> Report:
    """A single batch has used all that its tree has used, also what it did not wait for."""
    return msgspec.structs.replace(
        report,
        cpu=max(report.cpu, usage.cpu),
        max_rss=max(report.max_rss, usage.max_rss),
        bytes_written=max(report.bytes_written, usage.bytes_written),
    )
