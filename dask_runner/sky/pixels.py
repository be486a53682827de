"""Where the pixels of a HEALPix grid are: their centres in RING order, and which of them lie in a
band of declination.

In closed form, with NumPy alone: hosts scan pixels, and need no HEALPix library for it (importing
one takes a second). Owns nothing else of HEALPix: maps are read and written with healpy.
"""

import numpy as np
import numpy.typing as npt

from dask_runner.errors import UsageError

Floats = npt.NDArray[np.float64]

# Beyond this, one map has more pixels than anybody scans.
_MOST = 4096


def check_nside(nside: int) -> None:
    """Raises UsageError unless `nside` is a power of 2, up to 4096."""
    if not 1 <= nside <= _MOST or nside & (nside - 1):
        raise UsageError(
            f"nside {nside}: a HEALPix grid has a power of 2, up to {_MOST}",
            hint="64 has 49152 pixels of 0.9 deg",
        )


def pixel_number(nside: int) -> int:
    """Pixels of the whole sky."""
    return 12 * nside * nside


def resolution(nside: int) -> float:
    """The square root of a pixel's area, in radians."""
    return float(np.sqrt(4 * np.pi / pixel_number(nside)))


def centres(nside: int, pixels: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Right ascension in [0, 2 pi) and declination of pixels in RING order, in radians, of the
    shape of `pixels`.

    Gorski et al., ApJ 622 (2005) 759, equations 2 to 9, with the southern cap as the mirror of the
    northern one.
    """
    index = np.asarray(pixels, dtype=np.int64)
    number, cap = pixel_number(nside), 2 * nside * (nside - 1)
    south = index >= number - cap
    north = index < cap
    # From the nearer pole, for pixels of the caps.
    inside = np.where(south, number - 1 - index, index)
    ring = np.where(north | south, _cap_ring(np.where(north | south, inside, 0)), 1)
    in_cap = inside - 2 * ring * (ring - 1)
    in_cap = np.where(south, 4 * ring - 1 - in_cap, in_cap)
    cap_ra = (in_cap + 0.5) * np.pi / (2 * ring)
    cap_dec = np.pi / 2 - 2 * np.arcsin(ring / (np.sqrt(6) * nside))
    row, column = np.divmod(index - cap, 4 * nside)
    shift = np.where(row % 2 == 0, 0.5, 0.0)
    belt_ra = (column + shift) * np.pi / (2 * nside)
    sine = 2 * (nside - row) / (3 * nside)
    belt_dec = np.arcsin(np.clip(sine, -1, 1))
    ra = np.where(north | south, cap_ra, belt_ra)
    dec = np.where(north, cap_dec, np.where(south, -cap_dec, belt_dec))
    return ra, dec


def band(nside: int, lowest: float, highest: float) -> tuple[int, int]:
    """The first pixel and the number of those whose centres have a declination from `lowest` to
    `highest`, in radians: in RING order they follow each other. Raises UsageError if there is none.
    """
    if not lowest < highest:
        raise UsageError(
            f"declinations from {np.degrees(lowest):g} to {np.degrees(highest):g} deg: nothing "
            "is between them"
        )
    # The first pixel of each ring stands for it.
    starts = _ring_starts(nside)
    _, dec = centres(nside, starts[:-1])
    inside = np.flatnonzero((dec >= lowest) & (dec <= highest))
    if not len(inside):
        raise UsageError(
            f"no pixel of nside {nside} is between {np.degrees(lowest):g} and "
            f"{np.degrees(highest):g} deg",
            hint="a wider band, or a larger --nside",
        )
    first, end = int(starts[inside[0]]), int(starts[inside[-1] + 1])
    return first, end - first


def rings(nside: int, first: int, count: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """The declination of each ring of a band (as of `band`), and how many pixels it has."""
    starts = _ring_starts(nside)
    inside = (starts[:-1] >= first) & (starts[:-1] < first + count)
    _, dec = centres(nside, starts[:-1][inside])
    return dec, np.diff(starts)[inside]


def _ring_starts(nside: int) -> npt.NDArray[np.int64]:
    """The first pixel of each ring, and the number of pixels at the end."""
    ring = np.arange(1, 4 * nside)
    sizes = 4 * np.minimum(nside, np.minimum(ring, 4 * nside - ring))
    return np.concatenate([[0], np.cumsum(sizes)])


def _cap_ring(index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The ring (1 is at the pole) of a pixel of a polar cap: ring r begins at 2 r (r - 1)."""
    ring = ((1 + np.sqrt(1 + 2 * index.astype(np.float64))) / 2).astype(np.int64)
    # Rounding may miss by one.
    ring = np.where(2 * ring * (ring - 1) > index, ring - 1, ring)
    return np.where(2 * (ring + 1) * ring <= index, ring + 1, ring)


def separation(ra: npt.ArrayLike, dec: npt.ArrayLike, ra_0: float, dec_0: float) -> Floats:
    """The angle to a place, all in radians (the haversine formula, exact for small angles)."""
    d_ra, d_dec = np.asarray(ra) - ra_0, np.asarray(dec) - dec_0
    half = np.sin(d_dec / 2) ** 2 + np.cos(dec) * np.cos(dec_0) * np.sin(d_ra / 2) ** 2
    return np.asarray(2 * np.arcsin(np.sqrt(np.clip(half, 0, 1))))
