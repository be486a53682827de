"""Where files are: hosts that are folder trees of this machine, with the real host operations."""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from dask_runner import shipping
from dask_runner.batch import (
    Attempt,
    Batch,
    Failure,
    FailureKind,
    InputFile,
    InputRange,
    LogSlice,
    Outcome,
    OutcomeStatus,
    OutputFile,
)
from dask_runner.cluster.interface import HostState
from dask_runner.errors import BadInputError, ClusterError, StorageError
from dask_runner.files import fingerprint, path_to_text, sha256, text_to_path
from dask_runner.manifest import Note
from dask_runner.run_folder import LOG_NAME, RunFolder, attempt_name, group_log_name
from dask_runner.staging import Staging

sys.path[:0] = [str(Path(__file__).parent.parent)]
from execution_rig import until  # noqa: E402
from folder_hosts import CACHE_LIMIT, FolderHost, FolderTransfer  # noqa: E402
from web import serve  # noqa: E402

PATIENCE = 20
HOSTILE = ["a b", "'quote\"", "new\nline", "$(rm -rf x)", "100%41", os.fsdecode(b"\xff\xfe.root")]


class World:
    """A driver's folder, hosts, and the staging of a run between them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.driver = folder / "driver"
        self.run = RunFolder.at(self.driver / "runs" / "20261120T225745Z")
        self.run.path.mkdir(parents=True)
        self.notes: list[Note] = []
        self.stagings: list[Staging] = []
        self.transfers: list[FolderTransfer] = []

    def host(
        self, name: str = "a", *, sees: tuple[Path, ...] = (), limit: int = CACHE_LIMIT
    ) -> FolderHost:
        return FolderHost(name, self.folder / f"host-{name}", sees, limit)

    def staging(self, *hosts: FolderHost, mode: str = "auto", **more) -> Staging:
        transfer = FolderTransfer(*hosts)
        staging = Staging(
            mode=mode,
            folder=self.run,
            transfer=transfer,
            note=self.notes.append,
            **{"cache": path_to_text(hosts[0].cache), **more},
        )
        self.transfers.append(transfer)
        self.stagings.append(staging)
        return staging

    def input(self, name: str = "events.root", content: bytes = b"events") -> str:
        path = self.driver / "inputs" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path_to_text(path)

    @property
    def texts(self) -> list[str]:
        return [note.text for note in self.notes]

    def close(self) -> None:
        for staging in self.stagings:
            staging.close()
        for transfer in self.transfers:
            transfer.close()


@pytest.fixture
def world(tmp_path):
    thing = World(tmp_path)
    yield thing
    thing.close()


def attempts(*indices: int, inputs: tuple[str, ...] = (), number: int = 1) -> list[Attempt]:
    ranges = tuple(InputRange(path=path, count=1) for path in inputs)
    return [
        Attempt(batch=Batch(index=i, workload="command", inputs=ranges), number=number)
        for i in indices
    ]


def group(index: int, *inputs: str) -> list[Attempt]:
    return attempts(index, inputs=inputs)


def wait(future):
    return future.result(PATIENCE)


def works(room, attempt: Attempt, name: str = "out.root", content: bytes = b"result") -> Outcome:
    """What a batch does in its folder on the host, and what is told about it."""
    relative = attempt_name(attempt.batch.index, attempt.number)
    folder = text_to_path(room.attempts_folder) / relative
    folder.mkdir(parents=True)
    file = folder / name
    file.write_bytes(content)
    file.chmod(0o444)
    (folder / LOG_NAME).write_bytes(b"the log\n")
    (folder / "intermediate.root").write_bytes(b"x" * 100)
    output = OutputFile(
        name=path_to_text(name),
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        mtime_ns=file.stat().st_mtime_ns,
    )
    return Outcome(
        batch=attempt.batch.index,
        attempt=attempt.number,
        status=OutcomeStatus.DONE,
        outputs=(output,),
        log=LogSlice(path=f"{relative}/{LOG_NAME}", length=8),
    )


def failed(attempt: Attempt, log: LogSlice | None) -> Outcome:
    return Outcome(
        batch=attempt.batch.index,
        attempt=attempt.number,
        status=OutcomeStatus.FAILED,
        failure=Failure(kind=FailureKind.EXCEPTION, message="odd", fingerprint="f"),
        log=log,
    )


def test_without_a_transfer_everything_is_here_and_at_once(world):
    staging = Staging(mode="auto", folder=world.run, transfer=None, note=world.notes.append)
    host = HostState(name="here", slots=1, share=1)
    one = group(0, world.input())
    room = staging.room(host, one)
    assert room.done()
    assert room.result().attempts_folder == path_to_text(world.run.attempts)
    assert room.result().paths == {}
    assert staging.collect("here", failed(one[0], None)).done()
    assert staging.finish("here", one).done()
    staging.close()


def test_a_host_with_the_same_folders_copies_nothing_and_is_asked_once(world):
    host = world.host(sees=(world.driver,))
    staging = world.staging(host)
    path = world.input()
    room = wait(staging.room(host.state, group(0, path)))
    assert room.attempts_folder == path_to_text(world.run.attempts)
    assert room.paths == {}
    asked = dict(host.asked)
    for index in range(1, 20):
        again = staging.room(host.state, group(index, path))
        assert again.done()
        assert again.result() == room
    outcome = works(room, group(0)[0])
    assert staging.collect("a", outcome).done()
    assert staging.finish("a", group(0)).done()
    assert dict(host.asked) == asked == {"look": 1, "stat": 1}
    assert world.texts == ["a: outputs shared, inputs shared"]
    assert world.notes[0].kind == "staging"
    assert world.notes[0].data == {"host": "a", "outputs": "shared", "inputs": "shared"}
    assert staging.decisions() == {"a": "outputs shared, inputs shared"}
    assert not list(world.run.attempts.glob(".probe*"))


def test_a_host_without_the_folder_gets_a_copy_and_its_own_folder(world):
    host = world.host()
    staging = world.staging(host)
    path = world.input()
    room = wait(staging.room(host.state, group(0, path)))
    assert text_to_path(room.attempts_folder).is_relative_to(host.folder / "attempts")
    copy = Path(room.paths[path])
    assert copy.is_relative_to(host.cache)
    assert (copy.name, copy.read_bytes()) == ("events.root", b"events")
    assert world.texts == ["a: outputs copied, inputs copied"]


def test_each_host_is_decided_by_itself_and_inputs_apart_from_outputs(world):
    shares = world.host("shares", sees=(world.driver,))
    inputs_only = world.host("inputs", sees=(world.driver / "inputs",))
    outputs_only = world.host("outputs", sees=(world.run.path,))
    staging = world.staging(shares, inputs_only, outputs_only)
    path = world.input()
    for number, host in enumerate((shares, inputs_only, outputs_only)):
        wait(staging.room(host.state, group(number, path)))
    assert staging.decisions() == {
        "shares": "outputs shared, inputs shared",
        "inputs": "outputs copied, inputs shared",
        "outputs": "outputs shared, inputs copied",
    }


def test_a_stale_file_at_the_same_path_is_not_the_input(world):
    host = world.host()
    path = world.input()
    there = host.here(text_to_path(path))
    there.parent.mkdir(parents=True)
    there.write_bytes(b"evENTS")
    os.utime(there, ns=(1, 1))
    room = wait(world.staging(host).room(host.state, group(0, path)))
    assert Path(room.paths[path]).read_bytes() == b"events"


def test_a_folder_that_cannot_be_written_is_not_shared(world, monkeypatch):
    host = world.host(sees=(world.driver,))
    monkeypatch.setattr("dask_runner.cluster.host.operations._writable", lambda folder: False)
    room = wait(world.staging(host).room(host.state, group(0)))
    assert text_to_path(room.attempts_folder).is_relative_to(host.folder)


@pytest.mark.parametrize("case", ["outputs", "inputs", "read-only"])
def test_shared_refuses_a_host_that_does_not_share_with_the_reason(world, case, monkeypatch):
    sees = {"outputs": (), "inputs": (world.run.path,), "read-only": (world.driver,)}[case]
    host = world.host(sees=sees)
    if case == "read-only":
        monkeypatch.setattr("dask_runner.cluster.host.operations._writable", lambda folder: False)
    room = world.staging(host, mode="shared").room(host.state, group(0, world.input()))
    words = {
        "outputs": "a does not see .*attempts",
        "inputs": r"a does not see .*events\.root",
        "read-only": "a cannot write to .*attempts",
    }[case]
    with pytest.raises(ClusterError, match=f"{words}, and cluster.staging is shared"):
        wait(room)


def test_sftp_copies_always_also_on_this_machine(world):
    host = world.host(sees=(world.driver,))
    staging = world.staging(host, mode="sftp")
    path = world.input()
    state = HostState(name="a", slots=1, share=1, worker="w", local=True)
    room = wait(staging.room(state, group(0, path)))
    assert path in room.paths
    assert host.asked["look"] == host.asked["stat"] == 0


def test_groups_that_want_the_same_file_share_one_hash_and_one_copy(world, monkeypatch):
    hashed = []
    monkeypatch.setattr("dask_runner.sources.sha256", lambda p: (hashed.append(p), sha256(p))[1])
    host, other = world.host(), world.host("b")
    staging = world.staging(host, other)
    path, second = world.input(), world.input("more.root", b"more")
    host.gate.clear()
    rooms = [staging.room(host.state, group(i, path)) for i in range(5)]
    rooms.append(staging.room(host.state, group(5, path, second)))
    until(lambda: host.asked["cache-has"] == 6, "all groups have asked")
    assert not any(room.done() for room in rooms)
    host.gate.set()
    assert len({wait(room).paths[path] for room in rooms}) == 1
    wait(staging.room(other.state, group(6, path)))
    assert host.pushed == {"events.root": 1, "more.root": 1}
    assert sorted(p.name for p in hashed) == ["events.root", "more.root"]


def test_a_second_run_finds_the_files_there(world):
    host = world.host()
    path = world.input()
    wait(world.staging(host).room(host.state, group(0, path)))
    wait(world.staging(host).room(host.state, group(0, path)))
    assert host.pushed == {"events.root": 1}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_pass_unharmed_both_ways(world, name):
    host = world.host()
    staging = world.staging(host)
    path = world.input(name, name.encode(errors="surrogateescape"))
    one = group(0, path)
    room = wait(staging.room(host.state, one))
    copy = text_to_path(room.paths[path])
    assert copy.name == name
    assert copy.read_bytes() == name.encode(errors="surrogateescape")
    wait(staging.collect("a", works(room, one[0], name=name)))
    assert (world.run.attempt(0, 1) / name).read_bytes() == b"result"


def test_outputs_and_log_come_home_checked_and_the_host_keeps_nothing(world):
    host = world.host()
    staging = world.staging(host)
    one = group(0, world.input())
    room = wait(staging.room(host.state, one))
    outcome = works(room, one[0])
    os.utime(
        text_to_path(room.attempts_folder) / attempt_name(0, 1) / "out.root",
        ns=(5, outcome.outputs[0].mtime_ns),
    )
    wait(staging.collect("a", outcome))
    home = world.run.attempt(0, 1)
    assert sorted(os.listdir(home)) == [LOG_NAME, "out.root"]
    state = (home / "out.root").stat()
    assert state.st_mtime_ns == outcome.outputs[0].mtime_ns
    assert state.st_mode & 0o222 == 0
    assert home.stat().st_mode & 0o777 == 0o700
    wait(staging.finish("a", one))
    there = text_to_path(room.attempts_folder)
    assert not (there / attempt_name(0, 1)).exists()
    staging.close()
    assert not there.exists()
    (files,) = host.context.caches.values()
    assert files._pins == {}


@pytest.mark.parametrize("how", ["flipped", "cut"])
def test_other_bytes_than_were_hashed_there_are_an_error_that_names_host_and_file(world, how):
    host = world.host()
    staging = world.staging(host)
    one = group(0)
    outcome = works(wait(staging.room(host.state, one)), one[0])
    host.spoil = lambda path: path.write_bytes(b"resulT" if how == "flipped" else b"resul")
    with pytest.raises(ClusterError, match=r"a: out\.root arrived here with other content"):
        wait(staging.collect("a", outcome))
    host.spoil = lambda path: None
    assert [n for n in os.listdir(world.run.attempt(0, 1)) if n != LOG_NAME] == []
    wait(staging.collect("a", outcome))
    assert (world.run.attempt(0, 1) / "out.root").exists()


def test_of_a_failed_batch_only_the_log_comes_home(world):
    host = world.host()
    staging = world.staging(host)
    one = group(0)
    done = works(wait(staging.room(host.state, one)), one[0])
    wait(staging.collect("a", failed(one[0], done.log)))
    assert os.listdir(world.run.attempt(0, 1)) == [LOG_NAME]
    # A log that cannot be had does not hide the failure.
    wait(staging.collect("a", failed(one[0], LogSlice(path=f"{attempt_name(0, 1)}/{LOG_NAME}"))))
    wait(staging.finish("a", one))
    wait(staging.collect("a", failed(attempts(0, number=2)[0], None)))


def test_the_log_that_a_group_shares_comes_home_at_its_end(world):
    host = world.host()
    staging = world.staging(host)
    several = attempts(7, 8, 9)
    room = wait(staging.room(host.state, several))
    name = group_log_name(7, 1)
    there = text_to_path(room.attempts_folder) / name
    there.parent.mkdir()
    there.write_bytes(b"log of 7\nlog of 8\n")
    wait(staging.collect("a", failed(several[1], LogSlice(path=name, offset=9, length=9))))
    staging.finish("a", several)
    staging.close()  # at once: the log is waited for
    assert (world.run.attempts / name).read_bytes()[9:18] == b"log of 8\n"
    assert not there.exists()


def test_a_log_path_that_leads_elsewhere_is_not_followed(world):
    host = world.host()
    staging = world.staging(host)
    one = group(0)
    wait(staging.room(host.state, one))
    wait(staging.collect("a", failed(one[0], LogSlice(path="../../../stolen"))))
    wait(staging.finish("a", one))
    assert not (world.run.attempts / "../../../stolen").exists()


def test_a_lost_host_is_the_hosts_fault_until_it_is_back(world):
    host = world.host()
    staging = world.staging(host)
    one = group(0, world.input())
    host.lost = True
    with pytest.raises(ClusterError, match="a: is lost"):
        wait(staging.room(host.state, one))
    host.lost = False
    room = wait(staging.room(host.state, one))
    outcome = works(room, one[0])
    host.lost = True
    with pytest.raises(ClusterError, match="a: is lost"):
        wait(staging.collect("a", outcome))
    wait(staging.finish("a", one))  # no error: the host's batches have an outcome


def test_a_new_worker_is_looked_at_anew(world):
    host = world.host()
    staging = world.staging(host)
    path = world.input()
    first = wait(staging.room(host.state, group(0, path)))
    shutil.rmtree(host.folder / "attempts")
    host.context.caches.clear()
    state = HostState(name="a", slots=2, share=2, worker="tls://a:2")
    second = wait(staging.room(state, group(1, path)))
    assert text_to_path(second.attempts_folder).is_dir()
    assert second.paths == first.paths
    assert host.pushed == {"events.root": 1}


@pytest.mark.parametrize("case", ["missing", "a folder", "a pipe"])
def test_an_input_that_is_not_here_is_nobodys_fault_on_the_host(world, case):
    host = world.host()
    path = world.input()
    text_to_path(path).unlink()
    if case == "a folder":
        text_to_path(path).mkdir()
    elif case == "a pipe":
        os.mkfifo(path)
    with pytest.raises(BadInputError, match=r"events\.root"):
        wait(world.staging(host).room(host.state, group(0, path)))


def test_an_input_that_changes_while_it_is_copied_is_not_the_hosts_fault(world):
    host = world.host()
    path = world.input()

    def change(copy: Path) -> None:
        copy.write_bytes(b"half new")
        text_to_path(path).write_bytes(b"new events")

    host.spoil = change
    with pytest.raises(BadInputError, match="changes while the run reads it"):
        wait(world.staging(host).room(host.state, group(0, path)))


def test_a_copy_that_arrives_spoiled_is_the_hosts_fault_and_leaves_nothing(world):
    host = world.host()
    staging = world.staging(host)
    host.spoil = lambda path: path.write_bytes(b"eventz")
    with pytest.raises(ClusterError, match="arrived in .* with other content"):
        wait(staging.room(host.state, group(0, world.input())))
    assert list((host.cache / "incoming").iterdir()) == []
    host.spoil = lambda path: None
    wait(staging.room(host.state, group(0, world.input())))


def test_what_running_groups_use_is_not_removed_and_then_it_is(world):
    host = world.host(limit=250)
    staging = world.staging(host)
    inputs = [world.input(f"{n}.root", bytes([n]) * 100) for n in range(5)]
    groups = [group(n, inputs[n]) for n in range(5)]
    rooms = [wait(staging.room(host.state, groups[n])) for n in range(4)]
    assert all(Path(room.paths[inputs[n]]).exists() for n, room in enumerate(rooms))
    for n in range(3):
        wait(staging.finish("a", groups[n]))
    wait(staging.room(host.state, groups[4]))
    there = [n for n in range(4) if Path(rooms[n].paths[inputs[n]]).exists()]
    assert 3 in there
    assert len(there) == 1


@pytest.fixture
def small_disk(world):
    """A disk of 2 MiB under the attempts folder."""
    world.run.attempts.mkdir()
    folder = world.run.attempts
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs mount")
def test_a_full_disk_here_stops_and_blames_no_host(world, small_disk):
    host = world.host()
    staging = world.staging(host)
    one = group(0)
    outcome = works(wait(staging.room(host.state, one)), one[0], content=bytes(3_000_000))
    with pytest.raises(StorageError, match="No space left on device"):
        wait(staging.collect("a", outcome))
    world.close()


def test_close_gives_up_what_is_still_being_copied(world):
    host = world.host()
    staging = world.staging(host)
    host.gate.clear()
    room = staging.room(host.state, group(0, world.input()))
    until(lambda: host.asked["cache-begin"] == 1, "the copy begins")
    staging.close()
    with pytest.raises(CancelledError):
        wait(room)
    host.gate.set()
    assert "staging" not in [thread.name for thread in threading.enumerate()]


# What is shipped


@pytest.fixture
def shipment(world):
    place = world.driver / "tools"
    (place / "package").mkdir(parents=True)
    (place / "package" / "__init__.py").write_text("X = 1\n")
    for name in HOSTILE:
        (place / "package" / name).write_text("data")
    script = place / "job.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    shipped = shipping.ship([place / "package", script], world.run)
    return {"shipment": shipped, "shipped": world.run.shipped(shipped.sha256)}


def test_what_is_shipped_is_used_in_place_where_the_run_folder_is_seen(world, shipment):
    host = world.host(sees=(world.driver,))
    staging = world.staging(host, **shipment)
    room = wait(staging.room(host.state, group(0)))
    assert room.shipped == path_to_text(shipment["shipped"])
    assert os.listdir(world.run.shipments) == [shipment["shipment"].sha256]


def test_what_is_shipped_comes_to_other_hosts_once_whole_and_executable(world, shipment):
    host = world.host()
    staging = world.staging(host, **shipment)
    rooms = [wait(staging.room(host.state, group(n))) for n in range(3)]
    (path,) = {room.shipped for room in rooms}
    folder = text_to_path(path)
    assert folder.is_relative_to(host.cache)
    assert sorted(os.listdir(folder)) == ["job.sh", "package"]
    assert sorted(os.listdir(folder / "package")) == sorted(["__init__.py", *HOSTILE])
    assert os.access(folder / "job.sh", os.X_OK)
    assert sum(host.pushed.values()) == 1
    staging.close()
    assert os.listdir(world.run.shipments) == [shipment["shipment"].sha256]


# Inputs that are URLs


@pytest.fixture
def web(world, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(world.folder / "driver-cache"))
    pages = world.folder / "web"
    pages.mkdir()
    (pages / "e.root").write_bytes(b"events of the web")
    with serve(pages) as server:
        yield server


def listed(web) -> InputFile:
    return InputFile(
        path=f"{web.url}/e.root",
        bytes=17,
        mtime_ns=0,
        entries=1,
        fingerprint="f",
        sha256=hashlib.sha256(b"events of the web").hexdigest(),
    )


def test_each_host_fetches_a_url_itself_once(world, web):
    file = listed(web)
    first, second = world.host(), world.host("b", sees=(world.driver,))
    staging = world.staging(first, second, inputs=[file])
    for host in (first, second):
        rooms = [staging.room(host.state, group(n, file.path)) for n in range(3)]
        (path,) = {wait(room).paths[file.path] for room in rooms}
        assert Path(path).read_bytes() == b"events of the web"
        assert Path(path).name == "e.root"
        assert host.pushed == {}
    assert web.asked["/e.root"] == 2


def test_what_a_host_cannot_fetch_is_copied_from_here_and_that_is_noted(world, web, monkeypatch):
    file = listed(web)
    host = world.host()

    def cut_off(url: str, target: Path, size: int) -> None:
        raise BadInputError(f"{url}: cannot be fetched: no route")

    monkeypatch.setattr("dask_runner.cluster.host.cache.downloads.fetch", cut_off)
    copy = world.folder / "copy"
    copy.mkdir()
    (copy / "e.root").write_bytes(b"events of the web")
    monkeypatch.setattr(
        "dask_runner.sources.downloads.local_copy", lambda *_: (copy / "e.root", file.sha256)
    )
    room = wait(world.staging(host, inputs=[file]).room(host.state, group(0, file.path)))
    assert Path(room.paths[file.path]).read_bytes() == b"events of the web"
    assert host.pushed == {"e.root": 1}
    (text,) = [text for text in world.texts if "cannot fetch" in text]
    assert "no route" in text


def test_on_this_machine_the_drivers_own_copy_is_read(world, web):
    file = listed(web)
    staging = Staging(
        mode="auto", folder=world.run, transfer=None, note=world.notes.append, inputs=[file]
    )
    host = HostState(name="here", slots=1, share=1)
    path = wait(staging.room(host, group(0, file.path))).paths[file.path]
    assert Path(path).is_relative_to(world.folder / "driver-cache" / "dask-runner")
    assert staging.room(host, group(1, file.path)).done()
    assert web.asked["/e.root"] == 1
    staging.close()


def test_a_url_that_gives_other_bytes_now_is_a_bad_input(world, web):
    file = listed(web)
    (world.folder / "web" / "e.root").write_bytes(b"events of the day")
    host = world.host()
    with pytest.raises(BadInputError, match="its content has changed"):
        wait(world.staging(host, inputs=[file]).room(host.state, group(0, file.path)))


# What takes for ever


@pytest.mark.parametrize("operation", ["look", "stat", "folder", "cache-has", "cache-commit"])
def test_an_operation_that_never_ends_is_the_hosts_fault(world, monkeypatch, operation):
    monkeypatch.setattr("dask_runner.host_line._ANSWER", 0.3)
    host = world.host()
    host.stuck = {operation}
    staging = world.staging(host)
    with pytest.raises(ClusterError, match=f"a: {operation} did not end within 0 s"):
        wait(staging.room(host.state, group(0, world.input())))
    host.stuck = set()
    host.freed.set()
    wait(staging.room(host.state, group(1, world.input())))


def test_a_copy_that_never_ends_is_the_hosts_fault(world, monkeypatch):
    monkeypatch.setattr("dask_runner.host_line._ANSWER", 0.3)
    host = world.host()
    host.gate.clear()
    with pytest.raises(ClusterError, match="a: the copy to .* did not end within 0 s"):
        wait(world.staging(host).room(host.state, group(0, world.input())))
    host.gate.set()


def test_who_waits_for_much_is_more_patient(world, monkeypatch):
    monkeypatch.setattr("dask_runner.host_line._ANSWER", 0.3)
    monkeypatch.setattr("dask_runner.host_line.HASHED", 1000.0)
    host = world.host()
    host.stuck = {"cache-commit"}
    path = world.input(content=bytes(20_000))
    room = world.staging(host).room(host.state, group(0, path))
    until(lambda: host.asked["cache-commit"] == 1, "the host hashes")
    time.sleep(1.0)  # that nothing happens cannot be waited for
    assert not room.done()
    host.freed.set()
    wait(room)


def test_close_waits_for_no_host_that_hangs(world, monkeypatch):
    monkeypatch.setattr("dask_runner.staging._LEAVE", 0.5)
    host = world.host()
    staging = world.staging(host)
    first = world.input()
    # Found there in part: that is given up again.
    one, two = group(0, first), group(1, first, world.input("more.root", b"more"))
    wait(staging.room(host.state, one))
    host.gate.clear()
    staging.room(host.state, two)
    until(lambda: host.asked["cache-begin"] == 2, "the copy begins")
    host.stuck = {"cache-release", "remove", "remove-all", "cache-abandon"}
    staging.finish("a", one)
    began = time.monotonic()
    staging.close()
    assert time.monotonic() - began < 5
    assert "staging" not in [thread.name for thread in threading.enumerate()]
    host.gate.set()
    host.freed.set()


# What is kept on a host, and for how long


def pins(host: FolderHost) -> set[str]:
    (files,) = host.context.caches.values()
    return {hash_ for counted in files._pins.values() for hash_ in counted.elements()}


def test_what_a_lost_flight_gives_up_is_not_what_a_new_one_uses(world):
    host = world.host()
    staging = world.staging(host)
    path = world.input()
    lost, new = group(0, path), group(1, path)
    wait(staging.room(host.state, lost))
    # The next agent's life: it has the cache, but nobody's pins.
    host.context.caches.clear()
    state = HostState(name="a", slots=2, share=2, worker="tls://a:2")
    wait(staging.room(state, new))
    wait(staging.finish("a", lost))
    assert pins(host) == {hashlib.sha256(b"events").hexdigest()}
    wait(staging.finish("a", new))
    assert pins(host) == set()


def test_a_group_that_is_over_before_its_files_are_there_keeps_nothing(world):
    host = world.host(sees=(world.run.path,))
    staging = world.staging(host)
    wait(staging.room(host.state, group(0)))
    host.gate.clear()
    one = group(1, world.input())
    room = staging.room(host.state, one)
    until(lambda: host.asked["cache-begin"] == 1, "the copy begins")
    wait(staging.finish("a", one))
    host.gate.set()
    with pytest.raises(ClusterError, match="given up while its inputs were copied"):
        wait(room)
    assert pins(host) == set()


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../../outputs/x"])
def test_a_name_that_leads_out_of_the_attempt_is_the_hosts_fault(world, name):
    host = world.host()
    staging = world.staging(host)
    one = group(0)
    outcome = works(wait(staging.room(host.state, one)), one[0])
    bad = msgspec.structs.replace(outcome.outputs[0], name=name)
    with pytest.raises(ClusterError, match="is not the name of an output"):
        wait(staging.collect("a", msgspec.structs.replace(outcome, outputs=(bad,))))


def test_more_bytes_than_were_announced_are_not_brought(world):
    host = world.host()
    staging = world.staging(host)
    one = group(0)
    room = wait(staging.room(host.state, one))
    outcome = works(room, one[0])
    file = text_to_path(room.attempts_folder) / attempt_name(0, 1) / "out.root"
    file.chmod(0o600)
    file.write_bytes(b"result and more")
    with pytest.raises(ClusterError, match="has 15 bytes, more than 6"):
        wait(staging.collect("a", outcome))


# Inputs that are not what was planned


def planned(path: str, entries: int = 1) -> InputFile:
    local = text_to_path(path)
    state = local.stat()
    return InputFile(
        path=path,
        bytes=state.st_size,
        mtime_ns=state.st_mtime_ns,
        entries=entries,
        fingerprint=fingerprint(local),
    )


@pytest.mark.parametrize("content", [b"EVENTS", b"more events"])
@pytest.mark.parametrize("mode", ["auto", "sftp"])
def test_an_input_that_has_changed_since_the_plan_is_not_brought(world, mode, content):
    path = world.input()
    file = planned(path)
    text_to_path(path).write_bytes(content)
    host = world.host()
    with pytest.raises(BadInputError, match=r"events\.root: .*since the run was planned"):
        wait(world.staging(host, mode=mode, inputs=[file]).room(host.state, group(0, path)))
    assert host.pushed == {}


def test_a_changed_input_that_was_accepted_is_brought(world):
    path = world.input()
    file = planned(path)
    text_to_path(path).write_bytes(b"new events")
    host = world.host()
    staging = world.staging(host, inputs=[file], accepted=[path])
    room = wait(staging.room(host.state, group(0, path)))
    assert Path(room.paths[path]).read_bytes() == b"new events"


def test_an_input_that_was_only_touched_is_what_it_was(world):
    path = world.input()
    file = planned(path)
    os.utime(text_to_path(path), ns=(1, 1))
    host = world.host()
    wait(world.staging(host, inputs=[file]).room(host.state, group(0, path)))


def test_an_input_that_changes_between_look_and_copy_is_not_brought(world):
    shares, copies = world.host(sees=(world.driver,)), world.host("b")
    path = world.input()
    staging = world.staging(shares, copies, inputs=[planned(path)])
    wait(staging.room(shares.state, group(0, path)))
    text_to_path(path).write_bytes(b"EVENTS, others")
    with pytest.raises(BadInputError, match="changes while the run reads it"):
        wait(staging.room(copies.state, group(1, path)))
    assert copies.pushed == {}


def test_of_the_same_size_and_time_and_with_other_content_is_not_the_input(world):
    host = world.host()
    path = world.input()
    here = text_to_path(path)
    there = host.here(here)
    there.parent.mkdir(parents=True)
    there.write_bytes(b"evENTS")
    os.utime(there, ns=(1, here.stat().st_mtime_ns))
    room = wait(world.staging(host).room(host.state, group(0, path)))
    assert Path(room.paths[path]).read_bytes() == b"events"


@pytest.mark.parametrize("case", ["a pipe", "a folder"])
def test_what_is_no_file_there_is_not_waited_for(world, case):
    host = world.host()
    path = world.input()
    there = host.here(text_to_path(path))
    there.parent.mkdir(parents=True)
    os.mkfifo(there) if case == "a pipe" else there.mkdir()
    room = wait(world.staging(host).room(host.state, group(0, path)))
    assert Path(room.paths[path]).read_bytes() == b"events"


# Whose wish it is, and who is told


@pytest.mark.parametrize(
    ("run", "cluster", "copied"),
    [("auto", "sftp", True), ("auto", "auto", False), ("shared", "sftp", False)],
)
def test_the_clusters_staging_holds_unless_the_run_has_a_wish(world, run, cluster, copied):
    host = world.host(sees=(world.driver,))
    transfer = FolderTransfer(host, staging=cluster)
    state = SimpleNamespace(inputs=(), notes=[], header=SimpleNamespace(shipped=None))
    staging = Staging.of(
        SimpleNamespace(state=state, folder=world.run),
        SimpleNamespace(transfer=transfer),
        mode=run,
        cache=path_to_text(host.cache),
        note=world.notes.append,
        say=lambda _: None,
    )
    world.stagings.append(staging)
    world.transfers.append(transfer)
    room = wait(staging.room(host.state, group(0, world.input())))
    assert bool(room.paths) is copied


@pytest.mark.parametrize("mode", ["auto", "sftp"])
def test_the_user_is_told_once_that_files_are_copied_if_that_was_not_his_wish(world, mode):
    said: list[str] = []
    shares, first, second = world.host(sees=(world.driver,)), world.host("b"), world.host("c")
    staging = world.staging(shares, first, second, mode=mode, say=said.append)
    path = world.input()
    for number, host in enumerate((shares, first, second)):
        wait(staging.room(host.state, group(number, path)))
    line = "files are copied for hosts without the folders here (b: outputs copied, inputs copied)"
    assert said == ([line] if mode == "auto" else [])
