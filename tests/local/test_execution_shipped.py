"""What is shipped, and where inputs are: as a batch sees it in a warm process."""

import json
from pathlib import Path

import pytest
from execution_rig import Rig, act, new_pool
from msgspec import structs
from workloads_for_tests import ACT

from dask_runner.batch import Attempt, FailureKind, InputRange, OutcomeStatus
from dask_runner.execution.task import Group
from dask_runner.files import path_to_text

# Of the same name as a module that the warm process has imported.
MODULE = """
import json, os, sys
from pathlib import Path
from typing import ClassVar
from msgspec import Struct
from dask_runner.batch import BatchFailedError, FailureKind
from shipped_beside_it import WORD

class Act(Struct, frozen=True, kw_only=True):
    preload: ClassVar[tuple[str, ...]] = ("workloads_for_tests",)
    uses_folder: ClassVar[bool] = True
    batches: tuple = ()
    trace: str = ""

    def run(self, batch, folder):
        seen = {
            "file": __file__,
            "first": sys.path[0],
            "variable": os.environ["DASK_RUNNER_SHIPPED"],
            "inputs": [item.path for item in batch.inputs],
            "word": WORD,
        }
        Path(batch.parameters["into"]).write_text(json.dumps(seen))
        if batch.parameters["act"] == "blames":
            path = batch.inputs[0].path
            raise BatchFailedError(FailureKind.BAD_INPUT, f"{path}: is odd", path=path)
        return {}
"""


@pytest.fixture
def rig(tmp_path):
    pool = new_pool(tmp_path / "scratch")
    yield Rig(pool, tmp_path)
    pool.close()


@pytest.fixture
def shipped(tmp_path) -> Path:
    folder = tmp_path / "what is shipped"
    folder.mkdir()
    (folder / "workloads_for_tests.py").write_text(MODULE)
    (folder / "shipped_beside_it.py").write_text("WORD = 'beside'\n")
    return folder


def with_input(group: Group, path: str, **changes) -> Group:
    (attempt,) = group.attempts
    batch = structs.replace(attempt.batch, inputs=(InputRange(path=path, count=1),))
    attempts = (Attempt(batch=batch, number=attempt.number),)
    return structs.replace(group, attempts=attempts, **changes)


def test_shipped_modules_come_first_and_inputs_are_where_the_host_has_them(rig, shipped, tmp_path):
    into = tmp_path / "seen"
    group = rig.group(act("runs", into=str(into)), workload=ACT)
    group = with_input(
        group,
        "http://host/e.root",
        shipped=path_to_text(shipped),
        paths={"http://host/e.root": "/cache/e.root"},
    )
    (outcome,) = rig.run_group(group)
    assert outcome.status is OutcomeStatus.DONE, outcome.failure
    assert json.loads(into.read_text()) == {
        "file": str(shipped / "workloads_for_tests.py"),
        "first": str(shipped),
        "variable": str(shipped),
        "inputs": ["/cache/e.root"],
        "word": "beside",
    }
    assert not (shipped / "__pycache__").exists()


def test_a_run_that_ships_nothing_has_the_modules_of_the_host(rig, shipped, tmp_path):
    into = tmp_path / "seen"
    group = rig.group(act("runs", into=str(into)), workload=ACT)
    (first,) = rig.run_group(structs.replace(group, shipped=path_to_text(shipped)))
    assert first.status is OutcomeStatus.DONE, first.failure
    outcome = rig.one(act("looks_around", into=str(into)))
    assert outcome.status is OutcomeStatus.DONE, outcome.failure
    assert "DASK_RUNNER_SHIPPED" not in into.read_text()


def test_an_input_is_blamed_under_the_name_that_the_plan_has(rig, shipped, tmp_path):
    group = rig.group(act("blames", into=str(tmp_path / "seen")), workload=ACT)
    group = with_input(
        group,
        "/data/e.root",
        shipped=path_to_text(shipped),
        paths={"/data/e.root": "/cache/12/34/e.root"},
    )
    (outcome,) = rig.run_group(group)
    assert outcome.failure.kind is FailureKind.BAD_INPUT
    assert outcome.failure.path == "/data/e.root"
