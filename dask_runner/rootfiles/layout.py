"""The bytes of a ROOT file: keys, baskets, the TTree object, header and directory.

Only the one layout that `writing` makes: 64-bit positions everywhere, ZLIB, dates of zero, so that
equal content gives equal bytes. Pure packing; knows no file. Field names are ROOT's. Follows
https://github.com/root-project/root/blob/master/io/doc/TFile and what uproot writes, which takes
ten times as long for the small files that this product makes by the thousand.
"""

import functools
import itertools
import struct
import zlib
from collections.abc import Sequence

from msgspec import Struct

# ROOT 6.24, plus a million for 64-bit positions.
_FILE_VERSION = 1_062_400
BEGIN = 100
_COMPRESSION = 101  # ZLIB, level 1
_BLOCK = 0xFFFFFF
_SHORT = 512
_BYTE_COUNT = 0x40000000
_NEW_CLASS = 0xFFFFFFFF
_MAP_OFFSET = 2
_LONG = 255
_ROOT_FREE = 2_000_000_000
# Class, name and title of the file itself; the name marks the files that `writing` made.
STAMP = b"made-by-dask-runner"
# The TObjString with JSON that says what the file is.
METADATA = "metadata"

_KEY = struct.Struct(">ihiIhhqq")
_SMALL_KEY = struct.Struct(">ihiIhhii")
_BASKET = struct.Struct(">HiiiiB")
_TREE = struct.Struct(">qqqqqdiiiiIqqqqqq")
_BRANCH_1 = struct.Struct(">iiiiq")
_BRANCH_2 = struct.Struct(">iIiqqqq")
_LEAF = struct.Struct(">iii??")
_HEADER = struct.Struct(">4siiqqiiibiqiH16s")
_DIRECTORY = struct.Struct(">HIIiiqqqH16s")
_FREE = struct.Struct(">Hqq")

# numpy type -> ROOT's letter, small where unsigned, and the format of a leaf's minimum and maximum.
_LEAF_TYPES = {
    "i1": ("B", ">bb"),
    "i2": ("S", ">hh"),
    "i4": ("I", ">ii"),
    "i8": ("L", ">qq"),
    "f4": ("F", ">ff"),
    "f8": ("D", ">dd"),
    "u1": ("b", ">bb"),
    "u2": ("s", ">hh"),
    "u4": ("i", ">ii"),
    "u8": ("l", ">qq"),
    "b1": ("O", ">??"),
}
TYPES = tuple(_LEAF_TYPES)

_ATTRIBUTES_FILL = bytes.fromhex("400000060002000003e9")
_ATTRIBUTES = (
    bytes.fromhex("400000080002025a00010001")
    + _ATTRIBUTES_FILL
    + bytes.fromhex("4000000a0002000100013f800000")
)
_IO_FEATURES = bytes.fromhex("4000000700001aa12f1000")
_EMPTY_ARRAY = bytes.fromhex("40000015000300010000000003000000") + bytes(9)


class Branch(Struct, frozen=True, array_like=True):
    """A branch; `counter` names the branch that counts its items, "" for one value per entry."""

    name: str
    type: str
    counter: str = ""
    counts: bool = False


class BranchState(Struct):
    """What the baskets of a branch add up to. `ends` in the tree are the same for all branches."""

    sizes: list[int]
    seeks: list[int]
    raw: int = 0
    stored: int = 0
    maximum: int = 0


# The same names are packed for every file: a small batch spends much of its time here.
@functools.lru_cache(maxsize=4096)
def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    if len(data) < _LONG:
        return bytes([len(data)]) + data
    return struct.pack(">BI", _LONG, len(data)) + data


def compressed(data: bytes) -> bytes:
    """ROOT's compressed blocks; the data itself where that is not larger, or very short: setting
    up the compressor takes longer than all else that is done with a small basket.
    """
    if len(data) < _SHORT:
        return data
    blocks = []
    for start in range(0, len(data), _BLOCK):
        block = data[start : start + _BLOCK]
        packed = zlib.compress(block, 1)
        if len(packed) > _BLOCK:
            return data
        sizes = len(packed).to_bytes(3, "little") + len(block).to_bytes(3, "little")
        blocks.append(b"ZL\x08" + sizes + packed)
    result = b"".join(blocks)
    return result if len(result) < len(data) else data


