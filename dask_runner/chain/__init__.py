"""The embedded event chain: Pythia 8, then a parametrised fast simulation, in four steps.

Every step is a pure function of the events, the geometry and the seed; an event's result depends
on (run number, seed, event number) alone, never on what else is in the batch. To add a step: a
module, a line here, a test.
"""

import importlib
from typing import Protocol, cast

from msgspec import Struct

from dask_runner.chain.formats import EventData
from dask_runner.errors import UsageError
from dask_runner.settings import Geometry


class StepFunction(Protocol):
    """What a step does: `seed` is the run's."""

    def __call__(self, data: EventData, geometry: Geometry, seed: int) -> EventData: ...


class Step(Struct, frozen=True, kw_only=True):
    """A step that turns events of format `input` into `output`; `function` is module:name."""

    input: str
    output: str
    function: str

    def load(self) -> StepFunction:
        module, _, name = self.function.partition(":")
        return cast("StepFunction", getattr(importlib.import_module(module), name))


# Import paths, not functions: only the steps in use are imported.
STEPS = {
    "simulate": Step(input="EVNT", output="HITS", function="dask_runner.chain.simulate:simulate"),
    "digitize": Step(input="HITS", output="RDO", function="dask_runner.chain.digitize:digitize"),
    "reconstruct": Step(
        input="RDO", output="AOD", function="dask_runner.chain.reconstruct:reconstruct"
    ),
    "ntuple": Step(input="AOD", output="NTUP", function="dask_runner.chain.ntuple:ntuple"),
}


def run_step(name: str, data: EventData, geometry: Geometry, seed: int) -> EventData:
    """Do one built-in step."""
    step = STEPS.get(name)
    if step is None:
        raise UsageError(f"no step {name!r} is built in", hint=f"one of {', '.join(STEPS)}")
    if data.format != step.input:
        raise UsageError(f"step {name} reads {step.input}, not {data.format}")
    return step.load()(data, geometry, seed)


def selftest_numbers() -> str:
    """What this machine computes, as `<parts> <sha256>`: equal on hosts that give the same bits."""
    selftest = importlib.import_module("dask_runner.chain.selftest")
    return cast("str", selftest.selftest_numbers())
