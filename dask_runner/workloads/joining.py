"""Joining the published parts of a run: ROOT files of events, text, CSV.

Owns the reconciliation: what is in the joined file is what the plan said and the parts hold.
Refuses to join what does not belong together, and to guess an order.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dask_runner import rootfiles
from dask_runner.chain import formats
from dask_runner.errors import BadInputError
from dask_runner.workloads.interface import MergedFile


def join_events(
    parts: Sequence[Path],
    target: Path,
    tree: str,
    metadata: Mapping[str, Any],
    *,
    most: int,
    least: int | None = None,
) -> MergedFile:
    """Join files of events. There must be `least` (default `most`) to `most` events.

    Ours are joined in the order of event numbers, others in the order given.
    """
    if tree == formats.TREE:
        entries, content = formats.merge(_in_event_order(parts), target, dict(metadata))
    else:
        trees = rootfiles.concatenate(parts, target, metadata)
        entries = trees.get(tree, 0) if tree else 0
        # The hash is of trees; a file with histograms alone has none.
        content = rootfiles.content_hash(target) if trees else ""
    if tree and not (most if least is None else least) <= entries <= most:
        raise BadInputError(
            f"{target.name}: {entries} events in the parts, but the plan says {most}",
            hint="`dask-runner verify` finds the part that is not what it was",
        )
    return merged_file(target, entries if tree else None, content)


def _in_event_order(parts: Sequence[Path]) -> list[Path]:
    """So that the result does not depend on what the files are called, or how events are divided
    between them. Parts without events (all were filtered) come last.
    """
    keyed = []
    for part in parts:
        table = rootfiles.read(part, formats.TREE, columns=formats.IDENTITY)
        first = tuple(int(table[name][0]) for name in formats.IDENTITY) if table.entries else ()
        keyed.append((not first, first, part))
    return [part for *_, part in sorted(keyed, key=lambda item: item[:2])]


def merged_file(path: Path, entries: int | None = None, content_hash: str = "") -> MergedFile:
    """The description of a file that was just written."""
    return MergedFile(
        path=os.fspath(path),
        bytes=path.stat().st_size,
        entries=entries,
        content_hash=content_hash,
    )
