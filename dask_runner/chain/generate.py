"""Events from Pythia 8: the only module that imports pythia8mc.

Event k depends on (run seed, run number, k) alone: a hook reseeds Pythia before each event, so
neither the first event nor the size of the batch matters. Refuses cards that read events from a
file, which would depend on their order.
"""

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import awkward as ak
import numpy as np
from msgspec import Struct

from dask_runner import seeds
from dask_runner.chain import formats, transform
from dask_runner.chain.formats import EventData
from dask_runner.chain.hidden_valley import Sample
from dask_runner.chain.truth import record_of
from dask_runner.errors import UsageError
from dask_runner.rootfiles import Table, concatenated

# Pythia's own event objects are 200 kB each.
_CHUNK = 25
# Pythia gives up on one event in many thousand; it is then tried again further on in its stream.
_TRIES = 100
_PB_PER_MB = 1e9
# The seed that init() integrates cross sections with: the same for every file of a sample.
_INIT_SEED = 1
# Beams:frameType from here on read events from a file or from a program.
_FILE_BEAMS = 4


def generate_file(
    target: Path, sample: Sample, *, first_event: int, count: int, seed: int, run_number: int
) -> dict[str, float]:
    """Write `count` events from number `first_event` on to the new file `target`."""
    data = generate(sample, first_event=first_event, count=count, seed=seed, run_number=run_number)
    formats.write(target, data)
    return formats.normalisation(data.events.columns)


def generate(
    sample: Sample, *, first_event: int, count: int, seed: int, run_number: int
) -> EventData:
    """`count` events of a sample, from number `first_event` on."""
    # The numbers are checked before the time is spent.
    event_seeds = [
        seeds.pythia_seed(seed, run_number, event)
        for event in range(first_event, first_event + count)
    ]
    if not event_seeds:
        raise UsageError("no events are asked for")
    machine = _machine(sample)
    tables = [
        machine.events(event_seeds[start : start + _CHUNK], first_event + start, run_number)
        for start in range(0, count, _CHUNK)
    ]
    metadata = {
        "run_number": run_number,
        "seed": seed,
        "mh": sample.mh,
        "ms": sample.ms,
        "ctau": sample.ctau,
        "process": sample.process,
    }
    return EventData(format="EVNT", events=concatenated(tables), metadata=metadata)


def load_pythia() -> ModuleType:
    """The module pythia8mc. Raises UsageError if it is not installed."""
    try:
        import pythia8mc  # noqa: PLC0415  # an optional component
    except ImportError as error:
        raise UsageError(
            f"the embedded event generator is not installed ({error})",
            hint='pip install "dask-runner[chain]"',
        ) from error
    module: ModuleType = pythia8mc
    return module


class _Try(Struct):
    """The phase-space points of one event so far: their number and the sum of cross sections."""

    points: int = 0
    sigma: float = 0.0


def _hooks(pythia: Any, module: ModuleType) -> Any:
    """The hooks object; its class can only be made when pythia8mc is there."""

    class Hooks(module.UserHooks):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.seeds: list[int] = []
            self.tries: list[_Try] = []
            self._points: dict[int, Any] = {}
            self._shares: dict[int, float] = {}

        def initialised(self) -> None:
            # Pythia takes each process as often as its maximum has a share in all maxima, which
            # are fixed from here on.
            maxima = {code: point.sigmaMax() for code, point in self._points.items()}
            total = math.fsum(maxima.values())
            self._shares = {code: value / total for code, value in maxima.items()}
            self._points = {}

        def start(self, event_seeds: Sequence[int]) -> None:
            self.seeds = list(reversed(event_seeds))
            self.tries = []

        def onBeginEvent(self) -> None:  # noqa: N802  # Pythia's name
            # Without seeds left this is a retry of the last event: its stream goes on.
            if self.seeds:
                pythia.rndm.init(self.seeds.pop())
                self.tries.append(_Try())

        def canModifySigma(self) -> bool:  # noqa: N802
            return True

        def multiplySigmaBy(self, process: Any, point: Any, in_event: bool) -> float:  # noqa: N802
            if in_event:
                current = self.tries[-1]
                current.points += 1
                # The sum over processes is estimated by one of them, so by its share.
                current.sigma += point.sigmaNow() / self._shares[process.code()]
            else:
                self._points[process.code()] = point
            return 1.0

    return Hooks()


