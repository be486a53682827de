"""The odds of chance coincidences by class of detectors, as a file of its own: npz or HDF5.

Owns what is in such a file, so that p-values can be had without the runs that it is from. Refuses
p-values for another model, and to replace a file.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt

from dask_runner.conclusions.exporting import new_file
from dask_runner.errors import BadInputError, UsageError
from dask_runner.optional import imported
from dask_runner.stats.tails import Tailed, TailP

Floats = npt.NDArray[np.float64]

_FORMAT: Final = "dask-runner coincidence background 1"
# In front of the name of a class, which may be any text: `/` and `%` in it are %2F and %25.
_ODDS: Final = "log10_odds/"
_PLAIN: Final = " !\"#$&'()*+,:;<=>?@[]^`{|}"
_HDF5: Final = (".h5", ".hdf5")
ENDINGS: Final = (".npz", *_HDF5)


class Background:
    """log10 odds of trials without signal, (trials,) for each class; the runs that they are from,
    and the digest of each class (`Coincidence.digest`). `file` is where it was read.
    """

    def __init__(
        self,
        odds: Mapping[str, Floats],
        *,
        runs: Sequence[str],
        digests: Mapping[str, str],
        file: str = "",
    ) -> None:
        self.odds = dict(odds)
        self.runs = tuple(runs)
        self.digests = dict(digests)
        self.file = file
        self._made: dict[str, Tailed] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """What it is called: the file, or the runs."""
        return (self.file,) if self.file else self.runs

    def of(self, detector: str) -> Tailed:
        """The distribution of a class. Raises UsageError for one that is not there."""
        if detector not in self.odds:
            raise UsageError(
                f"the background has no trials of the class {detector!r}",
                hint=f"it has {', '.join(self.odds)}",
            )
        if detector not in self._made:
            self._made[detector] = Tailed(self.odds[detector])
        return self._made[detector]

    def p_value(self, detector: str, log10_odds: float) -> TailP:
        return self.of(detector).p_value(log10_odds)

    def check(self, detector: str, digest: str) -> None:
        """Raises UsageError if the class has other maps, lists, window, energies or prior here."""
        self.of(detector)
        if self.digests.get(detector) != digest:
            raise UsageError(
                f"the background ({' '.join(self.names)}) of the class {detector!r} is of other "
                "maps, lists, window, energies or prior",
                hint="odds are comparable only if all of that is the same",
            )


def write(background: Background, path: Path) -> None:
    """Write FILE.npz or FILE.h5: an array `log10_odds/CLASS` for each class, ascending, and a text
    `about` (JSON: format, runs, digest and number of trials of each class).

    Raises UsageError for another ending, a file that is there, or if h5py is missing.
    """
    check_target(path)
    about = json.dumps(
        {
            "format": _FORMAT,
            "runs": list(background.runs),
            "digests": background.digests,
            "trials": {name: len(values) for name, values in background.odds.items()},
        }
    )
    arrays = {
        f"{_ODDS}{quote(name, safe=_PLAIN)}": np.sort(values)
        for name, values in background.odds.items()
    }
    with new_file(path) as temporary:
        _WRITERS[path.suffix](temporary, arrays, about)


def check_target(path: Path) -> None:
    """Raises UsageError for a name that `write` would not take."""
    if path.suffix not in ENDINGS:
        raise UsageError(f"{path}: not a distribution file", hint=f"one of {', '.join(ENDINGS)}")
    if path.suffix in _HDF5:
        imported("h5py", "sky")
    if path.exists():
        raise UsageError(f"{path} exists already", hint="another name, or remove it first")


def is_file(text: str) -> bool:
    """Whether --background names a file, and not a run."""
    return Path(text).suffix in ENDINGS


def read(path: Path) -> Background:
    """Raises BadInputError for what `write` has not written."""
    try:
        arrays, about = (_read_hdf5 if path.suffix in _HDF5 else _read_npz)(path)
        return _background(path, arrays, json.loads(about))
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror or error}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise BadInputError(f"{path}: not a distribution of coincidences: {error}") from error


def _background(path: Path, arrays: Mapping[str, Any], told: Mapping[str, Any]) -> Background:
    if told["format"] != _FORMAT:
        raise ValueError(f"format {told['format']!r}")
    odds = {
        unquote(name.removeprefix(_ODDS)): np.asarray(a, np.float64) for name, a in arrays.items()
    }
    if not odds or any(values.ndim != 1 or not len(values) for values in odds.values()):
        raise ValueError("no trials")
    digests = dict(told["digests"])
    return Background(odds, runs=told["runs"], digests=digests, file=str(path))


def _write_npz(path: Path, arrays: Mapping[str, Floats], about: str) -> None:
    with path.open("wb") as file:
        np.savez(file, about=np.array(about), allow_pickle=False, **dict(arrays))


def _write_hdf5(path: Path, arrays: Mapping[str, Floats], about: str) -> None:
    h5py = imported("h5py", "sky")
    with h5py.File(path, "w") as file:
        file.attrs["about"] = about
        for name, values in arrays.items():
            file.create_dataset(name, data=values)


def _read_npz(path: Path) -> tuple[dict[str, Any], str]:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files if name.startswith(_ODDS)}
        return arrays, str(file["about"])


def _read_hdf5(path: Path) -> tuple[dict[str, Any], str]:
    h5py = imported("h5py", "sky")
    with h5py.File(path, "r") as file:
        group = file[_ODDS.rstrip("/")]
        return {f"{_ODDS}{name}": group[name][:] for name in group}, str(file.attrs["about"])


_WRITERS: Final = {".npz": _write_npz, **dict.fromkeys(_HDF5, _write_hdf5)}
