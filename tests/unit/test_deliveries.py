"""Contents that came with an outcome: written where the attempt would have left them, if whole."""

import msgspec
import pytest

from dask_runner import deliveries
from dask_runner.batch import Outcome, OutcomeStatus
from dask_runner.errors import StorageError
from dask_runner.execution.returns import described
from dask_runner.run_folder import RunFolder

CONTENTS = {"a%25.npy": b"abc", "b.json": b""}


def outcome(contents):
    return Outcome(batch=3, attempt=2, status=OutcomeStatus.DONE, outputs=described(contents))


def test_they_are_in_the_attempts_folder_and_read_only(tmp_path):
    folder = RunFolder.at(tmp_path / "run")
    deliveries.write(folder, outcome(CONTENTS), CONTENTS)
    home = folder.attempt(3, 2)
    assert {path.name: path.read_bytes() for path in home.iterdir()} == {
        "a%.npy": b"abc",
        "b.json": b"",
    }
    assert {path.stat().st_mode & 0o222 for path in home.iterdir()} == {0}


def test_a_changed_byte_is_seen():
    assert deliveries.is_whole(outcome(CONTENTS), CONTENTS)
    assert not deliveries.is_whole(outcome(CONTENTS), {**CONTENTS, "b.json": b"!"})
    assert not deliveries.is_whole(outcome(CONTENTS), {**CONTENTS, "c": b""})
    fewer = msgspec.structs.replace(outcome(CONTENTS), outputs=())
    assert not deliveries.is_whole(fewer, CONTENTS)


def test_a_folder_that_cannot_be_written_is_the_storages_fault(tmp_path):
    (tmp_path / "run").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="cannot write results"):
        deliveries.write(RunFolder.at(tmp_path / "run"), outcome(CONTENTS), CONTENTS)
