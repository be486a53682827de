"""Lists of parameters for `command`: a CSV file with a header, or the lines of stdin.

Owns the rule that each row is a batch, and the errors with line numbers.
"""

import csv
import os
import re
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TextIO

from dask_runner.errors import BadInputError, UsageError
from dask_runner.files import text_to_path

STDIN = "-"
_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def read(source: str, *, reserved: Collection[str]) -> list[dict[str, str]]:
    """The values for each batch: columns of a CSV file, or `line` for each line of stdin.

    Lines without content are no batches. Bytes that are not UTF-8 are kept as Python keeps them
    in file names, since that is what they are.
    """
    if source == STDIN:
        lines = os.fsdecode(sys.stdin.buffer.read()).split("\n")
        rows = [{"line": line} for line in lines if line.strip()]
        source = "stdin"
    else:
        rows = _read_csv(text_to_path(source), reserved)
    if not rows:
        raise UsageError(f"--parameters: no lines in {source}")
    return rows


def _read_csv(path: Path, reserved: Collection[str]) -> list[dict[str, str]]:
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first column's name.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            return list(_rows(file, path, reserved))
    except OSError as error:
        raise BadInputError(f"--parameters {path}: {error.strerror}") from error
    except csv.Error as error:
        raise UsageError(f"--parameters {path}: {error}") from error


def _rows(file: TextIO, path: Path, reserved: Collection[str]) -> Iterator[dict[str, str]]:
    reader = csv.reader(file, strict=True)
    header = [name.strip() for name in next(reader, [])]
    for name in header:
        if not _COLUMN.fullmatch(name):
            raise UsageError(
                f"{path} line 1: {name!r} cannot be a placeholder",
                hint="the first line names the columns: letters, digits and underscores",
            )
        if name in reserved or header.count(name) > 1:
            raise UsageError(f"{path} line 1: the column name {name!r} is taken")
    for row in reader:
        if not row:
            continue
        if len(row) != len(header):
            raise UsageError(
                f"{path} line {reader.line_num}: {len(row)} values for {len(header)} columns"
            )
        yield dict(zip(header, row, strict=True))
