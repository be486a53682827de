"""The workload `reconstruct`: every event of a folder of EVNT files, in ranges, through the steps.

Owns the plan (which events are in which batch, what its outputs are called) and the merge. The
steps themselves are run by `steps`.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Self

from msgspec import Struct

from dask_runner.batch import Batch, InputFile, InputRange, PlannedOutput, least_accepted
from dask_runner.chain import STEPS
from dask_runner.downloads import is_url
from dask_runner.errors import BadInputError
from dask_runner.files import path_to_text, text_to_path
from dask_runner.settings import Settings
from dask_runner.settings.schema import DEFAULT_STEPS, Geometry, StepSettings
from dask_runner.workloads import inputs, joining, names
from dask_runner.workloads.checks import Program
from dask_runner.workloads.external import STEP_PLACEHOLDERS
from dask_runner.workloads.interface import MergedFile, MergeRequest, Plan
from dask_runner.workloads.steps import (
    StepRunner,
    as_external,
    check_steps,
    kept_steps,
    step_seeds,
    tree_of,
    with_setup_resolved,
)


class Reconstruct(Struct, frozen=True, kw_only=True):
    """`steps` on ranges of `batch_size` events; the formats in `keep` are published. `inputs` are
    taken instead of what is in `evnt_dir`, if there are any (see `inputs.resolve`).
    """

    preload: ClassVar[tuple[str, ...]] = (
        "dask_runner.workloads.steps",
        *sorted({step.function.partition(":")[0] for step in STEPS.values()}),
    )
    uses_folder: ClassVar[bool] = True

    evnt_dir: str
    batch_size: int
    seed: int
    patterns: tuple[str, ...] = ("*.EVNT.root", "*.evnt.pool.root")
    keep: tuple[str, ...] = ("AOD", "NTUP")
    steps: tuple[StepSettings, ...] = DEFAULT_STEPS
    geometry: Geometry = Geometry()
    run_number: int = 0
    inputs: tuple[str, ...] = ()

    @classmethod
    def from_settings(cls, settings: Settings, named: Sequence[str] = ()) -> Self:
        """As the settings say, with relative paths and files resolved here, where the user is."""
        values = settings.reconstruct
        return cls(
            evnt_dir=path_to_text(os.path.abspath(Path(settings.generate.evnt_dir).expanduser())),  # noqa: PTH100 - resolves no links
            batch_size=settings.run.batch_size,
            seed=settings.run.seed,
            patterns=values.patterns,
            keep=values.keep,
            steps=tuple(with_setup_resolved(step, Path.cwd()) for step in values.steps),
            geometry=settings.geometry,
            run_number=settings.generate.run_number,
            inputs=tuple(inputs.resolve(text, Path.cwd()) for text in named),
        )

    def plan(self) -> Plan:
        """Open and count every input, then split. Raises BadInputError if there is none."""
        check_steps(self.steps, self.keep)
        folder = text_to_path(self.evnt_dir)
        found = (
            inputs.survey_named(self.inputs)
            if self.inputs
            else inputs.survey(folder, self.patterns)
        )
        if not found.files and not found.problems:
            raise BadInputError(
                f"no file in {folder} matches {' or '.join(self.patterns)}",
                hint="make some with `dask-runner generate`, or give --evnt-dir and --pattern",
            )
        return Plan(
            batches=self._split(folder, found.files),
            inputs=found.files,
            problems=found.problems,
        )

    def run(self, batch: Batch, folder: Path) -> dict[str, float]:
        """The steps on one range, in this process as far as they are built in."""
        return StepRunner(
            steps=self.steps,
            keep=self.keep,
            geometry=self.geometry,
            seed=self.seed,
            run_number=self.run_number,
        ).run(batch, folder)

    def merge(self, request: MergeRequest) -> list[MergedFile]:
        """One file for each kept format, in event order: also batches that were divided later."""
        parts = sorted(request.parts, key=lambda part: _event_order(part.batch))
        merged = []
        for number, step in enumerate(kept_steps(self.steps, self.keep)):
            outputs = [part.batch.outputs[number] for part in parts]
            merged.append(
                joining.join_events(
                    [
                        part.folder / text_to_path(o.name)
                        for part, o in zip(parts, outputs, strict=True)
                    ],
                    request.folder / f"merged.{step.output}.root",
                    tree_of(step),
                    request.metadata,
                    most=sum(output.entries or 0 for output in outputs),
                    least=sum(least_accepted(o.entries or 0, o.acceptance) for o in outputs),
                )
            )
        return merged

    def programs(self) -> list[Program]:
        """The programs of the external steps."""
        external_steps = [as_external(step) for step in self.steps if step.command]
        return [step.program(STEP_PLACEHOLDERS) for step in external_steps]

    def _split(self, folder: Path, files: Sequence[InputFile]) -> list[Batch]:
        paths = [inputs.stem_path(file.path) for file in files]
        if not self.inputs:
            paths = [path.relative_to(folder) for path in paths]
        stems = names.stems(paths)
        batches: list[Batch] = []
        for file, stem in zip(files, stems, strict=True):
            for part in split(file, self.batch_size):
                batches.append(
                    Batch(
                        index=len(batches),
                        workload="reconstruct",
                        count=part.count,
                        inputs=(part,),
                        parameters=step_seeds(self.steps, self.seed, len(batches)),
                        outputs=self._outputs(stem, part, file.entries),
                    )
                )
        return batches

    def _outputs(self, stem: str, part: InputRange, entries: int) -> tuple[PlannedOutput, ...]:
        outputs = []
        acceptance = 1.0
        for step in self.steps:
            acceptance *= step.acceptance
            tree = tree_of(step)
            if step.output in self.keep:
                outputs.append(
                    PlannedOutput(
                        name=names.output_name(stem, part, entries, step.output),
                        tree=tree,
                        entries=part.count if tree else None,
                        acceptance=acceptance,
                    )
                )
        return tuple(outputs)


def split(file: InputFile, size: int) -> Iterator[InputRange]:
    """The event ranges of one file, each of `size` events except the last."""
    for first in range(0, file.entries, size):
        yield InputRange(path=file.path, first=first, count=min(size, file.entries - first))


def _event_order(batch: Batch) -> tuple[tuple[tuple[int, str], ...], int]:
    (part,) = batch.inputs
    path = part.path if is_url(part.path) else text_to_path(part.path)
    return names.natural_key(path), part.first
