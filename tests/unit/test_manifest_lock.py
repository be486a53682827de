"""One writer: the second is told who the first is; a dead one is taken over; nobody else is."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from manifest_runs import STAMP, create, started

from dask_runner.errors import LockedError
from dask_runner.manifest import LockHolder, Manifest, NoteKind, lock_holder, read_state
from dask_runner.run_folder import RunFolder

HOLD = """
import sys
from pathlib import Path
from dask_runner.manifest import Manifest
manifest = Manifest.open(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def run(tmp_path):
    """A run that nobody writes."""
    with create(tmp_path) as manifest:
        manifest.record(started(0))
    return manifest.folder


@pytest.fixture
def holder(run):
    """Another process that has the run open."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, run.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with child:
        assert child.stdout.readline() == b"held\n"
        yield child
        child.kill()


def leave_lock(run, **changes):
    """A lock file as somebody else would have left it."""
    with Manifest.open(run):
        mine = msgspec.json.decode(run.lock.read_bytes(), type=LockHolder)
    run.lock.write_bytes(msgspec.json.encode(msgspec.structs.replace(mine, **changes)))


def dead_pid():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_a_closed_run_has_no_lock(run):
    assert lock_holder(run) is None
    assert not run.lock.exists()
    assert sorted(path.name for path in run.path.iterdir()) == ["manifest.jsonl"]


def test_the_second_opener_is_told_who_the_first_is(run, holder):
    with pytest.raises(LockedError) as refusal:
        Manifest.open(run)
    assert f"process {holder.pid} on {socket.gethostname()}" in refusal.value.message
    assert "since 20" in refusal.value.message
    assert f"attach {STAMP}" in refusal.value.hint
    found = lock_holder(run)
    assert (found.pid, found.alive) == (holder.pid, True)
    assert found.argv[0] == "-c"
    assert read_state(run.path).total.batches == 3, "readers need no lock"


def test_a_living_process_of_this_machine_is_never_overridden(run, holder):
    with pytest.raises(LockedError):
        Manifest.open(run, break_lock=True)


def test_two_openers_in_one_process_exclude_each_other(run):
    with Manifest.open(run), pytest.raises(LockedError, match=f"process {os.getpid()}"):
        Manifest.open(run)
    Manifest.open(run).close()


def test_a_dead_holder_is_taken_over_and_that_is_recorded(run, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert lock_holder(run).alive is False
    with Manifest.open(run) as manifest:
        note = manifest.state.notes[-1]
        assert note.kind == NoteKind.TAKEOVER
        assert note.data["pid"] == holder.pid
        assert manifest.state.running == {}, "its batches run no more"
        assert lock_holder(run).pid == os.getpid()
    assert [note.kind for note in read_state(run.path).notes] == [NoteKind.TAKEOVER]


def test_of_many_openers_after_a_death_exactly_one_wins(run, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    children = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, run.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(4)
    ]
    # A loser says nothing on stdout and ends; the winner says it holds the lock.
    said = [child.stdout.readline() for child in children]
    talk = [child.communicate()[1] for child in children]
    assert sorted(said) == [b"", b"", b"", b"held\n"]
    assert sum(b"LockedError" in text for text in talk) == 3


def test_a_holder_on_another_machine_is_only_overridden_on_request(run):
    leave_lock(run, host="elsewhere", pid=dead_pid())
    assert lock_holder(run).alive is None
    with pytest.raises(LockedError, match="on elsewhere") as refusal:
        Manifest.open(run)
    assert "--break-lock" in refusal.value.hint
    with Manifest.open(run, break_lock=True) as manifest:
        assert manifest.state.notes[-1].data["host"] == "elsewhere"


def test_a_pid_that_was_used_again_is_not_the_holder(run):
    leave_lock(run, pid=os.getpid(), started=1)
    assert lock_holder(run).alive is False
    Manifest.open(run).close()


def test_a_reboot_ends_every_holder(run):
    leave_lock(run, pid=os.getpid(), boot_id="before")
    assert lock_holder(run).alive is False
    Manifest.open(run).close()


def test_a_process_in_another_container_cannot_be_judged(run):
    leave_lock(run, namespace="pid:[1]")
    assert lock_holder(run).alive is None
    with pytest.raises(LockedError):
        Manifest.open(run)


def test_a_zombie_holds_nothing(run):
    child = subprocess.Popen([sys.executable, "-c", HOLD, run.path], stdin=subprocess.DEVNULL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    started_at = Path(f"/proc/{child.pid}/stat").read_bytes().rpartition(b") ")[2].split()[19]
    leave_lock(run, pid=child.pid, started=int(started_at))
    assert lock_holder(run).alive is False
    child.wait()


def test_a_program_started_meanwhile_does_not_keep_the_lock(run):
    with Manifest.open(run):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        Manifest.open(run).close()
    finally:
        child.kill()
        child.wait()


def test_closing_after_the_lock_was_broken_leaves_the_new_holders_file(run):
    manifest = Manifest.open(run)
    other = msgspec.structs.replace(lock_holder(run), host="elsewhere", alive=None)
    run.lock.write_bytes(msgspec.json.encode(other))
    manifest.close()
    assert lock_holder(run).host == "elsewhere"


def test_a_damaged_lock_file_is_not_guessed_about(run):
    run.lock.write_bytes(b"{}")
    with pytest.raises(LockedError, match="cannot be read"):
        Manifest.open(run)


def test_hostile_argument_names_are_kept(run, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run", "a\udcff b%"])
    with Manifest.open(run):
        assert lock_holder(RunFolder.at(run.path)).argv == ("run", "a%FF b%25")
