"""Hosts that are folder trees of this machine: a real `Transfer` with the real host operations.

What a host `sees` is the driver's; any other path of the driver's is, on the host, a path below the
host's `root`. Everything passes through JSON, as it does on the way to a real agent. `asked` and `pushed`
count; a test may hold copies back (`gate`), or the operations that are `stuck` (until `freed`),
break copies, or cut the host off.
"""

import secrets
import shutil
import threading
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from dask_runner.cluster.channel import AgentConfig
from dask_runner.cluster.credentials import Credentials
from dask_runner.cluster.host.operations import OPERATIONS, Context
from dask_runner.cluster.interface import HostState
from dask_runner.errors import ClusterError
from dask_runner.files import path_to_text, text_to_path

CACHE_LIMIT = 50_000_000


class FolderHost:
    """One host; `folder` is its agent's private one."""

    def __init__(self, name: str, root: Path, sees: tuple[Path, ...], limit: int) -> None:
        self.name = name
        self.root = root
        self.sees = sees
        self.folder = root / "agent"
        self.folder.mkdir(parents=True)
        self.cache = root / "cache"
        self.context = Context(config=_config(name, limit), folder=self.folder)
        self.asked: Counter[str] = Counter()
        self.pushed: Counter[str] = Counter()
        self.lost = False
        self.stuck: set[str] = set()
        self.freed = threading.Event()
        self.spoil = lambda path: None
        self.gate = threading.Event()
        self.gate.set()

    @property
    def state(self) -> HostState:
        return HostState(name=self.name, slots=2, share=2, worker=f"tls://{self.name}:1")

    def here(self, path: Path) -> Path:
        """Where a path of this host's is on this machine."""
        if not path.is_absolute() or path.is_relative_to(self.root):
            return path
        if any(path.is_relative_to(s) for s in self.sees):
            return path
        return self.root / path.relative_to("/")

    def do(self, operation: str, arguments: dict[str, Any]) -> Any:
        self.asked[operation] += 1
        if operation in self.stuck:
            assert self.freed.wait(60)
        arguments = msgspec.json.decode(msgspec.json.encode(arguments))
        keys = ("path", "paths") if operation in {"look", "stat"} else ("cache",)
        for key in keys:
            if arguments.get(key):
                arguments[key] = self._mapped(arguments[key])
        value = OPERATIONS[operation](self.context, arguments)
        return msgspec.json.decode(msgspec.json.encode(value))

    def _mapped(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._mapped(item) for item in value]
        return path_to_text(self.here(text_to_path(value)))


class FolderTransfer:
    """The way to all of them."""

    def __init__(self, *hosts: FolderHost, staging: str = "auto") -> None:
        self.holder = f"20261120T225745Z/{secrets.token_hex(4)}"
        self.staging = staging
        self.hosts = {host.name: host for host in hosts}
        self._threads = ThreadPoolExecutor(16)

    def ask(self, host: str, operation: str, arguments: dict[str, Any]) -> "Future[Any]":
        return self._do(host, lambda: self.hosts[host].do(operation, arguments))

    def push(self, host: str, source: Path, target: str) -> "Future[None]":
        def work() -> None:
            there = self.hosts[host]
            assert there.gate.wait(60)
            there.pushed[source.name] += 1
            path = there.here(text_to_path(target))
            shutil.copyfile(source, path)
            there.spoil(path)

        return self._do(host, work)

    def fetch(self, host: str, source: str, target: Path, limit: int) -> "Future[None]":
        def work() -> None:
            there = self.hosts[host]
            size = there.here(text_to_path(source)).lstat().st_size
            assert size <= limit, f"{source}: has {size} bytes, more than {limit}"
            shutil.copyfile(there.here(text_to_path(source)), target)
            there.spoil(target)

        return self._do(host, work)

    def close(self) -> None:
        self._threads.shutdown()
        for host in self.hosts.values():
            for files in host.context.caches.values():
                files.close()

    def _do(self, host: str, work: Any) -> "Future[Any]":
        def guarded() -> Any:
            if self.hosts[host].lost:
                raise ClusterError(f"{host}: is lost")
            try:
                return work()
            except Exception as error:  # noqa: BLE001
                # Only words come back from a host.
                raise ClusterError(f"{host}: {error}") from None

        return self._threads.submit(guarded)


def _config(name: str, limit: int) -> AgentConfig:
    return AgentConfig(
        nonce="n",
        cluster="c",
        host=name,
        bind="127.0.0.1",
        slots=2,
        umask=0o022,
        cache_limit=limit,
        credentials=Credentials(ca="", cert="", key=""),
    )
