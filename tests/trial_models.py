"""Models of trials for tests: what a user may write, and what may go wrong in it."""

import faulthandler
import os
import signal
import time
from pathlib import Path

FOLDER = Path(__file__).parent


def simple(rng, mass, width=0.1):
    return {"x": rng.normal(mass, width), "n": int(rng.poisson(3))}


def anything(rng, mass):
    """Takes values that are no numbers too."""
    return rng.random()


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
    # Slow enough to be seen growing.
    time.sleep(0.01)
    return rng.random()


def troubled(rng, mass):
    """Goes wrong in every way that a trial can; by its random number, so always in the same trials."""
    x = rng.random()
    if x >= 0.12:
        return x
    kind = int(x / 0.02)
    if kind == 0:
        raise ValueError("no fit")
    if kind == 1:
        faulthandler.disable()
        os.kill(os.getpid(), signal.SIGSEGV)
    while kind == 2:
        pass
    return [float("nan"), "text", None][kind - 3]
