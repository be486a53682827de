"""Readers need no lock, and understand a file that grows under their eyes."""

import subprocess
import sys
from pathlib import Path

import pytest
from manifest_runs import STAMP, bad, batches, create, done, good, started

from dask_runner.batch import Batch
from dask_runner.errors import ManifestError
from dask_runner.manifest import (
    Done,
    Follower,
    Manifest,
    Note,
    Started,
    Verdict,
    history,
    read_state,
    records,
)

NUMBER = 500
WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from manifest_runs import bad, create, started
stop, attempt = Path(sys.argv[1], "stop"), 0
with create(Path(sys.argv[1]), 500) as manifest:
    print("created", flush=True)
    while not stop.exists():
        attempt += 1
        for first in range(0, 500, 20):
            group = range(first, first + 20)
            manifest.record(started(*group, attempt=attempt))
            manifest.record(*(bad(index, attempt) for index in group), durable=first == 0)
print(attempt, flush=True)
"""


def test_a_reader_during_heavy_writing_always_sees_a_true_prefix(tmp_path):
    """Whoever reads sees each group in order, up to some record of it, and never an error."""
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, tmp_path, Path(__file__).parent], stdout=subprocess.PIPE
    )
    with child:
        assert child.stdout.readline() == b"created\n"
        follower, totals = Follower(tmp_path / STAMP), []
        while len(totals) < 40 or totals[-1] < NUMBER:
            assert child.poll() is None
            state = follower.poll()
            failed = [state.failed_attempts(index) for index in range(NUMBER)]
            assert failed == sorted(failed, reverse=True)
            assert failed[0] - failed[-1] in (0, 1)
            assert all(state.attempts(index) - failed[index] in (0, 1) for index in range(NUMBER))
            totals.append(sum(failed))
            assert sum(host.failed for host in state.hosts.values()) == totals[-1]
        (tmp_path / "stop").touch()
        attempts = int(child.stdout.readline())
    assert totals == sorted(totals)
    assert len(set(totals)) > 1
    for state in (follower.poll(), read_state(tmp_path / STAMP)):
        assert [state.failed_attempts(index) for index in range(NUMBER)] == [attempts] * NUMBER


def test_a_follower_reads_only_what_is_new(tmp_path, monkeypatch):
    with create(tmp_path, 1000) as manifest:
        follower = Follower(manifest.folder.path)
        state = follower.poll()
        read = []
        monkeypatch.setattr(
            "dask_runner.manifest.journal.Scanner._count_good",
            lambda _self, lines, real=follower._scanner._count_good.__func__: (
                read.extend(lines) or real(_self, lines)
            ),
        )
        manifest.record(started(5), good(5), done(5))
        assert follower.poll() is state
        assert state.done.batches == 1
        assert len(read) == 3
        follower.poll()
        assert len(read) == 3


def test_a_line_that_is_being_written_is_read_when_it_is_whole(tmp_path):
    with create(tmp_path) as manifest:
        path = manifest.folder.manifest
        size = path.stat().st_size
        manifest.record(started(0), good(0), done(0))
    content = path.read_bytes()
    follower = None
    for cut in range(size, len(content) + 1):
        path.write_bytes(content[:cut])
        follower = follower or Follower(path)
        expected = Verdict.DONE if cut == len(content) else Verdict.PENDING
        assert follower.poll().verdict(0) is expected


def test_a_follower_begins_anew_when_the_file_is_another(tmp_path):
    with create(tmp_path) as manifest:
        path = manifest.folder.manifest
        plan = path.read_bytes()
        manifest.record(started(0), good(0), done(0))
    follower = Follower(path)
    assert follower.poll().done.batches == 1
    path.write_bytes(plan)
    assert follower.poll().done.batches == 0


def test_there_is_no_manifest(tmp_path):
    with pytest.raises(ManifestError, match="No such file"):
        read_state(tmp_path / "manifest.jsonl")
    with pytest.raises(ManifestError, match="no manifest in"):
        Manifest.open(tmp_path)


def test_a_file_that_is_no_manifest_is_refused(tmp_path):
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(b'{"a":1}\n{"b":2}\n')
    with pytest.raises(ManifestError, match="at byte 0: it has no readable first line"):
        read_state(path)
    path.write_bytes(b"")
    with pytest.raises(ManifestError):
        Manifest.open(tmp_path)


def test_the_history_of_a_batch(tmp_path):
    with create(tmp_path, 20) as manifest:
        manifest.record(started(*range(20)))
        manifest.record(*(bad(index) for index in range(20)))
        manifest.record(started(1, 2, attempt=2), good(1, 2), good(2, 2), done(1, 2, attempt=2))
        manifest.record(Note.lost_output([1], "gone"), Note(kind="rerun"))
        path = manifest.folder.path
    found = history(path, 1)
    kinds = [type(record).__name__ for record in found]
    assert kinds == ["Batch", "Started", "Outcome", "Started", "Outcome", "Done", "Note"]
    assert found[0] == batches(20)[1]
    attempts = [record.attempts for record in found if isinstance(record, Started | Done)]
    assert attempts == [((1, 1),), ((1, 2),), ((1, 2),)]
    assert len(history(path, 12)) == 3


def test_all_records_in_order(tmp_path):
    with create(tmp_path, 3) as manifest:
        manifest.record(started(0))
    kinds = [type(record).__name__ for record in records(manifest.folder.path)]
    assert kinds == ["Header", "InputFile", "Batch", "Batch", "Batch", "Started"]


def test_batches_of_any_length_are_read_one_by_one_and_in_a_row(tmp_path):
    plan = [
        Batch(index=index, workload="w", parameters={"text": "x" * (index * 37 % 9000)})
        for index in range(1200)
    ]
    with create(tmp_path / "one", 1) as other:
        header = other.state.header
    folder = other.folder.at(tmp_path / "two" / STAMP)
    folder.path.mkdir(parents=True)
    with Manifest.create(folder, header, [], plan) as manifest:
        assert list(manifest.state.batches) == plan
        assert [manifest.state.batches[index] for index in (0, 511, 512, 1199)] == [
            plan[index] for index in (0, 511, 512, 1199)
        ]
