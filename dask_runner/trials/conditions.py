"""`--until`: when are there enough trials of a point?

Owns the conditions and the numbers of trials at which they are looked at: 1000, 2000, 4000 ... of
the first trials in order of their index, so that the answer does not depend on who was fast.
"""

import re
from collections.abc import Callable, Collection
from math import inf, isfinite, sqrt
from typing import Final

import numpy as np
from msgspec import Struct

from dask_runner.errors import UsageError
from dask_runner.stats.forecast import trials_needed
from dask_runner.stats.pvalues import sigma_to_p
from dask_runner.stats.quantiles import quantile
from dask_runner.trials.loading import TrialData

FIRST: Final = 1000
# Where -n does not say how many trials are the most.
MOST: Final = 10_000_000
_FORM: Final = re.compile(r"\s*(\w+)\s*\(([^()]*)\)\s*(<=|>=|<|>)\s*(\S+)\s*")
_SIGMA: Final = re.compile(r"([0-9.]+)\s*sigma")


class Condition(Struct, frozen=True, kw_only=True):
    """`quantity(arguments) comparison bound`, as in `relative_error(limit, 0.5) < 0.01`."""

    text: str
    quantity: str
    arguments: tuple[str, ...]
    below: bool
    bound: float

    def value(self, trials: TrialData) -> float:
        """The quantity for trials of one point. Raises UsageError for an unknown field."""
        return _QUANTITIES[self.quantity](trials, *self.arguments)

    def check(self, fields: Collection[str]) -> None:
        """Raises UsageError unless trials have the fields that this is about."""
        wanted = _CLS_FIELDS if self.quantity == "cls_error" else self.arguments[:1]
        for field in wanted:
            if field not in fields:
                raise UsageError(
                    f"--until {self.text!r}: no field {field!r}",
                    hint=f"there are: {', '.join(fields)}",
                )

    def holds(self, trials: TrialData) -> bool:
        """NaN and what cannot be told yet do not hold."""
        value = self.value(trials)
        return value <= self.bound if self.below else value >= self.bound

    def expected_trials(self) -> int:
        """How many trials it takes if that can be told before there are any, else 0."""
        if self.quantity != "exceedances":
            return 0
        match = _SIGMA.fullmatch(self.arguments[1])
        return trials_needed(float(sigma_to_p(float(match[1]))), self.bound) if match else 0


def parse(text: str) -> Condition:
    """Raises UsageError for what is no condition."""
    match = _FORM.fullmatch(text)
    hint = "relative_error(limit, 0.5) < 0.01, exceedances(ts, 5sigma) >= 10"
    if match is None:
        raise UsageError(f"--until {text!r}: not of the form QUANTITY(...) < NUMBER", hint=hint)
    name, inside, comparison, bound = match.groups()
    if name not in _QUANTITIES:
        raise UsageError(
            f"--until {text!r}: no quantity {name!r}", hint=f"one of {', '.join(_QUANTITIES)}"
        )
    arguments = tuple(part.strip() for part in inside.split(",") if part.strip())
    if len(arguments) != _ARGUMENTS[name]:
        raise UsageError(f"--until {text!r}: {name} takes {_ARGUMENTS[name]} arguments", hint=hint)
    below = comparison.startswith("<")
    if below == (name == "exceedances"):
        raise UsageError(f"--until {text!r}: that would be true at once", hint=hint)
    _check_arguments(name, arguments)
    limit = _number(bound)
    if _SIGMA.fullmatch(bound) or limit <= 0:
        raise UsageError(f"--until {text!r}: {bound} is not a number above 0", hint=hint)
    return Condition(text=text, quantity=name, arguments=arguments, below=below, bound=limit)


def _check_arguments(name: str, arguments: tuple[str, ...]) -> None:
    last = arguments[-1]
    if name == "cls_error":
        _place(last)
    elif name in {"error", "relative_error"} or _SIGMA.fullmatch(last):
        _share(last)
    else:
        _number(last)


def looked_at(have: int, most: int) -> int:
    """At how many of the trials that there are a condition is looked at; 0, at which none holds, if
    there are too few.
    """
    if have >= most:
        return have
    if have < FIRST:
        return 0
    number = FIRST
    while 2 * number <= have:
        number *= 2
    return number


def next_number(have: int, most: int) -> int:
    """The number of trials at which the condition is looked at next; `have` if there is none."""
    number = FIRST
    while number <= have:
        number *= 2
    return max(have, min(number, most))


def _error(trials: TrialData, field: str, share: str) -> float:
    values = trials.column(field)
    return float(quantile(values, _share(share)).error) if len(values) else inf


def _relative_error(trials: TrialData, field: str, share: str) -> float:
    values = trials.column(field)
    if not len(values):
        return inf
    found = quantile(values, _share(share))
    return float(found.error) / abs(found.value) if found.value else inf


def _p_error(trials: TrialData, field: str, threshold: str) -> float:
    values = trials.column(field)
    if not len(values):
        return inf
    p = float(np.mean(values >= _number(threshold)))
    return sqrt(p * (1 - p) / len(values)) if 0 < p < 1 else inf


def _exceedances(trials: TrialData, field: str, threshold: str) -> float:
    values = trials.column(field)
    if _SIGMA.fullmatch(threshold):
        # As many as lie above that quantile, wherever it is.
        return len(values) * (1 - _share(threshold))
    return float(np.count_nonzero(values >= _number(threshold)))


def _cls_error(trials: TrialData, place: str) -> float:
    from dask_runner.stats.hypotest import expected_cls  # noqa: PLC0415  # for one model only

    q_b = trials.column("q_b")
    if not len(q_b):
        return inf
    return expected_cls(trials.column("q_sb"), q_b).errors[_place(place)]


def _place(text: str) -> int:
    if text not in _PLACES:
        raise UsageError(f"--until: cls_error({text}): one of {', '.join(_PLACES)} sigma")
    return _PLACES.index(text)


_CLS_FIELDS: Final = ("q_sb", "q_b")
# Where in the band that is expected without signal, in sigma.
_PLACES: Final = ("-2", "-1", "0", "1", "2")

_QUANTITIES: dict[str, Callable[..., float]] = {
    "error": _error,
    "relative_error": _relative_error,
    "p_error": _p_error,
    "exceedances": _exceedances,
    "cls_error": _cls_error,
}
_ARGUMENTS = {"error": 2, "relative_error": 2, "p_error": 2, "exceedances": 2, "cls_error": 1}


def _share(text: str) -> float:
    match = _SIGMA.fullmatch(text)
    share = 1 - float(sigma_to_p(float(match[1]))) if match else _number(text)
    if not 0 < share < 1:
        raise UsageError(f"--until: {text} is no share between 0 and 1")
    return share


def _number(text: str) -> float:
    match = _SIGMA.fullmatch(text)
    try:
        number = float(match[1] if match else text)
    except ValueError:
        raise UsageError(f"--until: {text!r} is not a number") from None
    if not isfinite(number):
        raise UsageError(f"--until: {text!r} is not a finite number")
    return number
