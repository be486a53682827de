"""Finished parts -> one file for each kind of output, with the counts reconciled.

Owns the refusal of an incomplete run and what the merged file says about what is missing; how
parts are joined is the workload's affair.
"""

import filecmp
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import floor
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from dask_runner import files
from dask_runner.batch import Batch, least_accepted
from dask_runner.errors import FailedBatchesError, StorageError, UsageError
from dask_runner.files import fsync_file, fsync_folder
from dask_runner.manifest import RunState, Verdict
from dask_runner.run_folder import RunFolder
from dask_runner.shipping import load_workload
from dask_runner.verify import verify
from dask_runner.workloads.interface import MergedFile, MergeRequest, NamesMerged, Part, Workload

_RANGES_SHOWN = 10


class MergeResult(Struct, frozen=True, kw_only=True):
    """The merged files, and what is not in them: `events` of `events_total`, `missing` ranges."""

    files: tuple[MergedFile, ...]
    events: int
    events_total: int
    missing: tuple[str, ...] = ()


def merge(
    state: RunState,
    folder: RunFolder,
    *,
    target: Path | None = None,
    acceptance: float = 1.0,
    to: Sequence[Path] = (),
) -> MergeResult:
    """Join the published outputs into files in `target` (default: `merged` beside the outputs), or
    into the files `to`, whose endings say the format.

    Raises FailedBatchesError if the share of done events is below `acceptance` or if a published
    output is not what it was, and UsageError if a merged file exists already.
    """
    workload = load_workload(state.header, state.folder)
    finals = _finals(workload, state, to)
    request = gather(state, folder, acceptance=acceptance)
    if target is not None:
        request = msgspec.structs.replace(request, folder=target.absolute())
    return MergeResult(
        files=_write(workload, request, finals),
        events=sum(part.batch.count for part in request.parts),
        events_total=request.metadata["events_total"],
        missing=tuple(describe_ranges(request.missing)),
    )


def gather(state: RunState, folder: RunFolder, *, acceptance: float = 1.0) -> MergeRequest:
    """What there is to be merged, and what is missing. Raises as `merge`."""
    if not 0 < acceptance <= 1:
        raise UsageError(f"--acceptance {acceptance} is not within (0, 1]")
    parts, missing = _split_by_verdict(state, folder)
    events = sum(part.batch.count for part in parts)
    total = events + sum(batch.count for batch in missing)
    _check_complete(state, folder, missing, events=events, total=total, acceptance=acceptance)
    return MergeRequest(
        parts=parts,
        folder=(folder.path / "merged").absolute(),
        missing=missing,
        metadata=_metadata(state, missing, events=events, total=total),
    )


def _finals(workload: Workload, state: RunState, to: Sequence[Path]) -> dict[str, Path]:
    """The places of the files that the user has named, by name. Raises UsageError."""
    finals: dict[str, Path] = {}
    for path in to:
        if not isinstance(workload, NamesMerged):
            raise UsageError(
                f"--to {path}: the merged files of {state.header.workload.name} have names of "
                "their own",
                hint="--output-dir says the folder",
            )
        workload.check_merged_name(path.name)
        if path.name in finals:
            raise UsageError(f"--to {path}: two files of the name {path.name}")
        if not path.absolute().parent.is_dir():
            raise UsageError(f"--to {path}: there is no folder {path.parent}")
        if path.exists():
            raise _exists(path)
        finals[path.name] = path.absolute()
    return finals


def _split_by_verdict(state: RunState, folder: RunFolder) -> tuple[list[Part], list[Batch]]:
    parts: list[Part] = []
    missing: list[Batch] = []
    for batch in state.batches:
        verdict = state.verdict(batch.index)
        if verdict is Verdict.DONE:
            parts.append(Part(batch=batch, folder=folder.outputs))
        elif verdict is not Verdict.SUPERSEDED:
            missing.append(batch)
    return parts, missing


