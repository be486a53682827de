"""The text forms of axes: `200,0,2000`, `50,1,1e4,log`, `[0,1,5,10]`; two axes as `x : y`.

Owns their grammar. Refuses bins that could not be filled.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from dask_runner.errors import UsageError
from dask_runner.histograms.spec import Axis

_MOST_AXES = 2
_MOST_CELLS = 10_000_000
_FORMS = "N,low,high or N,low,high,log, or [e0,e1,e2,...] for edges; two axes as BINS : BINS"


def split_axes(text: str, place: str) -> tuple[str, ...]:
    """The parts of a text with one or two axes; in backticks a colon is part of a name."""
    parts, quoted = [""], False
    for letter in text:
        quoted ^= letter == "`"
        if letter == ":" and not quoted:
            parts.append("")
        else:
            parts[-1] += letter
    if len(parts) > _MOST_AXES:
        raise UsageError(
            f"{place}: {text!r}: more than two axes",
            hint="a function (--function) may fill histograms with more",
        )
    return tuple(part.strip() for part in parts)


def parse_axes(text: str, place: str) -> tuple[Axis, ...]:
    """The axes of a text. Raises UsageError."""
    return tuple(_parse(part, place) for part in split_axes(text, place))


def from_numbers(numbers: Sequence[float], place: str) -> Axis:
    """[N, low, high]: N equal bins. Raises UsageError."""
    if len(numbers) != 3:  # noqa: PLR2004
        raise UsageError(f"{place}: {[*numbers]} is not [N, low, high]", hint=_FORMS)
    number, low, high = numbers
    if not math.isfinite(number) or number != int(number) or number < 1:
        raise UsageError(f"{place}: {number} bins?", hint=_FORMS)
    if not (math.isfinite(low) and math.isfinite(high - low) and low < high):
        raise UsageError(f"{place}: from {low:g} to {high:g} there are no bins", hint=_FORMS)
    return _bounded(Axis(bins=int(number), start=float(low), stop=float(high)), place)


def from_edges(edges: Sequence[float], place: str) -> Axis:
    """Bins between edges. Raises UsageError unless they ascend."""
    values = tuple(float(edge) for edge in edges)
    if len(values) < 2 or any(math.isnan(edge) for edge in values):  # noqa: PLR2004
        raise UsageError(f"{place}: at least two edges, all numbers", hint=_FORMS)
    for one, other in pairwise(values):
        if not one < other:
            raise UsageError(f"{place}: the edges do not ascend: {one:g}, {other:g}")
    return _bounded(Axis(kind="variable", edges=values), place)


def _parse(text: str, place: str) -> Axis:
    edges = text.startswith("[") and text.endswith("]")
    words = [word.strip() for word in text.strip("[]").split(",")]
    logarithmic = words[-1] == "log"
    numbers = [_number(word, text, place) for word in (words[:-1] if logarithmic else words)]
    if edges:
        return from_edges(numbers, place)
    axis = from_numbers(numbers, place)
    if not logarithmic:
        return axis
    if axis.start <= 0:
        raise UsageError(f"{place}: {text!r}: bins of equal ratio begin above 0")
    return from_edges(np.geomspace(axis.start, axis.stop, axis.bins + 1).tolist(), place)


def _number(word: str, text: str, place: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise UsageError(f"{place}: {text!r}: {word!r} is not a number", hint=_FORMS) from None


def _bounded(axis: Axis, place: str) -> Axis:
    if axis.size > _MOST_CELLS:
        raise UsageError(f"{place}: {axis.size} bins are more than {_MOST_CELLS}")
    return axis
