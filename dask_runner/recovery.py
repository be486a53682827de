"""What a rerun does before it dispatches: complete what a crash interrupted, find what is lost.

Every step may itself be interrupted and done again.
"""

import logging
import os
from pathlib import Path

from dask_runner.batch import Outcome
from dask_runner.errors import BadInputError
from dask_runner.files import fsync_folder, sha256, text_to_path
from dask_runner.manifest import Manifest, Note, NoteKind
from dask_runner.publish import Publisher
from dask_runner.run_folder import RunFolder
from dask_runner.verify import (
    LostOutput,
    changed_inputs,
    lost_batches,
    refused_inputs,
    verify,
)

_log = logging.getLogger(__name__)

_SHOWN = 10


def recover(manifest: Manifest, folder: RunFolder, *, accept_changed_inputs: bool = False) -> None:
    """Bring manifest and disk in line. Raises BadInputError if inputs changed since the plan."""
    refused = refused_inputs(manifest.state.inputs)
    if refused:
        raise BadInputError(
            "files of the model changed since the run was planned:\n  " + "\n  ".join(refused),
            hint="bring them back; with other files it is another model: start a new run",
        )
    changed = changed_inputs(manifest.state.inputs, thorough=False)
    if changed and not accept_changed_inputs:
        raise BadInputError(
            "inputs changed since the run was planned:\n  " + "\n  ".join(changed),
            hint="bring them back, or use --accept-changed-inputs (it is recorded)",
        )
    if changed:
        manifest.record(
            Note(
                kind=NoteKind.CHANGED_INPUTS,
                text="changed inputs were accepted",
                data={"inputs": list(changed)},
            ),
            durable=True,
        )
    accepted = list(manifest.state.accepted)
    if accepted:
        _log.info("finishing the publication of %d batches", len(accepted))
        for outcome in accepted:
            _distrust(outcome, folder)
        Publisher(folder, manifest).publish(accepted)
    lost = verify(manifest.state, folder, thorough=False).lost
    if lost:
        take_back(manifest, folder, lost)


def _distrust(outcome: Outcome, folder: RunFolder) -> None:
    """Put aside files of an accepted attempt that are not what was hashed: nothing made them
    durable, and after a loss of power a file may have its size and not its content. Publication
    then refuses the attempt, and the batch is done again.
    """
    home = folder.attempt(outcome.batch, outcome.attempt)
    for output in outcome.outputs:
        path = home / text_to_path(output.name)
        if path.is_file() and sha256(path) != output.sha256:
            _log.warning("output of batch %d did not survive: %s", outcome.batch, path)
            _move_aside(path, folder.attempts / "damaged")


def take_back(manifest: Manifest, folder: RunFolder, lost: tuple[LostOutput, ...]) -> None:
    """Make the batches of lost outputs pending again. What is left of the outputs is moved to the
    attempts folder: it is evidence, and its name is needed.
    """
    for item in lost[:_SHOWN]:
        _log.warning("output of batch %d is lost: %s %s", item.batch, item.path, item.reason)
    if len(lost) > _SHOWN:
        _log.warning("... and %d more outputs are lost", len(lost) - _SHOWN)
    batches = lost_batches(lost)
    aside = folder.attempts / "damaged"
    for index in batches:
        for output in manifest.state.batches[index].outputs:
            path = folder.output(text_to_path(output.name))
            if path.exists():
                _move_aside(path, aside)
    # Recorded last: whoever is killed before this finds the outputs missing and comes here again.
    text = "; ".join(sorted({item.reason for item in lost}))
    manifest.record(Note.lost_output(batches, text), durable=True)


def _move_aside(path: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        target = folder / f"{path.name}.{number}"
        try:
            os.link(path, target)
        except FileExistsError:
            number += 1
            continue
        break
    path.unlink()
    fsync_folder(folder)
    fsync_folder(path.parent)
