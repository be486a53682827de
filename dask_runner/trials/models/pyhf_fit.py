"""The minimum of a likelihood within bounds, by Newton steps that know where the bounds are.

Owns when a fit has converged: the estimated distance to the minimum, g H^-1 g / 2, is what is left
of -ln L. A fit that does not get there says so; nothing is raised.
"""

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dask_runner.trials.models.pyhf_likelihood import Array, Expansion, Likelihood

Mask = npt.NDArray[np.bool_]

# Left of -ln L when it is enough, and when it will do if rounding leaves no way down.
_DISTANCE = 1e-10
_ROUNDED = 1e-6
_MOST_STEPS = 100
_MOST_HALVINGS = 40
_ARMIJO = 1e-4
_RIDGE = 1e-11
# Steps before the curvature's correction is used; a gradient's change that says nothing.
_TRUSTED = 3
_PARALLEL = 1e-8


class Bounds(Struct, frozen=True):
    """Of each parameter; where `free` is not set, a parameter stays where it is."""

    low: Array
    high: Array
    free: Mask


class Data(Struct, frozen=True):
    """What was measured: counts, the auxiliary ones behind the main ones, and normal ones."""

    counts: Array
    normals: Array


class Fit(Struct, frozen=True):
    """The parameters at the minimum and -ln L there."""

    theta: Array
    value: float
    converged: bool


def minimise(likelihood: Likelihood, data: Data, start: Array, bounds: Bounds) -> Fit:
    """Minimise -ln L from `start`, shape (parameters,).

    Each step solves for the minimum of the quadratic expansion within the bounds (a parameter that
    would leave them is held there), and is halved until -ln L falls enough (Armijo 1966). Where
    -ln L is infinite at the start, there is no way from there.
    """
    theta = np.where(bounds.free, np.clip(start, bounds.low, bounds.high), start)
    here = likelihood.expand(theta, data.counts, data.normals)
    if not np.isfinite(here.value):
        return Fit(theta, np.inf, converged=False)
    missing = np.zeros_like(here.curvature)
    for number in range(_MOST_STEPS):
        step = _direction(theta, here, bounds, missing if number >= _TRUSTED else None)
        fall = -float(here.gradient @ step)
        if not fall > _DISTANCE:
            # NaN is no minimum, and neither is a place where a step leads up.
            return Fit(theta, here.value, fall > -_ROUNDED)
        before, there = here, theta
        theta, here = _walk(likelihood, data, theta, here, step)
        if here is before:
            return Fit(theta, here.value, fall < _ROUNDED * (1 + abs(here.value)))
        _learn(missing, theta - there, here.gradient - before.gradient, here.curvature)
    return Fit(theta, here.value, converged=False)


def _direction(theta: Array, here: Expansion, bounds: Bounds, missing: Array | None) -> Array:
    """A step down; with what the curvature has been seen to miss, if it stays a valley. If not,
    what was learned is forgotten.
    """
    if missing is not None:
        whole = here.curvature + missing
        if _is_valley(whole, bounds.free):
            step = _step(theta, here.gradient, whole, bounds)
            if here.gradient @ step < 0:
                return step
        missing[:] = 0
    return _step(theta, here.gradient, here.curvature, bounds)


def _learn(missing: Array, step: Array, change: Array, curvature: Array) -> None:
    """Second derivatives of the expectation are left out of the curvature; the change of the
    gradient tells about them (symmetric rank-one update: Dennis, Gay and Welsch, ACM TOMS 7 (1981)
    348). Without, some fits crawl.
    """
    rest = change - (curvature + missing) @ step
    along = float(rest @ step)
    if abs(along) > _PARALLEL * np.sqrt((rest @ rest) * (step @ step)):
        missing += np.outer(rest, rest) / along


def _is_valley(curvature: Array, free: Mask) -> bool:
    try:
        np.linalg.cholesky(_part(curvature, np.flatnonzero(free)))
    except np.linalg.LinAlgError:
        return False
    return True


def _part(curvature: Array, index: npt.NDArray[np.intp]) -> Array:
    """The part of some parameters. One on which nothing depends gets a curvature, and so a step
    of 0.
    """
    part = curvature[index[:, np.newaxis], index]
    diagonal = part.diagonal()
    part.flat[:: len(index) + 1] += _RIDGE * np.abs(diagonal) + (diagonal == 0)
    return part


def _walk(
    likelihood: Likelihood, data: Data, theta: Array, here: Expansion, step: Array
) -> tuple[Array, Expansion]:
    """The end of the step, or of as much of it as leads down; the same place if none does."""
    slope = _ARMIJO * float(here.gradient @ step)
    # Mostly all of it does, and the expansion will be needed there.
    whole = likelihood.expand(theta + step, data.counts, data.normals)
    if whole.value <= here.value + slope:
        return theta + step, whole
    length = 0.5
    for _ in range(_MOST_HALVINGS):
        end = theta + length * step
        if likelihood.value(end, data.counts, data.normals) <= here.value + length * slope:
            return end, likelihood.expand(end, data.counts, data.normals)
        length /= 2
    return theta, here


def _step(theta: Array, gradient: Array, curvature: Array, bounds: Bounds) -> Array:
    """To the minimum of the quadratic expansion, with those that would leave the bounds on them."""
    step = np.zeros_like(theta)
    leaving = ((theta <= bounds.low) & (gradient > 0)) | ((theta >= bounds.high) & (gradient < 0))
    inside = bounds.free & ~leaving
    while inside.any():
        index = np.flatnonzero(inside)
        # Those on their bound have their step already.
        pull = gradient[index] + curvature[index] @ step
        wanted = -np.linalg.solve(_part(curvature, index), pull)
        allowed = np.clip(
            wanted, bounds.low[index] - theta[index], bounds.high[index] - theta[index]
        )
        held = allowed != wanted
        step[index] = np.where(held, allowed, 0.0)
        if not held.any():
            step[index] = wanted
            break
        inside[index[held]] = False
    return step
