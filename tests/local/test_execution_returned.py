"""Outputs that come back with the outcome: as planned or not at all."""

import hashlib

import pytest
from execution_rig import Rig, new_pool
from workloads_for_tests import RETURNS

from dask_runner.batch import RETURNED_MAX, FailureKind, OutcomeStatus, PlannedOutput

PLANNED = (
    PlannedOutput(name="a.npy", returned=True),
    PlannedOutput(name="b.json", returned=True, optional=True),
)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    found = new_pool(tmp_path_factory.mktemp("returned") / "scratch")
    yield found
    found.close()


@pytest.fixture
def rig(pool, tmp_path):
    return Rig(pool, tmp_path)


def batch(files, outputs=PLANNED, **more):
    return {"parameters": {"files": files, **more}, "outputs": outputs}


def test_contents_come_back_hashed_and_nothing_is_written(rig):
    one, two = rig.run(
        batch({"a.npy": "x"}), batch({"a.npy": "y", "b.json": "z"}), workload=RETURNS
    )
    assert one.contents == {"a.npy": b"x"}
    assert two.contents == {"a.npy": b"y", "b.json": b"z"}
    assert [output.name for output in two.outputs] == ["a.npy", "b.json"]
    assert one.outputs[0].sha256 == hashlib.sha256(b"x").hexdigest()
    assert not rig.streamed, "contents are not sent through the scheduler's events"
    assert not [path for path in rig.attempts.rglob("*") if path.is_file()]
    assert one.outcome().counters == {"files": 1}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "did not return a.npy"),
        ({"b.json": "z"}, "did not return a.npy"),
        ({"a.npy": "x", "c.txt": "w"}, "not planned: c.txt"),
    ],
)
def test_what_is_not_as_planned_fails_its_batch_alone(rig, files, words):
    bad, good = rig.run(batch(files), batch({"a.npy": "x"}), workload=RETURNS)
    assert bad.failure.kind is FailureKind.OUTPUT
    assert words in bad.failure.message
    assert (bad.outputs, bad.contents) == ((), {})
    assert good.status is OutcomeStatus.DONE


def test_what_is_too_large_is_refused(rig):
    big = (PlannedOutput(name="big.bin", returned=True),)
    outcome = rig.one(batch({}, big, size=RETURNED_MAX + 1), workload=RETURNS)
    assert "more than 16 MB" in outcome.failure.message
    assert not outcome.failure.may_pass_elsewhere
    most = rig.one(batch({}, big, size=RETURNED_MAX), workload=RETURNS)
    assert len(most.contents["big.bin"]) == RETURNED_MAX
