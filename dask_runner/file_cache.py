"""A folder of files by their SHA-256: each is there once, checked, private and read-only.

    <cache>/<first two hex>/<sha256>/<original name>     a file or a tree
            incoming/<random>/content                    what is still on its way
            users/<random>                               what a process uses, locked while it lives
            lock                                         held for every change of the above

Owns the limit of size: what was used least recently goes first, and never what somebody uses. Any
number of processes may share a cache, and each may be killed at any moment.
"""

import fcntl
import os
import re
import secrets
import shutil
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from msgspec import Struct, field

from dask_runner import trees
from dask_runner.errors import StorageError, UsageError
from dask_runner.files import path_to_text, sha256, text_to_path

_SHA256 = re.compile(r"[0-9a-f]{64}")
# Between a file's arrival and its use, others may need its room.
_TRIES = 3
# How long in s the size of the cache is believed: what others add meanwhile is found out then.
_COUNT_EVERY = 60.0
_LOCK, _INCOMING, _USERS = "lock", "incoming", "users"


class Item(Struct, frozen=True, kw_only=True):
    """What may be in a cache: `name` is the file's own (path text), `bytes` its size. A `tree` is
    hashed by `trees.measure`, which also takes folders, and comes packed by `trees.pack`.
    """

    sha256: str
    name: str
    bytes: int
    tree: bool = False

    def check(self) -> None:
        """Raise UsageError for what would not stay inside the cache."""
        name = os.fspath(text_to_path(self.name))
        if not _SHA256.fullmatch(self.sha256) or "/" in name or name in {"", ".", ".."}:
            raise UsageError(f"{self.name!r} with hash {self.sha256!r} cannot be in a cache")


class _Use(Struct, kw_only=True):
    """What a process uses: pinned hashes, and bytes that are expected by incoming folder."""

    pins: list[str] = field(default_factory=list)
    incoming: dict[str, int] = field(default_factory=dict)


