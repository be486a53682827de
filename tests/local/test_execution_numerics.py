"""Pinned numerics, in the interpreters that run batches; replay in one of them."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
from execution_rig import FOLDER, Rig, act, new_pool
from msgspec import structs

from dask_runner.batch import (
    Attempt,
    Batch,
    FailureKind,
    OutcomeStatus,
    PlannedOutput,
    WorkloadSpec,
)
from dask_runner.errors import ClusterError, StorageError
from dask_runner.execution import numerics
from dask_runner.execution.replay import replay

SHOW = """
    import json, sys
    import numpy as np
    from numpy._core._multiarray_umath import __cpu_features__ as on, __cpu_dispatch__ as dispatch
    print(json.dumps({"dispatch": list(dispatch), "on": [name for name in on if on[name]]}))
"""


def python(code, **changes):
    environment = {**os.environ, **changes}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_no_numpy_feature_above_the_common_one_is_on_and_none_warns():
    seen = python(SHOW, **numerics.pinned_environment())
    above = [name for name in seen["dispatch"] if name == "X86_V4" or name.startswith("AVX512")]
    assert above, "this NumPy dispatches to nothing above X86_V3: what is pinned?"
    assert not set(above) & set(seen["on"])
    usable = set(python(SHOW)["on"]) - set(above)
    assert usable & set(seen["dispatch"]) <= set(seen["on"]), "nothing else is switched off"


def test_pinning_is_seen_and_does_not_depend_on_being_pinned():
    code = """
        import json
        from dask_runner.execution import numerics
        print(json.dumps([numerics.is_pinned(), numerics.pinned_environment()]))
    """
    assert python(code, NPY_DISABLE_CPU_FEATURES="") == [False, numerics.pinned_environment()]
    pinned = numerics.pinned_environment()
    assert python(code, **pinned) == [True, pinned]


def test_the_selftest_runs_pinned_wherever_it_is_called_from(monkeypatch):
    pinned = numerics.pinned_selftest()
    assert len(pinned.split()[1]) == 64
    monkeypatch.setenv("NPY_DISABLE_CPU_FEATURES", "X86_V3")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert numerics.pinned_selftest() == pinned


def test_a_selftest_that_fails_says_why(monkeypatch):
    with pytest.raises(ClusterError, match="longer than"):
        numerics.pinned_selftest(patience=0.01)
    monkeypatch.setattr(numerics.sys, "executable", "/bin/false")
    with pytest.raises(ClusterError, match="failed"):
        numerics.pinned_selftest()


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    pool = new_pool(tmp_path_factory.mktemp("scratch"), preload=("workloads_for_tests", "numpy"))
    yield pool
    pool.close()


def test_batches_run_pinned(pool, tmp_path, monkeypatch):
    into = tmp_path / "seen.json"
    assert Rig(pool, tmp_path).one(act("looks_around", into=str(into))).failure is None
    environment = json.loads(into.read_text())["environment"]
    assert numerics.pinned_environment().items() <= environment.items()


def attempt(*outputs, **parameters):
    batch = Batch(index=7, workload="w", parameters=parameters, outputs=outputs)
    return Attempt(batch=batch, number=3)


SPEC = WorkloadSpec(name="workloads_for_tests:Act", configuration={})
OUT = PlannedOutput(name="out.txt")


def test_the_selftest_loads_nothing_heavy_here():
    code = """
        import json, sys
        from dask_runner.execution import numerics
        print(json.dumps([numerics.pinned_selftest(), "numpy" in sys.modules]))
    """
    assert python(code) == [numerics.pinned_selftest(), False]


def test_another_c_library_is_asked_anew(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(numerics, "pinned_selftest", lambda: asked.append(1) or f"n {len(asked)}")
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert [numerics.cached_selftest() for _ in range(2)] == ["n 1", "n 1"]
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX2")
    assert [numerics.cached_selftest() for _ in range(2)] == ["n 2", "n 2"]


@pytest.fixture
def _here(monkeypatch, tmp_path):
    """A replay changes the folder and the environment of its process."""
    monkeypatch.chdir(tmp_path)
    for name in ("TMPDIR", "DASK_RUNNER_BATCH", "DASK_RUNNER_ATTEMPT", "DASK_RUNNER_SCRATCH"):
        monkeypatch.setenv(name, "")


@pytest.mark.usefixtures("_here")
def test_a_replay_gives_the_outputs_of_the_batch(pool, tmp_path):
    one = attempt(OUT, act="writes", text="same\n")
    outcome = replay(one, SPEC, tmp_path / "replay")
    assert outcome.status is OutcomeStatus.DONE
    assert (tmp_path / "replay" / "out.txt").read_text() == "same\n"
    assert os.environ["DASK_RUNNER_BATCH"] == "000007"
    batch = Rig(pool, tmp_path).one({"parameters": one.batch.parameters, "outputs": (OUT,)})
    # All but when it was written.
    (replayed,), (published,) = outcome.outputs, batch.outputs
    assert structs.replace(replayed, mtime_ns=0) == structs.replace(published, mtime_ns=0)


@pytest.mark.usefixtures("_here")
def test_a_replay_fails_as_the_batch_does(tmp_path, capsys):
    outcome = replay(attempt(act="raises"), SPEC, tmp_path / "replay")
    assert outcome.failure.kind is FailureKind.EXCEPTION
    assert "ValueError: event 12 is odd" in capsys.readouterr().err
    missing = replay(attempt(OUT, act="say"), SPEC, tmp_path / "again")
    assert missing.failure.kind is FailureKind.OUTPUT


@pytest.mark.usefixtures("_here")
def test_a_replay_needs_a_new_folder(tmp_path):
    with pytest.raises(StorageError, match="cannot make the folder"):
        replay(attempt(act="say"), SPEC, tmp_path)


REPLAY = """
    import sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from dask_runner.batch import Attempt, Batch, WorkloadSpec
    from dask_runner.execution.replay import replay
    spec = WorkloadSpec(name="workloads_for_tests:Act", configuration={{}})
    batch = Batch(index=0, workload="w", parameters={{"act": "raises"}})
    outcome = replay(Attempt(batch=batch, number=1), spec, Path({folder!r}), pdb=True)
    print("kind", outcome.failure.kind)
"""


def test_a_replay_opens_the_debugger(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(REPLAY.format(tests=FOLDER, folder=str(tmp_path / "new"))))
    done = subprocess.run(
        [sys.executable, str(script)], input="p kind\nq\n",
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "(Pdb) 'ValueError'" in done.stdout
    assert "kind exception" in done.stdout
