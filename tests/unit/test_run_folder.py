"""Names of runs: unique within a second, found by prefix, sorted by age."""

import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest

from dask_runner.errors import ManifestError, StorageError, UsageError
from dask_runner.run_folder import RunFolder, attempt_name, claim, find, group_log_name, list_runs

NOW = datetime(2026, 11, 20, 22, 57, 45, tzinfo=UTC)


def planned(folder):
    folder.manifest.write_bytes(b"")
    return folder


def test_two_runs_in_one_second_have_two_folders(tmp_path):
    names = [claim(tmp_path, now=NOW).timestamp for _ in range(3)]
    assert names == ["20261120T225745Z", "20261120T225745Z-2", "20261120T225745Z-3"]


def test_runs_claimed_at_once_never_share_a_folder(tmp_path):
    barrier, names = threading.Barrier(8), []

    def run():
        barrier.wait()
        names.append(claim(tmp_path, now=NOW).timestamp)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 8


def test_the_hour_that_summer_time_repeats_gives_two_names(tmp_path):
    first = datetime(2026, 10, 25, 2, 30, tzinfo=timezone(timedelta(hours=2)))
    second = datetime(2026, 10, 25, 2, 30, tzinfo=timezone(timedelta(hours=1)))
    assert claim(tmp_path, now=first).timestamp == "20261025T003000Z"
    assert claim(tmp_path, now=second).timestamp == "20261025T013000Z"


def test_runs_are_listed_by_age_and_only_with_a_manifest(tmp_path):
    folders = [planned(claim(tmp_path, now=NOW)) for _ in range(11)]
    claim(tmp_path, now=NOW)  # never planned
    old = planned(claim(tmp_path, now=NOW - timedelta(days=1)))
    assert list_runs(tmp_path) == [old.timestamp, *(folder.timestamp for folder in folders)]
    assert find(tmp_path, "last") == folders[-1].path
    assert folders[-1].timestamp.endswith("-11")


def test_a_run_is_found_by_name_or_unique_prefix(tmp_path):
    one, two = planned(claim(tmp_path, now=NOW)), planned(claim(tmp_path, now=NOW))
    old = planned(claim(tmp_path, now=NOW - timedelta(days=1)))
    assert find(tmp_path, one.timestamp) == one.path, "though it is a prefix of the other"
    assert find(tmp_path, two.timestamp) == two.path
    assert find(tmp_path, "20261119") == old.path
    with pytest.raises(UsageError, match="not unique"):
        find(tmp_path, "202611")
    for wrong in ("1999", ""):
        with pytest.raises(ManifestError, match="no run"):
            find(tmp_path, wrong)
    with pytest.raises(ManifestError, match="no runs in"):
        find(tmp_path / "nowhere", "last")


def test_a_folder_that_cannot_be_made_says_where_and_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot make a run folder in") as refusal:
        claim(tmp_path / "file")
    assert "storage.runs" in refusal.value.hint


def test_paths_of_a_run(tmp_path):
    folder = RunFolder.at(tmp_path / "20261120T225745Z")
    assert folder.attempt(1234, 2) == folder.path / "attempts" / "001" / "001234.2"
    assert folder.output("a.root") == folder.path / "outputs" / "a.root"
    assert attempt_name(0, 1) == "000/000000.1"
    assert group_log_name(100, 1) == "groups/000100.1.log"
    elsewhere = RunFolder.at(tmp_path / "20261120T225745Z", tmp_path / "out")
    assert elsewhere.attempts == tmp_path / "out" / ".dask-runner" / "20261120T225745Z"


def test_outputs_that_cannot_be_written_are_refused_and_no_run_is_claimed(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write outputs"):
        claim(tmp_path / "runs", tmp_path / "file")
    assert not (tmp_path / "runs").exists()
