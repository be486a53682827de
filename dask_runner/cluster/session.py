"""The state folder of a cluster that is up: who runs it, how to get in, where to ask.

    <state>/dask-runner/<this machine>/<name>/session.json      what it is (no secrets)
                                              credentials.json  keys, 0600
                                              control           unix socket of the manager
                                              hosts/<host>.log  what agents and workers said
                                      <name>.log                a detached manager's talk

Owns these paths, and who may read them: folders are 0700. A folder gets its name only when its
manager listens, and the cluster is up for as long as it does. Refuses to know what is talked.
"""

import fcntl
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from dask_runner.cluster.credentials import Credentials
from dask_runner.errors import ClusterError, StorageError
from dask_runner.files import write_atomic

DEFAULT_NAME = "main"
# The name of what is always there: the cluster that a run starts on its own machine.
LOCAL = "local"

T = TypeVar("T")

_CONNECT_PATIENCE = 5.0


class Session(Struct, frozen=True, kw_only=True):
    """A cluster that is up. `name` is what the user calls it, `cluster` the marker of all its
    processes, `hostfile` where its hosts are from, `lease` in s; `staging` is the setting it was
    started with.
    """

    name: str
    cluster: str
    pid: int
    hostfile: str
    lease: float
    staging: str


class SessionFolder(Struct, frozen=True, kw_only=True):
    """The paths of one session, and what is in the files."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def host_log(self, host: str) -> Path:
        return self.path / "hosts" / f"{host}.log"

    def write(self, session: Session, credentials: Credentials) -> None:
        write_atomic(self.path / "credentials.json", msgspec.json.encode(credentials), mode=0o600)
        write_atomic(self.path / "session.json", msgspec.json.encode(session), mode=0o600)

    def session(self) -> Session:
        """Raises ClusterError if it is not there, or not ours alone."""
        return self._read("session.json", Session)

    def credentials(self) -> Credentials:
        """As `session`."""
        return self._read("credentials.json", Credentials)

    def listen(self) -> socket.socket:
        """The manager's socket."""
        with self._short("control") as path:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(path)
        listener.listen(100)
        return listener

    def connect(self) -> socket.socket:
        """A connection to the manager. Raises ClusterError if there is none any more."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # A manager that stands still takes nobody in.
        connection.settimeout(_CONNECT_PATIENCE)
        try:
            with self._short("control") as path:
                connection.connect(path)
            connection.settimeout(None)
        except OSError as error:
            connection.close()
            raise ClusterError(
                f"cluster {self.name} is not up any more: its `dask-runner up` has ended",
                hint="`dask-runner up` starts it again",
            ) from error
        return connection

    @property
    def alive(self) -> bool:
        try:
            self.connect().close()
        except ClusterError as error:
            # Somebody who does not answer is there all the same.
            return isinstance(error.__cause__, TimeoutError)
        return True

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def is_of(self, cluster: str) -> bool:
        """True if it is still there, and not another cluster's of the same name."""
        try:
            return self.session().cluster == cluster
        except ClusterError:
            return False

    @contextmanager
    def _short(self, name: str) -> Iterator[str]:
        """A path that fits into the 108 bytes of a socket's address, however deep the folder."""
        descriptor = os.open(self.path, os.O_PATH | os.O_DIRECTORY)
        try:
            yield f"/proc/self/fd/{descriptor}/{name}"
        finally:
            os.close(descriptor)

    def _read(self, name: str, kind: type[T]) -> T:
        path = self.path / name
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                content = file.read()
        except OSError as error:
            raise ClusterError(f"{path}: cannot be read: {error.strerror}") from error
        if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise ClusterError(
                f"{path}: another user owns it or can read it", hint="end that cluster, remove it"
            )
        return msgspec.json.decode(content, type=kind)


def state_folder() -> Path:
    """The folder of all sessions of this machine, made if need be, ours alone."""
    try:
        base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    except RuntimeError as error:
        raise ClusterError("you have no home folder", hint="set XDG_STATE_HOME") from error
    # The home may be the same on all machines, the socket in it is not.
    folder = base / "dask-runner" / socket.gethostname()
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        for private in (folder.parent, folder):
            private.mkdir(mode=0o700, exist_ok=True)
            if private.stat().st_uid != os.getuid():
                raise ClusterError(f"{private}: another user owns it", hint="set XDG_STATE_HOME")
            private.chmod(0o700)
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror}", hint="or set XDG_STATE_HOME") from error
    return folder


def log_of(name: str) -> Path:
    """Where a detached manager's talk goes. It outlives the session."""
    return state_folder() / f"{name}.log"


@contextmanager
def claim(name: str) -> Iterator[tuple[SessionFolder, socket.socket]]:
    """A new session's folder under a temporary name, with the manager's socket; `publish` gives it
    its own. Removed at the end. Raises ClusterError if a cluster of that name is up.
    """
    state = state_folder()
    with _alone(state):
        _refuse_live(name)
        _remove_dead(state)
        folder = SessionFolder(path=Path(tempfile.mkdtemp(prefix=f".{name}.", dir=state)))
        listener = folder.listen()
    try:
        (folder.path / "hosts").mkdir(mode=0o700)
        yield folder, listener
    finally:
        listener.close()
        folder.remove()


def publish(folder: SessionFolder, name: str) -> SessionFolder:
    """Give a claimed folder its name. Raises ClusterError if somebody was faster."""
    target = SessionFolder(path=folder.path.parent / name)
    with _alone(folder.path.parent):
        _refuse_live(name)
        target.remove()  # what a dead manager has left
        folder.path.rename(target.path)
    return target


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Two managers that take the same name do it one after the other."""
    descriptor = os.open(state, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _refuse_live(name: str) -> None:
    folder = SessionFolder(path=state_folder() / name)
    if folder.path.exists() and folder.alive:
        raise ClusterError(
            f"a cluster called {name} is up already",
            hint=f"`dask-runner down --name {name}` ends it; `up --name` starts another one",
        )


def sessions() -> list[SessionFolder]:
    """All session folders of this machine by name, also those of dead managers."""
    return [
        SessionFolder(path=path)
        for path in sorted(state_folder().iterdir())
        if path.is_dir() and not path.name.startswith(".")
    ]


def remove_dead() -> list[Path]:
    """Remove what managers that were killed have left, also those that had not got so far as to
    have a name. Returns the folders.
    """
    state = state_folder()
    with _alone(state):
        return _remove_dead(state)


def _remove_dead(state: Path) -> list[Path]:
    removed = []
    for path in sorted(state.iterdir()):
        folder = SessionFolder(path=path)
        if path.is_dir() and not folder.alive:
            folder.remove()
            removed.append(path)
    return removed


def live_sessions() -> list[SessionFolder]:
    """The clusters that are up."""
    return [folder for folder in sessions() if folder.alive]


def find_session(name: str) -> SessionFolder | None:
    """The session of that name, or with an empty one the only one that is up; None if there is
    none, or the name is `local`. Raises ClusterError if the one named is not up, or several are.
    """
    if name == LOCAL:
        return None
    found = live_sessions()
    if name:
        named = [folder for folder in found if folder.name == name]
        if not named:
            up = ", ".join(folder.name for folder in found) or "none"
            raise ClusterError(f"no cluster called {name} is up", hint=f"up: {up}")
        return named[0]
    if len(found) > 1:
        names = ", ".join(folder.name for folder in found)
        raise ClusterError(f"several clusters are up: {names}", hint="say which: --cluster NAME")
    return found[0] if found else None
