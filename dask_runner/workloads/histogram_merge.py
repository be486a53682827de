"""What `merge` writes for a run of histograms: the histograms, or the joined skim.

Owns the names of the files and the content hash, which does not depend on batches or formats.
"""

import hashlib
import os
from pathlib import Path

import msgspec

from dask_runner.files import text_to_path
from dask_runner.histograms import skim_joining, writing
from dask_runner.histograms.result import HistogramResult
from dask_runner.workloads.interface import MergedFile, MergeRequest

_NAMES = ("histograms.root", "histograms.json")
_SKIM_NAMES = ("skim.root", "cutflow.json")
# Where the skim of a batch stands among its outputs.
SKIM_OUTPUT = 1
_CUTFLOW_ENDING = ".json"


def check_name(name: str, *, skim: bool) -> None:
    """Raises UsageError for a name that no format of such a run has."""
    if not skim:
        writing.check_name(name)
    elif Path(name).suffix != _CUTFLOW_ENDING:
        skim_joining.check_name(name)


def write(
    result: HistogramResult, request: MergeRequest, *, skim: bool, tree: str = ""
) -> list[MergedFile]:
    """The files that the request names, or those of the usual names. `tree` is that of a skim.

    Raises UsageError if a format cannot hold the result, BadInputError for a skim that is damaged.
    """
    return [
        _skim(result, request, name, tree)
        if skim and Path(name).suffix != _CUTFLOW_ENDING
        else _histograms(result, request, name)
        for name in request.names or (_SKIM_NAMES if skim else _NAMES)
    ]


def _histograms(result: HistogramResult, request: MergeRequest, name: str) -> MergedFile:
    target = request.folder / name
    writing.write(result, target, request.metadata)
    return MergedFile(
        path=os.fspath(target), bytes=target.stat().st_size, content_hash=content_hash(result)
    )


def _skim(result: HistogramResult, request: MergeRequest, file: str, tree: str) -> MergedFile:
    target = request.folder / file
    metadata = {**request.metadata, **writing.facts(result)}
    parts = [
        part.folder / text_to_path(part.batch.outputs[SKIM_OUTPUT].name) for part in request.parts
    ]
    # A skim has no folders.
    name = tree.rpartition("/")[2]
    entries, content = skim_joining.join(parts, target, name, metadata)
    return MergedFile(
        path=os.fspath(target),
        bytes=target.stat().st_size,
        entries=entries,
        content_hash=content,
    )


def content_hash(result: HistogramResult) -> str:
    """SHA-256 over what was filled, every bin, and the cutflow."""
    digest = hashlib.sha256()
    for filled in result.histograms:
        digest.update(msgspec.json.encode(filled.spec))
        for array in (filled.counts, filled.values, filled.variances):
            digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
        digest.update(str(filled.nan).encode())
    digest.update(msgspec.json.encode(result.cutflow))
    return digest.hexdigest()
