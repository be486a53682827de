"""The batches of a run, read from the manifest when asked for.

A million batches as objects cost hundreds of MB in the driver and seconds in `status`; here each
costs the eight bytes of its offset.
"""

import os
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

from dask_runner.batch import Batch
from dask_runner.manifest.encoding import decode

_LINE = 4096


class Lines:
    """Random access to checked lines of a manifest by their offsets."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def at(self, offset: int) -> bytes:
        """The line (without newline) that begins at `offset`."""
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._descriptor)
        size = _LINE
        while True:
            data = os.pread(self._descriptor, size, offset)
            end = data.find(b"\n")
            if end >= 0:
                return data[:end]
            if len(data) < size:
                return data
            size *= 8

    def block(self, offset: int, end: int) -> list[bytes]:
        """The lines in bytes [offset, end)."""
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(end - offset).split(b"\n")[:-1]


class Plan(Sequence[Batch]):
    """Index -> Batch. Parts of split batches and those of extensions follow the planned ones."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._offsets = array("Q")
        self._parts: list[Batch] = []

    def extend(self, offsets: Iterable[int]) -> None:
        """Append the planned batches whose lines begin at these offsets."""
        self._offsets.extend(offsets)

    def add_parts(self, parts: Iterable[Batch]) -> None:
        """Append the parts of a split batch, or what a run was extended by."""
        self._parts.extend(parts)

    def __len__(self) -> int:
        return len(self._offsets) + len(self._parts)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> list[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | list[Batch]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        planned = len(self._offsets)
        if not 0 <= index < len(self):
            raise IndexError(f"no batch {index}; the run has {len(self)}")
        if index >= planned:
            return self._parts[index - planned]
        return _batch(self._lines.at(self._offsets[index]))

    def __iter__(self) -> Iterator[Batch]:
        # In blocks of a few hundred: three times as fast as one by one.
        step = 512
        for first in range(0, len(self._offsets), step):
            last = min(first + step, len(self._offsets)) - 1
            if last > first:
                block = self._lines.block(self._offsets[first], self._offsets[last])
                yield from map(_batch, block)
            yield self[last]
        yield from self._parts


def _batch(line: bytes) -> Batch:
    batch = decode(line)
    assert isinstance(batch, Batch)
    return batch
