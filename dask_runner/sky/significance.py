"""What a test statistic is worth at a declination: -log10 of its p-value, from background trials.

Owns the form in which the distributions of background trials go to hosts: eta, ndof and scale for
each declination, a few numbers. Refuses to invent them: without background trials there is no p.
"""

from typing import Any, Self

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dask_runner.errors import UsageError
from dask_runner.stats.distribution import Chi2TSD, ts_to_p

# Of a test statistic whose p-value no double holds.
_SMALLEST = 1e-300


class Significance(Struct, frozen=True, kw_only=True):
    """Chi2 distributions of the test statistic without signal at `decs` (radians, ascending):
    shares `eta` of positive values, degrees of freedom `ndof` and `scale`. `runs` are those of the
    trials, `search` what identifies the search that they are of.
    """

    decs: tuple[float, ...]
    eta: tuple[float, ...]
    ndof: tuple[float, ...]
    scale: tuple[float, ...]
    runs: tuple[str, ...] = ()
    search: str = ""

    @classmethod
    def of(cls, fits: dict[float, Chi2TSD], **known: Any) -> Self:
        """From fitted distributions by declination (radians). Raises UsageError if one of them has
        no fit.
        """
        for dec, fit in fits.items():
            if np.isnan(fit.ndof):
                raise UsageError(
                    f"background trials at dec {np.degrees(dec):g} deg: {fit.warning}",
                    hint="more background trials",
                )
        decs = sorted(fits)
        return cls(
            decs=tuple(decs),
            eta=tuple(float(fits[dec].eta) for dec in decs),
            ndof=tuple(float(fits[dec].ndof) for dec in decs),
            scale=tuple(float(fits[dec].scale) for dec in decs),
            **known,
        )

    def mlog10p(self, dec: npt.ArrayLike, ts: npt.ArrayLike) -> Any:
        """-log10 P(TS >= ts) at declinations in radians, p interpolated linearly between the two
        nearest declinations of the trials, and that of the end beyond; shapes as numpy broadcasts
        them. It is 0 for TS = 0.
        """
        fits = [
            Chi2TSD(eta=eta, ndof=ndof, scale=scale)
            for eta, ndof, scale in zip(self.eta, self.ndof, self.scale, strict=True)
        ]
        p = ts_to_p(self.decs, fits, dec, ts).p
        # -log10(1) is -0.0.
        return np.abs(np.log10(np.maximum(p, _SMALLEST)))
