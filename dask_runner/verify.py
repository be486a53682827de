"""Does what the manifest calls done still hold, and are the inputs what they were?

Only looks. `thorough` hashes every byte; otherwise only what looks changed by size or time.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec import Struct

from dask_runner.batch import InputFile, OutputFile
from dask_runner.downloads import is_address, local_copy
from dask_runner.errors import BadInputError, UnreachableError
from dask_runner.files import fingerprint, sha256, text_to_path
from dask_runner.manifest import RunState, Verdict
from dask_runner.run_folder import RunFolder


class LostOutput(Struct, frozen=True, kw_only=True):
    """A published file that is not what the manifest says: `present` if a file is there at all."""

    batch: int
    path: str
    reason: str
    present: bool


class Verification(Struct, frozen=True, kw_only=True):
    """What was looked at and what was found; `stray` are files that no batch has published."""

    batches: int
    files: int
    bytes: int
    lost: tuple[LostOutput, ...] = ()
    stray: tuple[str, ...] = ()
    changed_inputs: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        return not (self.lost or self.changed_inputs)


def verify(state: RunState, folder: RunFolder, *, thorough: bool) -> Verification:
    """Look at all outputs that are called done, and at all inputs."""
    lost: list[LostOutput] = []
    batches = files = size = 0
    for index in state.indices(Verdict.DONE):
        batches += 1
        for output in state.outputs(index):
            files += 1
            size += output.bytes
            found = _look(folder.output(text_to_path(output.name)), output, thorough=thorough)
            if found is not None:
                reason, present = found
                lost.append(
                    LostOutput(
                        batch=index,
                        path=os.fspath(folder.output(text_to_path(output.name))),
                        reason=reason,
                        present=present,
                    )
                )
    return Verification(
        batches=batches,
        files=files,
        bytes=size,
        lost=tuple(lost),
        stray=_stray(state, folder) if thorough else (),
        changed_inputs=changed_inputs(state.inputs, thorough=thorough),
    )


def _look(path: Path, output: OutputFile, *, thorough: bool) -> tuple[str, bool] | None:
    try:
        status = path.stat()
        if status.st_size != output.bytes:
            return f"{status.st_size} bytes instead of {output.bytes}", True
        if (thorough or status.st_mtime_ns != output.mtime_ns) and sha256(path) != output.sha256:
            return "its content has changed", True
    except FileNotFoundError:
        return "is missing", False
    except OSError as error:
        return f"cannot be read: {error.strerror}", True
    return None


def _stray(state: RunState, folder: RunFolder) -> tuple[str, ...]:
    """Files under planned names whose batch is not done: left by a crash, or by somebody else."""
    stray = []
    for index in state.indices(Verdict.PENDING, Verdict.FAILED):
        for output in state.batches[index].outputs:
            path = folder.output(text_to_path(output.name))
            if path.exists():
                stray.append(os.fspath(path))
    return tuple(stray)


def changed_inputs(inputs: Iterable[InputFile], *, thorough: bool) -> tuple[str, ...]:
    """One line for each input that is not what it was when the run was planned."""
    found = (_input_change(file, thorough=thorough) for file in inputs)
    return tuple(line for line in found if line)


def refused_inputs(inputs: Iterable[InputFile]) -> tuple[str, ...]:
    """One line for each input that has changed, and without which the run is not continued."""
    return changed_inputs((file for file in inputs if file.fixed), thorough=False)


def _input_change(file: InputFile, *, thorough: bool) -> str:
    if is_address(file.path):
        return _url_change(file) if file.sha256 else _remote_change(file)
    path = text_to_path(file.path)
    try:
        status = path.stat()
        if status.st_size != file.bytes:
            return f"{path}: {status.st_size} bytes instead of {file.bytes}"
        same_time = status.st_mtime_ns == file.mtime_ns
        if not thorough and same_time:
            return ""
        same = sha256(path) == file.sha256 if file.sha256 else fingerprint(path) == file.fingerprint
        if not same:
            return f"{path}: its content has changed"
    except OSError as error:
        return f"{path}: {error.strerror}"
    return ""


def _remote_change(file: InputFile) -> str:
    """What the server says now of a file that is read where it is."""
    from dask_runner.rootfiles import remote  # noqa: PLC0415  (uproot only if wanted)

    planned = remote.RemoteFacts(bytes=file.bytes, stamp=file.fingerprint)
    try:
        changed = remote.difference(planned, remote.facts(file.path))
    except (BadInputError, UnreachableError) as error:
        return error.message
    return f"{file.path}: {changed}" if changed else ""


def _url_change(file: InputFile) -> str:
    """What was planned is what the hash says: here, or to be had again."""
    try:
        local_copy(file.path, file.sha256, file.bytes)
    except BadInputError as error:
        return error.message
    return ""


def lost_batches(lost: Sequence[LostOutput]) -> list[int]:
    """The batches that have to be done again, in order, each once."""
    return sorted({item.batch for item in lost})
