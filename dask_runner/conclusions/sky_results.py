"""What scans of the sky are found to say: plain structs, each of them JSON as it is."""

from msgspec import Struct

from dask_runner.sky.skymaps import Spot
from dask_runner.stats.looks import Looks, PostTrial
from dask_runner.stats.quantiles import Quantile
from dask_runner.workloads.skyscan import InjectedSource


class Seen(Struct, frozen=True, kw_only=True):
    """That the observed sky was scanned: why, when and by whom, as the manifest says."""

    reason: str
    time: str
    who: str


class SkyView(Struct, frozen=True, kw_only=True):
    """A map in words: `pixels` of a grid `nside` were scanned, `missing` are not done. The `spots`
    are the hottest pixels at least `apart` degrees from each other, hottest first, in degrees;
    `background` are the runs that p-values are from.
    """

    run: str
    sky: int
    nside: int
    pixels: int
    missing: int
    resolution: float
    apart: float
    quantity: str
    spots: tuple[Spot, ...]
    background: tuple[str, ...] = ()
    injection: InjectedSource | None = None
    unblinded: Seen | None = None
    warnings: tuple[str, ...] = ()


class ObservedSpot(Struct, frozen=True, kw_only=True):
    """The hottest spot of the sky in question; `heat` is its -log10 p, or TS without p-values."""

    name: str
    heat: float
    post_trial: PostTrial
    spot: Spot | None = None
    unblinded: Seen | None = None


class HottestSpots(Struct, frozen=True, kw_only=True):
    """The hottest spot of each of `skies` skies without signal: `values` of the `quantity` (mlog10p
    or ts) in order of the skies, their `quantiles`, and the effective number of independent looks.
    """

    runs: tuple[str, ...]
    skies: int
    quantity: str
    values: tuple[float, ...]
    quantiles: tuple[Quantile, ...]
    looks: Looks | None = None
    observed: ObservedSpot | None = None
    background: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
