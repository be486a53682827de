"""The files of a skim as one, in the order of the input: ROOT or Parquet, with the cutflow.

Owns the formats. Equal events give equal bytes, whatever the batches were: baskets, clusters and
row groups have a fixed number of entries. Memory is bounded by one of them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dask_runner import rootfiles
from dask_runner.errors import BadInputError, UsageError
from dask_runner.histograms.skimming import COLUMNS
from dask_runner.optional import imported

ENDINGS = (".root", ".parquet")
# Of the metadata in a Parquet file; also the package's name for it in ROOT is `metadata`.
PARQUET_KEY = b"dask-runner"
_ROWS = 50_000


def check_name(name: str) -> None:
    """Raises UsageError unless the name ends as one of the formats, and what writes it is there."""
    if Path(name).suffix not in ENDINGS:
        raise UsageError(
            f"--to {name}: the ending says the format of a skim",
            hint=f"one of {', '.join(ENDINGS)}; .json holds the cutflow",
        )
    if Path(name).suffix == ".parquet":
        imported("pyarrow.parquet", "tables")


def join(
    parts: Sequence[Path], target: Path, tree: str, metadata: Mapping[str, Any]
) -> tuple[int, str]:
    """Join the skims of ranges into the new file `target`. Returns the events and, for ROOT, the
    content hash. Raises BadInputError for files that do not fit together.
    """
    if not parts:
        raise BadInputError(f"{target.name}: nothing to join")
    if target.suffix == ".parquet":
        return _write_parquet(parts, target, tree, metadata), ""
    columns = rootfiles.read_metadata(parts[0])[COLUMNS]
    return rootfiles.join_lists(parts, target, tree, {**metadata, COLUMNS: columns})


def _write_parquet(
    parts: Sequence[Path], target: Path, tree: str, metadata: Mapping[str, Any]
) -> int:
    arrow = imported("pyarrow", "tables")
    parquet = imported("pyarrow.parquet", "tables")
    text = json.dumps(dict(metadata), sort_keys=True).encode()
    writer: Any = None
    total = 0
    try:
        for columns, entries in _row_groups(parts, tree):
            table = _table(arrow, columns)
            if writer is None:
                schema = table.schema.with_metadata({PARQUET_KEY: text})
                writer = parquet.ParquetWriter(
                    target, schema, compression="zstd", use_dictionary=False
                )
            if entries or not total:
                writer.write_table(table, row_group_size=_ROWS)
            total += entries
    finally:
        if writer is not None:
            writer.close()
    return total


def _row_groups(parts: Sequence[Path], tree: str) -> Iterator[tuple[dict[str, Any], int]]:
    """All events in groups of _ROWS; the last is what is left, and may be empty."""
    waiting: list[dict[str, Any]] = []
    count = 0
    kinds: dict[str, Any] = {}
    # A list knows how long it is: Parquet needs no `njet` beside `jet_pt`.
    names = rootfiles.read_metadata(parts[0])[COLUMNS]
    for part in parts:
        for chunk in rootfiles.read_lists(part, tree):
            found = {name: (len(c.offsets), c.data.dtype) for name, c in chunk.columns.items()}
            kinds = kinds or found
            if found != kinds:
                raise BadInputError(f"{part}: other columns than in {parts[0]}")
            waiting.append({name: chunk.columns[name] for name in names})
            count += chunk.entries
            while count >= _ROWS:
                whole = rootfiles.joined_columns(waiting)
                yield rootfiles.slice_columns(whole, 0, _ROWS), _ROWS
                waiting = [rootfiles.slice_columns(whole, _ROWS, count)]
                count -= _ROWS
    yield rootfiles.joined_columns(waiting), count


def _array(arrow: Any, column: Any) -> Any:
    """Lists of the wide kind; nothing is ever missing in them."""
    array = arrow.array(column.data)
    for offsets in reversed(column.offsets):
        kind = arrow.large_list(arrow.field("item", array.type, nullable=False))
        array = arrow.LargeListArray.from_arrays(arrow.array(offsets), array, type=kind)
    return array


def _table(arrow: Any, columns: Mapping[str, Any]) -> Any:
    arrays = {name: _array(arrow, column) for name, column in columns.items()}
    fields = [arrow.field(name, array.type, nullable=False) for name, array in arrays.items()]
    return arrow.table(list(arrays.values()), schema=arrow.schema(fields))
