"""A batch of trials: failed trials are data, crashes cost one trial, results know no grouping."""

import faulthandler
import os
import signal
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_runner.batch import BatchFailedError, FailureKind
from dask_runner.trials import running, tables
from dask_runner.trials.job import Job
from dask_runner.trials.model import BlockTrial, FunctionModel, vectorised

POINT = {"mass": 3}


def job(count=100, first=0, fields=None, **options):
    fields = {"x": "<f8", "n": "<i8"} if fields is None else fields
    return Job(model="m", seed=5, point=POINT, first=first, count=count, fields=fields, **options)


def run(function, of=None):
    model = FunctionModel(function, "m")
    return running.run(model.sampler(POINT), of or job())


def good(rng, mass):
    return {"x": rng.normal(mass), "n": int(rng.poisson(mass))}


@vectorised(2)
def block(uniforms, mass):
    return {"x": uniforms[:, 0] * mass, "n": (uniforms[:, 1] * 10).astype(int)}


@pytest.mark.parametrize("function", [good, block])
@given(cuts=st.lists(st.integers(1, 59), unique=True, max_size=4))
@settings(max_examples=8, deadline=None)
def test_any_division_gives_the_same_rows(function, cuts):
    whole = run(function, job(60)).table
    edges = [0, *sorted(cuts), 60]
    parts = [run(function, job(end - first, first)).table for first, end in pairwise(edges)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


def failing(kind):
    def trial(rng, mass):
        x = rng.random()
        if x < 0.05:
            kind(x)
        return {"x": x, "n": 1}

    return trial


def raises(x):
    raise ValueError(f"fit {x} did not converge")


def exits(_x):
    raise SystemExit(3)


def leaves(_x):
    os._exit(3)


def crashes(_x):
    faulthandler.disable()  # the traceback would only hide what the tests say
    os.kill(os.getpid(), signal.SIGSEGV)


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        (raises, "ValueError: fit # did not converge"),
        (exits, "SystemExit: #"),
        (leaves, "crashed: exit code #"),
        (crashes, "crashed: SIGSEGV"),
    ],
)
def test_a_failed_trial_is_recorded_and_the_others_are_not_touched(kind, cause):
    done = run(failing(kind))
    reference = run(lambda rng, mass: {"x": rng.random(), "n": 1}).table
    bad = reference["x"] < 0.05
    assert 0 < bad.sum() < 10
    (group,) = done.failures
    assert group.cause == cause
    assert group.trials == tuple(np.flatnonzero(bad))
    assert done.failed == bad.sum()
    assert np.array_equal(done.table["failed"], bad)
    assert done.table[~bad].tobytes() == reference[~bad].tobytes()
    assert np.isnan(done.table["x"][bad]).all()


def test_a_trial_that_hangs_is_ended_and_named():
    def trial(rng, mass):
        x = rng.random()
        while x < 0.02:
            time.sleep(0.01)
        return {"x": x, "n": 1}

    done = run(trial, job(60, timeout=0.3))
    assert done.failed >= 1
    assert done.failures[0].message == "took longer than 0.3 s (--trial-timeout)"
    assert not np.isnan(done.table["x"][~done.table["failed"]]).any()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (float("nan"), "field 'x' is NaN"),
        ("text", "not a number"),
        (None, "not a number"),
        ([1, 2], "one number is expected"),
        (1j, "not a number"),
    ],
)
def test_what_is_no_number_fails_its_trial_only(value, words):
    def trial(rng, mass):
        x = rng.random()
        return {"x": value if x < 0.04 else x, "n": 1}

    done = run(trial)
    assert 0 < done.failed < 10
    assert words in done.failures[0].message


def test_an_integer_field_does_not_cut_numbers():
    done = run(lambda rng, mass: {"x": 1.0, "n": 2.5 if rng.random() < 0.05 else 2.0})
    assert 0 < done.failed < 10
    assert "holds int64 and not 2.5" in done.failures[0].message


def test_missing_and_unexpected_fields():
    def trial(rng, mass):
        return {"x": 1.0} if rng.random() < 0.05 else {"x": 1.0, "n": 1}

    assert "no n" in run(trial).failures[0].message


def test_too_many_failures_fail_the_batch_at_once():
    def trial(rng, mass):
        raise RuntimeError("no luck")

    began = time.monotonic()
    with pytest.raises(BatchFailedError, match="10 of up to 1000000") as caught:
        run(trial, job(1_000_000, max_failed=0.0))
    assert caught.value.kind is FailureKind.EXCEPTION
    assert "no luck" in str(caught.value)
    assert time.monotonic() - began < 20


def test_few_trials_never_fail_a_batch():
    def trial(rng, mass):
        raise RuntimeError("no luck")

    assert run(trial, job(5, max_failed=0.0)).failed == 5


def test_a_kill_from_outside_is_no_trials_fault():
    def trial(rng, mass):
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(BatchFailedError, match="SIGKILL in trial 0 at mass=3"):
        run(trial)


def test_nan_and_shapes_of_vectorised_models():
    spoilt = BlockTrial(words=1, run=lambda u: {"x": np.where(u[:, 0] < 0.05, np.nan, u[:, 0])})
    done = running.run(spoilt, job(fields={"x": "<f8"}))
    assert 0 < done.failed < 10
    assert done.failures[0].cause == "field 'x' is NaN"
    odd = BlockTrial(words=1, run=lambda u: {"x": u})
    with pytest.raises(ValueError, match="shape"):
        running.run(odd, job(fields={"x": "<f8"}))


def test_streams_of_several_purposes_and_of_the_global_state():
    def several(streams, mass):
        return {"x": streams.rng("generate").random() + streams.rng("smear").random(), "n": 1}

    def legacy(rng, mass):
        return {"x": np.random.random(), "n": 1}

    legacy.global_seed = True
    for function in (several, legacy):
        assert run(function).table.tobytes() == run(function).table.tobytes()
        assert len(set(run(function).table["x"])) == 100


def test_tables_survive_their_files():
    done = run(failing(raises))
    data = tables.encode_table(done.table)
    assert data.startswith(b"\x93NUMPY")
    failures = tables.decode_failures(tables.encode_failures(done.failures))
    assert tuple(failures) == done.failures


def test_no_child_and_no_handler_stays():
    before = signal.getsignal(signal.SIGTERM)
    run(failing(crashes))
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
