"""One step of a batch done by a foreign program: Athena's transforms, or anything like them.

Owns what counts as success of such a program: its setup, exit code, log, jobReport.json and the
events that are really in its output. Believes the file, not the report. See docs/external-steps.md.
"""

import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from dask_runner import rootfiles
from dask_runner.batch import BatchFailedError, FailureKind, least_accepted
from dask_runner.errors import BadInputError, UsageError
from dask_runner.workloads import clean_shell, template
from dask_runner.workloads.checks import Program
from dask_runner.workloads.clean_shell import ShellEnd, Stage
from dask_runner.workloads.external_log import LogScan, check_patterns
from dask_runner.workloads.job_report import JobReport, read_report, remove_report

_COMMON = frozenset(
    ("output", "max_events", "seed", "run_seed", "run_number", "job_number", "python")
)
STEP_PLACEHOLDERS = _COMMON | {"input", "first"}
GENERATE_PLACEHOLDERS = _COMMON | {"first_event"}

# Exit codes of ATLAS job transforms. 4 to 19 and 38 are errors of arguments and configuration,
# which no host changes.
_FINAL_CODES = frozenset({*range(4, 20), 38})
_KIND_OF_CODE = {
    67: FailureKind.TIMEOUT,
    68: FailureKind.LOG_ERROR,
    69: FailureKind.SETUP,
}
_SIGNAL_OFFSET = 128


class ExternalStep(Struct, frozen=True, kw_only=True):
    """A foreign program as a step. Without `tree`, the events of its output are not counted;
    otherwise they must be within [`acceptance` * expected, expected].
    """

    name: str
    command: str
    setup: str = ""
    tree: str = ""
    acceptance: float = 1.0
    error_patterns: tuple[str, ...] = ()
    ignore_patterns: tuple[str, ...] = ()

    def check(self, allowed: Collection[str], *, needed: Sequence[str]) -> None:
        """Refuse unknown or missing placeholders and wrong patterns, before anything runs."""
        where = f"the command of step {self.name!r}"
        used = template.from_text(self.command, allowed, where=where).placeholders
        missing = [f"{{{name}}}" for name in needed if name not in used]
        if missing:
            raise UsageError(
                f"{where} does not use {', '.join(missing)}",
                hint="a step must know where to read and write, and the first which events to do",
            )
        check_patterns(self.error_patterns, f"error_patterns of step {self.name!r}")
        check_patterns(self.ignore_patterns, f"ignore_patterns of step {self.name!r}")

    def program(self, allowed: Collection[str]) -> Program:
        """What the step starts, to be looked up by the dry test."""
        values = {**dict.fromkeys(allowed, "0"), "python": sys.executable}
        where = f"step {self.name!r}"
        word = template.from_text(self.command, allowed, where=where).shell_words(values)[0]
        return Program(where=where, word=word, setup=self.setup)


class StepEnd(Struct, frozen=True, kw_only=True):
    """What a successful step left: the number of events, if they are counted."""

    entries: int | None
    counters: dict[str, float]


def run(
    step: ExternalStep, values: Mapping[str, str], *, folder: Path, output: Path, expected: int
) -> StepEnd:
    """Run the step in its own clean shell and judge it. Raises BatchFailedError."""
    values = {**values, "python": sys.executable}
    words = template.from_text(step.command, values.keys(), where=step.name).shell_words(values)
    print(f"step {step.name}: {' '.join(words)}", flush=True)  # noqa: T201 - the batch's log
    remove_report(folder)
    scan = LogScan(step.error_patterns, step.ignore_patterns)
    end = clean_shell.run(
        words, setup=step.setup, folder=folder, name=step.name, on_output=scan.feed
    )
    scan.close()
    report = read_report(folder, keep_as=f"{step.name}.jobReport.json")
    _judge_end(step.name, end, scan, report)
    _judge_log(step.name, scan)
    entries = _judge_output(step, output, expected, report)
    return StepEnd(entries=entries, counters={"ignored_log_lines": float(scan.ignored)})


def _judge_end(name: str, end: ShellEnd, scan: LogScan, report: JobReport | None) -> None:
    """Setup, signal, exit code of the process, exit code of its report: the first that is wrong."""
    why = _why(scan, report)
    if end.stage is Stage.SETUP:
        raise BatchFailedError(
            FailureKind.SETUP,
            f"step {name}: the setup failed or the command was not found (exit code {end.code})"
            + why,
            cause=f"{name} setup {spelled(end.code)}{why}",
            exit_code=end.code,
        )
    if end.code != 0:
        raise exit_failure(f"step {name}", end.code, why)
    if report is not None and report.exitCode not in (0, None):
        raise exit_failure(f"step {name} (by its jobReport.json)", report.exitCode, why)


def exit_failure(what: str, code: int, why: str = "", *, atlas: bool = True) -> BatchFailedError:
    """The failure that an exit code means; a negative one, or one above 128, is a signal."""
    number = -code if code < 0 else code - _SIGNAL_OFFSET
    if number in set(signal.Signals):
        name = signal.Signals(number).name
        message, kind = f"{what} was killed by {name}{why}", FailureKind.SIGNAL
    else:
        message, kind = f"{what} ended with exit code {code}{why}", FailureKind.EXIT_CODE
        kind = _KIND_OF_CODE.get(code, kind) if atlas else kind
    return BatchFailedError(
        kind,
        message,
        cause=f"{what} {kind} {spelled(code)}{why}",
        exit_code=code,
        final=atlas and code in _FINAL_CODES,
    )


def spelled(code: int) -> str:
    """A code in letters: numbers are taken out of causes, since most of them vary."""
    return "".join("abcdefghij"[int(digit)] for digit in str(abs(code)))


def _why(scan: LogScan, report: JobReport | None) -> str:
    said = [report.exitMsg if report is not None else None, scan.first]
    return "".join(f": {text}" for text in said if text and text != "OK")


def _judge_log(name: str, scan: LogScan) -> None:
    if scan.errors:
        raise BatchFailedError(
            FailureKind.LOG_ERROR,
            f"step {name}: {scan.errors} error lines in its output, the first: {scan.first}",
            cause=f"{name} log error: {scan.first}",
        )


def _judge_output(
    step: ExternalStep, output: Path, expected: int, report: JobReport | None
) -> int | None:
    if not output.is_file():
        raise BatchFailedError(
            FailureKind.OUTPUT,
            f"step {step.name}: exit code 0, but no output {output.name}",
            cause=f"{step.name} no output",
        )
    if not step.tree:
        return None
    try:
        entries = rootfiles.validate(output, step.tree)
    except BadInputError as error:
        raise BatchFailedError(
            FailureKind.OUTPUT,
            f"step {step.name}: {error.message}",
            cause=f"{step.name} unreadable output",
        ) from error
    claimed = None if report is None else report.entries_of(output.name)
    if claimed is not None and claimed != entries:
        raise BatchFailedError(
            FailureKind.OUTPUT,
            f"step {step.name}: {output.name} has {entries} events,"
            f" but jobReport.json claims {claimed}",
            cause=f"{step.name} nentries differ",
        )
    if not least_accepted(expected, step.acceptance) <= entries <= expected:
        raise BatchFailedError(
            FailureKind.OUTPUT,
            f"step {step.name}: {output.name} has {entries} events, expected {expected}"
            f" (acceptance {step.acceptance:g})",
            cause=f"{step.name} wrong number of events",
        )
    return entries
