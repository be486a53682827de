"""The pilot: finds out fields and costs, refuses what no batch could run, survives what it runs."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from dask_runner.errors import BadInputError, UsageError
from dask_runner.trials import pilot
from dask_runner.trials.forked import Child
from dask_runner.trials.model import FunctionModel, vectorised

POINTS = [{"mass": mass} for mass in (1, 2, 3)]


def measure(function, points=POINTS):
    return pilot.measure(FunctionModel(function, "m"), "m", points, 1)


def test_fields_types_and_costs():
    def trial(rng, mass):
        end = time.perf_counter() + 0.001 * mass
        while time.perf_counter() < end:
            pass
        count = np.int32(4)
        return {"x": rng.normal(), "n": 3, "i": count, "good": True, "single": np.float32(1)}

    found = measure(trial)
    # A Python integer may have been a float that happens to be whole.
    assert found.fields == {"x": "<f8", "n": "<f8", "i": "<i4", "good": "|b1", "single": "<f4"}
    assert found.row_bytes == 8 + 8 + 4 + 1 + 4 + 1
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
    for name in ("a b", "failed", "trial", "seed", "größe"):
        with pytest.raises(BadInputError, match="name of a field"):
            measure(lambda rng, mass, name=name: {name: 1})
    with pytest.raises(BadInputError, match="'mass' is a field and a parameter"):
        measure(lambda rng, mass: {"mass": mass})


def test_declared_fields_are_compared_with_what_trials_give():
    def trial(rng, mass):
        return {"x": 1.0, "n": 2.5}

    trial.fields = {"x": "f8", "n": "f4"}
    assert measure(trial).fields == {"x": "<f8", "n": "<f4"}
    trial.fields = {"x": "f8", "n": "i4"}
    with pytest.raises(UsageError, match="field 'n' holds int32 and not 2.5"):
        measure(trial)
    trial.fields = {"x": "f8"}
    with pytest.raises(UsageError, match="unexpected n"):
        measure(trial)
    trial.fields = {"x": "number"}
    with pytest.raises(UsageError, match="declares no types"):
        measure(trial)

    @vectorised(1)
    def block(uniforms, mass):
        return {"x": uniforms[:, 0]}

    block.fields = {"x": "i4"}
    with pytest.raises(UsageError, match="field 'x' holds int32"):
        measure(block)


def test_models_that_give_only_nan_are_refused():
    with pytest.raises(UsageError, match="all .* trials of the pilot fail: field 'value' is NaN"):
        measure(lambda rng, mass: float("nan"))

    @vectorised(1)
    def block(uniforms, mass):
        return np.where(uniforms[:, 0] < share, np.nan, 1.0)

    share = 2
    with pytest.raises(UsageError, match="all 4096 trials of the pilot fail: field 'value' is NaN"):
        measure(block)
    share = 0.5
    assert 1500 < measure(block).costs[0].failed < 2500


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
    def alone(uniforms, mass):
        return uniforms[:, 0] + (len(uniforms) == 1)

    with pytest.raises(UsageError, match="depends on which trials are computed together"):
        measure(alone)

    @vectorised(1)
    def wrong(uniforms, mass):
        return uniforms

    with pytest.raises(UsageError, match="shape"):
        measure(wrong)


STARTS_A_PROCESS = """
import os, sys, time
from dask_runner.trials import pilot
from dask_runner.trials.model import FunctionModel

def trial(rng, mass):
    helper = os.fork()
    if helper:
        os.write(told, f"{os.getpid()} {helper}\\n".encode())
    time.sleep(60)

told = os.dup(1)
pilot.measure(FunctionModel(trial, "m"), "m", [{"mass": 1}], 1)
"""


def test_the_pilot_does_not_outlive_its_driver():
    with subprocess.Popen(
        [sys.executable, "-c", STARTS_A_PROCESS], stdout=subprocess.PIPE, text=True
    ) as driver:
        child, helper = map(int, driver.stdout.readline().split())
        driver.kill()
        driver.wait()
        assert ended(child)
        os.kill(helper, signal.SIGKILL)  # not even a group's members know that it has ended


def test_what_a_pilot_has_started_ends_with_it(monkeypatch):
    read, write = os.pipe()

    def trial(rng, mass):
        helper = os.fork()
        if helper == 0:
            time.sleep(60)
            os._exit(0)
        os.write(write, f"{helper}\n".encode())
        return 1.0

    began = time.monotonic()
    monkeypatch.setattr(pilot, "_MOST", 5)
    measure(trial)
    assert time.monotonic() - began < 30
    helpers = [int(line) for line in os.read(read, 1 << 16).split()]
    assert len(helpers) >= 9
    assert all(ended(helper) for helper in helpers)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Child, "read", interrupted)
    children = psutil.Process().children()
    with pytest.raises(KeyboardInterrupt):
        measure(lambda rng, mass: time.sleep(60))
    assert psutil.Process().children() == children
    os.close(read)
    os.close(write)


def ended(pid):
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] in "ZX":
                    return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def test_points_must_have_the_models_parameters():
    model = FunctionModel(lambda rng, mass, width=0.1: 1.0, "m")
    pilot.check_points(model, "m", POINTS)
    with pytest.raises(UsageError, match="has no mass"):
        pilot.check_points(model, "m", [{"width": 1}])
    with pytest.raises(UsageError, match="has no parameter 'other'"):
        pilot.check_points(model, "m", [{"mass": 1, "other": 2}])