class _Machine:
    """An initialised Pythia. Its running statistics are not used: they depend on the past."""

    def __init__(self, sample: Sample) -> None:
        module = load_pythia()
        self._pythia = module.Pythia("", False)
        for number, line in enumerate(sample.pythia.splitlines(), start=1):
            if not self._pythia.readString(line):
                raise UsageError(f"Pythia does not understand line {number}: {line.strip()!r}")
        for line in ("Print:quiet = on", "Random:setSeed = on", f"Random:seed = {_INIT_SEED}"):
            self._pythia.readString(line)
        if self._pythia.mode("Beams:frameType") >= _FILE_BEAMS:
            raise UsageError(
                "the Pythia card reads events from a file (Beams:frameType of 4 or more): "
                "event k would depend on the events before it"
            )
        self._hooks = _hooks(self._pythia, module)
        self._pythia.setUserHooksPtr(self._hooks)
        if not self._pythia.init():
            raise UsageError(
                f"Pythia cannot be initialised for run number {sample.run_number}",
                hint="no process is switched on, or a mass or decay channel is impossible",
            )
        self._hooks.initialised()

    def events(self, event_seeds: Sequence[int], first_event: int, run_number: int) -> Table:
        """One event for each seed."""
        made, tries = self._make(event_seeds)
        count = len(event_seeds)
        columns = {
            "run": np.full(count, run_number, dtype=np.int32),
            "event": np.arange(first_event, first_event + count, dtype=np.int64),
            "weight": ak.to_numpy(made.info.weights[:, 0]).astype(np.float64),
            "tries": np.array([t.points for t in tries], dtype=np.int32),
            "sigma_sum": np.array([t.sigma * _PB_PER_MB for t in tries], dtype=np.float64),
        }
        return Table(entries=count, columns=columns, jagged=record_of(made.prt))

    def _make(self, event_seeds: Sequence[int]) -> tuple[ak.Array, list[_Try]]:
        self._hooks.start(event_seeds)
        made = self._pythia.nextBatch(len(event_seeds), "skip")
        if len(made) == len(event_seeds):
            return made, self._with_points(self._hooks.tries)
        # An event failed: make them one by one, so that each retry is known by its event.
        singles = [self._retried(seed) for seed in event_seeds]
        return ak.concatenate([event for event, _ in singles]), [tries for _, tries in singles]

    def _retried(self, event_seed: int) -> tuple[ak.Array, _Try]:
        self._hooks.start([event_seed])
        for _ in range(_TRIES):
            made = self._pythia.nextBatch(1, "skip")
            if len(made):
                return made, self._with_points(self._hooks.tries)[0]
        raise UsageError(
            f"Pythia failed {_TRIES} times to make the event with seed {event_seed}",
            hint="the settings of the sample cannot work; try the card with Pythia alone",
        )

    def _with_points(self, tries: list[_Try]) -> list[_Try]:
        """Soft processes have one constant cross section, and Pythia asks the hook for no point."""
        constant = self._pythia.infoPython().sigmaGen()
        return [t if t.points else _Try(points=1, sigma=_rounded(constant)) for t in tries]


def _rounded(value: float) -> float:
    """Without the last digits, in which Pythia's running mean depends on the number of events."""
    return float(f"{value:.9e}")


@functools.lru_cache(maxsize=1)
def _machine(sample: Sample) -> _Machine:
    """The machine of the sample in use: init() takes as long as a hundred events."""
    return _Machine(sample)


if __name__ == "__main__":
    raise SystemExit(transform.main("generate"))
