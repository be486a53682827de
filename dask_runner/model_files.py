"""Files that the batches of a run need as they were at planning: maps and samples of a model.

Owns what such a file is in a plan, and that nobody reads another one in its place. A workload whose
configuration holds `ModelFile`s gives each batch `ranges(files)` as (its last) inputs and the plan
`planned(files)`; so they are copied once to each host that lacks them, and looked at before a
rerun. In a batch `places(files, batch.inputs)` says where they are, and `located` puts that into
the configuration. Refuses a file that has changed, also with --accept-changed-inputs: half of the
results would be of another model.
"""

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

from msgspec import Struct, structs

from dask_runner.batch import BatchFailedError, FailureKind, InputFile, InputRange
from dask_runner.errors import BadInputError
from dask_runner.files import fingerprint, path_to_text, sha256, text_to_path

_CHANGED = "is not the file that the run was planned with"


class ModelFile(Struct, frozen=True, kw_only=True):
    """A file by its absolute path (path text) and its content; `fingerprint` as in InputFile."""

    path: str
    sha256: str
    fingerprint: str

    @property
    def local(self) -> Path:
        return text_to_path(self.path)


@runtime_checkable
class NeedsFiles(Protocol):
    """A trial model, or another configuration, that reads files on the host."""

    def files(self) -> tuple[ModelFile, ...]: ...

    def located(self, places: Mapping[str, Path]) -> Self:
        """The same with its files where they are here; `places` has all planned paths."""


def model_file(path: Path) -> ModelFile:
    """Take a file as it is now. Raises BadInputError if it is none, or cannot be read."""
    whole = Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - resolves no links
    try:
        if not stat.S_ISREG(whole.stat().st_mode):
            # Opening a pipe would wait for a writer for ever.
            raise BadInputError(f"{path}: is not a regular file")
        return ModelFile(
            path=path_to_text(whole), sha256=sha256(whole), fingerprint=fingerprint(whole)
        )
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from error


def files_of(model: object) -> tuple[ModelFile, ...]:
    """The files that a model needs, each once; none if it does not say so."""
    found = model.files() if isinstance(model, NeedsFiles) else ()
    return tuple({file.path: file for file in found}.values())


def ranges(files: Sequence[ModelFile]) -> tuple[InputRange, ...]:
    """The files as inputs of a batch."""
    return tuple(InputRange(path=file.path) for file in files)


def planned(files: Sequence[ModelFile]) -> tuple[InputFile, ...]:
    """The files as inputs of a plan. Raises BadInputError if one has changed since it was taken."""
    return tuple(_planned(file) for file in files)


def check(files: Sequence[ModelFile]) -> None:
    """Raises BadInputError, with all that are not what they were, before a run is continued."""
    wrong = [text for text in map(_difference, files) if text]
    if wrong:
        raise BadInputError(
            "files of the model changed since the run was planned:\n  " + "\n  ".join(wrong),
            hint="bring them back; with other files it is another model: start a new run",
        )


def places(files: Sequence[ModelFile], inputs: Sequence[InputRange]) -> dict[str, Path]:
    """Where the files are on this host, by their planned paths; `inputs` are those of the batch,
    which end with the files, in their order. Raises BatchFailedError if one is not what it was.
    """
    found = {}
    for file, item in zip(files, inputs[len(inputs) - len(files) :], strict=True):
        local = text_to_path(item.path)
        try:
            same = fingerprint(local) == file.fingerprint
            why = "" if same else _CHANGED
        except OSError as error:
            why = error.strerror or str(error)
        if why:
            raise BatchFailedError(
                FailureKind.BAD_INPUT, f"{file.path}: {why}", path=file.path, cause=why
            )
        found[file.path] = local
    return found


def located(file: ModelFile, places: Mapping[str, Path]) -> ModelFile:
    """The file where it is on this host."""
    return structs.replace(file, path=path_to_text(places[file.path]))


def _planned(file: ModelFile) -> InputFile:
    try:
        status = file.local.stat()
        difference = _difference(file)
    except OSError as error:
        raise BadInputError(f"{file.path}: {error.strerror}") from error
    if difference:
        raise BadInputError(difference)
    return InputFile(
        path=file.path,
        bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        entries=0,
        fingerprint=file.fingerprint,
        sha256=file.sha256,
        fixed=True,
    )


def _difference(file: ModelFile) -> str:
    try:
        return "" if sha256(file.local) == file.sha256 else f"{file.path}: {_CHANGED}"
    except OSError as error:
        return f"{file.path}: {error.strerror}"
