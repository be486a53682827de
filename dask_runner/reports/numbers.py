"""Numbers with their errors, rounded to what the error allows."""

from math import floor, isfinite, log10

_DIGITS = 2
_MOST_PLACES = 12
_HUGE = 1e6
_TINY = 1e-4


def with_error(value: float, error: float, sign: str = "±") -> str:
    """`199 ± 12`, `0.0135 ± 0.0011`: two digits of the error. Without one if it is 0 or open."""
    if not isfinite(error) or error <= 0:
        return f"{value:.4g}"
    large = max(abs(value), error)
    if not _TINY <= large < _HUGE:
        power = floor(log10(large))
        inner = with_error(value / 10.0**power, error / 10.0**power, sign)
        return f"({inner})e{power:+d}"
    places = _DIGITS - 1 - floor(log10(error))
    if places > _MOST_PLACES:
        return f"{value:.6g}"
    return f"{value:.{max(0, places)}f} {sign} {error:.{max(0, places)}f}"
