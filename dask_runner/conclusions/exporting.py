"""All trials in one file for other programs: Parquet, CSV or ROOT.

Owns what is in a column, and that no value is rounded. Refuses to replace a file.
"""

import csv
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dask_runner.conclusions.results import Exported
from dask_runner.errors import StorageError, UsageError
from dask_runner.files import beside, current_umask, fsync_file, fsync_folder
from dask_runner.optional import imported
from dask_runner.trials.loading import TrialData
from dask_runner.trials.tables import Table

TREE = "trials"
_ROWS = 100_000
# Entries in a basket of the tree: rows are small and there are many.
_BASKET = 10_000


def export(trials: TrialData, path: Path | str) -> Exported:
    """Write the flat table: parameters, `trial` (the index), fields, `failed`. The ending of the
    name says the format. Floats keep every bit: binary in Parquet and ROOT, in CSV the shortest
    decimal number that reads back as the same; flags are 0 and 1 in ROOT, true and false in CSV.

    Raises UsageError for another ending, a file that is there already, or a library that is not
    installed.
    """
    target = Path(path).expanduser()
    check_target(target)
    return write_table(trials.flat(), target)


def write_table(table: Table, path: Path) -> Exported:
    """Write any table of numbers and texts, as `export` does."""
    target = path.expanduser()
    check_target(target)
    with new_file(target) as temporary:
        WRITERS[target.suffix](table, temporary)
    return Exported(
        path=str(target),
        trials=len(table),
        columns=tuple(table.dtype.names or ()),
        bytes=target.stat().st_size,
    )


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """What is written to the path given gets the name `target`, durably and whole, and never in the
    place of another file. Raises UsageError if there is one, StorageError if it cannot be written.
    """
    try:
        with beside(target) as temporary:
            yield temporary
            temporary.chmod(0o666 & ~current_umask())
            fsync_file(temporary)
            # A link never replaces what is there.
            os.link(temporary, target)
        fsync_folder(target.parent)
    except FileExistsError:
        raise _exists(target) from None
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror or error}") from error


def check_target(target: Path) -> None:
    """Raises UsageError for an ending that is no format, a file that is there already, or a library
    that is not installed.
    """
    if target.suffix not in WRITERS:
        raise UsageError(
            f"--to {target}: the ending says the format", hint=f"one of {', '.join(WRITERS)}"
        )
    if target.exists():
        raise _exists(target)
    if target.suffix == ".parquet":
        imported("pyarrow.parquet", "tables")


def _exists(target: Path) -> UsageError:
    return UsageError(f"{target} exists already", hint="another name, or remove it first")


def _write_parquet(table: Table, path: Path) -> None:
    arrow = imported("pyarrow", "tables")
    parquet = imported("pyarrow.parquet", "tables")
    columns = {name: np.ascontiguousarray(table[name]) for name in table.dtype.names or ()}
    parquet.write_table(arrow.table(columns), path)


def _write_csv(table: Table, path: Path) -> None:
    names = table.dtype.names or ()
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for first in range(0, len(table), _ROWS):
            part = table[first : first + _ROWS]
            writer.writerows(zip(*(_texts(part[name]) for name in names), strict=True))


def _texts(column: Any) -> list[Any]:
    """Python's own numbers are written so that they read back as the same; a float32 is written in
    its own shortest form, not as the nearest double.
    """
    if column.dtype.kind == "b":
        return ["true" if value else "false" for value in column]
    if column.dtype.kind == "f" and column.dtype.itemsize < 8:  # noqa: PLR2004  (of a double)
        return [str(value) for value in column]
    values: list[Any] = column.tolist()
    return values


def _write_root(table: Table, path: Path) -> None:
    from dask_runner import rootfiles  # noqa: PLC0415  (uproot only if wanted)

    columns = {name: _branch(name, table[name]) for name in table.dtype.names or ()}
    tree = rootfiles.Table(entries=len(table), columns=columns)
    rootfiles.write(path, {TREE: tree}, {}, basket=_BASKET)


def _branch(name: str, column: Any) -> Any:
    """A column as a type that a tree can have."""
    kind, size = column.dtype.kind, column.dtype.itemsize
    if kind == "U":
        raise UsageError(
            f"the parameter {name} is text, which a tree of numbers cannot hold",
            hint=".parquet or .csv can",
        )
    if kind == "b":
        return column.astype("i1")
    if kind == "u":
        wider = column.astype("i8")
        if (wider < 0).any():
            raise UsageError(f"{name} has numbers beyond 2^63", hint=".parquet or .csv hold them")
        return wider
    if kind == "f" and size == 2:  # noqa: PLR2004  (half a float)
        return column.astype("f4")
    return np.ascontiguousarray(column)


WRITERS: dict[str, Callable[[Table, Path], None]] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".root": _write_root,
}
