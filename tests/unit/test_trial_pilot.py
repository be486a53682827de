"""The pilot: finds out fields and costs, refuses what no batch could run, survives what it runs."""

import os
import time

import numpy as np
import pytest

from dask_runner.errors import BadInputError, UsageError
from dask_runner.trials import pilot
from dask_runner.trials.model import FunctionModel, vectorised

POINTS = [{"mass": mass} for mass in (1, 2, 3)]


def measure(function, points=POINTS):
    return pilot.measure(FunctionModel(function, "m"), "m", points, 1)


def test_fields_types_and_costs():
    def trial(rng, mass):
        end = time.perf_counter() + 0.001 * mass
        while time.perf_counter() < end:
            pass
        return {"x": rng.normal(), "n": 3, "good": True, "single": np.float32(1)}

    found = measure(trial)
    assert found.fields == {"x": "<f8", "n": "<i8", "good": "|b1", "single": "<f4"}
    assert found.row_bytes == 8 + 8 + 1 + 4 + 1
    assert found.seconds(0) >= 0.001
    assert found.seconds(2) >= 0.003


def test_integers_that_become_floats_are_floats():
    assert measure(lambda rng, mass: mass if mass < 3 else 0.5).fields == {"value": "<f8"}


def test_large_grids_are_sampled_from_end_to_end():
    found = measure(lambda rng, mass: 1.0, [{"mass": mass} for mass in range(1000)])
    assert len(found.places) == 12
    assert (found.places[0], found.places[-1]) == (0, 999)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (lambda mass: None, "not a number: None"),
        (lambda mass: "text", "not a number"),
        (lambda mass: [1, 2], "shape"),
        (lambda mass: {f"x{mass}": 1}, "at other points"),
    ],
)
def test_what_is_no_trial_is_refused(result, words):
    with pytest.raises(UsageError, match=words):
        measure(lambda rng, mass: result(mass))


def test_names_that_cannot_be_columns_are_refused():
    for name in ("a b", "failed"):
        with pytest.raises(BadInputError, match="name of a field"):
            measure(lambda rng, mass, name=name: {name: 1})


def test_a_model_that_always_fails_is_refused_and_one_that_sometimes_does_is_not():
    def always(rng, mass):
        raise ValueError("no data file")

    def sometimes(rng, mass):
        if rng.random() < 0.5:
            raise ValueError("no luck")
        return 1.0

    with pytest.raises(UsageError, match="all .* trials of the pilot fail: ValueError: no data"):
        measure(always)
    costs = measure(sometimes).costs
    assert all(0 < cost.failed < cost.tried for cost in costs)
    assert costs[0].message == "ValueError: no luck"


def test_a_crash_at_once_is_refused_and_a_late_one_is_told():
    with pytest.raises(UsageError, match="ends its process with exit code 3"):
        measure(lambda rng, mass: os._exit(3))

    calls = []

    def late(rng, mass):
        calls.append(1)
        if len(calls) > 10:
            os._exit(3)
        return 1.0

    assert measure(late).costs[0].message == "a trial crashed: exit code 3"


def test_an_endless_trial_is_ended(monkeypatch):
    monkeypatch.setattr(pilot, "_PATIENCE", 0.5)

    def endless(rng, mass):
        while True:
            time.sleep(0.01)

    with pytest.raises(UsageError, match="not even 3 trials end"):
        measure(endless)


def test_vectorised_models_must_treat_each_row_by_itself():
    @vectorised(1)
    def shifted(uniforms, mass):
        return uniforms[:, 0] - uniforms[:, 0].mean()

    with pytest.raises(UsageError, match="depends on which trials are computed together"):
        measure(shifted)

    @vectorised(1)
    def wrong(uniforms, mass):
        return uniforms

    with pytest.raises(UsageError, match="shape"):
        measure(wrong)


def test_points_must_have_the_models_parameters():
    model = FunctionModel(lambda rng, mass, width=0.1: 1.0, "m")
    pilot.check_points(model, "m", POINTS)
    with pytest.raises(UsageError, match="has no mass"):
        pilot.check_points(model, "m", [{"width": 1}])
    with pytest.raises(UsageError, match="has no parameter 'other'"):
        pilot.check_points(model, "m", [{"mass": 1, "other": 2}])
