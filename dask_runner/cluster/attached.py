"""The cluster of a `dask-runner up` that is running, as a run uses it.

Talks to the manager on its unix socket, to the scheduler with the session's keys. A thread takes in
what the manager tells; when the connection ends, the manager ends what this run has on the hosts.
"""

import itertools
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self

from dask_runner.cluster import control
from dask_runner.cluster.connecting import connect_client
from dask_runner.cluster.interface import ClusterConfig, HostState
from dask_runner.cluster.session import SessionFolder
from dask_runner.errors import ClusterError, HostGoneError
from dask_runner.files import path_to_text

_log = logging.getLogger(__name__)

_PATIENCE = 30.0


class ControlClient:
    """A connection to a manager; requests may come from any thread. `on_view` is called by the
    thread that reads, `on_end` when the manager is gone.
    """

    def __init__(self, folder: SessionFolder) -> None:
        self._connection = folder.connect()
        self._file = self._connection.makefile("rb")
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._waiting: dict[int, Future[Any]] = {}
        self._name = folder.name
        self._ended = False
        self.on_view: Callable[[control.View], None] = _ignore
        self.on_end: Callable[[], None] = _ignore
        self._reader = threading.Thread(target=self._read, name="control", daemon=True)
        self._reader.start()

    def tell(self, request: Any) -> None:
        """Send a request without an answer."""
        try:
            with self._lock:
                self._connection.sendall(control.encode_line(request))
        except OSError:
            _log.debug("the manager is gone")  # the reader learns it, and says it

    def ask(self, kind: Any, **fields: Any) -> "Future[Any]":
        """Send a request of that kind; its value comes with the future."""
        number = next(self._ids)
        answer: Future[Any] = Future()
        with self._lock:
            self._waiting[number] = answer
        if self._ended:
            self._give_up()
        self.tell(kind(id=number, **fields))
        return answer

    def value(self, kind: Any, *, patience: float = _PATIENCE, **fields: Any) -> Any:
        """The value of a request, waited for. Raises ClusterError, or what the reply says."""
        try:
            return self.ask(kind, **fields).result(patience)
        except TimeoutError as error:
            raise ClusterError(
                f"cluster {self._name} does not answer",
                hint="is its `dask-runner up` stopped (Ctrl-Z)? `fg` or `kill` it",
            ) from error

    def close(self) -> None:
        self._ended = True
        # shutdown, so that the reading thread wakes up.
        try:
            self._connection.shutdown(2)
        except OSError:
            _log.debug("the manager has closed it already")
        self._reader.join(_PATIENCE)
        self._file.close()
        self._connection.close()

    def _read(self) -> None:
        try:
            for line in self._file:
                answer = control.decode_answer(line)
                if isinstance(answer, control.View):
                    self.on_view(answer)
                else:
                    self._resolve(answer)
        except OSError as error:
            _log.debug("control connection: %s", error)
        finally:
            # Whatever it was: nobody may wait for answers, or believe an old view.
            closing, self._ended = self._ended, True
            self._give_up()
            if not closing:
                self.on_end()

    def _resolve(self, reply: control.Reply) -> None:
        with self._lock:
            answer = self._waiting.pop(reply.id, None)
        if answer is None:
            return
        if reply.error:
            answer.set_exception(reply.exception())
        else:
            answer.set_result(reply.value)

    def _give_up(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            answer.set_exception(HostGoneError(f"cluster {self._name} has ended"))


def _ignore(*_: object) -> None:
    """Before anybody wants to know."""


class SocketTransfer:
    """Files to and from the hosts, through the manager's connections."""

    def __init__(self, control_client: ControlClient, *, run: str, staging: str) -> None:
        self.holder = f"{run}/{secrets.token_hex(4)}"
        self.staging = staging
        self._control = control_client

    def ask(self, host: str, operation: str, arguments: dict[str, Any]) -> "Future[Any]":
        return self._control.ask(control.Ask, host=host, operation=operation, arguments=arguments)

    def push(self, host: str, source: Path, target: str) -> "Future[None]":
        here = path_to_text(source.absolute())
        return self._control.ask(control.Copy, host=host, fetch=False, here=here, there=target)

    def fetch(self, host: str, source: str, target: Path, limit: int) -> "Future[None]":
        here = path_to_text(target.absolute())
        return self._control.ask(
            control.Copy, host=host, fetch=True, here=here, there=source, limit=limit
        )


class SshCluster:
    """A run's part in a cluster that is up."""

    def __init__(self, folder: SessionFolder, config: ClusterConfig) -> None:
        session = folder.session()
        self.name = session.cluster
        self.title = session.name
        self._run = config.run
        self._lease = session.lease
        self._credentials = folder.credentials()
        self._view = control.View(address="", generation=0, hosts=())
        self._hosts: dict[str, HostState] = {}
        self._seen = threading.Event()
        self._lost = ""
        self._control = ControlClient(folder)
        self.transfer = SocketTransfer(self._control, run=config.run, staging=session.staging)

    @property
    def driver(self) -> str:
        return self.transfer.holder

    @property
    def address(self) -> str:
        return self._view.address

    @property
    def generation(self) -> int:
        return self._view.generation

    def hosts(self) -> Mapping[str, HostState]:
        return self._hosts

    def demand(self, slots: int, hosts: Collection[str]) -> None:
        self._control.tell(control.Demand(slots=slots, hosts=tuple(hosts)))

    def announce(self, host: str, text: str) -> None:
        self._control.tell(control.Announce(host=host, text=text))

    def cancel(self) -> None:
        self._control.tell(control.CancelRun())

    def failure(self) -> str:
        return self._lost or self._view.failure

    def client(self) -> Any:
        return connect_client(
            lambda: self.address, self._credentials, self.failure, lease=self._lease
        )

    def __enter__(self) -> Self:
        self._control.on_view = self._on_view
        self._control.on_end = self._on_end
        try:
            holder = self.transfer.holder
            self._control.value(control.Attach, run=self._run, holder=holder, pid=os.getpid())
            self._wait_for_a_host()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._control.close()

    def _wait_for_a_host(self) -> None:
        """A cluster that has just been started may have none yet."""
        deadline = time.monotonic() + _PATIENCE
        while not any(host.worker for host in self._hosts.values()):
            if self.failure():
                raise ClusterError(f"cluster {self.title}: {self.failure()}")
            if not self._seen.wait(deadline - time.monotonic()):
                raise ClusterError(
                    f"no host of cluster {self.title} is up",
                    hint="`dask-runner status` says why; --cluster local uses this machine",
                )
            self._seen.clear()

    def _on_view(self, view: control.View) -> None:
        self._view = view
        self._hosts = {host.name: host for host in view.hosts}
        self._seen.set()

    def _on_end(self) -> None:
        self._lost = "its `dask-runner up` has ended"
        self._seen.set()
