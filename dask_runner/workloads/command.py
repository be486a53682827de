"""The workload `command`: any program as batches, with declared outputs and parameters.

Owns the placeholders of a command line and of output names. What the program does is its own
affair: success is exit code 0 and all declared outputs.
"""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self
from urllib.parse import unquote_to_bytes

from msgspec import Struct

from dask_runner import seeds
from dask_runner.batch import Batch, BatchFailedError, FailureKind, PlannedOutput
from dask_runner.errors import UsageError
from dask_runner.files import path_to_text, text_to_path
from dask_runner.run_folder import LOG_NAME
from dask_runner.workloads import clean_shell, command_merge, parameter_lists, template
from dask_runner.workloads.checks import Program
from dask_runner.workloads.clean_shell import Stage
from dask_runner.workloads.external import exit_failure, spelled
from dask_runner.workloads.interface import MergedFile, MergeRequest, Plan
from dask_runner.workloads.shipped import VARIABLE
from dask_runner.workloads.template import Template

_NAME = "command"
_SHOWN = 10
# What is in an attempt folder besides outputs.
_TAKEN = frozenset({LOG_NAME, f"{_NAME}.sh", f"{_NAME}.setup.sh"})
_LONGEST_NAME = 255


class Command(Struct, frozen=True, kw_only=True):
    """`words` (in the text form of paths) run `number` times, or once for each set of values of
    `parameters`: a CSV file, or `-` for the lines of stdin. `outputs` are names of files. With
    `shipped`, `{shipped}` is the folder of what was shipped.
    """

    preload: ClassVar[tuple[str, ...]] = ("dask_runner.workloads.command",)
    uses_folder: ClassVar[bool] = True

    words: tuple[str, ...]
    seed: int
    number: int = 0
    outputs: tuple[str, ...] = ()
    setup: str = ""
    parameters: str = ""
    merge_command: str = ""
    shipped: bool = False

    @classmethod
    def from_options(
        cls,
        *,
        words: Sequence[str],
        number: int | None,
        outputs: Sequence[str],
        setup: Path | None,
        parameters: str,
        merge_command: str,
        seed: int,
        shipped: bool = False,
    ) -> Self:
        """From a command line: what is a path there is resolved here, where the user is."""
        here = Path.cwd()
        if setup is not None and not (here / setup).is_file():
            raise UsageError(f"--setup {setup}: no such file")
        if parameters not in {"", parameter_lists.STDIN}:
            parameters = path_to_text(here / Path(parameters).expanduser())
        if not outputs and any("{output}" in word for word in words):
            outputs = ["{index}.out"]
        return cls(
            words=tuple(path_to_text(word) for word in _resolved(words, here)),
            seed=seed,
            number=number or 0,
            outputs=tuple(outputs),
            setup="" if setup is None else clean_shell.setup_text(os.fspath(setup), here),
            parameters=parameters,
            merge_command=merge_command,
            shipped=shipped,
        )

    def plan(self) -> Plan:
        """One batch for each set of values. Raises UsageError for a wrong command line."""
        values = self._values()
        columns = set(values[0])
        self._template(self._reserved | columns)
        names = [
            template.from_words([name], {"index", *columns}, where="--output", variables=False)
            for name in self.outputs
        ]
        batches = [
            Batch(
                index=index,
                workload="command",
                parameters={
                    "seed": seeds.batch_seed(self.seed, index),
                    "values": {key: path_to_text(value) for key, value in row.items()},
                },
                outputs=tuple(
                    PlannedOutput(name=path_to_text(_name(name, {**row, "index": str(index)})))
                    for name in names
                ),
            )
            for index, row in enumerate(values)
        ]
        _refuse_shared(batches)
        command_merge.check(self.merge_command)
        return Plan(batches=batches, notes=self._notes())

    def run(self, batch: Batch, folder: Path) -> dict[str, float]:
        """Run the program in the batch's folder."""
        values = self._batch_values(batch, folder)
        words = self._template(values.keys()).shell_words(values)
        end = clean_shell.run(words, setup=self.setup, folder=folder, name=_NAME)
        if end.stage is Stage.SETUP:
            raise BatchFailedError(
                FailureKind.SETUP,
                f"the setup failed or the program was not found (exit code {end.code})",
                cause=f"command setup {spelled(end.code)}",
                exit_code=end.code,
            )
        if end.code != 0:
            raise exit_failure("the program", end.code, atlas=False)
        _check_outputs(batch, folder)
        return {}

    def merge(self, request: MergeRequest) -> list[MergedFile]:
        """Join each declared output over all batches, in batch order."""
        parts = sorted(request.parts, key=lambda part: part.batch.index)
        return [
            command_merge.merge(
                [part.folder / text_to_path(part.batch.outputs[k].name) for part in parts],
                request.folder / name,
                request.metadata,
                command=self.merge_command,
                setup=self.setup,
            )
            for k, name in enumerate(command_merge.names(self.outputs))
        ]

    def programs(self) -> list[Program]:
        """The program, if it is the same for all batches."""
        word = text_to_word(self.words[0])
        if "{" in word:
            return []
        (quoted,) = template.from_words([word], (), where=_NAME, variables=False).shell_words({})
        return [Program(where="the command", word=quoted, setup=self.setup)]

    def _values(self) -> list[dict[str, str]]:
        if not self.parameters:
            if not self.number:
                raise UsageError("how many batches? -n NUMBER, or --parameters FILE or -")
            return [{} for _ in range(self.number)]
        if self.number:
            raise UsageError("-n and --parameters exclude each other: each line is a batch")
        return parameter_lists.read(self.parameters, reserved=self._reserved)

    @property
    def _reserved(self) -> frozenset[str]:
        """`{output}` is the first declared output, `{output2}` the second, and so on."""
        count = max(len(self.outputs), 1)
        names = ["index", "seed", "output", *(f"output{k + 1}" for k in range(1, count))]
        return frozenset([*names, "shipped"] if self.shipped else names)

    def _template(self, known: Collection[str]) -> Template:
        words = [text_to_word(word) for word in self.words]
        # These words went through the user's own shell: a dollar that is left is meant as one.
        return template.from_words(words, known, where="the command", variables=False)

    def _batch_values(self, batch: Batch, folder: Path) -> dict[str, str]:
        row = batch.parameters["values"]
        values = {key: text_to_word(value) for key, value in row.items()}
        values["index"] = str(batch.index)
        values["seed"] = str(batch.parameters["seed"])
        if self.shipped:
            values["shipped"] = os.environ[VARIABLE]
        for k, output in enumerate(batch.outputs):
            key = "output" if k == 0 else f"output{k + 1}"
            values[key] = os.fspath(folder / text_to_path(output.name))
        return values

    def _notes(self) -> tuple[str, ...]:
        """Batches run elsewhere: a word that is a file here will not be found there."""
        return tuple(
            f"{word!r} is a file here, but batches run in folders of their own: "
            f"write ./{word} to pass its full path"
            for word in map(text_to_word, self.words[1:])
            if word and not word.startswith("/") and Path(word).exists()
        )


