"""Torn tails, damage, full disks and failing fsyncs: real files, cut and flipped at every byte."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest
from manifest_runs import STAMP, bad, create, done, good, started

from dask_runner.errors import ManifestError, StorageError
from dask_runner.manifest import Manifest, NoteKind, Verdict, read_state, records
from dask_runner.manifest import journal as journal_module


@pytest.fixture
def written(tmp_path):
    """The bytes of a closed manifest, and the offset at which its plan ends."""
    with create(tmp_path / "origin") as manifest:
        path = manifest.folder.manifest
        plan = path.stat().st_size
        manifest.record(started(0, 1))
        manifest.record(good(0), bad(1))
        manifest.record(done(0), durable=True)
    return path.read_bytes(), plan


@pytest.fixture
def memory(tmp_path):
    """A folder in memory: hundreds of openings, each with its fsyncs, take a second there."""
    folder = tmp_path / "memory"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def put(tmp_path, content):
    folder = tmp_path / STAMP
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    (folder / "manifest.jsonl").write_bytes(content)
    return folder


def test_a_tail_torn_at_every_byte_leaves_the_exact_valid_prefix(memory, written):
    content, plan = written
    for cut in range(plan, len(content)):
        folder = put(memory, content[:cut])
        prefix = content[: content.rfind(b"\n", 0, cut) + 1]
        before = msgspec.to_builtins(read_state(folder).done)
        with Manifest.open(folder) as manifest:
            assert msgspec.to_builtins(manifest.state.done) == before
            notes = [note.kind for note in manifest.state.notes]
        now = (folder / "manifest.jsonl").read_bytes()
        assert now.startswith(prefix)
        torn = content[len(prefix) : cut]
        if torn:
            assert (folder / "manifest.torn-1").read_bytes() == torn
            assert notes == [NoteKind.TORN_TAIL]
            assert len(list(records(folder))) == prefix.count(b"\n") + 1
        else:
            assert now == prefix
            assert not (folder / "manifest.torn-1").exists()


def test_a_manifest_cut_inside_its_plan_is_refused_with_the_place(tmp_path, written):
    content, plan = written
    for cut in range(1, plan, 7):
        folder = put(tmp_path, content[:cut])
        end = content.rfind(b"\n", 0, cut) + 1
        with pytest.raises(ManifestError, match=f"at byte {end}:"):
            Manifest.open(folder)
        assert (folder / "manifest.jsonl").read_bytes() == content[:cut]
        assert [path.name for path in folder.iterdir()] == ["manifest.jsonl"]


def test_a_flipped_bit_in_the_middle_is_refused_with_its_offset(tmp_path, written, monkeypatch):
    monkeypatch.setattr("dask_runner.manifest.reader._SECOND_LOOK", 0.0)
    content, _ = written
    ends = [index + 1 for index, byte in enumerate(content) if byte == ord("\n")]
    last_two = ends[-3]
    for position in range(0, last_two - 1, 3):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 7)
        folder = put(tmp_path, bytes(damaged))
        start = max((end for end in ends if end <= position), default=0)
        for refuse in (Manifest.open, read_state):
            with pytest.raises(ManifestError, match=f"damaged at byte {start} "):
                refuse(folder)
        assert (folder / "manifest.jsonl").read_bytes() == bytes(damaged)


def test_damage_in_the_last_two_lines_is_cut_and_kept_like_a_torn_tail(memory, written):
    content, _ = written
    ends = [index + 1 for index, byte in enumerate(content) if byte == ord("\n")]
    for position in range(ends[-3], len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        folder = put(memory, bytes(damaged))
        start = max(end for end in ends if end <= position)
        Manifest.open(folder).close()
        assert (folder / "manifest.torn-1").read_bytes() == bytes(damaged[start:])
        assert (folder / "manifest.jsonl").read_bytes().startswith(content[:start])
    state = read_state(folder)
    assert state.verdict(0) is Verdict.PENDING  # its `done` was the damaged line


def test_a_tail_of_garbage_lines_is_torn_as_long_as_no_valid_line_follows(tmp_path, written):
    content, _ = written
    folder = put(tmp_path, content + b"\0" * 5000 + b"\n{garbage\n\n\nx")
    with Manifest.open(folder) as manifest:
        assert manifest.state.done.batches == 1
    assert (folder / "manifest.torn-1").stat().st_size == 5000 + 13


def test_a_missing_line_is_damage_although_all_check_sums_hold(tmp_path, written):
    content, plan = written
    line = content[plan : content.index(b"\n", plan) + 1]
    folder = put(tmp_path, content.replace(line, b""))
    with pytest.raises(ManifestError, match=f"damaged at byte {plan} "):
        Manifest.open(folder)


def test_torn_tails_are_never_overwritten(tmp_path, written):
    content, _ = written
    folder = put(tmp_path, content + b"first")
    Manifest.open(folder).close()
    with (folder / "manifest.jsonl").open("ab") as file:
        file.write(b"second")
    Manifest.open(folder).close()
    assert (folder / "manifest.torn-1").read_bytes() == b"first"
    assert (folder / "manifest.torn-2").read_bytes() == b"second"


def test_nothing_is_cut_before_the_copy_is_safe(tmp_path, written, monkeypatch):
    content, _ = written
    folder = put(tmp_path, content + b"torn")

    def fail(_descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(journal_module.os, "fsync", fail)
    with pytest.raises(StorageError, match="Input/output error"):
        Manifest.open(folder)
    monkeypatch.undo()
    assert (folder / "manifest.jsonl").read_bytes() == content + b"torn"
    assert not (folder / "manifest.torn-1").exists()
    assert not (folder / "manifest.lock").exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 kB, really full when it is full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(manifest):
    for attempt in range(1, 2000):
        manifest.record(started(0, attempt=attempt), bad(0, attempt, "x" * 200))


def test_a_full_disk_stops_the_run_for_good_and_a_rerun_works_with_space(small_disk):
    ballast = small_disk / "ballast"
    manifest = create(small_disk, 3)
    path = manifest.folder.manifest
    ballast.write_bytes(b"x" * 200_000)
    with pytest.raises(StorageError, match="No space left") as first:
        fill(manifest)
    assert "rerun" in first.value.hint
    written = manifest.state.attempts(0)
    assert written > 10
    ballast.unlink()
    # Never tried again, though there is space now.
    with pytest.raises(StorageError, match="No space left"):
        manifest.record(started(1))
    with pytest.raises(StorageError):
        manifest.check()
    manifest.close()
    with Manifest.open(path.parent) as again:
        assert again.state.attempts(0) in (written, written + 1)
        again.record(started(1), durable=True)
    assert read_state(path).running.keys() >= {1}


def test_a_full_disk_at_creation_leaves_no_manifest(small_disk):
    with pytest.raises(StorageError, match="No space left"):
        create(small_disk, 5000)
    assert [path.name for path in (small_disk / STAMP).iterdir()] == []


def test_an_fsync_error_is_final_even_if_the_next_fsync_would_succeed(tmp_path, monkeypatch):
    manifest = create(tmp_path)
    real, calls = os.fsync, []

    def fail_once(descriptor):
        calls.append(descriptor)
        if len(calls) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    monkeypatch.setattr(journal_module.os, "fsync", fail_once)
    with pytest.raises(StorageError, match=r"make durable.*Input/output error"):
        manifest.record(started(0), durable=True)
    for durable in (True, False):
        with pytest.raises(StorageError, match="Input/output error"):
            manifest.record(started(1), durable=durable)
    manifest.close()
    assert len(calls) == 1


def check_for(manifest, seconds):
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        manifest.check()
        time.sleep(0.005)


def test_an_fsync_error_in_the_background_reaches_the_next_record(tmp_path, monkeypatch):
    manifest = create(tmp_path)

    def fail(_descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(journal_module.os, "fsync", fail)
    manifest.record(started(0))
    with pytest.raises(StorageError, match="Input/output error"):
        check_for(manifest, seconds=10)
    with pytest.raises(StorageError):
        manifest.record(started(1))
    manifest.close()


def test_records_share_an_fsync_and_durable_ones_have_it_before_returning(tmp_path, monkeypatch):
    manifest = create(tmp_path, 100)
    real, calls = os.fsync, []

    def count(descriptor):
        real(descriptor)
        calls.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(journal_module.os, "fsync", count)
    for index in range(100):
        manifest.record(started(index))
    size = manifest.folder.manifest.stat().st_size
    limit = time.monotonic() + 10
    while (not calls or calls[-1] < size) and time.monotonic() < limit:
        time.sleep(0.005)
    assert calls[-1] == size, "committed in the background without a further call"
    assert len(calls) < 50
    before = len(calls)
    manifest.record(good(0), durable=True)
    assert len(calls) > before
    manifest.close()


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from manifest_runs import create, started
manifest = create(Path(sys.argv[1]), 50)
for index in range(50):
    manifest.record(started(index))
    print(index, flush=True)
sys.stdin.read()
"""


def test_what_was_recorded_survives_a_kill_at_once(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, tmp_path, Path(__file__).parent],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with child:
        last = [int(child.stdout.readline()) for _ in range(20)][-1]
        child.send_signal(signal.SIGKILL)
    state = read_state(tmp_path / STAMP)
    assert set(range(last + 1)) <= state.running.keys()


def test_a_record_of_an_unknown_batch_is_refused_before_it_is_written(tmp_path):
    with create(tmp_path) as manifest:
        before = manifest.folder.manifest.read_bytes()
        for record in (started(3), good(-1), done(99)):
            with pytest.raises(LookupError):
                manifest.record(started(0), record)
        assert manifest.folder.manifest.read_bytes() == before
        assert not manifest.state.running


def test_closing_just_before_the_committer_clears_its_wake_up_does_not_hang(tmp_path):
    manifest = create(tmp_path)
    journal = manifest._journal

    class Late(threading.Event):
        def clear(self) -> None:
            # Here, of all moments, close() comes in.
            journal._closing.set()
            self.set()
            super().clear()

    journal._dirty = Late()
    manifest.record(started(0, 1))
    committer = journal._committer
    committer.join(10)
    assert not committer.is_alive()
    manifest.close()
