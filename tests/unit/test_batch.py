"""The nouns are JSON: what is written is what is read, small and without surprises."""

import msgspec
import pytest
from manifest_runs import bad, batches, good, output

from dask_runner.batch import (
    Attempt,
    Batch,
    BatchFailedError,
    Failure,
    FailureKind,
    InputRange,
    Outcome,
    OutcomeStatus,
    least_accepted,
)


@pytest.mark.parametrize(
    "noun",
    [
        batches(3)[2],
        Attempt(batch=batches(1)[0], number=3),
        good(1, outputs=[output()]),
        bad(2),
        InputRange(path="a", first=1, count=2),
    ],
    ids=lambda noun: type(noun).__name__,
)
def test_a_noun_comes_back_from_json(noun):
    assert msgspec.json.decode(msgspec.json.encode(noun), type=type(noun)) == noun


def test_what_is_default_is_not_written():
    small = Outcome(batch=1, attempt=1, status=OutcomeStatus.DONE)
    assert msgspec.json.encode(small) == b'{"batch":1,"attempt":1,"status":"done"}'


def test_batches_are_named_so_that_names_sort_like_indices():
    names = [Batch(index=index, workload="w").id for index in (2, 10, 999_999)]
    assert names == sorted(names) == ["000002", "000010", "999999"]


def test_a_batch_cannot_be_changed():
    with pytest.raises(AttributeError):
        batches(1)[0].index = 2


def test_only_certain_failures_are_final():
    final = {kind for kind in FailureKind if not kind.may_pass_elsewhere}
    assert final == {FailureKind.BAD_INPUT, FailureKind.LOG_ERROR}
    passing = Failure(kind=FailureKind.EXIT_CODE, message="m", fingerprint="f")
    assert passing.may_pass_elsewhere
    assert not msgspec.structs.replace(passing, final=True).may_pass_elsewhere


def test_a_workload_fails_a_batch_with_its_cause():
    error = BatchFailedError(FailureKind.EXIT_CODE, "step 2 ended with 9", exit_code=9, final=True)
    assert str(error) == error.message == "step 2 ended with 9"
    assert (error.kind, error.exit_code, error.final, error.path) == ("exit-code", 9, True, "")


@pytest.mark.parametrize(
    ("events", "acceptance", "least"),
    [
        *((100, 1.0, 100), (50, 0.98, 49), (51, 0.98, 50), (100, 0.55, 55), (100, 0.57, 57)),
        *((3, 0.5, 2), (7, 0.0, 0), (1, 0.001, 1)),
    ],
)
def test_least_accepted(events, acceptance, least):
    assert least_accepted(events, acceptance) == least
