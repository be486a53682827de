"""What conclusions are made of: plain structs, each of them JSON as it is.

Every result says how many trials it is drawn from, and what a reader has to be warned of.
"""

from typing import Any

from msgspec import Struct

from dask_runner.conclusions.theory import Theory
from dask_runner.seeds import Value
from dask_runner.stats.hypotest import CLs, Expected, StrengthLimit
from dask_runner.stats.limits import Band, MassLimit
from dask_runner.stats.quantiles import FitQuality, Quantile
from dask_runner.stats.sensitivity import Point

Pairs = tuple[tuple[float, float], ...]


class Account(Struct, frozen=True, kw_only=True):
    """The trials behind a conclusion: `failed` ones are left out, those that did not converge are
    not.
    """

    trials: int
    failed: int
    not_converged: int


class Unblinded(Struct, frozen=True, kw_only=True):
    """Observed data were looked at: why, when, by whom, which, and every number that came of it.
    `sha256` is that of the file, "" if the data are a number or are in the model.
    """

    reason: str
    time: str
    who: str
    source: str
    sha256: str
    results: dict[str, Any]


class Conclusion(Struct, frozen=True, kw_only=True):
    """What all of them have. `runs` and `model` are empty if the trials are from elsewhere."""

    account: Account
    runs: tuple[str, ...] = ()
    model: str = ""
    warnings: tuple[str, ...] = ()


class Unreached(Struct, frozen=True, kw_only=True):
    """Why there is no such signal strength, and what would help."""

    reason: str
    hint: str = ""


class Coverage(Struct, frozen=True, kw_only=True):
    """The share of trials whose limit is at or above the signal that was injected, with its
    Clopper-Pearson interval of one standard deviation.
    """

    injected: float
    share: float
    low: float
    high: float


class LimitPoint(Struct, frozen=True, kw_only=True):
    """Limits at one value of the axis, in events, and as cross sections if it is known what turns
    one into the other. `coverage` only where signal was injected.
    """

    value: float
    account: Account
    events: Band
    cross_section: Band | None = None
    observed: float | None = None
    observed_cross_section: float | None = None
    coverage: Coverage | None = None


class MassLimits(Struct, frozen=True, kw_only=True):
    """Up to where the theory is excluded: by the five expected curves, from below, and observed."""

    expected: tuple[MassLimit, ...]
    observed: MassLimit | None = None


class Limits(Conclusion, frozen=True, kw_only=True):
    """The band of a limit along an axis. `confidence` is null if the model does not say it; units
    are "" if nobody said them; `scale` says what the events were divided by.
    """

    axis: str
    field: str
    points: tuple[LimitPoint, ...]
    confidence: float | None = None
    axis_unit: str = ""
    unit: str = ""
    scale: str = ""
    theory: Theory | None = None
    mass_limits: MassLimits | None = None
    unblinded: Unblinded | None = None


class StrengthPoint(Struct, frozen=True, kw_only=True):
    """CLs at one signal strength: expected without signal at -2 ... 2 standard deviations, with
    errors, and observed.
    """

    mu: float
    account: Account
    expected: Expected
    observed: CLs | None = None
    q_observed: float | None = None


class UpperLimits(Conclusion, frozen=True, kw_only=True):
    """CLs along the signal strength and the limits on it; a limit that is not reached says why."""

    axis: str
    level: float
    points: tuple[StrengthPoint, ...]
    expected: tuple[StrengthLimit, ...] | Unreached
    observed: StrengthLimit | Unreached | None = None
    unblinded: Unblinded | None = None


class Chi2Fit(Struct, frozen=True, kw_only=True):
    """A share `eta` of positive test statistics, chi2 distributed with `ndof` degrees of freedom
    and a `scale`; null numbers if there was nothing to fit.
    """

    eta: float
    eta_error: float
    ndof: float
    ndof_error: float
    scale: float
    scale_error: float
    quality: FitQuality | None
    curve: Pairs = ()


class Threshold(Struct, frozen=True, kw_only=True):
    """The test statistic of a one-sided significance; without a `value`, `reason` says why."""

    sigma: float
    p: float
    value: Quantile | None
    reason: str = ""


class PointDistribution(Struct, frozen=True, kw_only=True):
    """The values of a field at one point; fit and thresholds only without signal. `discrete`: the
    field takes few values, and no chi2 was fitted.
    """

    point: dict[str, Value]
    account: Account
    mean: float
    deviation: float
    quantiles: tuple[Quantile, ...]
    fit: Chi2Fit | None = None
    discrete: bool = False
    thresholds: tuple[Threshold, ...] = ()


class Distributions(Conclusion, frozen=True, kw_only=True):
    """The distribution of a field at each point."""

    field: str
    points: tuple[PointDistribution, ...]


class Passing(Struct, frozen=True, kw_only=True):
    """The signal strength at which a share `beta` of trials passes the threshold, with its
    bootstrap error; `points` are counted, `curve` is what was fitted to them by the `method`.
    """

    value: float
    error: float
    low: float
    high: float
    beta: float
    threshold: Quantile
    points: tuple[Point, ...]
    curve: Pairs
    fit_p: float
    method: str


class FluxScale(Struct, frozen=True, kw_only=True):
    """How strengths are given as fluxes: the `kind` at a `pivot` in GeV, in a `unit`, for a
    `livetime` in days.
    """

    pivot: float
    kind: str
    unit: str
    livetime: float


class PointFlux(Struct, frozen=True, kw_only=True):
    """The flux of one expected event, and those of sensitivity and discovery potential with their
    errors, as far as they are known.
    """

    per_event: float
    sensitivity: float | None = None
    sensitivity_error: float | None = None
    discovery: float | None = None
    discovery_error: float | None = None


class Strengths(Struct, frozen=True, kw_only=True):
    """Sensitivity and discovery potential at one combination of the other parameters; `flux` is
    there for models that know what a flux gives.
    """

    point: dict[str, Value]
    account: Account
    sensitivity: Passing | Unreached
    discovery: Passing | Unreached
    flux: PointFlux | None = None


class Sensitivities(Conclusion, frozen=True, kw_only=True):
    """Sensitivity and discovery potential, as values of the parameter `signal`, at each combination
    of the other parameters.
    """

    signal: str
    field: str
    beta: float
    sigma: float
    discovery_beta: float
    strengths: tuple[Strengths, ...]
    flux: FluxScale | None = None


class Exported(Struct, frozen=True, kw_only=True):
    """A file of trials."""

    path: str
    trials: int
    columns: tuple[str, ...]
    bytes: int
