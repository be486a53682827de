"""The index at the end of our files: where every basket is, with checksums of everything.

Owns the fast way through our own files: a range of entries costs one read and one checksum, and
all bytes of a file are verified in one pass. ROOT and uproot see an ordinary TObjString. Files of
others, and files that ROOT has put together anew, have no index and are read by uproot.
"""

import itertools
import os
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from msgspec import Struct, field

from dask_runner.errors import BadInputError
from dask_runner.rootfiles import layout
from dask_runner.rootfiles.tables import Column, Jagged, Table, column_name, offsets_of

NAME = "index"
_TAIL = re.compile(rb',"at":(\d{15}),"crc":"([0-9a-f]{8})"\}\Z')
_TAIL_LENGTH = len(',"at":123456789012345,"crc":"12345678"}')
_CRC_LENGTH = len(',"crc":"12345678"}')
_FIELDS = ("version", "trees", "metadata", "front", "body")
_BLOCK = 1 << 20
# Header and directory; the name in it marks our files.
_HEAD = 256
_FRONT_LENGTH = len(layout.header(end=0, free=(0, 0), info=(0, 0), uuid=bytes(16))) + len(
    layout.root_directory(keys=(0, 0), uuid=bytes(16))
)


class Cluster(Struct, frozen=True, array_like=True):
    """The baskets of all branches for one range of entries; they follow each other in the file.
    `end`: running number of entries; `sizes`: stored bytes of each branch's basket.
    """

    end: int
    seek: int
    crc: int
    sizes: list[int]


class TreeIndex(Struct, kw_only=True):
    """One tree."""

    branches: list[layout.Branch]
    clusters: list[Cluster] = field(default_factory=list)

    @property
    def entries(self) -> int:
        return self.clusters[-1].end if self.clusters else 0


class Index(Struct, kw_only=True):
    """`at` is where the index's own record begins; `front` and `body` are the checksums of all
    before it: of header and directory, and of the rest. The last is that of the index itself.
    """

    version: int
    trees: dict[str, TreeIndex]
    metadata: dict[str, Any]
    front: str = "00000000"
    body: str = "00000000"
    at: int = 0


def encode(index: Index, at: int) -> bytes:
    """The index as JSON that ends in its own place and a checksum, which `sealed` fills in."""
    fields = {name: getattr(index, name) for name in _FIELDS}
    body = msgspec.json.encode(fields)[:-1]
    return body + b',"at":%015d,"crc":"00000000"}' % at


def sealed(record: bytes) -> bytes:
    """The whole record of the index with the checksum of all of it in its end."""
    covered = record[:-_CRC_LENGTH]
    return covered + b',"crc":"%08x"}' % zlib.crc32(covered)


def load(file: BinaryIO, path: Path) -> Index | None:
    """The index of an open file; None if the file is not ours. Raises BadInputError if it is ours
    and its end is not as it was written.
    """
    file.seek(0)
    ours = layout.STAMP in file.read(_HEAD)
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL_LENGTH))
    found = _TAIL.search(file.read())
    if found is None:
        if ours:
            raise _damaged(path, "truncated, or changed by another program")
        return None
    file.seek(int(found.group(1)))
    record = file.read()
    covered = memoryview(record)[: len(record) - _CRC_LENGTH]
    if zlib.crc32(covered) != int(found.group(2), 16):
        raise _damaged(path, "its index is not as it was written")
    start = record.index(b'{"version"')
    # Leading zeros are no JSON.
    content = record[start : len(record) - _TAIL_LENGTH] + b"}"
    index = msgspec.json.decode(content, type=Index)
    index.at = int(found.group(1))
    return index


def verify(file: BinaryIO, index: Index, path: Path) -> None:
    """Read every byte of the file and compare with the checksums."""
    file.seek(0)
    front = _crc_of(file, _FRONT_LENGTH)
    body = _crc_of(file, index.at - _FRONT_LENGTH)
    if (front, body) != (index.front, index.body):
        raise _damaged(path, "its bytes are not as they were written")


def _crc_of(file: BinaryIO, length: int) -> str:
    crc = 0
    while length > 0 and (block := file.read(min(_BLOCK, length))):
        crc = zlib.crc32(block, crc)
        length -= len(block)
    return f"{crc:08x}"


def read_tables(file: BinaryIO, tree: TreeIndex, path: Path, first: int, stop: int) -> list[Table]:
    """The tables of the clusters that hold the entries [first, stop), cut to that range."""
    tables = []
    begin = 0
    for cluster in tree.clusters:
        if begin < stop and cluster.end > first:
            table = _cluster(file, cluster, tree.branches, cluster.end - begin, path)
            lo, hi = max(first - begin, 0), min(stop, cluster.end) - begin
            tables.append(table.slice(lo, hi))
        begin = cluster.end
    return tables


def empty_table(tree: TreeIndex) -> Table:
    """A table without entries, with the columns of the tree."""
    return _table(tree.branches, 0, lambda branch, _: np.empty(0, branch.type))


def _cluster(
    file: BinaryIO, cluster: Cluster, branches: list[layout.Branch], entries: int, path: Path
) -> Table:
    file.seek(cluster.seek)
    data = file.read(sum(cluster.sizes))
    if zlib.crc32(data) != cluster.crc:
        raise _damaged(path, f"the data before entry {cluster.end} is not as it was written")
    view = memoryview(data)
    ends = itertools.accumulate(cluster.sizes)
    records = {
        branch.name: view[end - size : end]
        for branch, size, end in zip(branches, cluster.sizes, ends, strict=True)
    }
    return _table(
        branches, entries, lambda branch, items: _values(records[branch.name], branch, items)
    )


def _table(
    branches: list[layout.Branch],
    entries: int,
    values: Callable[[layout.Branch, int], Column],
) -> Table:
    columns: dict[str, Column] = {}
    groups: dict[str, Jagged] = {}
    for branch in branches:
        if branch.counts:
            offsets = offsets_of(values(branch, entries))
            groups[branch.name] = Jagged(offsets=offsets, columns={})
        elif branch.counter:
            group = groups[branch.counter]
            name = column_name(branch.counter[1:], branch.name)
            group.columns[name] = values(branch, int(group.offsets[-1]))
        else:
            columns[branch.name] = values(branch, entries)
    jagged = {counter[1:]: group for counter, group in groups.items()}
    return Table(entries=entries, columns=columns, jagged=jagged)


def _values(record: memoryview, branch: layout.Branch, items: int) -> Column:
    size = int.from_bytes(record[6:10], "big")
    head = int.from_bytes(record[14:16], "big")
    data = layout.decompressed(record[head:], size)
    return np.frombuffer(data, dtype=f">{branch.type}", count=items).astype(branch.type)


def _damaged(path: Path, why: str) -> BadInputError:
    return BadInputError(
        f"{path}: damaged: {why}", hint="copy it again from where it came from, or make it anew"
    )
