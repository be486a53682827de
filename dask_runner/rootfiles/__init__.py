"""ROOT files: the only package that imports uproot.

Read by entry range, count, write, validate, concatenate, hash. Every exception of the libraries
below leaves as a BadInputError that names the file and, as far as it can be told, the fault.
Refuses to know what the columns mean.
"""

from dask_runner.rootfiles.chunks import Reader as TreeReader
from dask_runner.rootfiles.columns import Column as ListColumn
from dask_runner.rootfiles.hashing import content_hash
from dask_runner.rootfiles.histogram_writing import PlainAxis, PlainHistogram, write_histograms
from dask_runner.rootfiles.histograms import Histogram, read_histogram
from dask_runner.rootfiles.joining import concatenate
from dask_runner.rootfiles.lists import (
    ListWriter,
    join_lists,
    joined_columns,
    read_lists,
    slice_columns,
)
from dask_runner.rootfiles.reading import (
    as_awkward,
    count_entries,
    read,
    read_metadata,
    read_with_metadata,
    validate,
)
from dask_runner.rootfiles.tables import Column, Jagged, Table, concatenated, offsets_of
from dask_runner.rootfiles.writing import write

__all__ = [
    "Column",
    "Histogram",
    "Jagged",
    "ListColumn",
    "ListWriter",
    "PlainAxis",
    "PlainHistogram",
    "Table",
    "TreeReader",
    "as_awkward",
    "concatenate",
    "concatenated",
    "content_hash",
    "count_entries",
    "join_lists",
    "joined_columns",
    "offsets_of",
    "read",
    "read_histogram",
    "read_lists",
    "read_metadata",
    "read_with_metadata",
    "slice_columns",
    "validate",
    "write",
    "write_histograms",
]
