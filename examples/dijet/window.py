"""A trial model of one's own, with data that it takes along: a cross-check of `spectrum`.

    dask-runner trials --model examples/dijet/window.py:trial --ship search \
        --grid mass=3000:7000:1000 -n 1000

`search` is the folder that search.py makes. Events are counted in a window around the mass; the
background is the geometric mean of the sidebands on both sides. Without events in one of them it is
not known: such a trial fails. At the end of the spectrum that is most of them, and so there is no
limit of this method there, instead of one from the lucky trials.
"""

import functools
import os
import tomllib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dask_runner.rootfiles import read_histogram
from dask_runner.stats.counting import upper_limit
from dask_runner.stats.spectrum import Shape

# Sideband, window, sideband: their ends as shares of the mass.
ENDS = (0.8, 0.95, 1.05, 1.3)
FIELDS = {"n": "i8", "background": "f8", "limit": "f8", "limit_cross_section": "f8"}


def trial(rng: np.random.Generator, mass: float) -> dict[str, float]:
    """Background alone: the events in the window and the upper limit, with 95 % confidence."""
    expected, visible = window(mass)
    low, n, high = rng.poisson(expected)
    if not low or not high:
        raise ValueError("no events in a sideband: the background is not known")
    background = np.sqrt(low * high) * expected[1] / np.sqrt(expected[0] * expected[2])
    limit = upper_limit(n, background)
    return {
        "n": int(n),
        "background": background,
        "limit": limit,
        "limit_cross_section": limit / visible,
    }


trial.fields = FIELDS


@functools.cache
def window(mass: float) -> tuple[NDArray[np.float64], float]:
    """Background events expected in the three ranges, and signal in the window for 1 fb."""
    # Planning tries the model before anything is shipped: then `search` is here.
    folder = Path(os.environ.get("DASK_RUNNER_SHIPPED", ".")) / "search"
    search = tomllib.loads((folder / "dijet.toml").read_text())
    signal = read_histogram(folder / "dijet.root", f"qstar_{mass:g}")
    p1, *others = search["background"]["parameters"]
    background = Shape(signal.edges, search["sqrt_s"]).integrals([np.log(p1), *others])
    centres = (signal.edges[:-1] + signal.edges[1:]) / 2
    place = np.digitize(centres, np.array(ENDS) * mass)
    expected = np.array([background[place == k].sum() for k in (1, 2, 3)])
    generated = search["cross_section"]["generated"][f"{mass:g}"]
    acceptance = signal.contents[place == 2].sum() / generated
    return expected, search["cross_section"]["luminosity"] * acceptance
