"""Copies over an SSH connection whose other end does what it should not: a real sshd, in asyncssh."""

import asyncio
import gc
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncssh
import pytest

from dask_runner.cluster.manager import copying
from dask_runner.cluster.manager.agent_link import AgentLink
from dask_runner.cluster.manager.host_link import HostLink
from dask_runner.errors import BadInputError, ClusterError, HostGoneError, StorageError
from dask_runner.files import path_to_text
from dask_runner.hostfile import Host

CONTENT = b"x" * 100_000
LIMIT = 1_000_000
COPIES = 8

# asyncssh leaves the files of a session that is cut off to the garbage collector, on both sides.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning"
)


class Far:
    """A host: `sessions` are its SFTP sessions so far; while it `hangs`, files are not read, which
    `read` tells.
    """

    def __init__(self, folder: Path) -> None:
        self.here, self.there = folder / "here", folder / "there"
        self.here.mkdir()
        self.there.mkdir()
        self.file("source")
        self.sessions: list[Any] = []
        self.hangs = False
        self.read = asyncio.Event()
        self.link: Any = None

    def file(self, name: str, content: bytes = CONTENT) -> str:
        (self.there / name).write_bytes(content)
        return self.path(name)

    def path(self, name: str) -> str:
        return path_to_text(self.there / name)

    async def fetch(self, name: str = "source", *, limit: int = LIMIT) -> bytes:
        target = self.here / "fetched"
        target.unlink(missing_ok=True)
        await copying.fetch(self.link, self.path(name), target, limit=limit)
        return target.read_bytes()


def over_ssh(test: Callable[[Far], Any]) -> Callable[[Path], None]:
    """Run a test in an event loop, with a host that is reached over SSH."""

    def run(tmp_path: Path) -> None:
        asyncio.run(_with_far(Far(tmp_path), test))

    run.__name__ = test.__name__
    return run


async def _with_far(far: Far, test: Callable[[Far], Any]) -> None:
    class Server(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            return False

    class Files(asyncssh.SFTPServer):
        def __init__(self, channel: Any) -> None:
            far.sessions.append(channel)
            super().__init__(channel)

        async def read(self, file_obj: Any, offset: int, size: int) -> bytes:
            far.read.set()
            if far.hangs:
                await asyncio.Event().wait()
            return super().read(file_obj, offset, size)

    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.create_server(
        Server, "127.0.0.1", 0, server_host_keys=[key], sftp_factory=Files
    )
    known = ([key.convert_to_public()], [], [])
    connection = await asyncssh.connect(
        "127.0.0.1",
        server.get_port(),
        known_hosts=known,
        username="x",
        client_keys=None,
        config=None,
    )
    site: Any = SimpleNamespace(lease=1.0, changed=lambda: None)
    far.link = HostLink(Host(address="tev01"), site, None)  # type: ignore[arg-type]
    far.link._connection = connection
    try:
        await test(far)
    finally:
        connection.close()
        await connection.wait_closed()
        server.close()
        await server.wait_closed()
        gc.collect()


@over_ssh
async def test_copies_that_begin_at_once_share_one_session(far):
    targets = [far.here / str(number) for number in range(COPIES)]
    await asyncio.gather(
        *(copying.fetch(far.link, far.path("source"), t, limit=LIMIT) for t in targets)
    )
    assert [target.read_bytes() for target in targets] == [CONTENT] * COPIES
    assert len(far.sessions) == 1


@over_ssh
async def test_a_session_that_has_ended_is_replaced_by_the_next_copy(far):
    assert await far.fetch() == CONTENT
    far.sessions[0].exit(1)
    await far.sessions[0].wait_closed()
    assert await far.fetch() == CONTENT
    assert len(far.sessions) == 2


@over_ssh
async def test_a_session_that_ends_in_a_copy_is_replaced_once(far):
    far.hangs = True
    copy = asyncio.ensure_future(far.fetch())
    for _ in range(2):
        await far.read.wait()
        far.read.clear()
        far.sessions[-1].exit(1)
        await far.sessions[-1].wait_closed()
    with pytest.raises(ClusterError, match="tev01: lost while .*source was copied"):
        await copy
    assert len(far.sessions) == 2
    far.hangs = False
    assert await far.fetch() == CONTENT


@over_ssh
async def test_without_a_connection_the_host_is_gone(far):
    assert await far.fetch() == CONTENT
    far.link._connection.abort()
    await far.link._connection.wait_closed()
    with pytest.raises(HostGoneError):
        await far.fetch()


def test_a_copy_that_stands_still_is_given_up_and_the_next_one_works(tmp_path, monkeypatch):
    monkeypatch.setattr(copying, "_STALL", 0.5)

    async def test(far: Far) -> None:
        far.hangs = True
        began = time.monotonic()
        with pytest.raises(ClusterError, match=r"source: nothing of it was copied for 0\.5 s"):
            await far.fetch()
        assert time.monotonic() - began < 10
        far.hangs = False
        assert await far.fetch() == CONTENT

    asyncio.run(_with_far(Far(tmp_path), test))


@over_ssh
async def test_only_a_regular_file_of_the_size_announced_is_brought(far):
    far.file("big", b"x" * 11)
    (far.there / "link").symlink_to("source")
    (far.there / "folder").mkdir()
    os.mkfifo(far.there / "pipe")
    for name in ("link", "folder", "pipe"):
        with pytest.raises(ClusterError, match=f"tev01: .*{name}: is not a regular file"):
            await far.fetch(name)
    with pytest.raises(ClusterError, match="tev01: .*big: has 11 bytes, more than 10"):
        await far.fetch("big", limit=10)
    with pytest.raises(ClusterError, match=r"tev01: .*missing: No such file"):
        await far.fetch("missing")
    assert list(far.here.iterdir()) == []


@over_ssh
async def test_what_is_not_here_is_no_fault_of_the_host(far):
    with pytest.raises(BadInputError, match="No such file"):
        await copying.push(far.link, far.here / "missing", far.path("target"))
    with pytest.raises(StorageError, match="No such file"):
        await copying.fetch(far.link, far.path("source"), far.here / "no" / "folder", limit=LIMIT)
    (far.here / "input").symlink_to(far.there / "source")
    await copying.push(far.link, far.here / "input", far.path("target"))
    assert not (far.there / "target").is_symlink()
    assert (far.there / "target").read_bytes() == CONTENT


def test_who_gives_up_asking_an_agent_is_forgotten(tmp_path):
    async def test() -> None:
        sent = asyncio.Event()
        wire: Any = SimpleNamespace(stdin=SimpleNamespace(write=lambda _: sent.set()))
        agent = AgentLink(wire, log=tmp_path / "log", on_event=lambda _: None)
        asking = asyncio.ensure_future(agent.call("stat", {}))
        await sent.wait()
        asking.cancel()
        await asyncio.wait({asking})
        assert not agent._calls

    asyncio.run(test())
