"""The steps of a reconstruction batch, one after the other, in this process if they are built in.

Owns what passes between steps: events in memory between built-in ones, a file to and from external
ones. The first event of the range is skipped to in the first step only; every later step gets all
that its predecessor wrote.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from dask_runner import chain, rootfiles, seeds
from dask_runner.batch import Batch, BatchFailedError, FailureKind
from dask_runner.chain import formats
from dask_runner.chain.formats import EventData
from dask_runner.errors import BadInputError, UsageError
from dask_runner.files import path_to_text, text_to_path
from dask_runner.settings.schema import Geometry, StepSettings
from dask_runner.workloads import clean_shell, external
from dask_runner.workloads.external import STEP_PLACEHOLDERS, ExternalStep
from dask_runner.workloads.inputs import tree_of as input_tree
from dask_runner.workloads.names import check_format

_INPUT_FORMAT = "EVNT"


class _Source(Struct, frozen=True, kw_only=True):
    """Events for the next step: in memory, or `count` from `first` on in the file `path`."""

    path: Path | None = None
    first: int = 0
    count: int = 0
    events: EventData | None = None


class StepRunner(Struct, frozen=True, kw_only=True):
    """Everything about the steps that is the same for all batches."""

    steps: tuple[StepSettings, ...]
    keep: tuple[str, ...]
    geometry: Geometry
    seed: int
    run_number: int

    def run(self, batch: Batch, folder: Path) -> dict[str, float]:
        """Take the batch's range through all steps. Returns counters."""
        (wanted,) = batch.inputs
        source = _Source(path=text_to_path(wanted.path), first=wanted.first, count=wanted.count)
        names = self._names(batch)
        counters = {"events": float(wanted.count)}
        for number, step in enumerate(self.steps):
            began = time.monotonic()
            target = folder / names.get(step.output, f"{step.output}.root")
            if step.command:
                source = self._external(batch, number, source, target, counters)
            else:
                source = self._built_in(step, source, target)
            seconds = time.monotonic() - began
            counters[f"{step.name}_s"] = seconds
            _say(f"step {step.name}: {source.count} events in {seconds:.3f} s")
        return counters

    def _names(self, batch: Batch) -> dict[str, str]:
        """Format -> planned name."""
        steps = kept_steps(self.steps, self.keep)
        return {s.output: o.name for s, o in zip(steps, batch.outputs, strict=True)}

    def _built_in(self, step: StepSettings, source: _Source, target: Path) -> _Source:
        events = source.events
        if events is None:
            events = _read(source, chain.STEPS[step.name].input, step.name)
        result = chain.run_step(step.name, events, self.geometry, self.seed)
        if step.output in self.keep:
            formats.write(target, result)
        return _Source(events=result, count=result.entries)

    def _external(
        self,
        batch: Batch,
        number: int,
        source: _Source,
        target: Path,
        counters: dict[str, float],
    ) -> _Source:
        step = self.steps[number]
        path = source.path
        if path is None:
            path = self._written(number, source, target.parent, batch)
        values = {
            "input": os.fspath(path),
            "output": os.fspath(target),
            # Zero in every step but the first: only there is the file larger than the range.
            "first": str(source.first),
            "max_events": str(source.count),
            "seed": str(batch.parameters["seeds"][step.name]),
            "run_seed": str(self.seed),
            "run_number": str(self.run_number),
            "job_number": str(batch.index + 1),
        }
        try:
            end = external.run(
                as_external(step),
                values,
                folder=target.parent,
                output=target,
                expected=source.count,
            )
        except BatchFailedError as error:
            if number == 0:
                _blame_input(path, error)
            raise
        for key, value in end.counters.items():
            counters[key] = counters.get(key, 0.0) + value
        return _Source(path=target, count=source.count if end.entries is None else end.entries)

    def _written(self, number: int, source: _Source, folder: Path, batch: Batch) -> Path:
        """The file of the events in memory, which the previous step wrote if it is kept."""
        form = self.steps[number - 1].output
        names = self._names(batch)
        if form in names:
            return folder / names[form]
        path = folder / f"{form}.root"
        assert source.events is not None
        formats.write(path, source.events)
        return path


def kept_steps(steps: Sequence[StepSettings], keep: Sequence[str]) -> list[StepSettings]:
    """The steps whose outputs are published: those of a batch are planned in this order."""
    return [step for step in steps if step.output in keep]


