"""Conclusions from runs: loads their trials, knows what their model knows, and signs the result.

Owns the order of an unblinding: all is concluded blind first, so that whatever is wrong is found
before anybody looks at data.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from dask_runner import trial_results
from dask_runner.conclusions import bands, exclusion, shapes, strengths
from dask_runner.conclusions.bands import Scale
from dask_runner.conclusions.observing import (
    COUNTING_CONFIDENCE,
    Q_OBSERVED,
    Row,
    named,
    observer,
    with_template,
)
from dask_runner.conclusions.results import (
    Conclusion,
    Distributions,
    Limits,
    Sensitivities,
    Unblinded,
    UpperLimits,
)
from dask_runner.conclusions.selection import along, axis_of, chosen
from dask_runner.conclusions.theory import Theory
from dask_runner.conclusions.unblinding import Unblinding, unblind
from dask_runner.errors import BadInputError, UsageError
from dask_runner.manifest import read_state
from dask_runner.stats.limits import to_cross_section
from dask_runner.trials import models
from dask_runner.trials.loading import TrialData
from dask_runner.trials.model import Model
from dask_runner.trials.points import Point, parse_grid

if TYPE_CHECKING:
    from dask_runner.conclusions.fluxes import FluxWish

POINT_SOURCE = "point-source"

Result = TypeVar("Result", bound=Conclusion)


class Loaded(Struct, frozen=True, kw_only=True):
    """The trials of some runs of a model, by its name."""

    paths: tuple[Path, ...]
    trials: TrialData
    model: str
    warnings: tuple[str, ...] = ()

    def signed(self, result: Result, *warnings: str) -> Result:
        """The result with the names of the runs, and what was said when they were loaded."""
        return replace(
            result,
            runs=tuple(path.name for path in self.paths),
            model=self.model,
            warnings=(*self.warnings, *warnings, *result.warnings),
        )


class Factors(Struct, frozen=True, kw_only=True):
    """What the user says of cross sections; 0 is not said."""

    luminosity: float = 0.0
    acceptance: float = 1.0
    branching: float = 1.0


def load(paths: Sequence[Path], *, partial: bool = False, at: Sequence[str] = ()) -> Loaded:
    """The trials of the runs at the points that have the values of `at` (NAME=VALUE).

    Raises FailedBatchesError if batches are not done, unless `partial`; UsageError for runs of
    different models and values that no point has.
    """
    trials = trial_results.load(paths, partial=partial)
    warnings = []
    if trials.planned is not None and trials.planned != len(trials):
        warnings.append(f"only {len(trials)} of {trials.planned} trials are done")
    return Loaded(
        paths=tuple(paths),
        trials=chosen(trials, conditions(at)),
        model=trial_results.workload_of(read_state(paths[0])).model.name,
        warnings=tuple(warnings),
    )


def conditions(texts: Sequence[str]) -> Point:
    """NAME=VALUE as values of parameters. Raises UsageError."""
    return parse_grid([], texts)[0] if texts else {}


def distribution(loaded: Loaded, **options: Any) -> Distributions:
    """See `shapes.distribution`."""
    return loaded.signed(shapes.distribution(loaded.trials, model=loaded.model, **options))


def sensitivity(
    loaded: Loaded, wish: strengths.Wish, flux: "FluxWish | None" = None
) -> Sensitivities:
    """See `strengths.sensitivity`; of point sources also as fluxes, and of nothing else if `flux`
    asks for them.
    """
    found = strengths.sensitivity(loaded.trials, wish, model=loaded.model)
    if flux is None and (loaded.model != POINT_SOURCE or wish.signal != bands.SIGNAL):
        return loaded.signed(found)
    from dask_runner.conclusions import fluxes  # noqa: PLC0415  (loads a search)

    try:
        return loaded.signed(fluxes.with_fluxes(found, _models(loaded.paths), flux))
    except BadInputError as error:
        if flux is not None:
            raise
        # The samples may have been moved since: the strengths are good all the same.
        return loaded.signed(found, f"no fluxes: {error.message}")


def limits(
    loaded: Loaded,
    *,
    field: str = "limit",
    axis: str = "",
    factors: Factors | None = None,
    theory: Theory | None = None,
    order: Unblinding | None = None,
    unit: str = "",
    axis_unit: str = "",
) -> Limits:
    """See `bands.limits`; with an `order` the observed data are looked at, and that is recorded in
    every run.
    """
    axis = axis_of(loaded.trials, axis)
    made = _models(loaded.paths)
    points = {value: there.points[0] for value, there in along(loaded.trials, axis)}
    conclude = partial(
        bands.limits,
        loaded.trials,
        field=field,
        axis=axis,
        scale=_scale(made, points, factors),
        theory=theory,
        model=loaded.model,
        confidence=_confidence(loaded.model, made),
        unit=unit,
        axis_unit=axis_unit,
    )
    result = conclude()
    if order is not None:
        rows, seen = _look(loaded, made, order, axis, points)
        result = replace(conclude(observed=rows), unblinded=seen)
    return loaded.signed(result, *_doubts(made, field))


def cls(
    loaded: Loaded, *, axis: str = "", level: float = 0.95, order: Unblinding | None = None
) -> UpperLimits:
    """See `exclusion.cls`; with an `order` as in `limits`."""
    axis = axis_of(loaded.trials, axis)
    made = _models(loaded.paths)
    if made and getattr(made[0], "test_stat", "") == "q0":
        raise UsageError(
            "the trials are of the test statistic q0, which tests for a discovery: it has no CLs",
            hint="dask-runner trials --test-stat qtilde ...",
        )
    result = exclusion.cls(loaded.trials, axis=axis, level=level)
    if order is not None:
        points = {value: there.points[0] for value, there in along(loaded.trials, axis)}
        rows, seen = _look(loaded, made, order, axis, points)
        observed = {value: float(row[Q_OBSERVED]) for value, row in rows.items()}
        result = exclusion.cls(loaded.trials, axis=axis, level=level, observed=observed)
        result = replace(result, unblinded=seen)
    return loaded.signed(result)


def _look(
    loaded: Loaded, made: Sequence[Model], order: Unblinding, axis: str, points: dict[float, Point]
) -> tuple[dict[float, Row], Unblinded]:
    """The observed numbers at each value of the axis, and the record of having looked."""
    order = named(order, made)
    rows: dict[float, Row] = {}

    def look() -> Mapping[str, Any]:
        at_point = observer(loaded.model, made, order)
        rows.update({value: at_point(point) for value, point in points.items()})
        return _table(axis, rows)

    seen = unblind(loaded.paths, order, look)
    return rows, seen


def _table(axis: str, rows: Mapping[float, Row]) -> dict[str, Any]:
    """As JSON: a column for the axis and one for each field."""
    fields = [name for name in next(iter(rows.values())) if name != axis]
    columns = {name: [_plain(row[name]) for row in rows.values()] for name in fields}
    return {axis: list(rows), **columns}


def _plain(value: Any) -> bool | int | float:
    """NumPy's numbers as Python's."""
    plain: bool | int | float = value.item() if hasattr(value, "item") else value
    return plain


def _models(paths: Sequence[Path]) -> list[Any]:
    """The model of each run: the same one, but perhaps with other templates. A user's code is not
    imported to read results.
    """
    specs = [trial_results.workload_of(read_state(path)).model for path in paths]
    return [models.load(spec) for spec in specs if spec.name in models.MODELS]


def _confidence(name: str, made: Sequence[Any]) -> float | None:
    if name == "counting":
        return COUNTING_CONFIDENCE
    return getattr(made[0], "confidence", None) if made else None


def _scale(made: Sequence[Any], points: dict[float, Point], factors: Factors | None) -> Scale:
    """From what the user says, else from what the model knows."""
    if factors is not None and factors.luminosity:
        return _given(factors)
    if factors is not None and factors != Factors():
        raise UsageError("a cross section needs --luminosity too")
    luminosity = getattr(made[0], "luminosity", 0.0) if made else 0.0
    if not luminosity:
        return Scale()
    visible = {
        value: float(with_template(made, float(point["mass"])).visible(float(point["mass"])))
        for value, point in points.items()
    }
    text = f"luminosity {luminosity:g} x acceptance x efficiency x branching ratio of each mass"
    return Scale(visible=visible.__getitem__, text=text)


def _given(factors: Factors) -> Scale:
    one = to_cross_section(1.0, factors.luminosity, factors.acceptance, factors.branching)
    words = [f"luminosity {factors.luminosity:g}"]
    words += [f"acceptance {factors.acceptance:g}"] if factors.acceptance != 1 else []
    words += [f"branching ratio {factors.branching:g}"] if factors.branching != 1 else []
    return Scale(visible=lambda _: 1 / float(one), text=" x ".join(words), own=False)


def _doubts(made: Sequence[Any], field: str) -> tuple[str, ...]:
    """What the model's limit is known to be bad at."""
    frozen = getattr(made[0], "method", "profile") != "profile" if made else False
    if not frozen or "profile" in field:
        return ()
    return (f"{field}: its frozen background undercovers when there is signal: docs/spectrum.md",)
