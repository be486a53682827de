"""A batch of trials: failed trials are data, crashes cost one trial, results know no grouping."""

import faulthandler
import os
import signal
import time
from itertools import pairwise

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_runner.batch import BatchFailedError, FailureKind
from dask_runner.trials import running, tables
from dask_runner.trials.job import Failures, Job
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


def test_few_trials_fail_a_batch_only_if_all_of_them_do():
    def trial(rng, mass):
        raise RuntimeError("no luck")

    def but_one(rng, mass):
        if rng.random() != first:
            raise RuntimeError("no luck")
        return {"x": 1.0, "n": 1}

    assert run(trial, job(2, max_failed=0.0)).failed == 2
    assert run(trial, job(5, max_failed=1.0)).failed == 5
    with pytest.raises(BatchFailedError, match="all 5 trials at mass=3 failed.* no luck"):
        run(trial, job(5, max_failed=0.1))
    first = run(lambda rng, mass: {"x": rng.random(), "n": 1}, job(1)).table["x"][0]
    assert run(but_one, job(5, max_failed=0.1)).failed == 4


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ImportError("libFit.so: cannot open shared object file"), FailureKind.EXCEPTION),
        (FileNotFoundError(2, "No such file", "/data/pdf.root"), FailureKind.EXCEPTION),
        (OSError(28, "No space left on device"), FailureKind.DISK_FULL),
        (MemoryError("2 TB"), FailureKind.MEMORY),
    ],
)
def test_what_the_host_lacks_fails_the_batch_and_no_trial(error, kind):
    def trial(rng, mass):
        raise error

    with pytest.raises(
        BatchFailedError, match=f"trial 0 at mass=3: {type(error).__name__}: "
    ) as told:
        run(trial, job(1))
    assert told.value.kind is kind


def test_a_process_that_a_trial_leaves_behind_is_not_waited_for():
    def trial(rng, mass):
        if rng.random() == first:
            pid = os.fork()
            if pid == 0:
                time.sleep(60)
                os._exit(0)
            return {"x": 1.0, "n": pid}
        return {"x": 0.0, "n": 1}

    first = run(lambda rng, mass: {"x": rng.random(), "n": 1}, job(1)).table["x"][0]
    began = time.monotonic()
    table = run(trial, job(20)).table
    assert time.monotonic() - began < 10
    assert table["x"].tolist() == [1.0] + 19 * [0.0]
    assert not alive(int(table["n"][0]))


def alive(pid):
    """Zombies are not: they wait for init."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] in "ZX":
                    return False
        except (FileNotFoundError, ProcessLookupError):
            return False
        time.sleep(0.02)
    return True


def test_a_model_that_closes_all_descriptors_goes_on():
    def trial(rng, mass):
        os.closerange(3, 1000)
        time.sleep(0.002)
        return {"x": rng.random(), "n": 1}

    reference = run(lambda rng, mass: {"x": rng.random(), "n": 1}).table
    assert run(trial).table.tobytes() == reference.tobytes()


def test_what_warms_up_is_told_apart():
    calls = []

    def trial(rng, mass):
        if not calls:
            time.sleep(0.3)
        calls.append(1)
        return {"x": 1.0, "n": 1}

    assert run(trial).warm_up == pytest.approx(0.3, abs=0.2)
    assert run(trial, job(1)).warm_up == 0


def test_what_is_told_of_failed_trials_is_bounded():
    found = Failures(job(10**6))
    for trial in range(5000):
        found.add(trial, "no fit")
    for trial in range(5000, 6000):
        found.add(trial, f"odd {'abcdefghij'[trial % 10] * (trial // 10 % 100 + 1)}")
    groups = found.grouped()
    assert (groups[0].count, groups[0].trials) == (5000, tuple(range(1000)))
    assert groups[-1].cause == "other causes"
    assert len(groups) == 51
    assert sum(group.count for group in groups) == 6000
    assert len(tables.encode_failures(groups)) < 1_000_000


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
    before, children = signal.getsignal(signal.SIGTERM), psutil.Process().children()
    run(failing(crashes))
    assert signal.getsignal(signal.SIGTERM) is before
    # Other tests may have left helpers of multiprocessing in this process.
    assert psutil.Process().children() == children
