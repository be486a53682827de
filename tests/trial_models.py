"""Models of trials for tests: what a user may write, and what may go wrong in it."""

import os
import time
from pathlib import Path

FOLDER = Path(__file__).parent


def simple(rng, mass, width=0.1):
    return {"x": rng.normal(mass, width), "n": int(rng.poisson(3))}


def gated(rng, mass):
    """Says that it runs, and waits for a file that the test makes."""
    folder = Path(os.environ["TEST_FOLDER"])
    (folder / f"waiting-{os.getpid()}").touch()
    while not (folder / "go").exists():
        time.sleep(0.02)
    return rng.random()


def poison(rng, mass):
    """One mass cannot be fitted at all."""
    x = rng.random()
    if mass == 2 and x < 0.9:
        raise RuntimeError(f"no minimum found from {x}")
    return x


def slow(rng, mass):
    """Some points cost a hundred times as much as others."""
    end = time.process_time() + (0.02 if mass == 2 else 0.0002)
    while time.process_time() < end:
        sum(range(100))
    return rng.random()


def noisy(rng, mass):
    print("a warning that nobody asked for " * 30)
    return rng.random()


def leaks(rng, mass, hoard=[]):  # noqa: B006
    hoard.append(bytearray(5_000_000))
    return rng.random()
