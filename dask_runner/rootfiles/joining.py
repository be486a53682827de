"""Many files into one: trees one after the other, histograms added up.

Memory is bounded by one chunk, however large the files are.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import awkward as ak
import uproot

from dask_runner.errors import BadInputError
from dask_runner.rootfiles.boundary import opened, tree_names
from dask_runner.rootfiles.reading import METADATA, chunks_of
from dask_runner.rootfiles.writing import COMPRESSION

_HISTOGRAMS = ("TH1", "TH2", "TH3", "TProfile")


def concatenate(
    parts: Sequence[Path], target: Path, metadata: Mapping[str, Any]
) -> dict[str, int]:
    """Join `parts`, in this order, into the new file `target`. Returns the entries of each tree.

    Every part must have the same trees with the same branches, and the same histograms with the
    same bins. Anything else in the files (other than metadata) is refused by name.
    """
    if not parts:
        raise BadInputError(f"{target}: nothing to join")
    raise NotImplementedError