def text_to_word(text: str) -> str:
    """Undoes `path_to_text` for what is not a path, and must not be tidied up like one."""
    return os.fsdecode(unquote_to_bytes(text)) if "%" in text else text


def _resolved(words: Sequence[str], here: Path) -> list[str]:
    """The program, and what is written as a relative path and exists, as absolute paths."""
    if not words:
        raise UsageError("the command is empty", hint="dask-runner command -n 10 -- ./my_job.sh")
    resolved = [word if not _is_here(word, here) else os.fspath(here / word) for word in words]
    program = words[0]
    if "/" in program and "{" not in program:
        path = here / Path(program).expanduser()
        if not path.is_file():
            raise UsageError(f"{program}: no such program")
        if not os.access(path, os.X_OK):
            raise UsageError(f"{program}: is not executable", hint=f"chmod +x {program}")
        resolved[0] = os.path.normpath(path)
    return resolved


def _is_here(word: str, here: Path) -> bool:
    return word.startswith(("./", "../")) and (here / word).exists()


def _name(name: Template, values: Mapping[str, str]) -> str:
    """The name of an output. Refuses what is not a plain name in the batch's folder."""
    text = name.text(values)
    if "/" in text or "\0" in text or text in {"", ".", ".."}:
        raise UsageError(f"--output: {text!r} is not a file name", hint="without a folder")
    if len(os.fsencode(text)) > _LONGEST_NAME:
        raise UsageError(f"--output: {text[:40]!r}... is longer than {_LONGEST_NAME} bytes")
    if text in _TAKEN:
        raise UsageError(f"--output: {text!r} is a file of dask-runner's own")
    return text


def _refuse_shared(batches: Iterable[Batch]) -> None:
    """The original scripts let batches overwrite each other's outputs."""
    counts = Counter(output.name for batch in batches for output in batch.outputs)
    shared = [name for name, count in counts.items() if count > 1]
    if shared:
        raise UsageError(
            f"--output: {counts[shared[0]]} batches would write {shared[0]!r}",
            hint="put {index} into the name",
        )


def _check_outputs(batch: Batch, folder: Path) -> None:
    missing = [o.name for o in batch.outputs if not (folder / text_to_path(o.name)).is_file()]
    if missing:
        there = sorted(path.name for path in folder.iterdir() if path.name not in _TAKEN)
        listing = ", ".join(there[:_SHOWN]) or "nothing"
        raise BatchFailedError(
            FailureKind.OUTPUT,
            f"exit code 0, but no {', '.join(missing)}; the program left {listing}",
            cause="the program left no output",
        )
