"""What a run learns over a manager's socket: which error it was, and when a host takes nothing."""

import asyncio
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dask_runner.cluster import control
from dask_runner.cluster.attached import ControlClient
from dask_runner.cluster.channel import Event
from dask_runner.cluster.manager.control_server import ControlServer
from dask_runner.cluster.manager.host_link import HostLink
from dask_runner.cluster.status import Phase
from dask_runner.errors import (
    ClusterError,
    HostGoneError,
    LockedError,
    RunnerError,
    StorageError,
    UsageError,
)
from dask_runner.hostfile import Host


class Failing:
    """A manager whose hosts answer with an error."""

    error: Exception

    async def ask(self, *_: Any) -> None:
        raise self.error


class Serving:
    """A control server in a thread of its own, and the folder by which clients find it."""

    name = "main"

    def __init__(self, folder: Path) -> None:
        self.manager = Failing()
        self._path = folder / "control"
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._thread.start()
        assert self._ready.wait(5)

    async def _serve(self) -> None:
        self._end = asyncio.Event()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._path))
        listener.listen()
        manager: Any = self.manager
        self._server = ControlServer(manager, lambda _: None)
        async with await self._server.start(listener):
            self._ready.set()
            await self._end.wait()

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self._path))
        return connection

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def serving(tmp_path):
    server = Serving(tmp_path)
    yield server
    server.close()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ClusterError("no room there", hint="make some"), ClusterError),
        (HostGoneError("a is not up", hint="wait"), HostGoneError),
        (StorageError("disk full", hint="make space"), StorageError),
        (UsageError("no such option", hint="read"), UsageError),
        (LockedError("something else", hint="x"), ClusterError),
        (OSError("bad"), ClusterError),
        (RunnerError(""), ClusterError),
    ],
)
def test_a_run_learns_which_kind_of_error_it_was(serving, error, kind):
    serving.manager.error = error
    client = ControlClient(serving)
    with pytest.raises(RunnerError) as caught:
        client.value(control.Ask, host="a", operation="look")
    assert type(caught.value) is kind
    assert getattr(error, "message", "OSError: bad") in caught.value.message
    assert caught.value.hint == getattr(error, "hint", "")
    client.close()


def test_a_manager_that_ends_has_not_answered(serving):
    client = ControlClient(serving)
    client._connection.shutdown(socket.SHUT_RDWR)
    with pytest.raises(HostGoneError, match="main has ended"):
        client.value(control.Ask, host="a", operation="look")
    client.close()


def test_a_host_takes_nothing_from_the_end_of_its_agent_to_the_next_worker(tmp_path):
    folder = SimpleNamespace(host_log=lambda name: tmp_path / name)
    site: Any = SimpleNamespace(changed=lambda: None, folder=folder)
    check: Any = None
    link = HostLink(Host(address="a"), site, check)
    link._on_event(Event(kind="worker", address="tls://127.0.0.1:7"))
    before = link.state(1)
    assert (before.worker, before.refusal) == ("tls://127.0.0.1:7", "")
    ended: Any = SimpleNamespace(abandoned=False, tail="")
    link._ended("killed by signal 9", ended)
    lost = link.state(1)
    assert lost.worker, "what runs there is not known to be dead"
    assert "agent is gone" in lost.refusal
    assert "killed by signal 9" in lost.refusal
    with pytest.raises(HostGoneError, match="a is not up"):
        asyncio.run(link.ask("look", {}))
    link._on_event(Event(kind="folder", text="/tmp/x"))
    link._on_event(Event(kind="worker", address="tls://127.0.0.1:7"))
    after = link.state(1)
    assert (after.worker, after.refusal) == (before.worker, "")
    assert after.start != before.start
    assert after.life != before.life
    link.drain()
    assert link.phase is Phase.DRAINING
    link.retry()
    assert not link.state(1).refusal


class Adding:
    """A manager that knows one host, which is left out; `added` are the hosts as they come."""

    def __init__(self, hostfile: Path) -> None:
        self.link = HostLink(Host(address="tev01", slots=4), SimpleNamespace(changed=print), None)
        cluster = SimpleNamespace(hostfile=str(hostfile))
        self.site = SimpleNamespace(settings=SimpleNamespace(cluster=cluster))
        self.added: tuple[Host, ...] = ()

    def links(self) -> list[HostLink]:
        return [self.link]

    def add(self, hosts: list[Host]) -> list[str]:
        self.added = tuple(hosts)
        return [host.address for host in hosts]


def test_a_host_that_is_added_again_is_as_the_hostfile_says_now_and_the_user(serving, tmp_path):
    hostfile = tmp_path / "hostfile.txt"
    manager = serving.manager = serving._server._manager = Adding(hostfile)
    client = ControlClient(serving)

    def add(line: str) -> Host:
        client.value(control.Add, hosts=line)
        return manager.added[0]

    assert add("tev01") == Host(address="tev01", slots=4), "what was known stands"
    hostfile.write_text("tev01 slots=2 python=/opt/python\n")
    assert add("tev01") == Host(address="tev01", slots=2, python="/opt/python")
    assert add("tev01 python=/new") == Host(address="tev01", slots=2, python="/new")
    assert add("tev02 user=ada") == Host(address="tev02", user="ada")
    hostfile.write_text("tev01 pyton=/opt/python\n")
    with pytest.raises(UsageError, match="pyton"):
        add("tev01")
    client.close()


def test_a_host_that_is_up_stays_what_it_is_until_it_is_drained(tmp_path):
    site: Any = SimpleNamespace(changed=lambda: None)
    check: Any = None
    link = HostLink(Host(address="a"), site, check)
    agent: Any = SimpleNamespace()
    link._agent = agent
    link.change(Host(address="a"))
    with pytest.raises(ClusterError, match="with what the hostfile said before") as caught:
        link.change(Host(address="a", slots=2))
    assert "hosts drain a" in caught.value.hint
    link._agent = None
    link.change(Host(address="a", slots=2))
    assert link.host.slots == 2
