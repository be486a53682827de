"""The cache of a host: real files, real processes that share it and are killed."""

import hashlib
import multiprocessing
import os
import random
import signal
import stat
import sys
import threading
from pathlib import Path

import pytest

from dask_runner import trees
from dask_runner.errors import StorageError, UsageError
from dask_runner.file_cache import FileCache, Item, default_folder
from dask_runner.files import path_to_text

sys.path[:0] = [str(Path(__file__).parent.parent)]
from execution_rig import until  # noqa: E402
from folder_hosts import FolderHost  # noqa: E402
from web import serve  # noqa: E402

SPAWN = multiprocessing.get_context("spawn")
KILOBYTE = 1000
HOSTILE = ["a b", "'quote\"", "new\nline", "$(rm -rf x)", "100%41", os.fsdecode(b"\xff\xfe.root")]


def item_of(content: bytes, name: str = "events.root") -> Item:
    return Item(
        sha256=hashlib.sha256(content).hexdigest(), name=path_to_text(name), bytes=len(content)
    )


def put(cache: FileCache, content: bytes, holder: str = "run/1", name: str = "events.root") -> Path:
    return cache.get(item_of(content, name), holder, lambda path: path.write_bytes(content) or None)


def some(number: int, size: int = KILOBYTE) -> bytes:
    return number.to_bytes(8, "big") * (size // 8)


def entries(folder: Path) -> list[Path]:
    return [path for path in folder.glob("??/*/*") if path.is_file()]


@pytest.fixture
def cache(tmp_path):
    thing = FileCache(tmp_path / "cache", 10 * KILOBYTE)
    yield thing
    thing.close()


def test_a_file_is_taken_in_once_private_and_read_only(cache):
    content = b"events"
    item = item_of(content)
    assert cache.find(item, "run/1") is None
    assert not cache.folder.exists(), "to look makes nothing"
    path = put(cache, content)
    assert path == cache.folder / item.sha256[:2] / item.sha256 / "events.root"
    assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    folders = [cache.folder, path.parent, path.parent.parent, cache.folder / "users"]
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}
    written = path.stat().st_ino
    assert put(cache, content) == path
    assert path.stat().st_ino == written
    assert list((cache.folder / "incoming").iterdir()) == []


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_kept(cache, name):
    assert put(cache, b"events", name=name).name == name


def test_the_same_bytes_under_another_name_are_there_once(cache):
    first, second = put(cache, b"events", name="a.root"), put(cache, b"events", name="b.root")
    assert first.stat().st_ino == second.stat().st_ino
    assert first.name != second.name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x"])
def test_what_would_leave_the_cache_is_refused(cache, name):
    with pytest.raises(UsageError):
        cache.find(Item(sha256="0" * 64, name=name, bytes=1), "run/1")
    with pytest.raises(UsageError):
        cache.find(Item(sha256="../" + "0" * 61, name="a", bytes=1), "run/1")


def test_other_bytes_than_announced_are_refused_and_leave_nothing(cache):
    item = item_of(b"events")
    incoming = cache.begin(item, "run/1")
    incoming.write_bytes(b"eventz")
    with pytest.raises(StorageError, match=r"events\.root arrived in .* with other content"):
        cache.commit(item, incoming)
    assert cache.find(item, "run/1") is None
    assert entries(cache.folder) == []
    assert list((cache.folder / "incoming").iterdir()) == []


def test_only_an_announced_file_is_taken_in(cache, tmp_path):
    put(cache, b"something")
    foreign = tmp_path / "content"
    foreign.write_bytes(b"events")
    with pytest.raises(UsageError):
        cache.commit(item_of(b"events"), foreign)
    assert foreign.exists()


@pytest.mark.parametrize("damage", ["flipped", "truncated", "replaced by a link"])
def test_a_damaged_file_is_found_by_the_next_agent_and_brought_again(tmp_path, damage):
    first = FileCache(tmp_path / "cache", KILOBYTE)
    path = put(first, b"events")
    first.close()
    path.chmod(0o600)
    times = path.stat()
    if damage == "flipped":
        path.write_bytes(b"eventz")
    elif damage == "truncated":
        path.write_bytes(b"even")
    else:
        path.unlink()
        path.symlink_to("/etc/hostname")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns), follow_symlinks=False)
    second = FileCache(tmp_path / "cache", KILOBYTE)
    assert second.find(item_of(b"events"), "run/1") is None
    assert put(second, b"events").read_bytes() == b"events"
    second.close()


def test_a_file_that_looks_changed_is_hashed_again_in_the_same_life(cache):
    path = put(cache, b"events")
    path.chmod(0o600)
    path.write_bytes(b"eventz")
    os.utime(path, ns=(1, 1))
    assert cache.find(item_of(b"events"), "run/1") is None


def test_the_least_recently_used_goes_first(cache):
    for number in range(9):
        put(cache, some(number))
        os.utime(
            cache.folder.joinpath(item_of(some(number)).sha256[:2], item_of(some(number)).sha256),
            ns=(number, number),
        )
    cache.release("run/1")
    assert cache.find(item_of(some(0)), "run/2") is not None  # used again just now
    cache.release("run/2")
    put(cache, some(100, 4 * KILOBYTE))
    there = [n for n in range(9) if cache.find(item_of(some(n)), "run/3") is not None]
    assert there == [0, 4, 5, 6, 7, 8]


