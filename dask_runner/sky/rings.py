"""The pixels of a HEALPix grid around many directions at once, and what a map is worth there.

In closed form with NumPy alone, as `pixels`: a ring of the grid has pixels at equal steps of right
ascension, so that a disc is an interval of each ring it meets. Refuses to know what a map means.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dask_runner.sky.pixels import check_nside, pixel_number

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# Beyond it a Gaussian has 4e-6 of its integral.
_RADII: Final = 5.0
# Pixels at a time: their arrays stay in the cache of a core.
_PIXELS: Final = 1 << 15


class Rings(Struct, frozen=True, kw_only=True, eq=False):
    """The rings of a grid from north to south, arrays (4 nside - 1,): polar angle `theta` with its
    cosine and sine, the `first` pixel, the number of `pixels`, and the phase of the first one in
    pixels (0 or 1/2).
    """

    nside: int
    theta: Floats
    cosine: Floats
    sine: Floats
    first: Integers
    pixels: Integers
    phase: Floats

    @classmethod
    def of(cls, nside: int) -> "Rings":
        """Gorski et al., ApJ 622 (2005) 759, equations 2 to 9. Raises UsageError for an nside that
        is none.
        """
        check_nside(nside)
        ring = np.arange(1, 4 * nside)
        pole = np.minimum(ring, 4 * nside - ring)
        cap = pole < nside
        pixels = 4 * np.minimum(nside, pole)
        # From the pole: 1 - cos(theta) keeps its digits there.
        near = 2 * np.arcsin(pole / (np.sqrt(6) * nside))
        theta = np.where(ring == pole, near, np.pi - near)
        belt = np.arccos(np.clip(2 * (2 * nside - ring) / (3 * nside), -1, 1))
        theta = np.where(cap, theta, belt)
        phase = np.where(cap | ((ring - nside) % 2 == 0), 0.5, 0.0)
        first = np.concatenate([[0], np.cumsum(pixels)[:-1]])
        return cls(
            nside=nside,
            theta=theta,
            cosine=np.cos(theta),
            sine=np.sin(theta),
            first=first,
            pixels=pixels,
            phase=phase,
        )


def pixel_at(nside: int, ra: npt.ArrayLike, dec: npt.ArrayLike) -> Integers:
    """The pixel in RING order that holds a direction (radians), of the shape of `ra` and `dec`.

    Gorski et al., section 4.1: pixels are bounded by z = z_0 +- slope * phi in the belt, and by
    lines through the pole's corners in the caps.
    """
    z, phi = np.sin(np.asarray(dec, float)), np.asarray(ra, float)
    turn = np.mod(phi, 2 * np.pi) / (np.pi / 2)
    belt = _belt_pixel(nside, z, turn)
    cap = _cap_pixel(nside, np.asarray(dec, float), turn)
    return np.where(np.abs(z) <= 2 / 3, belt, cap)


def _belt_pixel(nside: int, z: Floats, turn: Floats) -> Integers:
    up = np.floor(nside * (0.5 + turn - z * 0.75)).astype(np.int64)
    down = np.floor(nside * (0.5 + turn + z * 0.75)).astype(np.int64)
    row = nside + 1 - (down - up)  # 1 is the ring at z = 2/3
    shift = 1 - row % 2
    column = (down + up - nside + shift + 1) // 2
    first = 2 * nside * (nside - 1) + (row - 1) * 4 * nside
    return np.asarray(first + np.mod(column, 4 * nside))


def _cap_pixel(nside: int, dec: Floats, turn: Floats) -> Integers:
    inside = turn - np.floor(turn)
    # nside * sqrt(3 (1 - |z|)), which keeps its digits at the pole.
    span = nside * np.sqrt(6) * np.sin((np.pi / 2 - np.abs(dec)) / 2)
    up = np.floor(inside * span).astype(np.int64)
    down = np.floor((1 - inside) * span).astype(np.int64)
    ring = np.minimum(up + down + 1, nside)
    column = np.minimum(np.floor(turn * ring).astype(np.int64), 4 * ring - 1)
    north = 2 * ring * (ring - 1) + column
    south = pixel_number(nside) - 2 * ring * (ring + 1) + column
    return np.asarray(np.where(dec > 0, north, south))


class _Discs(Struct, frozen=True, kw_only=True, eq=False):
    """Where to look, arrays (n,): directions and widths in radians, the first ring and the one
    behind the last.
    """

    ra: Floats
    theta: Floats
    sigma: Floats
    first: Integers
    end: Integers


def average(rings: Rings, values: Floats, ra: Floats, dec: Floats, sigma: Floats) -> Floats:
    """The mean of a map around each direction with the weights of a point spread: sum(w m)/sum(w)
    over the pixels within 5 sigma, w = exp((cos psi - 1) / sigma^2) at their centres, which is a
    von Mises-Fisher function and for small sigma a Gaussian. Where that is smaller than the pixels
    and no centre is near, it is the value of the pixel that holds the direction. A map of ones
    gives exactly 1. Each result depends on its own direction alone. Weights have the digits of
    single precision, which is ten times faster: the mean is good to 1e-6.

    `values`: (12 nside^2,) in RING order; directions and `sigma` in radians, (n,). Returns (n,).
    """
    result = values[pixel_at(rings.nside, ra, dec)]
    radius = np.minimum(_RADII * sigma, np.pi)
    theta = np.pi / 2 - dec
    first = np.searchsorted(rings.theta, theta - radius)
    end = np.searchsorted(rings.theta, theta + radius, side="right")
    for part in _parts(rings, radius, end - first):
        discs = _Discs(
            ra=ra[part], theta=theta[part], sigma=sigma[part], first=first[part], end=end[part]
        )
        weight, weighted = _sums(rings, values, discs)
        there = weight > 0
        result[part][there] = weighted[there] / weight[there]
    return result


def _parts(rings: Rings, radius: Floats, number: Integers) -> Iterator[slice]:
    """Directions that are looked at together: about as many pixels as fit."""
    share = np.sin(np.minimum(radius, np.pi) / 2) ** 2
    cost = np.cumsum(pixel_number(rings.nside) * share + number + 1)
    start = 0
    while start < len(cost):
        before = cost[start - 1] if start else 0.0
        end = max(start + 1, int(np.searchsorted(cost, before + _PIXELS)))
        yield slice(start, end)
        start = end


def _sums(rings: Rings, values: Floats, discs: _Discs) -> tuple[Floats, Floats]:
    """Sums over the pixels of each disc, (n,): of weights, and of weights times values."""
    which, ring = _expanded(discs.first, discs.end - discs.first)
    cosine, sine = np.cos(discs.theta)[which], np.sin(discs.theta)[which]
    sigma = discs.sigma[which]
    pixels, width = rings.pixels[ring], -0.5 / sigma**2
    step = 2 * np.pi / pixels
    middle = discs.ra[which] / step - rings.phase[ring]
    half = _half_width(rings, ring, cosine, sine, _RADII * sigma) / step
    low = np.ceil(middle - half)
    number = np.floor(middle + half).astype(np.int64) - low.astype(np.int64) + 1
    number = np.clip(number, 0, pixels)
    # The square of the chord, 2 (1 - cos psi), without cancellation.
    across = (rings.cosine[ring] - cosine) ** 2 + (rings.sine[ring] - sine) ** 2
    along = 4 * rings.sine[ring] * sine
    _, place = _expanded(np.zeros_like(number), number)

    def spread(of_arc: npt.NDArray[Any], kind: type[np.generic]) -> npt.NDArray[Any]:
        return np.repeat(of_arc.astype(kind), number)

    turned = place.astype(np.float32)
    turned *= spread(step / 2, np.float32)
    turned += spread((low - middle) * (step / 2), np.float32)
    np.sin(turned, out=turned)
    turned *= turned
    turned *= spread(along * width, np.float32)
    turned += spread(across * width, np.float32)
    weights = np.exp(turned, out=turned).astype(np.float64)
    # Around the ring: what is behind its last pixel is at its beginning.
    begin = np.mod(low.astype(np.int64), pixels)
    inside = np.minimum(number, pixels - begin)
    place += spread(rings.first[ring] + begin, np.int64)
    if (inside < number).any():
        behind = np.flatnonzero(inside < number)
        arcs, nth = _expanded(inside[behind], (number - inside)[behind])
        place[(np.cumsum(number) - number)[behind][arcs] + nth] -= pixels[behind][arcs]
    count = np.bincount(which, number, len(discs.ra)).astype(np.int64)
    return _by_direction(weights, count), _by_direction(weights * values[place], count)


def _by_direction(values: Floats, count: Integers) -> Floats:
    """The sum of the next `count` values for each."""
    sums, there = np.zeros(len(count)), count > 0
    if there.any():
        sums[there] = np.add.reduceat(values, (np.cumsum(count) - count)[there])
    return sums


def _half_width(
    rings: Rings, ring: Integers, cosine: Floats, sine: Floats, radius: Floats
) -> Floats:
    """Half of the interval of right ascension that a disc cuts out of a ring, in radians; negative
    where it cuts out nothing.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = (np.cos(np.minimum(radius, np.pi)) - rings.cosine[ring] * cosine) / (
            rings.sine[ring] * sine
        )
    # A pole is at the same distance from all pixels of a ring, which is within the radius.
    reach = np.where(np.isnan(reach), -1.0, reach)
    return np.where(reach > 1, -1.0, np.arccos(np.clip(reach, -1, 1)))


def _expanded(first: Integers, number: Integers) -> tuple[Integers, Integers]:
    """`number` integers from `first` on for each: whose they are, and the integers."""
    which = np.repeat(np.arange(len(number)), number)
    start = np.cumsum(number) - number
    return which, np.arange(len(which)) - np.repeat(start - first, number)
