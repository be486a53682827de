"""Two neutrinos from one source: what both say together of its direction.

The product of two von Mises-Fisher functions is one again, times a number: how well they overlap.
Refuses to know of maps; see `odds` for what becomes of it.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from msgspec import Struct

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# Pairs farther apart, in their common standard deviation, have nothing to say: e^-12.5.
_FAR: Final = 12.5


class Pairs(Struct, frozen=True, kw_only=True, eq=False):
    """Pairs of events that overlap, arrays (pairs,): the events (`first`, `second`), direction and
    width (radians) of what both say together, and the `overlap` 4 pi integral P_1 P_2.
    """

    first: Integers
    second: Integers
    ra: Floats
    dec: Floats
    sigma: Floats
    overlap: Floats


def pairs_within(number: Integers) -> tuple[Integers, Integers]:
    """All pairs of events of the same group; events stand group by group, `number` of each."""
    place = np.arange(int(number.sum()))
    nth = place - np.repeat(np.cumsum(number) - number, number)
    first = np.repeat(place, nth)
    back = np.arange(len(first)) - np.repeat(np.cumsum(nth) - nth, nth)
    return first, first - 1 - back


def pairs_of(ra: Floats, dec: Floats, sigma: Floats, number: Integers) -> Pairs:
    """The pairs of each group that overlap; directions and widths in radians, (events,).

    With concentrations k = 1/sigma^2 and unit vectors x, exp(k_1 x_1 y + k_2 x_2 y) is a function
    of concentration k = |k_1 x_1 + k_2 x_2| around that vector (Mardia and Jupp, Directional
    Statistics, 2000, section 9.3.2), and with its norm k / (2 pi (1 - exp(-2 k)))

        overlap = 2 k_1 k_2 / k exp(k - k_1 - k_2) (1 - e^-2k) / ((1 - e^-2k_1) (1 - e^-2k_2)),

    for small widths 2 / (sigma_1^2 + sigma_2^2) exp(-psi^2 / 2 / (sigma_1^2 + sigma_2^2)).
    """
    first, second = pairs_within(number)
    k_1, k_2 = sigma[first] ** -2, sigma[second] ** -2
    apart = np.sin((dec[first] - dec[second]) / 2) ** 2
    turned = np.sin((ra[first] - ra[second]) / 2) ** 2
    apart = 2 * (apart + np.cos(dec[first]) * np.cos(dec[second]) * turned)  # 1 - cos psi
    k = np.sqrt(np.maximum((k_1 + k_2) ** 2 - 2 * k_1 * k_2 * apart, 0.0))
    # k - k_1 - k_2 without cancellation.
    exponent = -2 * k_1 * k_2 * apart / (k + k_1 + k_2)
    near = np.flatnonzero((exponent > -_FAR) & (k > 0))
    first, second, k, k_1, k_2 = first[near], second[near], k[near], k_1[near], k_2[near]
    norm = np.expm1(-2 * k) / (-np.expm1(-2 * k_1) * np.expm1(-2 * k_2))
    x, y, z = (
        k_1 * one[first] + k_2 * one[second]
        for one in (np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec))
    )
    return Pairs(
        first=first,
        second=second,
        ra=np.mod(np.arctan2(y, x), 2 * np.pi),
        dec=np.arctan2(z, np.hypot(x, y)),
        sigma=1 / np.sqrt(k),
        overlap=2 * k_1 * k_2 / k * np.exp(exponent[near]) * norm,
    )