def test_what_is_used_stays_and_the_limit_holds_again_afterwards(cache):
    for number in range(15):
        put(cache, some(number))
    assert len(entries(cache.folder)) == 15, "all are in use"
    put(cache, some(3))  # twice: one release is not enough
    cache.release("run/1", [item_of(some(n)).sha256 for n in range(10)])
    left = {path.parent.name for path in entries(cache.folder)}
    assert {item_of(some(n)).sha256 for n in (3, *range(10, 15))} <= left
    assert len(left) <= 10
    cache.release("run/1", [item_of(some(3)).sha256])
    put(cache, some(50, 9 * KILOBYTE), holder="run/2")
    assert item_of(some(3)).sha256 not in {path.parent.name for path in entries(cache.folder)}


def test_a_full_disk_is_said_before_anything_is_sent(cache):
    with pytest.raises(StorageError, match=r"no room in .* MB are free"):
        cache.begin(Item(sha256="0" * 64, name="huge", bytes=1 << 60), "run/1")


def test_the_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(StorageError, match="belongs to another user"):
        put(FileCache(tmp_path / "cache", KILOBYTE), b"events")


def test_the_default_folder_is_the_users_own(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "dask-runner"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_folder() == Path.home() / ".cache" / "dask-runner"


def test_a_tree_arrives_as_it_was(cache, tmp_path):
    source = tmp_path / "tree"
    (source / "package").mkdir(parents=True)
    for name in HOSTILE:
        (source / name).write_bytes(name.encode(errors="surrogateescape"))
    (source / "package" / "tool").write_text("#!/bin/sh\n")
    (source / "package" / "tool").chmod(0o755)
    measure = trees.measure(source)
    packed = tmp_path / "packed"
    trees.pack(source, packed)
    item = Item(sha256=measure.sha256, name="shipped", bytes=packed.stat().st_size, tree=True)
    path = cache.get(item, "run/1", lambda target: target.write_bytes(packed.read_bytes()) or None)
    assert trees.measure(path) == measure
    assert os.access(path / "package" / "tool", os.X_OK)
    assert stat.S_IMODE((path / HOSTILE[0]).stat().st_mode) == 0o400
    cache.close()
    (path / HOSTILE[0]).chmod(0o600)
    (path / HOSTILE[0]).write_bytes(b"other")
    assert FileCache(cache.folder, KILOBYTE).find(item, "run/1") is None


def test_a_packed_tree_that_would_leave_its_folder_is_refused(cache, tmp_path):
    source = tmp_path / "tree"
    source.mkdir()
    (source / "abc").write_bytes(b"x")
    packed = tmp_path / "packed"
    trees.pack(source, packed)
    packed.write_bytes(packed.read_bytes().replace(b"/abc", b"/../"))
    item = Item(sha256=trees.measure(source).sha256, name="shipped", bytes=9, tree=True)
    incoming = cache.begin(item, "run/1")
    incoming.write_bytes(packed.read_bytes())
    with pytest.raises(UsageError):
        cache.commit(item, incoming)
    assert list((cache.folder / "incoming").iterdir()) == []


def _hold(folder: Path, number: int, ready: str) -> None:
    cache = FileCache(folder, 2 * KILOBYTE)
    put(cache, some(number))
    incoming = cache.begin(item_of(b"never comes"), "run/1")
    incoming.write_bytes(b"never")
    Path(ready).touch()
    signal.pause()


def test_what_another_process_uses_stays_until_it_is_killed(tmp_path):
    folder, ready = tmp_path / "cache", tmp_path / "ready"
    other = SPAWN.Process(target=_hold, args=(folder, 1, str(ready)))
    other.start()
    try:
        until(ready.exists, "the other process uses its file")
        mine = FileCache(folder, 2 * KILOBYTE)
        for number in (2, 3, 4):
            put(mine, some(number))
            mine.release("run/1")
        assert mine.find(item_of(some(1)), "run/1") is not None
        mine.release("run/1")
        assert mine.find(item_of(some(2)), "run/1") is None
        assert len(list((folder / "incoming").iterdir())) == 1
    finally:
        os.kill(other.pid, signal.SIGKILL)
        other.join()
        other.close()
    for number in (5, 6):
        put(mine, some(number))
        mine.release("run/1")
    assert mine.find(item_of(some(1)), "run/1") is None
    assert list((folder / "incoming").iterdir()) == []
    assert len(list((folder / "users").iterdir())) == 1, "the dead one's is gone"
    mine.close()


def _churn(folder: Path, seed: int, trace: str) -> None:
    cache = FileCache(folder, 5 * KILOBYTE)
    draw = random.Random(seed)
    with open(trace, "ab", buffering=0) as file:
        while True:
            number = draw.randrange(12)
            path = put(cache, some(number))
            if path.read_bytes() != some(number):
                file.write(b"wrong\n")
            file.write(b"ok\n")
            cache.release("run/1", [item_of(some(number)).sha256])


def test_killed_in_the_middle_again_and_again_nothing_wrong_is_ever_found(tmp_path):
    folder = tmp_path / "cache"
    for life in range(4):
        traces = [tmp_path / f"trace-{life}-{k}" for k in range(2)]
        processes = [
            SPAWN.Process(target=_churn, args=(folder, 2 * life + k, str(traces[k])))
            for k in range(2)
        ]
        for process in processes:
            process.start()
        for process, trace in zip(processes, traces, strict=True):
            done = 20 + 7 * life
            until(lambda t=trace, n=done: t.exists() and t.stat().st_size > 3 * n, f"{trace} grows")
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            process.close()
        assert all(b"wrong" not in trace.read_bytes() for trace in traces)
    for path in entries(folder):
        if "incoming" not in path.parts:
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.parent.name
    mine = FileCache(folder, 5 * KILOBYTE)
    put(mine, b"one more")
    assert list((folder / "incoming").iterdir()) == []
    assert sum(path.stat().st_size for path in entries(folder)) <= 5 * KILOBYTE
    mine.close()


def test_threads_that_want_the_same_file_all_get_it(cache):
    errors = []

    def work() -> None:
        try:
            for number in range(8):
                assert put(cache, some(number)).read_bytes() == some(number)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(entries(cache.folder)) == 8


@pytest.fixture
def host(tmp_path):
    thing = FolderHost("a", tmp_path / "host", (), 10 * KILOBYTE)
    yield thing
    for files in thing.context.caches.values():
        files.close()


def ask(host: FolderHost, operation: str, **arguments):
    return host.do(operation, {"cache": str(host.cache), **arguments})


def as_json(item: Item) -> dict:
    return {"sha256": item.sha256, "name": item.name, "bytes": item.bytes}


def test_the_operations_of_a_host(host):
    item = as_json(item_of(b"events"))
    assert ask(host, "cache-has", holder="run/1", items=[item]) == [""]
    given_up = Path(ask(host, "cache-begin", holder="run/1", item=item))
    ask(host, "cache-abandon", incoming=str(given_up))
    assert not given_up.parent.exists()
    incoming = Path(ask(host, "cache-begin", holder="run/1", item=item))
    incoming.write_bytes(b"events")
    ask(host, "cache-commit", item=item, incoming=str(incoming))
    (path,) = ask(host, "cache-has", holder="run/1", items=[item])
    assert Path(path).read_bytes() == b"events"
    ask(host, "cache-release", holder="run/1", hashes=None)


def test_items_found_before_a_bad_one_are_not_held(host):
    good = item_of(some(1))
    put(FileCache(host.cache, KILOBYTE), some(1))
    items = [as_json(good), {**as_json(good), "name": ".."}]
    with pytest.raises(UsageError):
        ask(host, "cache-has", holder="run/1", items=items)
    (files,) = host.context.caches.values()
    assert not any(files._pins["run/1"].values())


def test_a_relative_cache_folder_is_refused(host):
    with pytest.raises(StorageError, match="not an absolute path"):
        host.do("cache-release", {"cache": "here", "holder": "x", "hashes": None})


def test_a_url_is_fetched_once_and_checked(host, tmp_path):
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "e.root").write_bytes(b"events")
    with serve(tmp_path / "web") as web:
        url = f"{web.url}/e.root"
        for _ in range(2):
            ask(host, "cache-fetch-url", holder="r/1", item=as_json(item_of(b"events")), url=url)
        assert web.asked["/e.root"] == 1
        with pytest.raises(Exception, match="gives other content here"):
            ask(host, "cache-fetch-url", holder="r/1", item=as_json(item_of(b"others")), url=url)
    assert len(entries(host.cache)) == 1
    assert list((host.cache / "incoming").iterdir()) == []


def test_what_a_killed_driver_left_goes_and_nothing_else(host):
    """Also not what the rerun has that began at once."""
    killed, rerun = "20261120T225745Z/0123abcd", "20261120T225745Z/4567abcd"
    folders = {}
    for holder in (killed, rerun, "20261120T225745Z-2/0123abcd"):
        folders[holder] = Path(host.do("folder", {"holder": holder}))
        (folders[holder] / "000" / "000000.1").mkdir(parents=True)
        cache = host.context.caches.setdefault(str(host.cache), FileCache(host.cache, KILOBYTE))
        put(cache, some(1), holder=f"{holder}/ef")
    host.do("driver-over", {"holder": killed})
    assert not folders.pop(killed).exists()
    assert all(folder.exists() for folder in folders.values())
    assert set(cache._pins) == {f"{holder}/ef" for holder in folders}


@pytest.mark.parametrize("holder", ["", "..", "../..", "a/..", "a/../b", "20261120T225745Z"])
def test_what_is_no_name_of_a_driver_removes_nothing(host, holder):
    with pytest.raises(UsageError):
        host.do("driver-over", {"holder": holder})
    assert host.folder.exists()