class FileCache:
    """One process's way into a cache; thread safe. `limit` in bytes; what is in use may exceed it.

    A `holder` is a name under which files are kept from being removed, as often as it has found
    them, until it releases them or this process ends.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self._limit = limit
        self._mutex = threading.RLock()
        self._held = False
        self._over = False
        self._total, self._counted = 0, -_COUNT_EVERY
        self._user: tuple[int, Path] | None = None
        self._pins: dict[str, Counter[str]] = {}
        self._coming: dict[str, tuple[str, str, int]] = {}
        self._checked: dict[Path, tuple[int, int, int]] = {}
        self._checking: dict[str, threading.Lock] = {}

    def find(self, item: Item, holder: str) -> Path | None:
        """The item's path, pinned; None if it is not there, or was damaged (and is removed)."""
        item.check()
        entry = self._entry(item)
        with self._changing():
            if not entry.is_dir():
                return None
            self._pin(holder, item.sha256)
            os.utime(entry)
            path = self._named(entry, item)
        good = False
        try:
            good = path is not None and self._is_good(path, item)
        finally:
            if not good:
                self.release(holder, [item.sha256])
        return path if good else None

    def begin(self, item: Item, holder: str) -> Path:
        """Where to put the item's bytes. Makes room; raises StorageError if there is none."""
        self._open()
        with self._changing():
            self._make_room(item.bytes)
            token = secrets.token_hex(8)
            self._coming[token] = (holder, item.sha256, item.bytes)
            self._write_use()
            folder = self.folder / _INCOMING / token
            folder.mkdir(mode=0o700)
        return folder / "content"

    def commit(self, item: Item, incoming: Path) -> Path:
        """Take in what is at `incoming`, which `begin` gave. Raises StorageError if it is not what
        was announced.
        """
        item.check()
        token = incoming.parent.name
        if incoming != self.folder / _INCOMING / token / "content" or token not in self._coming:
            raise UsageError(f"{incoming}: nothing was announced there")
        arrived = incoming
        try:
            if item.tree:
                arrived = incoming.with_name("tree")
                trees.unpack(incoming, arrived)
            found = _digest(arrived, item)
            if found != item.sha256:
                raise StorageError(
                    f"{item.name} arrived in {self.folder} with other content: sha256 "
                    f"{found[:12]}... instead of {item.sha256[:12]}..."
                )
            if not item.tree:
                arrived.chmod(0o400)
            return self._take_in(item, arrived)
        finally:
            self.abandon(incoming)

    def abandon(self, incoming: Path) -> None:
        """What `begin` gave this path for will not come."""
        with self._changing():
            self._drop_incoming(incoming.parent.name)

    def get(self, item: Item, holder: str, fill: Callable[[Path], None]) -> Path:
        """The item's path, pinned; `fill` writes it if it is not there."""
        for _ in range(_TRIES):
            if (path := self.find(item, holder)) is not None:
                return path
            incoming = self.begin(item, holder)
            try:
                fill(incoming)
            except BaseException:
                self.abandon(incoming)
                raise
            self.commit(item, incoming)
        raise StorageError(f"{item.name} does not stay in {self.folder}: who removes it?")

    def release(self, holder: str, hashes: Iterable[str] | None = None) -> None:
        """The holder uses these no longer, as often as they are named; None: nothing at all."""
        with self._changing():
            if hashes is None:
                self._pins.pop(holder, None)
                for token in [t for t, coming in self._coming.items() if coming[0] == holder]:
                    self._drop_incoming(token)
            elif holder in self._pins:
                pins = self._pins[holder]
                pins.subtract(hashes)
                self._pins[holder] = +pins
            self._write_use()
            if self._over:
                self._make_room(0)

    def release_all(self, prefix: str = "") -> None:
        """Release everything of all holders whose names begin so."""
        with self._changing():
            holders = {*self._pins, *(coming[0] for coming in self._coming.values())}
            for holder in holders:
                if holder.startswith(prefix):
                    self.release(holder)

    def close(self) -> None:
        """Nothing is used any longer."""
        self.release_all()
        with self._mutex:
            if self._user is not None:
                descriptor, path = self._user
                path.unlink(missing_ok=True)
                os.close(descriptor)
                self._user = None

    def _entry(self, item: Item) -> Path:
        return self.folder / item.sha256[:2] / item.sha256

    def _named(self, entry: Path, item: Item) -> Path | None:
        """The item under its name, which may be another than that of the same bytes before."""
        path = entry / text_to_path(item.name)
        if not path.exists():
            other = next((p for p in entry.iterdir() if p.is_file() and not item.tree), None)
            if other is None:
                return None
            os.link(other, path)
        return path

    def _is_good(self, path: Path, item: Item) -> bool:
        """Hash what is there, once in the life of this process, unless it looks changed."""
        with self._mutex:
            checking = self._checking.setdefault(item.sha256, threading.Lock())
        with checking:
            signature = _signature(path)
            if self._checked.get(path) == signature:
                return True
            with suppress(OSError, UsageError):
                if _digest(path, item) == item.sha256:
                    self._checked[path] = signature
                    return True
            with self._changing():
                trees.remove(path)
            return False

    def _take_in(self, item: Item, incoming: Path) -> Path:
        path = self._entry(item) / text_to_path(item.name)
        with self._changing():
            for folder in (path.parent.parent, path.parent):
                folder.mkdir(mode=0o700, exist_ok=True)
            if path.exists():
                return path  # somebody else was faster
            incoming.rename(path)
            os.utime(path.parent)
            self._checked[path] = _signature(path)
        return path

    def _pin(self, holder: str, hash_: str) -> None:
        self._open()
        self._pins.setdefault(holder, Counter())[hash_] += 1
        self._write_use()

    def _drop_incoming(self, token: str) -> None:
        if self._coming.pop(token, None) is not None:
            trees.remove(self.folder / _INCOMING / token)
            self._write_use()

    def _make_room(self, needed: int) -> None:
        """Remove what was used least recently and by nobody now."""
        self._total += needed
        known = time.monotonic() - self._counted < _COUNT_EVERY and self._total <= self._limit
        if known and shutil.disk_usage(self.folder).free > needed:
            return
        uses = self._living()
        pinned = {hash_ for use in uses for hash_ in use.pins}
        coming = {token: length for use in uses for token, length in use.incoming.items()}
        for folder in (self.folder / _INCOMING).iterdir():
            if folder.name not in coming:
                trees.remove(folder)
        entries = [
            (entry.stat().st_mtime_ns, trees.size(entry), entry)
            for part in self.folder.iterdir()
            if len(part.name) == 2  # noqa: PLR2004  (the first two digits)
            for entry in part.iterdir()
        ]
        total = needed + sum(coming.values()) + sum(length for _, length, _ in entries)
        for _, length, entry in sorted(entries):
            if total <= self._limit and shutil.disk_usage(self.folder).free > needed:
                break
            if entry.name not in pinned:
                trees.remove(entry)
                total -= length
        self._total, self._counted = total, time.monotonic()
        self._over = total > self._limit
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise StorageError(
                f"no room in {self.folder} for {needed / 1e6:.1f} MB: {free / 1e6:.1f} MB are free"
            )

    def _living(self) -> list[_Use]:
        """What all processes use; files of dead ones are removed."""
        uses = []
        for path in (self.folder / _USERS).iterdir():
            descriptor = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            except BlockingIOError:
                uses.append(msgspec.json.decode(path.read_bytes() or b"{}", type=_Use))
            finally:
                os.close(descriptor)
        return uses

    def _write_use(self) -> None:
        if self._user is None:
            return
        use = _Use(
            pins=sorted({hash_ for pins in self._pins.values() for hash_ in pins}),
            incoming={token: coming[2] for token, coming in self._coming.items()},
        )
        content = msgspec.json.encode(use)
        # In place: only this process writes it, all read it under the lock, and if this process
        # dies in the middle, nothing of it is in use.
        os.truncate(self._user[0], 0)
        os.pwrite(self._user[0], content, 0)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Alone among all threads and processes."""
        with self._mutex:
            if self._held or not self.folder.is_dir():
                yield  # where there is nothing yet, nothing is to protect
                return
            descriptor = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                self._held = True
                yield
            finally:
                self._held = False
                os.close(descriptor)

    def _open(self) -> None:
        """Make the folder, and the file that says what this process uses."""
        with self._mutex:
            if self._user is not None:
                if self._user[1].exists():
                    return
                os.close(self._user[0])  # somebody has emptied the cache
            _make_private_folder(self.folder)
            for name in (_INCOMING, _USERS):
                (self.folder / name).mkdir(mode=0o700, exist_ok=True)
            path = self.folder / _USERS / secrets.token_hex(8)
            with self._changing():
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                self._user = descriptor, path
                self._write_use()


def default_folder() -> Path:
    """The cache in the user's own cache folder."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "dask-runner"


def _make_private_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.lstat()
        if state.st_uid != os.geteuid():
            raise StorageError(
                f"{path_to_text(folder)} belongs to another user (uid {state.st_uid})",
                hint="choose another folder with cluster.cache",
            )
        folder.chmod(stat.S_IRWXU)
    except OSError as error:
        raise StorageError(f"cannot make the cache {folder}: {error.strerror}") from error


def _digest(path: Path, item: Item) -> str:
    if item.tree:
        return trees.measure(path).sha256
    if not stat.S_ISREG(path.lstat().st_mode):
        raise UsageError(f"{path}: is not a regular file")
    return sha256(path)


def _signature(path: Path) -> tuple[int, int, int]:
    state = path.lstat()
    return state.st_ino, state.st_size, state.st_mtime_ns
