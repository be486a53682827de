"""Writing trees: TTree (readable by every ROOT), ZLIB level 1, small baskets.

ZLIB because it is the only codec here with a checksum: with the others half of all flipped bits
read back silently wrong.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot

from dask_runner.rootfiles.reading import METADATA
from dask_runner.rootfiles.tables import Jagged, Table

COMPRESSION = uproot.ZLIB(1)
# Entries in a basket: a range of entries costs whole baskets.
BASKET = 100


def write(
    path: Path, tables: Mapping[str, Table], metadata: Mapping[str, Any], *, basket: int = BASKET
) -> None:
    """Write each table as a tree of a new file, and `metadata` as JSON in a TObjString."""
    with uproot.recreate(path, compression=COMPRESSION) as file:
        for name, table in tables.items():
            tree = make_tree(file, name, table, basket)
            extend(tree, table, basket)
        file[METADATA] = json.dumps(metadata, sort_keys=True)


def make_tree(file: Any, name: str, table: Table, basket: int) -> Any:
    """An empty tree with the columns of `table`."""
    types: dict[str, Any] = {key: column.dtype for key, column in table.columns.items()}
    for key, jagged in table.jagged.items():
        types[key] = _record(jagged).type.content
    return file.mktree(name, types, initial_basket_capacity=table.entries // basket + 2)


def extend(tree: Any, table: Table, basket: int) -> None:
    """Append the entries of `table` to the tree, `basket` entries a basket."""
    for first in range(0, table.entries, basket):
        part = table.slice(first, min(first + basket, table.entries))
        data: dict[str, Any] = dict(part.columns)
        data.update({key: _record(jagged) for key, jagged in part.jagged.items()})
        tree.extend(data)


def _record(jagged: Jagged) -> ak.Array:
    contents = [ak.contents.NumpyArray(np.ascontiguousarray(c)) for c in jagged.columns.values()]
    record = ak.contents.RecordArray(contents, list(jagged.columns), length=int(jagged.offsets[-1]))
    return ak.Array(ak.contents.ListOffsetArray(ak.index.Index64(jagged.offsets), record))
