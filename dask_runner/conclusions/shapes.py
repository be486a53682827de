"""The distribution of a field at each point: quantiles, and without signal the fit of a chi2 and
the thresholds of 3 and 5 sigma.
"""

from collections.abc import Sequence

import numpy as np

from dask_runner.conclusions.background import (
    Fit,
    Null,
    check_reach,
    exact_distribution,
    null_distribution,
)
from dask_runner.conclusions.results import (
    Chi2Fit,
    Distributions,
    Pairs,
    PointDistribution,
    Threshold,
)
from dask_runner.conclusions.selection import (
    Array,
    account_of,
    account_warnings,
    numbers,
    total,
)
from dask_runner.errors import UsageError
from dask_runner.stats.distribution import Chi2TSD
from dask_runner.stats.limits import BAND
from dask_runner.stats.pvalues import sigma_to_p
from dask_runner.stats.quantiles import Quantile, quantiles
from dask_runner.trials.loading import TrialData
from dask_runner.trials.model import describe_point
from dask_runner.trials.points import Point

SIGMAS = (3.0, 5.0)
_PREFERRED = ("ts", "limit")
_CURVE_POINTS = 201
_TAIL = 1e-9


def distribution(
    trials: TrialData,
    *,
    field: str = "",
    signal: str = "n_sig",
    qs: Sequence[float] = BAND,
    sigmas: Sequence[float] = SIGMAS,
    fit: Fit = "auto",
    floor: float = 0.0,
    model: str = "",
) -> Distributions:
    """Quantiles `qs` of a field at each point (default: `ts`, or `limit`, or the first field).

    If it is the field `ts`, at points where the parameter `signal` is 0 or absent: the share of
    positive values, a chi2 fitted to them, and thresholds at `sigmas`, from trials where they reach
    and from the fit beyond; a discrete test statistic is counted, that of the model `counting` is
    exact. Raises UsageError for an unknown field.
    """
    field = field or _default_field(trials)
    points, warnings = [], []
    for point, there in trials:
        values = numbers(there, field)
        null: Null | None = None
        if field == "ts" and point.get(signal, 0) == 0:
            exact = exact_distribution(model, point)
            null = exact or null_distribution(values, fit=fit, floor=floor)
        found = _at_point(point, there, values, null, qs=qs, sigmas=sigmas)
        points.append(found)
        warnings += [f"{describe_point(point)}: {line}" for line in _doubts(null, found)]
    accounts = [(one.point, one.account) for one in points]
    return Distributions(
        account=total([one.account for one in points]),
        model=model,
        warnings=(*warnings, *account_warnings(accounts)),
        field=field,
        points=tuple(points),
    )


def _default_field(trials: TrialData) -> str:
    fields = trials.fields
    return next((name for name in _PREFERRED if name in fields), fields[0])


def _at_point(
    point: Point,
    there: TrialData,
    values: Array,
    null: Null | None,
    *,
    qs: Sequence[float],
    sigmas: Sequence[float],
) -> PointDistribution:
    fitted = isinstance(null, Chi2TSD)
    return PointDistribution(
        point=point,
        account=account_of(there),
        mean=float(values.mean()),
        deviation=float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        quantiles=tuple(quantiles(values, qs) if null is None else _from(null, qs, values)),
        fit=_fit_of(null) if isinstance(null, Chi2TSD) else None,
        discrete=null is not None and not fitted,
        thresholds=() if null is None else tuple(_threshold(null, sigma) for sigma in sigmas),
    )


def _from(null: Null, qs: Sequence[float], values: Array) -> list[Quantile]:
    """From trials where they reach, else from the distribution; from trials if it cannot tell."""
    found = []
    for q in qs:
        try:
            found.append(null.quantile(q))
        except UsageError:
            found += quantiles(values, [q])
    return found


def _threshold(null: Null, sigma: float) -> Threshold:
    p = float(sigma_to_p(sigma))
    try:
        check_reach(null, p)
        return Threshold(sigma=sigma, p=p, value=null.isf(p))
    except UsageError as error:
        return Threshold(sigma=sigma, p=p, value=None, reason=error.message)


def _fit_of(null: Chi2TSD) -> Chi2Fit:
    return Chi2Fit(
        eta=null.eta,
        eta_error=null.eta_error,
        ndof=null.ndof,
        ndof_error=null.ndof_error,
        scale=null.scale,
        scale_error=null.scale_error,
        quality=null.quality,
        curve=() if np.isnan(null.ndof) else _curve(null),
    )


def _curve(null: Chi2TSD) -> Pairs:
    """P(TS >= ts) of the fit, to beyond the trials and 5 sigma."""
    end = max(float(null.trials[-1]), float(null.isf(_TAIL).value))
    ts = np.linspace(0, end, _CURVE_POINTS)
    return tuple(zip(ts.tolist(), np.asarray(null.p(ts)).tolist(), strict=True))


def _doubts(null: Null | None, found: PointDistribution) -> list[str]:
    warnings = [null.warning] if isinstance(null, Chi2TSD) and null.warning else []
    for threshold in found.thresholds:
        if threshold.value is None:
            warnings.append(f"no threshold of {threshold.sigma:g} sigma: {threshold.reason}")
        elif threshold.value.warning not in {"", *warnings}:
            warnings.append(f"{threshold.sigma:g} sigma: {threshold.value.warning}")
    return warnings
