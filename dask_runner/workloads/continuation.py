"""Where a folder of EVNT files goes on: the next event number and the next file number.

Reads the numbers that are really in the files. Refuses a folder that holds another sample, another
seed, or an event twice: what came out would be no sample that can be normalised.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from dask_runner import rootfiles
from dask_runner.chain import formats
from dask_runner.chain.hidden_valley import Sample
from dask_runner.errors import BadInputError, UsageError
from dask_runner.workloads import inputs

PATTERNS = ("*.EVNT.root", "*.evnt.pool.root")
_PARAMETERS = ("mh", "ms", "ctau", "process")


class Continuation(Struct, frozen=True, kw_only=True):
    """The numbers of the next event and the next file."""

    first_event: int
    first_file: int


def continue_folder(folder: Path, sample: Sample, seed: int) -> Continuation | None:
    """What comes after the files of a folder; None if there are none."""
    paths = inputs.find(folder, PATTERNS)
    if not paths:
        return None
    wanted = {"run_number": sample.run_number, "seed": seed}
    wanted |= {name: getattr(sample, name) for name in _PARAMETERS}
    events = [_events(path, wanted) for path in paths]
    _refuse_twice(paths, events)
    return Continuation(
        first_event=max(int(numbers.max()) for numbers in events if len(numbers)) + 1,
        first_file=max(_file_number(path) for path in paths) + 1,
    )


def _events(path: Path, wanted: dict[str, Any]) -> NDArray[np.int64]:
    """The event numbers of a file, if it belongs to the sample."""
    metadata = rootfiles.read_metadata(path)
    if metadata.get("format") != "EVNT":
        raise UsageError(
            f"{path}: was not written by the embedded generator, so its events cannot be continued",
            hint="generate into another --evnt-dir",
        )
    for name, value in wanted.items():
        found = metadata.get(name)
        if found != value:
            raise UsageError(
                f"{path}: has {name} {found}, not {value}",
                hint="--extend adds to a sample; generate another one into another --evnt-dir",
            )
    table = rootfiles.read(path, formats.TREE, columns=formats.IDENTITY)
    if not table.entries or (table["run"] != wanted["run_number"]).any():
        raise BadInputError(f"{path}: has no events, or events of another run number")
    return np.asarray(table["event"], dtype=np.int64)


def _refuse_twice(paths: list[Path], events: list[NDArray[np.int64]]) -> None:
    numbers, counts = np.unique(np.concatenate(events), return_counts=True)
    twice = numbers[counts > 1]
    if len(twice):
        holders = [str(p) for p, found in zip(paths, events, strict=True) if twice[0] in found]
        raise BadInputError(
            f"{len(twice)} events are there twice, the first is {twice[0]} in {', '.join(holders)}"
        )


def _file_number(path: Path) -> int:
    """The number k of `<run number>.<b>.<k>.EVNT.root`; -1 for other names."""
    match = re.fullmatch(r"\d+\.\d+\.(\d+)\.EVNT\.root", path.name)
    return int(match[1]) if match else -1
