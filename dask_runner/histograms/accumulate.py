"""Exact sums: the result does not depend on the order, on batches or on hosts.

Entries are counted as integers. Weights are added up without any rounding, as fixed-point numbers
of as many 32-bit digits as they need; only the final value is rounded, once. So are the squares of
weights, each of which is rounded to a double before. Adding up doubles as they come would differ
between batch sizes in the last digits of most bins.
"""

import math
from typing import Self

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

# Bits of a digit, and of what a sum of doubles holds without rounding.
_DIGIT = 32
_MANTISSA = 53
# Exponent below which the last digit of a double lies: subnormal numbers end at 2**-1074.
_LOWEST = -1074


class ExactSum:
    """Sums of doubles in `cells` places. `digits[k]` are int64 with the weight 2**(32 k); they may
    be beyond 32 bits, and are carried on before 2**30 additions have been made.
    """

    def __init__(self, cells: int) -> None:
        self.cells = cells
        self.digits: dict[int, Places] = {}

    def add_at(self, places: Places | None, weights: Numbers) -> None:
        """Add each weight in its place; None if there is one place only. All must be finite.

        They are cut into pieces at a power of two that depends on the largest, so that the pieces
        of a place add up in a double without rounding.
        """
        room = _MANTISSA - max(1, len(weights)).bit_length()
        rest = weights
        # Everything is below 2**top; a piece is a multiple of 2**(top - room).
        top = math.frexp(_largest(rest))[1]
        while len(rest) and (left := rest != 0).any():
            if np.count_nonzero(left) < len(rest) // 2:
                rest, places = rest[left], None if places is None else places[left]
            piece = _rounded(rest, top - room)
            self.add(
                piece.sum(keepdims=True)
                if places is None
                else np.bincount(places, piece, self.cells).astype(np.float64, copy=False)
            )
            rest = np.subtract(rest, piece, out=piece)
            top -= room

    def add(self, values: Numbers) -> None:
        """Add a double to each place."""
        rest = values
        while True:
            largest = _largest(rest)
            if largest == 0:
                return
            level = (math.frexp(largest)[1] - 1) // _DIGIT
            scaled = _scaled(rest, -level * _DIGIT)
            digit = np.trunc(scaled)
            self._digit(level)[...] += digit.astype(np.int64)
            # What is below the digit; both differences and powers of two are exact.
            rest = _scaled(scaled - digit, level * _DIGIT) if level * _DIGIT > _LOWEST else rest * 0

    def merge(self, other: Self) -> None:
        """Add the sums of another."""
        for level, digit in other.digits.items():
            self._digit(level)[...] += digit

    def carry(self) -> None:
        """Bring each digit into [0, 2**32) but the highest, which has the sign: one form for each
        sum, and room for as many additions again.
        """
        if not self.digits:
            return
        level = min(self.digits)
        while level in self.digits or any(above > level for above in self.digits):
            digit = self._digit(level)
            over = digit >> _DIGIT
            if level == max(self.digits) and not ((over != 0) & (over != -1)).any():
                break
            digit -= over << _DIGIT
            if over.any():
                self._digit(level + 1)[...] += over
            level += 1
        self.digits = {k: d for k, d in sorted(self.digits.items()) if d.any()}

    def value(self) -> Numbers:
        """The sums, each rounded once, (cells,)."""
        result = np.zeros(self.cells)
        levels = sorted(self.digits)
        if not levels:
            return result
        used = np.flatnonzero(np.any([self.digits[k] != 0 for k in levels], axis=0))
        for place in used:
            exact = sum(int(self.digits[k][place]) << (_DIGIT * (k - levels[0])) for k in levels)
            result[place] = _as_float(exact, _DIGIT * levels[0])
        return result

    def _digit(self, level: int) -> Places:
        if level not in self.digits:
            self.digits[level] = np.zeros(self.cells, np.int64)
        return self.digits[level]


def _largest(values: Numbers) -> float:
    """The largest absolute value, 0 if there are none."""
    return max(float(values.max()), -float(values.min())) if len(values) else 0.0


def _rounded(values: Numbers, exponent: int) -> Numbers:
    """Each value rounded to a multiple of 2**exponent, exactly: by a number so large that its last
    digit is that.
    """
    if exponent <= _LOWEST:
        return values.copy()
    if exponent + _MANTISSA - 1 < 1023:  # noqa: PLR2004  the largest exponent of a double
        large = math.ldexp(1.5, exponent + _MANTISSA - 1)
        piece = values + large
        piece -= large
        return piece
    return _scaled(np.rint(_scaled(values, -exponent)), exponent)


def _scaled(values: Numbers, exponent: int) -> Numbers:
    """The values times a power of two; exact for all that is used here."""
    result: Numbers = np.ldexp(values, exponent)
    return result


def _as_float(digits: int, exponent: int) -> float:
    """The number digits * 2**exponent, rounded once; infinite beyond the range of doubles."""
    try:
        return float(digits << exponent) if exponent >= 0 else digits / (1 << -exponent)
    except OverflowError:
        return math.inf if digits > 0 else -math.inf
