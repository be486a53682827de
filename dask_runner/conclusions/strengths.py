"""Sensitivity and discovery potential at each combination of parameters; formulas are those of
`stats.sensitivity`.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from dask_runner.conclusions.background import (
    Fit,
    check_reach,
    exact_distribution,
    null_distribution,
)
from dask_runner.conclusions.results import Passing, Sensitivities, Strengths, Unreached
from dask_runner.conclusions.selection import (
    Array,
    account_of,
    account_warnings,
    numbers,
    split_off,
    total,
)
from dask_runner.errors import UsageError
from dask_runner.stats import sensitivity as formulas
from dask_runner.stats.distribution import Distribution
from dask_runner.stats.pvalues import sigma_to_p
from dask_runner.trials.loading import TrialData
from dask_runner.trials.model import describe_point
from dask_runner.trials.points import Point

_CURVE_POINTS = 121


class Wish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked for: the parameter that is the signal strength, the test statistic, and the
    shares and significance. Test statistics up to `floor` count as 0.
    """

    signal: str = "n_sig"
    field: str = "ts"
    beta: float = 0.9
    sigma: float = 5.0
    discovery_beta: float = 0.5
    fit: Fit = "auto"
    floor: float = 0.0


def wished(**wishes: Any) -> Wish:
    """A wish from its fields. Raises UsageError for unknown ones and wrong values."""
    try:
        return msgspec.convert(wishes, Wish)
    except msgspec.ValidationError as error:
        raise UsageError(f"{error}") from error


def sensitivity(
    trials: TrialData, wish: Wish | None = None, *, model: str = "", **wishes: Any
) -> Sensitivities:
    """The signal strength at which a share `beta` of trials has a test statistic strictly above the
    median of those without signal, and the one at which `discovery_beta` pass the threshold of
    `sigma`; errors from bootstrap samples.

    Points with strength 0 are the background, one for each combination of the other parameters; for
    the model `counting` its exact distribution is used instead. `wishes` are fields of `Wish`.
    Raises UsageError if nothing at all can be said.
    """
    wish = wish or wished(**wishes)
    strengths, warnings = [], []
    for point, by_strength in split_off(trials, wish.signal):
        found, said = _at_point(point, by_strength, wish, model)
        strengths.append(found)
        place = f"{describe_point(point)}: " if point else ""
        warnings += [place + warning for warning in said]
        accounts = [
            ({**point, wish.signal: strength}, account_of(there))
            for strength, there in by_strength.items()
        ]
        warnings += account_warnings(accounts)
    _refuse_nothing(strengths)
    return Sensitivities(
        account=total([one.account for one in strengths]),
        model=model,
        warnings=tuple(warnings),
        signal=wish.signal,
        field=wish.field,
        beta=wish.beta,
        sigma=wish.sigma,
        discovery_beta=wish.discovery_beta,
        strengths=tuple(strengths),
    )


def _at_point(
    point: Point, by_strength: dict[float, TrialData], wish: Wish, model: str
) -> tuple[Strengths, list[str]]:
    values = {strength: numbers(there, wish.field) for strength, there in by_strength.items()}
    account = total([account_of(there) for there in by_strength.values()])
    signal = {strength: ts for strength, ts in values.items() if strength > 0}
    exact = exact_distribution(model, point) if wish.field == "ts" else None
    if exact is None and 0 not in values:
        nothing = Unreached(
            reason=f"there are no trials with {wish.signal}=0",
            hint=f"dask-runner trials --extend TIMESTAMP --grid {wish.signal}=0 ...",
        )
        return Strengths(point=point, account=account, sensitivity=nothing, discovery=nothing), [
            nothing.reason
        ]
    null: Distribution = exact or null_distribution(values[0], fit=wish.fit, floor=wish.floor)
    warnings: list[str] = []
    sensitivity_there = _passing(
        lambda: formulas.sensitivity(null, signal, beta=wish.beta), "sensitivity", warnings
    )
    discovery = _passing(
        lambda: _discovery(null, signal, wish),
        "discovery potential",
        warnings,
    )
    return Strengths(
        point=point, account=account, sensitivity=sensitivity_there, discovery=discovery
    ), warnings


def _discovery(null: Distribution, signal: dict[float, Array], wish: Wish) -> formulas.Sensitivity:
    check_reach(null, float(sigma_to_p(wish.sigma)))
    return formulas.discovery_potential(null, signal, sigma=wish.sigma, beta=wish.discovery_beta)


def _passing(
    work: Callable[[], formulas.Sensitivity], name: str, warnings: list[str]
) -> Passing | Unreached:
    try:
        found = work()
    except UsageError as error:
        warnings.append(f"no {name}: {error.message}")
        return Unreached(reason=error.message, hint=error.hint)
    warnings += [f"{name}: {warning}" for warning in found.warnings]
    strengths = np.array([point.n_sig for point in found.points])
    return Passing(
        value=found.value,
        error=found.error,
        low=found.low,
        high=found.high,
        beta=found.beta,
        threshold=found.threshold,
        points=found.points,
        curve=_curve(found, np.linspace(0, strengths.max(), _CURVE_POINTS)),
        fit_p=found.fit_p,
        method=found.method,
    )


def _curve(found: formulas.Sensitivity, strengths: Array) -> tuple[tuple[float, float], ...]:
    return tuple(zip(strengths.tolist(), found.fraction(strengths).tolist(), strict=True))


def _refuse_nothing(strengths: list[Strengths]) -> None:
    for one in strengths:
        if not (isinstance(one.sensitivity, Unreached) and isinstance(one.discovery, Unreached)):
            return
    first = strengths[0].sensitivity
    assert isinstance(first, Unreached)
    raise UsageError(first.reason, hint=first.hint)
