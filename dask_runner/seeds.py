"""The random stream of an event, of a step of the chain, and of an external program.

Owns the arithmetic that makes streams disjoint: same numbers in, same stream out, whatever the
batch size, the host or the number of reruns. Refuses numbers that would run into another block.
A hash would be shorter, but may collide; 35 random bases already overlap in 13 % of all cases.
"""

import numpy as np

from dask_runner.errors import UsageError

# Pythia takes seeds from 1 to 900 000 000 and starts a disjoint sequence for each of them.
_PYTHIA_SEEDS = 900_000_000

# Run seed (first, after the last) -> events for each run number. The default seeds 0-9 have the
# large blocks. 10 * 45 * 1e6 + 90 * 45 * 1e5 + 1000 * 45 * 1e3 = 9e8: every Pythia seed is used.
_TIERS = ((0, 10, 1_000_000), (10, 100, 100_000), (100, 1100, 1_000))

# A block for each run number of the table, in this order. Only ever append: the position is part
# of the physics. What is left of 45 serves all other run numbers, by their remainder.
_TABLE_RUNS = (
    304794, 303680, 304795, 303681, 304796, 305588, 305589, 304797, 304798, 304799, 304800, 304801,
    304802, 304803, 304804, 304805, 304806, 304807, 304808, 304809, 304810, 304811, 304812, 304813,
    304814, 304815, 304816, 304817, 304818, 304819, 304820, 304821, 304822, 304823, 305812, 305813,
    500000,
)  # fmt: skip
_SLOT = {run: slot for slot, run in enumerate(_TABLE_RUNS)}
_SLOTS = 45
OTHER_SLOTS = _SLOTS - len(_TABLE_RUNS)

# External programs: index and purpose of a batch are spread over a prime field below the limit of
# Pythia, the strictest of the programs we know. Multiplying in it is a bijection.
_PRIME = 899_999_963
_FACTOR = 48_271
PURPOSES = 16
_RUN_STRIDE = 1_000_000 * PURPOSES


def own_block(run_number: int) -> bool:
    """True for run numbers of the table: nobody else ever uses their seeds."""
    return run_number in _SLOT


def last_event(run_seed: int) -> int:
    """The highest event number that exists with this run seed; the lowest is 0."""
    return _tier(run_seed)[1] - 1


def pythia_seed(run_seed: int, run_number: int, event: int) -> int:
    """Pythia's seed for one event, 1 to 9e8."""
    base, block = _tier(run_seed)
    if not 0 <= event < block:
        raise UsageError(
            f"event {event} of run number {run_number} has no random seed: "
            f"with seed {run_seed} event numbers go from 0 to {block - 1}",
            hint="go on with another seed; seeds 0 to 9 have a million events each",
        )
    slot = _SLOT.get(run_number)
    if slot is None:
        slot = len(_TABLE_RUNS) + run_number % OTHER_SLOTS
    return base + slot * block + event


def _tier(run_seed: int) -> tuple[int, int]:
    base = 1
    for first, stop, block in _TIERS:
        if first <= run_seed < stop:
            return base + (run_seed - first) * _SLOTS * block, block
        base += (stop - first) * _SLOTS * block
    raise UsageError(
        f"seed {run_seed} is outside 0 to {_TIERS[-1][1] - 1}",
        hint="seeds 0-9 serve a million events per run number, 10-99 100 000, 100-1099 1000",
    )


def batch_seed(run_seed: int, index: int, purpose: int = 0) -> int:
    """The seed of an external program, 1 to 9e8. `purpose` tells the programs of a batch apart.

    Within a run no two batches share one. Between the first 50 run seeds neither, up to a
    million batches.
    """
    if not 0 <= purpose < PURPOSES:
        raise UsageError(f"a batch has at most {PURPOSES} programs with a seed, not {purpose + 1}")
    code = index * PURPOSES + purpose
    if not 0 <= code < _PRIME:
        raise UsageError(f"batch {index} has no random seed: there are {_PRIME // PURPOSES}")
    return 1 + (code + run_seed * _RUN_STRIDE) * _FACTOR % _PRIME


class StepStreams:
    """The random streams of one step for the events of a run, one after the other.

    `at(event)` moves the one generator to the start of that event's stream: Philox with key
    (run number, seed) and counter (0, 0, event, step).
    """

    def __init__(self, *, run_number: int, seed: int, step: int) -> None:
        self._philox = np.random.Philox(key=_key(run_number, seed))
        self._generator = np.random.Generator(self._philox)
        self._state = self._philox.state
        self._step = step

    def at(self, event: int) -> np.random.Generator:
        # Setting the state costs a third of making new objects.
        self._state["state"]["counter"][:] = (0, 0, event, self._step)
        self._philox.state = self._state
        return self._generator


def step_rng(run_number: int, seed: int, event: int, step: int) -> np.random.Generator:
    """The stream of one event in one step. For many events use StepStreams."""
    return StepStreams(run_number=run_number, seed=seed, step=step).at(event)


def _key(run_number: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array([run_number, seed], dtype=np.uint64)
