"""The content hash of a file: the same for the same data, however it is cut into baskets.

Definition (docs/chain.md): for every tree and every branch, sorted by name, one line

    tree <tab> branch <tab> type <tab> entries <tab> A [<tab> A ...] <newline>

where each A is the SHA-256 of one array of the branch over all its entries in order: for a branch
of numbers its values; for a branch of lists first the running end of each entry's list as 64-bit
integers, then the items. All numbers little-endian. The content hash is the SHA-256 of all lines.
Metadata, compression, basket sizes and the order of branches do not matter.
"""

import hashlib
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from dask_runner.errors import BadInputError
from dask_runner.rootfiles.boundary import opened, tree_names
from dask_runner.rootfiles.reading import chunks_of


class _Column:
    """The running hashes of one branch."""

    def __init__(self) -> None:
        self.type = ""
        self._hashes: list[Any] = []
        self._ends: list[int] = []

    def add(self, layout: Any) -> None:
        self.type = self._walk(layout, 0)

    def _walk(self, layout: Any, level: int) -> str:
        if len(self._hashes) == level:
            self._hashes.append(hashlib.sha256())
            self._ends.append(0)
        if layout.is_list:
            packed = layout.to_ListOffsetArray64(start_at_zero=True)
            ends = np.asarray(packed.offsets)[1:]
            self._hashes[level].update((ends + self._ends[level]).astype("<i8").tobytes())
            if len(ends):
                self._ends[level] += int(ends[-1])
            return "list:" + self._walk(packed.content[: packed.offsets[-1]], level + 1)
        values = np.asarray(layout.to_NumpyArray(np.float64) if layout.is_unknown else layout.data)
        little = values.astype(values.dtype.newbyteorder("<"), copy=False)
        self._hashes[level].update(np.ascontiguousarray(little).tobytes())
        return little.dtype.str.lstrip("<|=")

    def digests(self) -> list[str]:
        return [h.hexdigest() for h in self._hashes]


def content_hash(path: Path) -> str:
    """SHA-256 over tree and branch names, types, offsets and values in the order of entries."""
    whole = hashlib.sha256()
    with opened(path) as file:
        for name in tree_names(file):
            for line in tree_lines(name, file[name], path):
                whole.update(line.encode())
    return whole.hexdigest()


def tree_lines(name: str, node: Any, path: Path) -> list[str]:
    """The lines of one tree."""
    columns = {branch: _Column() for branch in node.keys(recursive=True)}
    entries = int(node.num_entries)
    for chunk in chunks_of(node):
        for branch, column in columns.items():
            layout = ak.to_packed(chunk[branch]).layout
            try:
                column.add(layout)
            except AttributeError as error:
                raise BadInputError(
                    f"{path}: the content hash does not cover branch {branch!r} of {name!r}: "
                    "neither numbers nor lists of numbers"
                ) from error
    return [
        "\t".join([name, branch, columns[branch].type, str(entries), *columns[branch].digests()])
        + "\n"
        for branch in sorted(columns)
    ]
