"""What the statistics ask of arrays: one axis, finite, not empty. Nothing is dropped silently."""

import numpy as np
import numpy.typing as npt

from dask_runner.errors import UsageError

Floats = npt.NDArray[np.float64]

# Bootstrap errors repeat bit for bit unless the caller brings a stream of their own.
_DEFAULT_SEED = 0


def trials_of(values: npt.ArrayLike, name: str = "values", *, fewest: int = 1) -> Floats:
    """`values` as numbers of shape (trials,). Raises UsageError for another shape, for fewer than
    `fewest`, for NaN and infinities: a failed trial has to be left out by the one who counts it.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise UsageError(f"{name} must be a list of trials, not of shape {array.shape}")
    if len(array) < fewest:
        raise UsageError(f"{name}: {len(array)} trials, at least {fewest} are needed")
    # The sum is finite if all of them are: one pass without a temporary array; if it overflows,
    # the slow look tells.
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(array.sum())
    if suspicious:
        bad = int(np.count_nonzero(~np.isfinite(array)))
        if bad:
            raise UsageError(
                f"{name}: {bad} of {len(array)} trials are NaN or infinite",
                hint="leave failed trials out, and say how many they were",
            )
    return array


def probabilities(values: npt.ArrayLike, name: str = "p") -> Floats:
    """`values` as numbers between 0 and 1, of any shape. Raises UsageError for others and NaN."""
    array = np.asarray(values, dtype=np.float64)
    if not np.all((array >= 0) & (array <= 1)):
        raise UsageError(f"{name} must be between 0 and 1")
    return array


def generator(rng: np.random.Generator | None) -> np.random.Generator:
    """The caller's random numbers, or always the same ones."""
    return np.random.default_rng(_DEFAULT_SEED) if rng is None else rng
