"""Limits along an axis: the expected band in events and as cross sections, what was observed, and
up to where a theory is excluded. Formulas: `stats.limits`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from msgspec import Struct

from dask_runner.conclusions.results import (
    Coverage,
    LimitPoint,
    Limits,
    MassLimits,
)
from dask_runner.conclusions.selection import (
    account_of,
    account_warnings,
    along,
    axis_of,
    numbers,
    total,
)
from dask_runner.conclusions.theory import Theory
from dask_runner.errors import UsageError
from dask_runner.stats.limits import BAND, Band, MassLimit, band, mass_limit
from dask_runner.stats.pvalues import clopper_pearson
from dask_runner.trials.loading import TrialData
from dask_runner.trials.model import describe_point

SIGNAL = "n_sig"
_CROSS_SECTION = "_cross_section"
# Fewer trials have no interval at two standard deviations.
_FEW = 100


class Scale(Struct, frozen=True, kw_only=True):
    """What turns events into a cross section: `visible` events for a cross section of 1 at a value
    of the axis, and what that is made of. With `own` the trials have cross sections themselves.
    """

    visible: Callable[[float], float] | None = None
    text: str = ""
    own: bool = True


Observed = Mapping[float, Mapping[str, float]]


def limits(
    trials: TrialData,
    *,
    field: str = "limit",
    axis: str = "",
    scale: Scale | None = None,
    theory: Theory | None = None,
    observed: Observed | None = None,
    **known: Any,
) -> Limits:
    """The median limit and its band of one and two standard deviations at each value of the axis
    (default: the only parameter that varies).

    Cross sections come from the trials' own column (`limit_cross_section`) or from `scale`. A
    `theory` is compared with them, and must be the same quantity. `observed`: for each value of the
    axis the same fields of the observed data. `known` are fields of the result that the model or
    the user says (model, confidence, axis_unit, unit). Raises UsageError if another parameter
    varies too, or there are no cross sections for a theory.
    """
    axis = axis_of(trials, axis)
    scale = scale or Scale()
    places = along(trials, axis)
    points = [_point(value, there, field, scale, observed) for value, there in places]
    warnings = [_signal_warning(there, axis) for _, there in places]
    if few := [point.value for point in points if point.events.n < _FEW]:
        warnings.append(
            f"fewer than {_FEW} trials at {axis}={', '.join(f'{value:g}' for value in few)}: the "
            "outer curves of the band are the extreme trials"
        )
    accounts = [({axis: there.points[0][axis]}, account_of(there)) for _, there in places]
    if theory is not None:
        known = _with_units(known, theory, axis)
    return Limits(
        account=total([point.account for point in points]),
        warnings=(*dict.fromkeys(filter(None, warnings)), *account_warnings(accounts)),
        axis=axis,
        field=field,
        points=tuple(points),
        scale=scale.text,
        theory=theory,
        mass_limits=None if theory is None else _excluded(points, theory),
        **known,
    )


def _point(
    value: float, there: TrialData, field: str, scale: Scale, observed: Observed | None
) -> LimitPoint:
    values = numbers(there, field)
    seen = {} if observed is None else observed[value]
    if observed is not None and field not in seen:
        raise UsageError(f"the observed data give no {field}")
    own = f"{field}{_CROSS_SECTION}"
    events = band(values)
    cross_section: Band | None = None
    observed_cross_section = None
    if scale.own and own in there.fields:
        cross_section = band(numbers(there, own))
        observed_cross_section = seen.get(own)
    elif scale.visible is not None:
        visible = scale.visible(value)
        cross_section = events.times(1 / visible)
        observed_cross_section = seen[field] / visible if seen else None
    return LimitPoint(
        value=value,
        account=account_of(there),
        events=events,
        cross_section=cross_section,
        observed=seen.get(field),
        observed_cross_section=observed_cross_section,
        coverage=_coverage(there, values),
    )


def _coverage(there: TrialData, values: Any) -> Coverage | None:
    """How often the limit is above the signal that was injected."""
    injected = there.points[0].get(SIGNAL, 0)
    if isinstance(injected, str) or injected <= 0:
        return None
    k, n = int(np.count_nonzero(values >= injected)), len(values)
    low, high = clopper_pearson(k, n)
    return Coverage(injected=float(injected), share=k / n, low=float(low), high=float(high))


def _signal_warning(there: TrialData, axis: str) -> str:
    point = there.points[0]
    if axis == SIGNAL or point.get(SIGNAL, 0) == 0:
        return ""
    rest = {name: value for name, value in point.items() if name != axis}
    return f"the trials have signal ({describe_point(rest)}): this is no band without signal"


def _with_units(known: dict[str, Any], theory: Theory, axis: str) -> dict[str, Any]:
    """The units that the theory's file names. Raises UsageError if the user names others."""
    result = dict(known)
    for name, found, what in (
        ("axis_unit", theory.mass_unit, axis),
        ("unit", theory.unit, "cross section"),
    ):
        given = known.get(name)
        if found and given and given != found:
            raise UsageError(f"{theory.source}: the {what} is in {found}, not in {given}")
        result[name] = given or found
    return result


def _excluded(points: list[LimitPoint], theory: Theory) -> MassLimits:
    masses = [point.value for point in points]
    bands = [point.cross_section for point in points]
    if any(one is None for one in bands):
        raise UsageError(
            "a theory needs limits on the cross section",
            hint="--luminosity, --acceptance, --branching; or [cross_section] of the model's file",
        )

    def crossing(limits_there: list[float]) -> MassLimit:
        return mass_limit(masses, limits_there, theory.mass, theory.cross_section)

    curves = np.array([one.values for one in bands if one is not None]).T
    seen = [point.observed_cross_section for point in points]
    return MassLimits(
        expected=tuple(crossing(curves[k].tolist()) for k in range(len(BAND))),
        observed=None if None in seen else crossing([one for one in seen if one is not None]),
    )
