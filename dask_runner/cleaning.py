"""Removes what a run left besides its manifest; only on the user's word, under the run's lock."""

import os
import shutil
from pathlib import Path

from msgspec import Struct

from dask_runner.batch import OutputFile
from dask_runner.files import text_to_path
from dask_runner.manifest import Manifest, Note, RunState, Verdict


class Survey(Struct, frozen=True, kw_only=True):
    """What `clean` would remove: files below `folders`, of which `outputs` are published."""

    folders: tuple[str, ...]
    files: int
    bytes: int
    outputs: int


def survey(state: RunState, *, outputs: bool) -> Survey:
    """Count what there is to remove."""
    folder = state.folder
    files = size = 0
    for root, _, names in os.walk(folder.attempts):
        files += len(names)
        size += sum((Path(root) / name).lstat().st_size for name in names)
    folders = [os.fspath(folder.attempts)] if folder.attempts.is_dir() else []
    published = _published(state) if outputs else []
    if published:
        folders.append(os.fspath(folder.outputs))
    return Survey(
        folders=tuple(folders),
        files=files + len(published),
        bytes=size + sum(output.bytes for _, output in published),
        outputs=len(published),
    )


def clean(state: RunState, *, outputs: bool) -> None:
    """Remove attempt folders, and the published outputs if told so; note it in the manifest."""
    with Manifest.open(state.folder) as manifest:
        published = _published(manifest.state) if outputs else []
        folder = manifest.folder
        if published:
            batches = sorted({index for index, _ in published})
            # First the record: a file that is gone while called done would look like a loss.
            manifest.record(Note.lost_output(batches, "removed by clean --outputs"), durable=True)
        for _, output in published:
            folder.output(text_to_path(output.name)).unlink(missing_ok=True)
        if folder.attempts.is_dir():
            shutil.rmtree(folder.attempts)
        text = "attempt folders and logs were removed"
        manifest.record(Note(kind="clean", text=text, data={"outputs": outputs}), durable=True)


def _published(state: RunState) -> list[tuple[int, OutputFile]]:
    return [
        (index, output) for index in state.indices(Verdict.DONE) for output in state.outputs(index)
    ]
