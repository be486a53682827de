"""The random stream of an event, of a step of the chain, of an external program, and of a trial.

Owns the arithmetic that makes streams disjoint: same numbers in, same stream out, whatever the
batch size, the host or the number of reruns. Refuses numbers that would run into another block.
For Pythia's 30 bits a hash would be shorter, but may collide; 35 random bases already overlap in
13 % of all cases. The streams of trials have keys of 128 bits: there a hash is safe.
"""

import hashlib
import struct
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

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


# Trials.

# A parameter of a point.
Value = int | float | str
GENERATE = "generate"
# The last word of Philox's counter: 0 in the streams of single trials, this in that of a point.
_BLOCK = 1
_COUNTER_WORDS = 4


class TrialStreams:
    """The random streams of the trials of one point, one trial after the other.

    A stream depends on (run seed, model name, point, purpose, trial index) alone: Philox with the
    first 128 bits of a SHA-256 over the first four as key and (0, 0, index, 0) as counter.
    `at(trial)` chooses the trial; `rng(purpose)` is its stream, valid until the next `at`.
    """

    def __init__(self, *, seed: int, model: str, point: Mapping[str, Value]) -> None:
        self._root = _root(seed, model, point)
        self._trial = 0
        self._opened: dict[str, _Stream] = {}

    def at(self, trial: int) -> "TrialStreams":
        """Go to the trial with this index, 0 or more."""
        self._trial = trial
        return self

    def rng(self, purpose: str = GENERATE) -> np.random.Generator:
        """The stream for this purpose. Asked for again within a trial it goes on where it was."""
        stream = self._opened.get(purpose)
        if stream is None:
            stream = self._opened[purpose] = _Stream(_purpose_key(self._root, purpose))
        return stream.at(self._trial)


class _Stream:
    def __init__(self, key: npt.NDArray[np.uint64]) -> None:
        self._philox = np.random.Philox(key=key)
        self._generator = np.random.Generator(self._philox)
        self._state = self._philox.state
        self._counter = self._state["state"]["counter"]
        self._trial = -1

    def at(self, trial: int) -> np.random.Generator:
        if trial != self._trial:
            # Setting the state costs 1 us, making new objects 6.
            self._counter[2] = self._trial = trial
            self._philox.state = self._state
        return self._generator


def trial_uniforms(
    *, seed: int, model: str, point: Mapping[str, Value], first: int, count: int, words: int
) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1) for trials `first` to `first + count - 1`, shape (count, words).

    Trial i has the 64-bit words [i * words, (i + 1) * words) of the point's stream: Philox with the
    key of the purpose `generate` and counter (0, 0, 0, 1), so that it shares nothing with the
    streams of single trials. Each word gives its upper 53 bits.
    """
    key = _purpose_key(_root(seed, model, point), GENERATE)
    skipped, inside = divmod(first * words, _COUNTER_WORDS)
    philox = np.random.Philox(key=key, counter=[0, 0, 0, _BLOCK])
    philox.advance(skipped)
    generator = np.random.Generator(philox)
    generator.random(inside)
    return generator.random((count, words))


def canonical_point(point: Mapping[str, Value]) -> bytes:
    """The point as bytes: equal for equal parameters, in whatever order and however written (2000
    and 2000.0 are one mass, 0 and -0.0 one strength), different for all others.
    """
    return b"".join(_field(name) + _canonical(point[name]) for name in sorted(point))


def _root(seed: int, model: str, point: Mapping[str, Value]) -> bytes:
    if not 0 <= seed < 2**64:
        raise UsageError(f"seed {seed} is outside 0 to 2^64 - 1")
    # Every field has a length of its own in front or a fixed one, so that none runs into the next:
    # SeedSequence([1, 0]) and SeedSequence(1) are the same, these are not.
    return struct.pack(">Q", seed) + _field(model) + _field(canonical_point(point))


def _purpose_key(root: bytes, purpose: str) -> npt.NDArray[np.uint64]:
    digest = hashlib.sha256(root + _field(purpose)).digest()
    return np.frombuffer(digest[:16], dtype=">u8").astype(np.uint64)


def _field(content: str | bytes) -> bytes:
    data = content.encode() if isinstance(content, str) else content
    return struct.pack(">Q", len(data)) + data


def _canonical(value: Value) -> bytes:
    if isinstance(value, str):
        return b"s" + _field(value)
    if isinstance(value, int) and not _is_float(value):
        return b"i" + _field(str(value))
    return b"f" + struct.pack(">d", value + 0.0)


def _is_float(value: int) -> bool:
    try:
        return float(value) == value
    except OverflowError:
        return False
