"""CLs along the signal strength, expected and observed, and the limits on it. Formulas:
`stats.hypotest`.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from dask_runner.conclusions.results import StrengthPoint, Unreached, UpperLimits
from dask_runner.conclusions.selection import (
    account_of,
    account_warnings,
    along,
    axis_of,
    numbers,
    total,
)
from dask_runner.errors import UsageError
from dask_runner.stats import hypotest
from dask_runner.stats.hypotest import StrengthLimit
from dask_runner.trials.loading import TrialData

Q_SB, Q_B = "q_sb", "q_b"
_LARGEST = 1e300

Found = TypeVar("Found")


def cls(
    trials: TrialData,
    *,
    axis: str = "",
    level: float = 0.95,
    observed: Mapping[float, float] | None = None,
    model: str = "",
) -> UpperLimits:
    """CLs at each signal strength (default axis: the only parameter that varies) from the fields
    `q_sb` and `q_b`, expected at -2 ... 2 standard deviations, and the upper limits at `level`.

    `observed`: the test statistic of the observed data at each strength. Raises UsageError if the
    trials have other fields, or another parameter varies too.
    """
    missing = [name for name in (Q_SB, Q_B) if name not in trials.fields]
    if missing:
        raise UsageError(
            f"CLs needs the field {missing[0]}: test statistics with and without signal",
            hint="those are fields of the model pyhf",
        )
    axis = axis_of(trials, axis)
    places = along(trials, axis)
    q_sb = {mu: _finite(numbers(there, Q_SB)) for mu, there in places}
    q_b = {mu: _finite(numbers(there, Q_B)) for mu, there in places}
    if observed is not None:
        observed = {mu: float(_finite(np.float64(q))) for mu, q in observed.items()}
    points = tuple(
        StrengthPoint(
            mu=mu,
            account=account_of(there),
            expected=hypotest.expected_cls(q_sb[mu], q_b[mu]),
            observed=None if observed is None else hypotest.cls(q_sb[mu], q_b[mu], observed[mu]),
            q_observed=None if observed is None else observed[mu],
        )
        for mu, there in places
    )
    warnings: list[str] = []
    expected = _reached(
        lambda: hypotest.expected_upper_limits(q_sb, q_b, level=level), "expected", warnings
    )
    found: StrengthLimit | Unreached | None = None
    if observed is not None:
        found = _reached(
            lambda: hypotest.upper_limit(q_sb, q_b, observed, level=level), "observed", warnings
        )
    accounts = [({axis: there.points[0][axis]}, account_of(there)) for _, there in places]
    return UpperLimits(
        account=total([point.account for point in points]),
        model=model,
        warnings=(*warnings, *account_warnings(accounts)),
        axis=axis,
        level=level,
        points=points,
        expected=expected,
        observed=found,
    )


def _finite(q: Any) -> Any:
    """Data that a hypothesis makes impossible have an infinite test statistic: any number that is
    larger than all others serves as well, since only the order counts.
    """
    return np.where(q == np.inf, _LARGEST, q)


def _reached(work: Callable[[], Found], name: str, warnings: list[str]) -> Found | Unreached:
    try:
        return work()
    except UsageError as error:
        warnings.append(f"no {name} limit: {error.message}")
        return Unreached(reason=error.message, hint=error.hint)
