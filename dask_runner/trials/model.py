"""What a trial model is: it turns random numbers and a point into the fields of a trial.

Owns the two forms of a model (one trial at a time, or many at once with a fixed number of random
words each), the wrapping of a user's function, and the check that a point suits it.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dask_runner.errors import UsageError
from dask_runner.seeds import TrialStreams, Value

# The random streams of one trial: `rng(purpose)`.
Streams = TrialStreams

Number = float | int | bool | np.generic
ScalarTrial = Callable[[Streams], Mapping[str, Number]]

_SINGLE_FIELD = "value"


class BlockTrial(Struct, frozen=True, kw_only=True):
    """Many trials at once: `run` takes uniform numbers in [0, 1), shape (trials, `words`), and
    gives for each field an array of shape (trials,). It is given about `rows` trials at a time (0:
    as many as suit a cache).
    """

    words: int
    run: Callable[[npt.NDArray[np.float64]], Mapping[str, npt.NDArray[Any]]]
    rows: int = 0


class Parameters(Struct, frozen=True, kw_only=True):
    """The parameters of a model's points: those that a point must have, and defaults of others.
    With `others`, it takes any.
    """

    required: tuple[str, ...] = ()
    optional: dict[str, Value] = {}
    others: bool = False

    def check(self, point: Mapping[str, Value], model: str) -> None:
        """Raises UsageError if the point lacks a parameter, or has one that the model ignores."""
        missing = [name for name in self.required if name not in point]
        if missing:
            raise UsageError(
                f"model {model}: the point {describe_point(point)} has no {', '.join(missing)}",
                hint=f"--grid {missing[0]}=... or --set {missing[0]}=...",
            )
        known = {*self.required, *self.optional}
        unknown = [] if self.others else [name for name in point if name not in known]
        if unknown:
            raise UsageError(
                f"model {model} has no parameter {unknown[0]!r}",
                hint=f"it has: {', '.join(sorted(known)) or 'none'}",
            )


@runtime_checkable
class Model(Protocol):
    """A trial model. `fields` gives each field's NumPy dtype, empty if only a trial can tell."""

    def parameters(self) -> Parameters: ...

    def fields(self) -> dict[str, str]: ...

    def sampler(self, point: Mapping[str, Value]) -> ScalarTrial | BlockTrial:
        """Prepare for the trials of a point; called once for each batch. Raises UsageError if the
        point makes no sense.
        """


def vectorised(words: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a function `f(uniforms, **point)` as a model of many trials at once: it gets uniform
    numbers of shape (trials, words) and returns arrays of shape (trials,).
    """
    if words < 1:
        raise UsageError(f"a trial needs at least one random word, not {words}")

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        function.words = words  # type: ignore[attr-defined]
        return function

    return mark


class FunctionModel:
    """A user's function as a model: `f(rng, **point)`, `f(streams, **point)` for streams of several
    purposes, or a function that `vectorised` has marked. It returns a number or a dict of numbers.

    A function may say what it returns in an attribute `fields` (name -> dtype), and with
    `global_seed = True` that NumPy's global state is to be seeded for each trial: a library from
    before Generator draws from it (60 us a trial).
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self._function = function
        self._name = name
        self._words = int(getattr(function, "words", 0))
        self._global_seed = bool(getattr(function, "global_seed", False))
        try:
            self._signature = inspect.signature(function)
        except (TypeError, ValueError) as error:
            raise UsageError(f"model {name}: its arguments cannot be seen: {error}") from error
        first = next(iter(self._signature.parameters), "")
        if not first:
            raise UsageError(
                f"model {name} takes no random numbers",
                hint="its first argument is rng, streams or (vectorised) uniforms",
            )
        self._streams = first == "streams"

    def parameters(self) -> Parameters:
        arguments = list(self._signature.parameters.values())[1:]
        named = [a for a in arguments if a.kind in {a.POSITIONAL_OR_KEYWORD, a.KEYWORD_ONLY}]
        return Parameters(
            required=tuple(a.name for a in named if a.default is a.empty),
            optional={a.name: a.default for a in named if a.default is not a.empty},
            others=any(a.kind is a.VAR_KEYWORD for a in arguments),
        )

    def fields(self) -> dict[str, str]:
        declared = getattr(self._function, "fields", {})
        try:
            return {str(name): np.dtype(kind).str for name, kind in dict(declared).items()}
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"model {self._name}: its attribute fields declares no types: {error}",
                hint='trial.fields = {"x": "f8", "n": "i4"}',
            ) from error

    def sampler(self, point: Mapping[str, Value]) -> ScalarTrial | BlockTrial:
        if self._words:
            return BlockTrial(words=self._words, run=partial(self._block, dict(point)))
        return partial(self._one, dict(point))

    def _one(self, point: Mapping[str, Value], streams: Streams) -> Mapping[str, Number]:
        if self._global_seed:
            np.random.seed(streams.rng("global").integers(0, 2**32, 8, dtype=np.uint64))  # noqa: NPY002
        result = self._function(streams if self._streams else streams.rng(), **point)
        return result if isinstance(result, Mapping) else {_SINGLE_FIELD: result}

    def _block(
        self, point: Mapping[str, Value], uniforms: npt.NDArray[np.float64]
    ) -> Mapping[str, npt.NDArray[Any]]:
        result = self._function(uniforms, **point)
        return result if isinstance(result, Mapping) else {_SINGLE_FIELD: np.asarray(result)}


def describe_point(point: Mapping[str, Value]) -> str:
    """A point for people: `mass=3000 width=0.1`."""
    return " ".join(f"{name}={value}" for name, value in point.items()) or "(no parameters)"
