"""One writer a run: flock on the manifest, and a lock file that says who the writer is.

The flock decides between processes of one machine and ends with its process; the lock file decides
between machines that share the folder, where flock may not reach. The file is touched only while
the flock is held. POSIX lockf is not used: it is lost when the process closes the file elsewhere.
"""

import fcntl
import os
import socket
import sys
import uuid
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from dask_runner.errors import LockedError, StorageError
from dask_runner.files import path_to_text
from dask_runner.identity import user_name
from dask_runner.manifest.records import utc_now
from dask_runner.run_folder import RunFolder


class LockHolder(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who writes a manifest. `started` is the process's start time in clock ticks since boot and
    `namespace` that of its pid: a pid alone is used again. `alive` is None if nobody can tell
    from this machine; it is not part of the file.
    """

    host: str
    boot_id: str
    pid: int
    started: int
    since: str
    namespace: str = ""
    argv: tuple[str, ...] = ()
    user: str = ""
    alive: bool | None = None

    def __str__(self) -> str:
        who = f" by {self.user}" if self.user else ""
        return f"process {self.pid} on {self.host}{who} since {self.since}"


class Lock:
    """The right to write, held from `acquire` to `release`. `previous` is whom it was taken from
    (None: it was free).
    """

    def __init__(self, path: Path, me: LockHolder, previous: LockHolder | None) -> None:
        self.path = path
        self.me = me
        self.previous = previous

    @classmethod
    def acquire(cls, folder: RunFolder, descriptor: int, *, break_lock: bool = False) -> "Lock":
        """Lock the manifest that is open as `descriptor`, which must stay open.

        Raises LockedError if somebody else may be writing. `break_lock` takes the lock of a
        writer on another machine, never that of a living process of this one.
        """
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _locked(folder, lock_holder(folder)) from None
        previous = lock_holder(folder)
        if previous is not None:
            if previous.alive or (previous.alive is None and not break_lock):
                raise _locked(folder, previous)
            folder.lock.unlink(missing_ok=True)
        me = _myself()
        _claim(folder, me)
        return cls(folder.lock, me, previous)

    def release(self) -> None:
        """Remove the lock file; the caller closes the descriptor and so ends the flock."""
        with suppress(LockedError):  # not ours any more, if it cannot be read
            if _read(self.path) == self.me:
                self.path.unlink(missing_ok=True)


def lock_holder(folder: RunFolder) -> LockHolder | None:
    """Who holds, or held until it died, the lock of a run. Takes nothing."""
    holder = _read(folder.lock)
    if holder is None:
        return None
    return msgspec.structs.replace(holder, alive=_is_alive(holder))


def _read(path: Path) -> LockHolder | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=LockHolder)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        # Made by link() from a complete file, so this is no writer of ours half way.
        raise LockedError(
            f"the lock file {path} cannot be read: {error}",
            hint="if you are sure that nobody writes to this run, remove the file",
        ) from error


def _claim(folder: RunFolder, me: LockHolder) -> None:
    # open(O_EXCL) is not reliable on NFS, link() of a unique name is.
    unique = folder.lock.with_name(f".{folder.lock.name}.{uuid.uuid4().hex}")
    try:
        with unique.open("xb") as file:
            file.write(msgspec.json.encode(me))
            file.flush()
            os.fsync(file.fileno())
        os.link(unique, folder.lock)
    except FileExistsError:
        raise _locked(folder, lock_holder(folder)) from None
    except OSError as error:
        raise StorageError(
            f"cannot make the lock file {folder.lock}: {error.strerror}",
            hint="make space or write permission in the run's folder",
        ) from error
    finally:
        unique.unlink(missing_ok=True)


def _locked(folder: RunFolder, holder: LockHolder | None) -> LockedError:
    name = folder.timestamp
    if holder is None:
        return LockedError(
            f"run {name} is being written by another process, which has just begun",
            hint=f"see `dask-runner status {name}`",
        )
    if holder.alive:
        hint = f"follow it with `dask-runner attach {name}` or end it with `dask-runner cancel`"
    elif holder.alive is None:
        hint = (
            f"nobody can tell from here whether it lives. If you are sure that {holder.host} runs "
            "it no more, add --break-lock"
        )
    else:
        hint = "its process has ended, but a child of it still has the manifest open: end that one"
    return LockedError(f"run {name} is being written by {holder}", hint=hint)


def _myself() -> LockHolder:
    return LockHolder(
        host=socket.gethostname(),
        boot_id=_boot_id(),
        pid=os.getpid(),
        started=_start_time(os.getpid()) or 0,
        namespace=_namespace(),
        since=utc_now(),
        argv=tuple(path_to_text(word) for word in sys.argv),
        user=user_name(),
    )


def _is_alive(holder: LockHolder) -> bool | None:
    """None: on another machine, or in another pid namespace of this one."""
    if holder.host != socket.gethostname():
        return None
    if holder.boot_id != _boot_id():
        return False
    if holder.namespace != _namespace():
        return None
    return _start_time(holder.pid) == holder.started


def _start_time(pid: int) -> int | None:
    """When a living process started, in ticks since boot; None if there is none (or a zombie)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold anything; the fields are counted from its end.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in b"ZX" else int(fields[19])


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _namespace() -> str:
    return str(Path("/proc/self/ns/pid").readlink())
