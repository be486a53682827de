"""The workload `generate`: EVNT files with contiguous, unique event numbers, one batch for a file.

Owns the numbering of events and files. The events themselves depend on (seed, run number, event
number) alone, so another batch size or number of files gives the same events in other files.
"""

import importlib.util
import os
from pathlib import Path
from typing import ClassVar, Self

from msgspec import Struct

from dask_runner import seeds
from dask_runner.batch import Batch, PlannedOutput
from dask_runner.chain import formats
from dask_runner.chain.hidden_valley import Sample, resolve_sample
from dask_runner.errors import UsageError
from dask_runner.files import path_to_text, text_to_path
from dask_runner.settings import Settings
from dask_runner.workloads import clean_shell, external, inputs, joining
from dask_runner.workloads.checks import Program
from dask_runner.workloads.continuation import continue_folder
from dask_runner.workloads.external import GENERATE_PLACEHOLDERS, ExternalStep
from dask_runner.workloads.interface import MergedFile, MergeRequest, Plan

# Event 0 exists, but transforms count events from 1.
_FIRST_EVENT = 1


class Generate(Struct, frozen=True, kw_only=True):
    """`files` files of `batch_size` events, the first of them event `first_event` in file number
    `first_file`. With a `command`, a foreign program makes the events, and they are counted in
    `tree`.
    """

    preload: ClassVar[tuple[str, ...]] = ("dask_runner.chain.generate",)
    uses_folder: ClassVar[bool] = True

    sample: Sample
    batch_size: int
    files: int
    seed: int
    evnt_dir: str
    first_event: int = _FIRST_EVENT
    first_file: int = 0
    command: str = ""
    setup: str = ""
    tree: str = formats.TREE

    @classmethod
    def from_settings(cls, settings: Settings, *, extend: bool = False) -> Self:
        """As the settings say, with relative paths and files resolved here, where the user is.

        With `extend`, events and files go on after those that are in the folder.
        """
        values = settings.generate
        folder = Path(os.path.abspath(Path(values.evnt_dir).expanduser()))  # noqa: PTH100 - resolves no links
        # What a foreign program makes of a run number is its own affair.
        sample = (
            Sample(run_number=values.run_number, pythia="")
            if values.command
            else resolve_sample(values)
        )
        after = continue_folder(folder, sample, settings.run.seed) if extend else None
        return cls(
            sample=sample,
            batch_size=values.batch_size,
            files=values.files,
            seed=settings.run.seed,
            evnt_dir=path_to_text(folder),
            first_event=_FIRST_EVENT if after is None else after.first_event,
            first_file=0 if after is None else after.first_file,
            command=values.command,
            setup=clean_shell.setup_text(values.setup, Path.cwd()),
            tree=values.tree if values.command else formats.TREE,
        )

    def plan(self) -> Plan:
        """One batch for each file. Raises UsageError if a file is there already."""
        self._check()
        folder = text_to_path(self.evnt_dir)
        batches = [self._batch(index) for index in range(self.files)]
        for batch in batches:
            path = folder / batch.outputs[0].name
            if path.exists():
                raise UsageError(
                    f"{path} exists already",
                    hint="--extend adds files with new events, or choose another --evnt-dir",
                )
        note = (
            f"events {self.first_event} to {self._last_event} of run number"
            f" {self.sample.run_number}, seed {self.seed}"
        )
        return Plan(batches=batches, notes=(note, *self.sample.notes))

    def run(self, batch: Batch, folder: Path) -> dict[str, float]:
        """Make the events of one file."""
        target = folder / batch.outputs[0].name
        if self.command:
            return self._run_external(batch, target)
        from dask_runner.chain import generate  # noqa: PLC0415  # Pythia is an optional component

        counters = generate.generate_file(
            target,
            self.sample,
            first_event=batch.parameters["first_event"],
            count=batch.count,
            seed=batch.parameters["seed"],
            run_number=self.sample.run_number,
        )
        return {"events": float(batch.count), **counters}

    def merge(self, request: MergeRequest) -> list[MergedFile]:
        """All events into one file."""
        parts = sorted(request.parts, key=lambda part: int(part.batch.parameters["first_event"]))
        files = [part.folder / text_to_path(part.batch.outputs[0].name) for part in parts]
        expected = sum(part.batch.count for part in parts)
        target = request.folder / f"{self.sample.run_number}.merged.{self._ending}"
        return [joining.join_events(files, target, self.tree, request.metadata, most=expected)]

    def programs(self) -> list[Program]:
        """The external generator, if there is one."""
        return [self._step().program(GENERATE_PLACEHOLDERS)] if self.command else []

    @property
    def _ending(self) -> str:
        """By this `run` knows in which tree the events are."""
        return "evnt.pool.root" if self.tree == inputs.POOL_TREE else "EVNT.root"

    @property
    def _last_event(self) -> int:
        return self.first_event + self.files * self.batch_size - 1

    def _check(self) -> None:
        if self.files < 1 or self.batch_size < 1:
            raise UsageError(f"{self.files} files of {self.batch_size} events: nothing to do")
        if self.command:
            self._step().check(
                GENERATE_PLACEHOLDERS, needed=("output", "first_event", "max_events")
            )
            return
        if importlib.util.find_spec("pythia8mc") is None:
            raise UsageError(
                "the embedded generator is not installed",
                hint='pip install "dask-runner[chain]", or set generate.command',
            )
        # Raises UsageError if there are no random numbers for so many events.
        seeds.pythia_seed(self.seed, self.sample.run_number, self._last_event)

    def _step(self) -> ExternalStep:
        return ExternalStep(name="generate", command=self.command, setup=self.setup, tree=self.tree)

    def _batch(self, index: int) -> Batch:
        file = self.first_file + index
        name = f"{self.sample.run_number}.{self.batch_size}.{file}.{self._ending}"
        entries = self.batch_size if self.tree else None
        return Batch(
            index=index,
            workload="generate",
            count=self.batch_size,
            parameters={
                "file": file,
                "first_event": self.first_event + index * self.batch_size,
                "count": self.batch_size,
                # Our own generator has a stream for each event, others have one for each file.
                "seed": seeds.batch_seed(self.seed, file) if self.command else self.seed,
            },
            outputs=(PlannedOutput(name=name, tree=self.tree, entries=entries),),
        )

    def _run_external(self, batch: Batch, target: Path) -> dict[str, float]:
        file = int(batch.parameters["file"])
        values = {
            "output": os.fspath(target),
            "first_event": str(batch.parameters["first_event"]),
            "max_events": str(batch.count),
            "seed": str(batch.parameters["seed"]),
            "run_seed": str(self.seed),
            "run_number": str(self.sample.run_number),
            "job_number": str(file + 1),
        }
        end = external.run(
            self._step(), values, folder=target.parent, output=target, expected=batch.count
        )
        return {"events": float(batch.count), **end.counters}
