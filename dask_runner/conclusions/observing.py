"""How the observed data of each built-in model become the numbers of a trial.

Called only by those who unblind: see `unblinding`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from dask_runner.conclusions.unblinding import Unblinding
from dask_runner.errors import UsageError
from dask_runner.stats import counting
from dask_runner.trials.points import Point

Row = Mapping[str, Any]
# The numbers at a point.
Look = Callable[[Point], Row]
COUNTING_CONFIDENCE = 0.95
# The test statistic of the observed data, of a model that has q_sb and q_b.
Q_OBSERVED = "q"


def named(order: Unblinding, models: Sequence[Any]) -> Unblinding:
    """With the data that the model names, if the user names none."""
    default = getattr(models[0], "data", "") if models else ""
    return order if order.source else replace(order, source=str(default))


def observer(name: str, models: Sequence[Any], order: Unblinding) -> Look:
    """Read the observed data of a model. Raises UsageError for a model that cannot."""
    if name not in OBSERVERS:
        raise UsageError(
            f"model {name} does not say what its observed data are",
            hint=f"these do: {', '.join(OBSERVERS)}",
        )
    return OBSERVERS[name](models, order.source)


def _spectrum(models: Sequence[Any], source: str) -> Look:
    from dask_runner.trials.models import spectrum  # noqa: PLC0415  (only if it is that model)

    counts = spectrum.read_observed(models[0], source)

    def look(point: Point) -> Row:
        mass = float(point["mass"])
        return spectrum.observed(with_template(models, mass), mass, counts)

    return look


def with_template(models: Sequence[Any], mass: float) -> Any:
    """That model of several runs which has a template for the mass."""
    for model in models:
        if any(template.mass == mass for template in model.templates):
            return model
    return models[0]


def _counting(models: Sequence[Any], source: str) -> Look:  # noqa: ARG001  (has no configuration)
    try:
        n = int(source)
    except ValueError:
        n = -1
    if n < 0:
        raise UsageError(
            f"--observed {source}: model counting has a number of events", hint="--observed 5"
        )

    def look(point: Point) -> Row:
        b = float(point["b"])
        return {
            "n": n,
            "ts": float(counting.test_statistic(n, b)),
            "limit": float(counting.upper_limit(n, b, COUNTING_CONFIDENCE)),
        }

    return look


def _pyhf(models: Sequence[Any], source: str) -> Look:
    from dask_runner.trials.models import pyhf_model  # noqa: PLC0415  (only if it is that model)

    if source:
        raise UsageError(
            f"--observed {source}: the observed data of model pyhf are in its workspace",
            hint="leave --observed out",
        )
    return lambda point: pyhf_model.observed(models[0], float(point["mu"]))


OBSERVERS: dict[str, Callable[[Sequence[Any], str], Look]] = {
    "counting": _counting,
    "pyhf": _pyhf,
    "spectrum": _spectrum,
}
