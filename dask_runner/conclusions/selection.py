"""Which trials a conclusion is drawn from: points along an axis, and what is said of failed trials.

Refuses to guess: where several parameters vary, the user says which one is the axis.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from dask_runner.conclusions.results import Account
from dask_runner.errors import UsageError
from dask_runner.seeds import Value, canonical_point
from dask_runner.stats.pvalues import clopper_pearson
from dask_runner.trials.loading import TrialData
from dask_runner.trials.model import describe_point
from dask_runner.trials.points import Point

Array = npt.NDArray[np.float64]

CONVERGED = "converged"
# A failure rate above this is worth a word: failures tend to be the hard fits, not any trials.
_BIASING = 0.001
_SHOWN = 5


def account_of(trials: TrialData) -> Account:
    """How many trials there are, how many failed, and how many of the others did not converge."""
    missed = 0
    if CONVERGED in trials.fields:
        missed = int(np.count_nonzero(~trials.column(CONVERGED).astype(bool)))
    return Account(trials=len(trials), failed=trials.failed, not_converged=missed)


def total(accounts: Sequence[Account]) -> Account:
    """Several together."""
    return Account(
        trials=sum(one.trials for one in accounts),
        failed=sum(one.failed for one in accounts),
        not_converged=sum(one.not_converged for one in accounts),
    )


def account_warnings(accounts: Sequence[tuple[Mapping[str, Value], Account]]) -> tuple[str, ...]:
    """What failed and unconverged trials may do to a result, the worst points first."""
    return (
        *_shares(
            [(point, one.failed, one.trials) for point, one in accounts],
            "failed",
            "failed trials are left out; if the hard ones fail, that biases the result",
        ),
        *_shares(
            [(point, one.not_converged, one.trials - one.failed) for point, one in accounts],
            "did not converge",
            "they are counted with the numbers that they have",
        ),
    )


def _shares(
    counts: Sequence[tuple[Mapping[str, Value], int, int]], what: str, so: str
) -> list[str]:
    bad = [(k / n, point, k, n) for point, k, n in counts if n and k / n > _BIASING]
    bad.sort(key=lambda one: -one[0])
    lines = []
    for _, point, k, n in bad[:_SHOWN]:
        low, high = clopper_pearson(k, n, 0.95)
        lines.append(
            f"{describe_point(point)}: {k} of {n} trials {what} "
            f"({100 * float(low):.2g} to {100 * float(high):.2g} %)"
        )
    if len(bad) > _SHOWN:
        lines.append(f"... and {len(bad) - _SHOWN} more points")
    return [*lines, so] if lines else []


def numbers(trials: TrialData, field: str) -> Array:
    """A field of the good trials as numbers. Raises UsageError for an unknown field, or if no trial
    is good.
    """
    values = trials.column(field)
    if not len(values):
        raise UsageError(f"all {len(trials)} trials failed: there is no {field}")
    return np.asarray(values, dtype=np.float64)


def chosen(trials: TrialData, conditions: Point) -> TrialData:
    """Those points that have these values; all without conditions."""
    return trials.at(**conditions) if conditions else trials


def varying(trials: TrialData) -> list[str]:
    """The parameters that have more than one value."""
    return [name for name in trials.parameters if len(trials.values(name)) > 1]


def axis_of(trials: TrialData, wanted: str = "") -> str:
    """The name of the axis: the one wanted, or the only parameter that varies, or at a single point
    its first number. Raises UsageError if that is not clear.
    """
    if wanted:
        trials.values(wanted)
        return wanted
    names = varying(trials)
    if len(names) > 1:
        raise UsageError(
            f"several parameters vary: {', '.join(names)}",
            hint=f"--axis {names[0]} makes one the axis; --at {names[1]}=VALUE takes one value",
        )
    if names:
        return names[0]
    point = trials.points[0]
    plain = [name for name, value in point.items() if not isinstance(value, str)]
    if not plain:
        raise UsageError("the trials have no parameter to be an axis")
    return plain[0]


def along(trials: TrialData, axis: str) -> list[tuple[float, TrialData]]:
    """The values of the axis, ascending, with their trials. Raises UsageError if another parameter
    varies too, or a value is no number.
    """
    others = [name for name in varying(trials) if name != axis]
    if others:
        example = trials.values(others[0])[0]
        raise UsageError(
            f"{others[0]} varies too: each {axis} needs one point",
            hint=f"--at {others[0]}={example}",
        )
    values = trials.values(axis)
    for value in values:
        if isinstance(value, str):
            raise UsageError(f"{axis}={value!r} is no number: it cannot be an axis")
    missing = [point for point in trials.points if axis not in point]
    if missing:
        raise UsageError(f"the point {describe_point(missing[0])} has no {axis}")
    return [(float(value), trials.at(**{axis: value})) for value in values]


def split_off(trials: TrialData, name: str) -> list[tuple[Point, dict[float, TrialData]]]:
    """For each combination of the other parameters, the trials at each value of `name`; a point
    without it has 0. Raises UsageError if a value is no number, or no point has the parameter.
    """
    trials.values(name)
    groups: dict[bytes, tuple[Point, dict[float, TrialData]]] = {}
    for point, there in trials:
        rest = {key: value for key, value in point.items() if key != name}
        strength = _strength(point.get(name, 0), name)
        _, found = groups.setdefault(canonical_point(rest), (rest, {}))
        if strength in found:
            raise UsageError(
                f"two points have {describe_point({**rest, name: strength})}: one of them does not "
                f"name {name}, which is 0 then"
            )
        found[strength] = there
    return list(groups.values())


def _strength(value: Value, name: str) -> float:
    if isinstance(value, str):
        raise UsageError(f"{name}={value!r} is no number", hint="--signal names the parameter")
    return float(value)
