"""The trial model `gaussian`: one number x ~ N(mu, 1), the check whose every answer is known.

Without signal the share .5 of trials has TS = 0, and the others follow a chi2 with one degree of
freedom; TS of k sigma is k^2, sensitivity 1.28155, discovery 5.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from math import isfinite
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from scipy.special import ndtri

from dask_runner.errors import UsageError
from dask_runner.seeds import Value
from dask_runner.trials.model import BlockTrial, Parameters

Array = npt.NDArray[np.float64]

# Half the step of the uniform numbers. 0 itself would give an infinite x.
_SMALLEST = 2.0**-54


class Gaussian(Struct, frozen=True, kw_only=True):
    """Parameter of a point: `mu`, or `n_sig` for those who scan that; 0 without it."""

    @classmethod
    def from_options(
        cls,
        *,
        points: Sequence[Mapping[str, Value]] = (),  # noqa: ARG003  # needs no files for them
        **given: Any,
    ) -> Self:
        """Raises UsageError for any option: there is nothing to choose."""
        if given:
            raise UsageError(
                f"model gaussian takes no --{next(iter(given))}", hint="--grid mu=0:5:1"
            )
        return cls()

    def parameters(self) -> Parameters:
        return Parameters(optional={"mu": 0, "n_sig": 0})

    def fields(self) -> dict[str, str]:
        return {"x": "<f8", "ts": "<f8"}

    def sampler(self, point: Mapping[str, Value]) -> BlockTrial:
        """Raises UsageError for a point with both parameters, or a value that is no number."""
        if "mu" in point and "n_sig" in point:
            raise UsageError("model gaussian: mu and n_sig are the same, give one of them")
        mean = point.get("mu", point.get("n_sig", 0))
        if isinstance(mean, str) or not isfinite(mean):
            raise UsageError(f"model gaussian: the mean {mean!r} is not a finite number")
        return BlockTrial(words=1, run=partial(_draw, float(mean)))


def _draw(mean: float, uniforms: Array) -> dict[str, Array]:
    x = ndtri(np.maximum(uniforms[:, 0], _SMALLEST))
    x += mean
    ts = np.maximum(x, 0.0)
    ts *= ts
    return {"x": x, "ts": ts}
