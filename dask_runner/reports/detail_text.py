"""One run or one batch in full as text."""

import shlex
from collections.abc import Iterator
from typing import Any

import msgspec
from rich.text import Text

from dask_runner.batch import Batch
from dask_runner.progress import duration
from dask_runner.reports.detail import AttemptDetail, BatchDetail, RunDetail
from dask_runner.reports.layout import Pieces, cell, fields, moment, more, plural, size, verdict
from dask_runner.reports.summary_text import summary

_INPUTS_SHOWN = 10
_NOTES_SHOWN = 20
# Characters of a list on one line.
_LONGEST = 1000


def run_detail(view: RunDetail) -> Pieces:
    """How the run was made, its plan, its settings, its history, then its numbers."""
    return [
        *_section("made"),
        *fields(_made(view), "  "),
        *_section("plan"),
        *fields(_plan(view), "  "),
        *_section("settings"),
        *fields(_flat(view.header.settings), "  "),
        *_section("inputs", len(view.inputs)),
        *(
            cell(f"  {file.path}  {plural(file.entries, 'entry')}  {size(file.bytes)}")
            for file in view.inputs[:_INPUTS_SHOWN]
        ),
        *more(min(len(view.inputs), _INPUTS_SHOWN), len(view.inputs), "inputs"),
        *_section("notes", len(view.notes)),
        *more(min(len(view.notes), _NOTES_SHOWN), len(view.notes), "notes before these"),
        *(
            cell(f"  {moment(note.time)}  {note.kind}: {note.text}")
            for note in view.notes[-_NOTES_SHOWN:]
        ),
        Text(),
        *summary(view.summary),
    ]


def _section(name: str, count: int | None = None) -> Pieces:
    if count == 0:
        return []
    return [Text(name if count is None else f"{name} ({count})", "bold")]


def _made(view: RunDetail) -> Iterator[tuple[str, object]]:
    header = view.header
    yield "command", shlex.join(header.argv)
    yield "created", f"{moment(header.created)} by {header.user or '?'} on {header.host or '?'}"
    yield "label", view.summary.label
    yield "code", header.code_version
    yield "versions", ", ".join(f"{name} {value}" for name, value in header.versions.items())
    yield "seed", header.seed
    yield "workload", header.workload.name
    yield from _flat(header.workload.configuration, "workload")
    if view.driver is not None:
        yield "driver", f"process {view.driver.pid} on {view.driver.host}"


def _plan(view: RunDetail) -> Iterator[tuple[str, object]]:
    counts = f"{view.summary.total}, {plural(view.summary.events.total, 'event')}"
    yield "batches", counts
    for batch in (*view.first, *view.last):
        yield f"batch {batch.index}", _work(batch)


def _work(batch: Batch) -> str:
    inputs = [
        f"{item.path}[{item.first}:{item.first + item.count}]"
        for item in batch.inputs
        if item.count
    ]
    parameters = [f"{name}={_json(value)}" for name, value in batch.parameters.items()]
    outputs = [output.name for output in batch.outputs]
    return " ".join([*inputs, *parameters, *(["->", *outputs] if outputs else [])])


def _left_out(number: int) -> Iterator[tuple[str, object]]:
    if number > 0:
        yield "", f"... and {number} more inputs"


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested settings as dotted names."""
    for name, value in values.items():
        dotted = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(value, dict):
            yield from _flat(value, dotted)
        else:
            yield dotted, _short(value)


def _short(value: Any) -> str:
    """A list of hundreds of files or numbers would hide all else; --json has it."""
    text = _json(value)
    if not isinstance(value, list) or len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]}... ({len(value)} in all)"


def _json(value: Any) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        return repr(value)


def batch_detail(view: BatchDetail) -> Pieces:
    """A batch, its attempts, and what it published."""
    batch = view.batch
    state = " (running)" if view.running else ""
    return [
        Text.assemble(
            ("batch ", "bold"),
            cell(f"{batch.index} of run {view.timestamp}: ", "bold"),
            verdict(view.verdict),
            state,
        ),
        *fields(
            [
                ("workload", batch.workload),
                ("events", batch.count),
                *(("input", item.text) for item in batch.inputs[:_INPUTS_SHOWN]),
                *_left_out(len(batch.inputs) - _INPUTS_SHOWN),
                *_flat(batch.parameters),
                *(("to write", output.name) for output in batch.outputs),
                ("split into", " ".join(map(str, view.parts))),
                ("part of", view.part_of),
            ],
            "  ",
        ),
        *(piece for attempt in view.attempts for piece in _attempt(attempt)),
        *_section("published", len(view.outputs)),
        *(
            cell(f"  {file.path}  {size(file.bytes)}  sha256 {file.sha256}")
            for file in view.outputs
        ),
    ]


def _attempt(attempt: AttemptDetail) -> Pieces:
    published = ", published" if attempt.published else ""
    return [
        Text.assemble((f"attempt {attempt.attempt}: ", "bold"), verdict(attempt.status), published),
        *fields(_attempt_facts(attempt), "  "),
        *(cell(f"  | {line}") for line in _tail(attempt)),
    ]


def _attempt_facts(attempt: AttemptDetail) -> Iterator[tuple[str, object]]:
    yield "host", attempt.host
    yield "sent", moment(attempt.sent)
    yield "started", moment(attempt.started)
    if attempt.wall:
        memory = f", most memory {size(attempt.max_rss)}" if attempt.max_rss else ""
        yield "time", f"{duration(attempt.wall)}, CPU {duration(attempt.cpu)}{memory}"
    for file in attempt.outputs:
        entries = "" if file.entries is None else f"  {plural(file.entries, 'entry')}"
        yield "output", f"{file.name}  {size(file.bytes)}{entries}  sha256 {file.sha256}"
    for name, value in attempt.counters.items():
        yield name, f"{value:.10g}"
    if attempt.failure is not None:
        failure = attempt.failure
        code = "" if failure.exit_code is None else f" (exit code {failure.exit_code})"
        yield "failure", f"{failure.kind.value} {failure.fingerprint}: {failure.message}{code}"
        yield "at fault", failure.path
    yield "log", attempt.log
    if attempt.log_slice is not None and attempt.log_slice.dropped:
        yield "dropped", f"{size(attempt.log_slice.dropped)} of the log, by its cap"


def _tail(attempt: AttemptDetail) -> list[str]:
    return attempt.failure.tail.splitlines() if attempt.failure is not None else []
