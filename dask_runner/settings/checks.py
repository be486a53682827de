"""The rules that a single key cannot express: numbers that are finite, steps that fit together.

Refuses to look at the disk: whether a folder exists is the dry test's question.
"""

import itertools
import math
import re
from collections.abc import Mapping

from dask_runner.errors import UsageError
from dask_runner.settings.keys import KEYS, STEPS, nearest
from dask_runner.settings.schema import (
    DEFAULT_STEPS,
    ReconstructSettings,
    Settings,
    StepSettings,
)

_BUILT_IN = {step.name: step.output for step in DEFAULT_STEPS}
# Each of these lies outside the one before it.
_ASCENDING = (
    ("tracker_radius", "ecal_inner_radius", "ecal_outer_radius", "hcal_outer_radius"),
    ("tracker_half_length", "ecal_inner_z", "ecal_outer_z", "hcal_outer_z"),
)


def check(settings: Settings, origin: Mapping[str, str]) -> None:
    """Raise UsageError for values that are right alone and wrong together."""
    try:
        _check_numbers(settings)
        _check_geometry(settings)
        _check_steps(settings.reconstruct)
        _check_keep(settings.reconstruct)
    except _RuleError as error:
        raise UsageError(
            f"{origin[error.key]}: {error.key}: {error.message}", hint=error.hint
        ) from None


class _RuleError(Exception):
    def __init__(self, key: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.key = key
        self.message = message
        self.hint = hint


def _check_numbers(settings: Settings) -> None:
    for key in KEYS.values():
        value = getattr(getattr(settings, key.section), key.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise _RuleError(key.dotted, f"{value} is not a finite number", key.description)


def _check_geometry(settings: Settings) -> None:
    for names in _ASCENDING:
        for inner, outer in itertools.pairwise(names):
            low, high = (getattr(settings.geometry, name) for name in (inner, outer))
            if low >= high:
                raise _RuleError(
                    f"geometry.{outer}",
                    f"{high} m is not outside geometry.{inner}, which is {low} m",
                )


def _check_steps(reconstruct: ReconstructSettings) -> None:
    names: set[str] = set()
    outputs: dict[str, str] = {}
    for step in reconstruct.steps:
        if not step.command:
            _check_built_in(step)
        if step.name in names:
            raise _RuleError(STEPS, f"two steps are called {step.name}")
        if step.output in outputs:
            both = f"{outputs[step.output]} and {step.name}"
            raise _RuleError(STEPS, f"{both} both write {step.output}")
        names.add(step.name)
        outputs[step.output] = step.name
        for pattern in (*step.error_patterns, *step.ignore_patterns):
            _check_pattern(step.name, pattern)


def _check_built_in(step: StepSettings) -> None:
    if step.name not in _BUILT_IN:
        near = nearest(step.name, _BUILT_IN)
        raise _RuleError(
            STEPS,
            f"no built-in step {step.name!r}",
            f"built in are {', '.join(_BUILT_IN)}; "
            + (f"did you mean {near}? Or give" if near else "give")
            + " the step a command",
        )
    if step.output != _BUILT_IN[step.name]:
        form = _BUILT_IN[step.name]
        raise _RuleError(STEPS, f"the built-in step {step.name} writes {form}, not {step.output}")


def _check_pattern(step: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise _RuleError(
            STEPS, f"step {step}: {pattern!r} is not a regular expression: {error}"
        ) from error


def _check_keep(reconstruct: ReconstructSettings) -> None:
    written = [step.output for step in reconstruct.steps]
    for form in reconstruct.keep:
        if form not in written:
            raise _RuleError(
                "reconstruct.keep",
                f"no step writes {form}",
                f"the steps write {', '.join(written)}; set reconstruct.keep to some of these",
            )
    if len(set(reconstruct.keep)) < len(reconstruct.keep):
        raise _RuleError("reconstruct.keep", "a format is named twice")
