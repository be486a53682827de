"""The cluster on this machine: one host agent as a child process.

The same agent, worker and scheduler as on a department machine, with a pipe where SSH would be.
"""

import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import msgspec

from dask_runner.cluster.channel import AgentConfig, Cancel, Event, encode_message
from dask_runner.cluster.connecting import connect_client
from dask_runner.cluster.interface import ClusterConfig, HostState, Transfer
from dask_runner.cluster.session import LOCAL
from dask_runner.cluster.tls import make_credentials
from dask_runner.errors import ClusterError
from dask_runner.execution import marker
from dask_runner.files import current_umask, path_to_text, text_to_path

_log = logging.getLogger(__name__)

_START_TIMEOUT = 60.0
_END_TIMEOUT = 15.0


class LocalCluster:
    """A scheduler and a worker with `slots` slots on the loopback interface, over TLS."""

    def __init__(self, config: ClusterConfig) -> None:
        self.name = f"{LOCAL}+{secrets.token_hex(4)}"
        self.driver = f"{config.run}/{secrets.token_hex(4)}"
        self.address = ""
        self._worker = ""
        self._starts = 0
        self._numerics = ""
        self._slots = config.slots or os.cpu_count() or 1
        self._config = config
        self._credentials = make_credentials(self.name)
        self._agent: subprocess.Popen[bytes] | None = None
        self._ready = threading.Event()
        self._closing = False
        self._folder: Path | None = None
        self._failure = ""
        self._host = socket.gethostname() or "localhost"
        self._reader: threading.Thread | None = None

    @property
    def generation(self) -> int:
        """Always 0: a local cluster whose scheduler has died is lost."""
        return 0

    @property
    def transfer(self) -> Transfer | None:
        return None

    def hosts(self) -> Mapping[str, HostState]:
        state = HostState(
            name=self._host,
            slots=self._slots,
            share=self._slots,
            worker=self._worker,
            start=self._starts,
            numerics=self._numerics,
            local=True,
        )
        return {self._host: state}

    def demand(self, slots: int, hosts: Collection[str]) -> None:
        """Nobody shares this cluster: all slots are the run's, whatever it asks for."""

    def announce(self, host: str, text: str) -> None:
        """Nobody but the run itself looks at this cluster."""

    def cancel(self) -> None:
        self._tell(Cancel(driver=self.driver))

    def failure(self) -> str:
        return self._failure

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            # Whatever it is (also Ctrl-C), nobody else will end what has been started.
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        nonce = secrets.token_hex(16)
        self._agent = subprocess.Popen(
            [sys.executable, "-I", "-m", "dask_runner.cluster.host.host_agent"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            # The markers by which anybody finds our processes, set where /proc shows them.
            env={**os.environ, marker.CLUSTER: self.name, marker.HOST: self._host},
        )
        config = AgentConfig(
            nonce=nonce,
            cluster=self.name,
            host=self._host,
            bind="127.0.0.1",
            slots=self._slots,
            umask=current_umask(),
            scratch=path_to_text(self._config.scratch),
            import_path=self._config.import_path,
            preload=self._config.preload,
            credentials=self._credentials,
        )
        self._tell(config)
        self._reader = threading.Thread(target=self._read, args=(nonce,), name="agent", daemon=True)
        self._reader.start()
        if not self._ready.wait(_START_TIMEOUT) or self._failure:
            reason = self._failure or f"not ready after {_START_TIMEOUT:.0f} s"
            raise ClusterError(f"the local cluster did not start: {reason}")

    def _tell(self, message: msgspec.Struct) -> None:
        agent = self._agent
        if agent is None or agent.stdin is None:
            return
        # If it is dead or closed already, the reader learns that from its stdout.
        with suppress(BrokenPipeError, ValueError):
            agent.stdin.write(encode_message(message))
            agent.stdin.flush()

    def __exit__(self, *exc: object) -> None:
        """End the agent, which ends all below it."""
        self._closing = True
        agent = self._agent
        if agent is None:
            return
        assert agent.stdin is not None
        with suppress(BrokenPipeError):
            agent.stdin.close()
        try:
            agent.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired:
            _log.warning("the cluster's agent %d had to be killed", agent.pid)
            agent.kill()
            agent.wait()
        if self._reader is not None:
            # The pipe ends with the agent and all that it started.
            self._reader.join(_END_TIMEOUT)
        if agent.stdout is not None:
            agent.stdout.close()
        if self._folder is not None:
            # Still there only if the agent was killed.
            shutil.rmtree(self._folder, ignore_errors=True)

    def client(self) -> Any:
        return connect_client(lambda: self.address, self._credentials, self.failure)

    def _read(self, nonce: str) -> None:
        """Take in the agent's events for as long as it lives; never stop reading."""
        assert self._agent is not None
        assert self._agent.stdout is not None
        started = False
        for line in self._agent.stdout:
            if not started:
                started = line.strip() == nonce.encode()
                continue
            try:
                event = msgspec.json.decode(line, type=Event)
            except msgspec.DecodeError:
                _log.warning("unexpected line from the agent: %r", line[:200])
                continue
            self._handle(event)
        if not self._closing and not self._failure:
            self._failure = "its agent died"
        self._ready.set()

    def _handle(self, event: Event) -> None:
        if event.kind == "folder":
            self._folder = text_to_path(event.text)
        elif event.kind == "scheduler":
            self.address = event.address
        elif event.kind == "worker":
            self._starts += 1
            self._numerics, self._worker = event.numerics, event.address
            self._ready.set()
        elif self._closing:
            return
        elif event.kind == "worker-died":
            self._worker = ""
            _log.warning("the worker on %s died (%s); starting another", self._host, event.text)
        elif event.kind in {"scheduler-died", "error"}:
            self._failure = f"{event.kind}: {event.text}"
            self._ready.set()
