"""A host agent at the end of a pipe, and a driver of it that speaks the protocol and may fall silent."""

import contextlib
import os
import queue
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from execution_rig import Rig, alive, until
from workloads_for_tests import FOLDER

from dask_runner.batch import Outcome
from dask_runner.cluster.channel import (
    AgentConfig,
    Call,
    Command,
    Echo,
    Event,
    Vitals,
    encode_message,
)
from dask_runner.cluster.dask_settings import configure_dask, security
from dask_runner.cluster.tls import make_credentials
from dask_runner.execution import marker, process_tree
from dask_runner.execution.task import decode_outcomes, encode_group
from dask_runner.execution.worker import run_group

CREDENTIALS = make_credentials("agent-rig")


class Agent:
    """One agent, with a scheduler of its own unless it is told another one."""

    def __init__(self, folder: Path, *, cluster: str = "", host: str = "h1", **config: Any) -> None:
        self.cluster = cluster or f"rig-{os.getpid()}-{secrets.token_hex(3)}"
        self.host = host
        self.base = folder / "scratch"
        self.base.mkdir(exist_ok=True)
        self.events: list[Event] = []
        self.echoing = True
        self.reading = True
        self.last_echo = 0.0
        self.on_event: Callable[[Event], None] = lambda event: None
        self._answers: dict[int, queue.SimpleQueue[Event]] = {}
        self._lock = threading.Lock()
        self._config = AgentConfig(
            **{
                "nonce": secrets.token_hex(8),
                "cluster": self.cluster,
                "host": host,
                "bind": "127.0.0.1",
                "slots": 2,
                "umask": 0o022,
                "scratch": str(self.base),
                "import_path": (FOLDER,),
                "preload": ("workloads_for_tests",),
                "memory_ceiling": 1.0,
                "credentials": CREDENTIALS,
                **config,
            }
        )
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-m", "dask_runner.cluster.host.host_agent"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, marker.CLUSTER: self.cluster, marker.HOST: host},
        )
        self.send(self._config)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    # ------------------------------------------------------------------ the line

    def send(self, message: msgspec.Struct) -> None:
        assert self.process.stdin is not None
        with self._lock:
            try:
                self.process.stdin.write(encode_message(message))
                self.process.stdin.flush()
            except (BrokenPipeError, ValueError):
                return

    def tell(self, command: Command) -> None:
        self.send(command)

    def call(self, operation: str, **arguments: Any) -> Event:
        number = secrets.randbits(30)
        answer = self._answers[number] = queue.SimpleQueue()
        self.send(Call(id=number, operation=operation, arguments=arguments))
        return answer.get(timeout=30)

    def ask(self, operation: str, **arguments: Any) -> Any:
        answer = self.call(operation, **arguments)
        assert not answer.text, answer.text
        return answer.value

    def _read(self) -> None:
        assert self.process.stdout is not None
        nonce = self.process.stdout.readline().strip()
        assert nonce == self._config.nonce.encode()
        while self.reading and (line := self.process.stdout.readline()):
            event = msgspec.json.decode(line, type=Event)
            if event.kind == "heartbeat" and self.echoing:
                self.last_echo = time.monotonic()
                self.send(Echo(reading=event.vitals.reading))
            if event.kind == "answer":
                self._answers[event.id].put(event)
            self.on_event(event)
            self.events.append(event)

    # ------------------------------------------------------------------ what is told

    def told(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]

    def wait_told(self, kind: str, count: int = 1, patience: float = 60.0) -> Event:
        events = until(
            lambda: found if len(found := self.told(kind)) >= count else None,
            f"{count} x {kind}; told: {[event.kind for event in self.events]}",
            patience,
        )
        return events[count - 1]

    def wait_vitals(self, wanted: Callable[[Vitals], Any], what: str) -> Vitals:
        def latest() -> Vitals | None:
            beats = self.told("heartbeat")
            vitals = beats[-1].vitals if beats else None
            return vitals if vitals is not None and wanted(vitals) else None

        return until(latest, what)

    @property
    def folder(self) -> Path:
        return Path(self.wait_told("folder").text)

    # ------------------------------------------------------------------ its processes

    def members(self) -> list[int]:
        found = set(process_tree.processes_with(marker.CLUSTER, self.cluster))
        return sorted(found & set(process_tree.processes_with(marker.HOST, self.host)))

    def member(self, word: str) -> int:
        """The process that was started with `word` in its command, and is no fork of another."""
        for pid in self.members():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if word.encode() in words:
                return pid
        return 0

    def wait_gone(self, patience: float) -> None:
        """Until the agent has ended and nothing of it is left, no folder either."""
        assert self.process.wait(patience) == 0
        until(lambda: not self.members(), f"survivors {self.members()}", 5)
        assert list(self.base.iterdir()) == []

    def close(self) -> None:
        """The orderly end, whatever state it is in."""
        self.reading = True
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with self._lock, contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        drain = threading.Thread(target=self.process.stdout.read, daemon=True)
        if not self._reader.is_alive():
            drain.start()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self._reader.join(10)
            if drain.ident:
                drain.join(10)
            self.process.stdout.close()
        try:
            until(lambda: not self.members(), f"survivors {self.members()}", 15)
        finally:
            process_tree.send(self.members(), signal.SIGKILL)


class Work:
    """A Dask client of an agent's scheduler, and groups sent through it."""

    def __init__(self, agent: Agent, folder: Path) -> None:
        from distributed import Client

        configure_dask()
        self.agent = agent
        agent.wait_told("worker")
        self.rig = Rig(None, Path(tempfile.mkdtemp(prefix="work-", dir=folder)))
        self.client = Client(
            agent.told("scheduler")[-1].address,
            security=security(CREDENTIALS),
            set_as_default=False,
            timeout=30,
            direct_to_workers=True,
        )
        self.client.subscribe_topic("topic", lambda event: None)

    def start(self, *acts: dict[str, Any], **options: Any) -> Any:
        group = self.rig.group(*acts, **options)
        worker = self.agent.told("worker")[-1].address
        return self.client.submit(run_group, encode_group(group), pure=False, workers=[worker])

    def outcomes(self, future: Any) -> list[Outcome]:
        return decode_outcomes(future.result(timeout=60))

    def close(self) -> None:
        self.client.close(timeout=2)


def dead(pids: list[int]) -> bool:
    return not any(map(alive, pids))