def _check_complete(
    state: RunState,
    folder: RunFolder,
    missing: list[Batch],
    *,
    events: int,
    total: int,
    acceptance: float,
) -> None:
    name = state.header.timestamp
    if not events or events < least_accepted(total, acceptance):
        ranges = describe_ranges(missing)
        more = len(ranges) - _RANGES_SHOWN
        shown = [*ranges[:_RANGES_SHOWN], *([f"... and {more} more"] if more > 0 else [])]
        lines = "\n  ".join(shown)
        # Rounded down: what there is must be accepted by the number that is named.
        share = floor(1e4 * events / max(total, 1)) / 1e4
        raise FailedBatchesError(
            f"run {name} is not complete: {len(missing)} batches with {total - events} of {total} "
            f"events are missing:\n  {lines}",
            hint=f"`dask-runner rerun {name}` does them"
            + (f"; --acceptance {share:g} merges without them" if share else ""),
        )
    found = verify(state, folder, thorough=False)
    if found.lost:
        lines = "\n  ".join(f"{item.path} {item.reason}" for item in found.lost[:_RANGES_SHOWN])
        raise FailedBatchesError(
            f"{len(found.lost)} published outputs are not what they were:\n  {lines}",
            hint=f"`dask-runner rerun {name}` makes them again",
        )


def describe_ranges(batches: Iterable[Batch]) -> list[str]:
    """What batches stand for, for people: the input's name and its entries."""
    return [line for batch in batches for line in _describe(batch)]


def _describe(batch: Batch) -> list[str]:
    counted = [item.text for item in batch.inputs if item.count]
    return counted or [f"batch {batch.index} ({batch.count})"]


def _metadata(state: RunState, missing: list[Batch], *, events: int, total: int) -> dict[str, Any]:
    ranges = [
        {"path": item.path, "first": item.first, "count": item.count}
        for batch in missing
        for item in batch.inputs
        if item.count
    ]
    return {
        "run": state.header.timestamp,
        "events": events,
        "events_total": total,
        "missing_batches": [batch.index for batch in missing],
        "missing_ranges": ranges,
    }


def _write(
    workload: Workload, request: MergeRequest, finals: Mapping[str, Path]
) -> tuple[MergedFile, ...]:
    """Merge into a folder beside the target, then give each file its name, without overwriting."""
    target = next((path.parent for path in finals.values()), request.folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=".merge-", dir=target))
    except OSError as error:
        raise StorageError(f"cannot write to {target}: {error.strerror}") from error
    try:
        made = workload.merge(msgspec.structs.replace(request, folder=beside, names=tuple(finals)))
        # Drawn again, it is not written again.
        kept = isinstance(workload, NamesMerged) and not finals
        places = [(file, _final(file, finals, target)) for file in made]
        return _publish_all(places, beside, kept=kept)
    except OSError as error:
        raise StorageError(f"cannot write to {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(beside)


def _final(file: MergedFile, finals: Mapping[str, Path], target: Path) -> Path:
    name = Path(file.path).name
    return finals.get(name, target / name)


def _publish_all(
    made: Iterable[tuple[MergedFile, Path]], beside: Path, *, kept: bool
) -> tuple[MergedFile, ...]:
    """All files get their names, or none: half a merge would stand in the way of the next. Those
    that are there with the same bytes are `kept`, if that is allowed.
    """
    done: list[MergedFile] = []
    there = [
        msgspec.structs.replace(file, path=os.fspath(final))
        for file, final in made
        if kept and _is_same(beside / final.name, final)
    ]
    names = {file.path for file in there}
    try:
        for file, final in made:
            if os.fspath(final) not in names:
                done.append(_publish(file, beside, final))
    except (UsageError, StorageError):
        for file in done:
            Path(file.path).unlink()
        raise
    return (*there, *done)


def _is_same(one: Path, other: Path) -> bool:
    return other.is_file() and filecmp.cmp(one, other, shallow=False)


def _publish(file: MergedFile, beside: Path, final: Path) -> MergedFile:
    try:
        with _near(beside / final.name, final) as source:
            fsync_file(source)
            os.link(source, final)
    except FileExistsError as error:
        raise _exists(final) from error
    except OSError as error:
        raise StorageError(f"cannot write {final}: {error.strerror}") from error
    fsync_folder(final.parent)
    return msgspec.structs.replace(file, path=os.fspath(final))


@contextmanager
def _near(source: Path, final: Path) -> Iterator[Path]:
    """The file on the disk of its final place, for a link: itself, or a copy."""
    if source.stat().st_dev == final.parent.stat().st_dev:
        yield source
        return
    with files.beside(final) as copy:
        shutil.copyfile(source, copy)
        shutil.copymode(source, copy)
        yield copy


def _exists(path: Path) -> UsageError:
    return UsageError(
        f"{path} exists already and is not overwritten",
        hint="remove it, or merge to another folder with --output-dir",
    )