def step_seeds(steps: Sequence[StepSettings], seed: int, index: int) -> dict[str, Any]:
    """The parameters of a batch: a seed for each external step. Built-in steps have a stream for
    each event instead.
    """
    found = {
        step.name: seeds.batch_seed(seed, index, number)
        for number, step in enumerate(steps)
        if step.command
    }
    return {"seeds": found} if found else {}


def tree_of(step: StepSettings) -> str:
    """The tree in which the events of a step's output are counted, "" if they are not."""
    return step.tree if step.command else formats.TREE


def as_external(step: StepSettings) -> ExternalStep:
    """The part of the settings that an external step is made of."""
    return ExternalStep(
        name=step.name,
        command=step.command,
        setup=step.setup,
        tree=step.tree,
        acceptance=step.acceptance,
        error_patterns=step.error_patterns,
        ignore_patterns=step.ignore_patterns,
    )


def with_setup_resolved(step: StepSettings, base: Path) -> StepSettings:
    """The step with a setup that means the same wherever it is run."""
    return msgspec.structs.replace(step, setup=clean_shell.setup_text(step.setup, base))


def check_steps(steps: Sequence[StepSettings], keep: Sequence[str]) -> None:
    """Refuse steps that do not fit together, before anything runs. Raises UsageError."""
    before = _INPUT_FORMAT
    forms = [_INPUT_FORMAT]
    for number, step in enumerate(steps):
        check_format(step.output)
        if step.output in forms:
            raise UsageError(f"step {step.name!r}: an earlier step has the output {step.output}")
        if [other.name for other in steps].count(step.name) > 1:
            raise UsageError(f"two steps are called {step.name!r}")
        if step.command:
            _check_external(step, first=number == 0)
        else:
            _check_built_in(step, before)
        before = step.output
        forms.append(before)
    for form in keep:
        if form not in forms[1:]:
            raise UsageError(
                f"reconstruct.keep: no step writes {form!r}", hint=f"they write {forms[1:]}"
            )
    if not keep:
        raise UsageError("reconstruct.keep is empty: there would be no output")


def _check_built_in(step: StepSettings, before: str) -> None:
    known = chain.STEPS.get(step.name)
    if known is None:
        raise UsageError(
            f"step {step.name!r} has no command and is not built in",
            hint=f"built in are {', '.join(chain.STEPS)}",
        )
    if (known.input, known.output) != (before, step.output):
        raise UsageError(
            f"step {step.name!r} makes {known.output} from {known.input},"
            f" but is set to make {step.output} from {before}"
        )


def _check_external(step: StepSettings, *, first: bool) -> None:
    # Without the range every batch would do all events of its input.
    needed = ("input", "output", "first", "max_events") if first else ("input", "output")
    as_external(step).check(STEP_PLACEHOLDERS, needed=needed)


def _read(source: _Source, form: str, step: str) -> EventData:
    """The events of a file: the batch's own input, or what an external step wrote."""
    assert source.path is not None
    try:
        events = formats.read(source.path, first=source.first, count=source.count)
    except BadInputError as error:
        raise _unreadable(source.path, form, step, error.message) from error
    if events.format != form:
        raise _unreadable(source.path, form, step, f"it holds {events.format}, not {form}")
    return events


def _unreadable(path: Path, form: str, step: str, reason: str) -> BatchFailedError:
    if form == _INPUT_FORMAT:
        return _input_failure(path, reason)
    return BatchFailedError(
        FailureKind.OUTPUT,
        f"step {step} cannot read {path.name}, which the step before it wrote: {reason}",
        cause=f"input of {step}",
    )


def _blame_input(path: Path, failure: BatchFailedError) -> None:
    """A foreign program says little about a damaged input: look ourselves before trying again."""
    try:
        rootfiles.validate(path, input_tree(path))
    except BadInputError as error:
        raise _input_failure(path, error.message) from failure


def _input_failure(path: Path, reason: str) -> BatchFailedError:
    """The failure of a batch whose input is not what it was when the run was planned."""
    text = path_to_text(path)
    message = reason if os.fspath(path) in reason else f"{text}: {reason}"
    return BatchFailedError(FailureKind.BAD_INPUT, message, path=text)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the batch's log