def decompressed(data: memoryview, size: int) -> bytes | memoryview:
    """The inverse. Raises zlib.error or ValueError for damaged blocks."""
    if len(data) == size:
        return data
    parts = []
    position = 0
    while position < len(data):
        if bytes(data[position : position + 2]) != b"ZL":
            raise ValueError("a block is not ZLIB")
        length = int.from_bytes(data[position + 3 : position + 6], "little")
        parts.append(zlib.decompress(data[position + 9 : position + 9 + length]))
        position += 9 + length
    whole = b"".join(parts)
    if len(whole) != size:
        raise ValueError(f"{len(whole)} bytes in a block of {size}")
    return whole


class Key(Struct, frozen=True, kw_only=True):
    """The head of a record."""

    kind: str
    name: str | bytes
    title: str = ""
    small: bool = False

    @property
    def length(self) -> int:
        return (_SMALL_KEY if self.small else _KEY).size + len(self._names)

    @property
    def _names(self) -> bytes:
        return text(self.kind) + text(self.name) + text(self.title)

    def pack(self, seek: int, stored: int, raw: int, *, parent: int = BEGIN) -> bytes:
        """The head of a record at `seek`, of `stored` bytes that unpack to `raw`."""
        length = self.length
        form, version = (_SMALL_KEY, 4) if self.small else (_KEY, 1004)
        head = form.pack(length + stored, version, raw, 0, length, 1, seek, parent)
        return head + self._names


def basket(
    tree: str,
    branch: str,
    values: bytes,
    *,
    item: int,
    entries: int,
    ends: bytes | None,
    seek: int,
) -> tuple[int, bytes]:
    """A basket: its size in memory, and its record for the place `seek`.

    `ends`, for lists: where each entry's list begins and (0) the last ends, from the start of the
    record, as big-endian 32-bit integers.
    """
    names = _basket_names(tree, branch)
    length = _KEY.size + len(names) + _BASKET.size
    if ends is None:
        data, width = values, item
    else:
        data, width = values + struct.pack(">I", entries + 1) + ends, entries + 2
    stored = compressed(data)
    head = _KEY.pack(length + len(stored), 1004, len(data), 0, length, 0, seek, BEGIN)
    head += names + _BASKET.pack(3, 32000, width, entries, length + len(values), 0)
    return length + len(data), head + stored


def basket_head_length(tree: str, branch: str) -> int:
    """The bytes of a basket's record before its data."""
    return _KEY.size + len(_basket_names(tree, branch)) + _BASKET.size


@functools.lru_cache(maxsize=4096)
def _basket_names(tree: str, branch: str) -> bytes:
    return text("TBasket") + text(branch) + text(tree)


def _counted(version: int, data: bytes) -> bytes:
    return struct.pack(">IH", (len(data) + 2) | _BYTE_COUNT, version) + data


def _class(name: str, data: bytes) -> bytes:
    body = name.encode() + b"\0" + data
    return struct.pack(">II", (len(body) + 4) | _BYTE_COUNT, _NEW_CLASS) + body


@functools.lru_cache(maxsize=4096)
def _named(name: str, title: str, bits: int) -> bytes:
    return _counted(1, struct.pack(">HII", 1, 0, bits) + text(name) + text(title))


def tree_object(
    name: str, branches: Sequence[Branch], states: Sequence[BranchState], ends: Sequence[int]
) -> bytes:
    """A TTree whose baskets are all in the file. `ends`: running entries at the end of each."""
    head = _named(name, "", 0x03000008) + _ATTRIBUTES
    head += _TREE.pack(
        ends[-1] if ends else 0,
        sum(state.raw for state in states),
        sum(state.stored for state in states),
        0, 0, 1.0, 0, 25, 0, 1000, 0, 10**12, 10**12, 0, -300_000_000, -30_000_000, 1_000_000,
    )  # fmt: skip
    head += b"\0\0" + _IO_FEATURES
    array = _object(0x03004000) + b"\0" + struct.pack(">ii", len(branches), 0)
    # Leaves refer to each other by their distance from the start of the record.
    position = Key(kind="TTree", name=name).length + 6 + len(head) + 6 + len(array)
    leaves: dict[str, int] = {}
    packed = []
    for branch, state in zip(branches, states, strict=True):
        data, leaf = _branch(branch, state, ends, leaves.get(branch.counter, 0))
        leaves[branch.name] = position + leaf + _MAP_OFFSET
        packed.append(data)
        position += len(data)
    references = _object(0x03000000) + b"\0" + struct.pack(">ii", len(leaves), 0)
    references += b"".join(struct.pack(">I", leaf) for leaf in leaves.values())
    parts = [head, _counted(3, array + b"".join(packed)), _counted(3, references), bytes(28)]
    return _counted(20, b"".join(parts))


