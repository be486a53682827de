"""What a workload is: the three methods, and the values that pass through them.

A workload is a frozen msgspec Struct whose fields are its configuration: plain JSON, written once
into the manifest's first line, and all that a host needs to run its batches.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from msgspec import Struct, field

from dask_runner.batch import Batch, InputFile


class Plan(Struct, frozen=True, kw_only=True):
    """What is to be done. `problems` are inputs that cannot be used, each with its file;
    a plan with problems is not run unless the user says so. `notes` are for the user's eyes.
    """

    batches: list[Batch]
    inputs: tuple[InputFile, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Part(Struct, frozen=True, kw_only=True):
    """A published batch, as merge sees it: `folder` holds the outputs under their planned names."""

    batch: Batch
    folder: Path


class MergedFile(Struct, frozen=True, kw_only=True):
    """A merged file; `content_hash` is independent of batch size, or "" if there is none."""

    path: str
    bytes: int
    entries: int | None = None
    content_hash: str = ""


class MergeRequest(Struct, frozen=True, kw_only=True):
    """`parts` in batch order, `missing` the batches that have no output, `folder` to write to
    (beside its final place; the driver renames), `metadata` to be written into the file. `names` is
    what the user wants the files to be called, nothing if the workload chooses; always nothing
    unless it is a NamesMerged.
    """

    parts: Sequence[Part]
    folder: Path
    missing: Sequence[Batch] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()


class Results(Struct, frozen=True, kw_only=True):
    """What a batch gives back besides its files: counters, and the contents of its planned outputs
    that are `returned`, by name; at most RETURNED_MAX bytes in all.
    """

    counters: dict[str, float] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


# A counter that divisible workloads give back: s that a batch took before its events or trials.
PREPARE_SECONDS = "prepare_seconds"


class Workload(Protocol):
    """A kind of work that splits into independent batches."""

    # False: batches write no files, and run without a folder of their own.
    uses_folder: ClassVar[bool]

    @property
    def preload(self) -> tuple[str, ...]:
        """Modules that the warm process on the host imports once, before any batch."""

    def plan(self) -> Plan:
        """Split the work into batches. Reads inputs, changes nothing, starts nothing."""

    def run(self, batch: Batch, folder: Path) -> "dict[str, float] | Results":
        """Do one batch in the current process; write the planned outputs into `folder`, which is
        also the working directory, and return counters; or return small outputs with them.

        Raises BatchFailedError or BadInputError with the cause; anything else it raises is recorded
        as an exception of the batch.
        """

    def merge(self, request: MergeRequest) -> list[MergedFile]:
        """Join the published parts, in batch order, into files in `request.folder`."""


@runtime_checkable
class NamesMerged(Protocol):
    """A workload whose merged files may have any name; the ending says the format."""

    def check_merged_name(self, name: str) -> None:
        """Raises UsageError for a name that no format has."""
