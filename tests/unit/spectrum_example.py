"""A dijet spectrum of 116 bins and Gaussian signals, for the tests of the search."""

import numpy as np
from scipy.special import ndtr

from dask_runner.stats.spectrum import Fitter, Shape, scaled

SQRT_S = 13000.0
EDGES = np.geomspace(1100.0, 8000.0, 117)
_SHAPE = (9.5, -5.0, -0.15)


def theta(events=1e6, edges=EDGES):
    """Parameters with this many events expected."""
    start = np.array([0.0, *_SHAPE])
    start[0] = np.log(events / Shape(edges, SQRT_S).integrals(start).sum())
    return start


def template(mass, width=0.05, edges=EDGES):
    shares = np.diff(ndtr((edges - mass) / (width * mass)))
    return shares / shares.sum()


def fitter(mass, events=1e6):
    return Fitter(scaled(EDGES, SQRT_S, theta(events)), template(mass))