def _object(bits: int) -> bytes:
    return struct.pack(">HII", 1, 0, bits)


def _branch(
    branch: Branch, state: BranchState, ends: Sequence[int], counter: int
) -> tuple[bytes, int]:
    """A TBranch with its one leaf, and where in it the leaf begins."""
    baskets = len(ends)
    entries = ends[-1] if ends else 0
    suffix = f"[{branch.counter}]" if branch.counter else ""
    letter, _ = _LEAF_TYPES[branch.type]
    longest = max((b - a for a, b in itertools.pairwise((0, *ends))), default=0)
    front = _named(branch.name, f"{branch.name}{suffix}/{letter}", 0x03400000) + _ATTRIBUTES_FILL
    front += _BRANCH_1.pack(0, 32000, 4 * longest if suffix else 0, baskets, entries)
    front += _IO_FEATURES
    front += _BRANCH_2.pack(0, baskets + 1, 0, entries, 0, state.raw, state.stored)
    front += _EMPTY_ARRAY
    array = _object(0x03000000) + b"\0" + struct.pack(">ii", 1, 0)
    leaf = _class(f"TLeaf{letter.upper()}", _leaf(branch, suffix, state.maximum, counter))
    back = _EMPTY_ARRAY
    back += b"\1" + struct.pack(f">{baskets + 1}i", *state.sizes, 0)
    back += b"\1" + struct.pack(f">{baskets + 1}q", 0, *ends)
    back += b"\1" + struct.pack(f">{baskets + 1}q", *state.seeks, 0)
    back += b"\0"
    # Before the leaf: class head of 16 bytes, byte count and version, of the branch and the array.
    start = 16 + 6 + len(front) + 6 + len(array)
    return _class("TBranch", _counted(13, front + _counted(3, array + leaf) + back)), start


def _leaf(branch: Branch, suffix: str, maximum: int, counter: int) -> bytes:
    _, limits = _LEAF_TYPES[branch.type]
    base = _named(branch.name, branch.name + suffix, 0x03000000)
    unsigned = branch.type[0] == "u"
    base += _LEAF.pack(1, int(branch.type[1]), 0, branch.counts, unsigned)
    base += struct.pack(">I", counter)
    return _counted(1, _counted(2, base) + struct.pack(limits, 0, maximum))


def string_object(content: bytes) -> bytes:
    """A TObjString."""
    return _counted(1, _object(0x02000000) + text(content))


def root_directory(*, keys: tuple[int, int], uuid: bytes) -> bytes:
    """The first record of a file."""
    key = Key(kind="TFile", name=STAMP)
    names = text(STAMP) + text("")
    data = names + _DIRECTORY.pack(
        1005, 0, 0, keys[1], key.length + len(names), BEGIN, 0, keys[0], 1, uuid
    )
    return key.pack(BEGIN, len(data), len(data), parent=0) + data


def header(*, end: int, free: tuple[int, int], info: tuple[int, int], uuid: bytes) -> bytes:
    """The first bytes of a file, up to the first record."""
    names = Key(kind="TFile", name=STAMP).length + len(text(STAMP)) + 1
    data = _HEADER.pack(
        b"root", _FILE_VERSION, BEGIN, end, *free, 1, names, 8, _COMPRESSION,
        *info, 1, uuid,
    )  # fmt: skip
    return data + bytes(BEGIN - len(data))


def key_list(seek: int, keys: Sequence[bytes]) -> bytes:
    """The table of contents of the file."""
    data = struct.pack(">i", len(keys)) + b"".join(keys)
    return Key(kind="TFile", name=STAMP).pack(seek, len(data), len(data)) + data


def free_list(seek: int, end: int) -> bytes:
    """What is free: all that is behind the end."""
    data = _FREE.pack(1001, end, max(_ROOT_FREE, end + 1_000_000_000))
    return Key(kind="TFile", name=STAMP).pack(seek, len(data), len(data)) + data
