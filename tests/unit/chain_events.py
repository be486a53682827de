"""Made-up events for tests of the chain without Pythia."""

import numpy as np

from dask_runner.chain.formats import EventData
from dask_runner.rootfiles import Jagged, Table, offsets_of

SPECIES = np.array([211, -211, 22, 130, 2212, 11, -13, 310, 12, 3122], dtype=np.int32)


def evnt(count: int, *, first: int = 0, run: int = 304795) -> EventData:
    """`count` events; event k is the same whatever `first` and `count` are."""
    events = [_event(first + number) for number in range(count)]
    columns = {
        "run": np.full(count, run, dtype=np.int32),
        "event": np.arange(first, first + count, dtype=np.int64),
        "weight": np.ones(count),
        "tries": np.arange(first, first + count, dtype=np.int32) % 7 + 1,
        "sigma_sum": np.array([event["sigma"] for event in events]),
    }
    jagged = {
        name: _joined([event[name] for event in events]) for name in ("particle", "llp", "parton")
    }
    table = Table(entries=count, columns=columns, jagged=jagged)
    return EventData(format="EVNT", events=table, metadata={"run_number": run, "ms": 25.0})


def _joined(parts: list[dict[str, np.ndarray]]) -> Jagged:
    counts = np.array([len(part["px"]) for part in parts])
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Jagged(offsets=offsets_of(counts), columns=columns)


def _event(number: int) -> dict:
    stream = np.random.default_rng([7, number])
    count = int(stream.integers(0, 90)) if number % 11 else 0
    vertex = stream.normal(size=(3, 3)) * [[0.01], [150.0], [1800.0]]
    where = stream.integers(0, 3, count)
    # A few hard particles in narrow cones make jets.
    axis = stream.normal(size=(4, 3))
    direction = axis[stream.integers(0, 4, count)] + 0.15 * stream.normal(size=(count, 3))
    momentum = direction * stream.exponential(8.0, count)[:, None]
    kind = SPECIES[stream.integers(0, len(SPECIES), count)]
    particle = _kinematics(momentum, 0.14) | _place(vertex[where]) | {"id": kind}
    scalars = axis[:2] * 60.0
    llp = (
        _kinematics(scalars, 25.0)
        | _place(vertex[1:])
        | {
            "id": np.full(2, 35, dtype=np.int32),
            "flavour": np.array([5, 4], dtype=np.int32),
            "tau": np.array([30.0, 700.0], dtype=np.float32),
        }
    )
    parton = (
        _kinematics(axis * 30.0, 4.7)
        | _place(vertex[[0, 0, 1, 2]])
        | {
            "id": np.array([5, 4, -5, 15], dtype=np.int32),
            "llp": np.array([-1, -1, 0, 1], dtype=np.int32),
        }
    )
    return {"particle": particle, "llp": llp, "parton": parton, "sigma": stream.random()}


def _kinematics(momentum: np.ndarray, mass: float) -> dict[str, np.ndarray]:
    energy = np.sqrt((momentum**2).sum(axis=1) + mass**2)
    columns = dict(zip(("px", "py", "pz"), momentum.T.astype(np.float32), strict=True))
    return columns | {"e": energy.astype(np.float32)}


def _place(position: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(("x", "y", "z"), position.T.astype(np.float32), strict=True))
