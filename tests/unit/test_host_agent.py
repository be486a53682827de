"""What the agent does about workers that cannot start, without a cluster."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process

import pytest

from dask_runner.cluster import host_agent
from dask_runner.cluster.channel import AgentConfig, Event
from dask_runner.cluster.tls import Credentials


@pytest.fixture
def told(monkeypatch):
    events: list[Event] = []
    monkeypatch.setattr(host_agent, "send_event", events.append)
    monkeypatch.setattr(host_agent, "send_line", lambda line: None)
    monkeypatch.setattr(host_agent, "kill_until_empty", lambda **_: None)
    monkeypatch.setattr(host_agent, "_BACKOFF", (0.0, 0.0))
    if sys.version_info < (3, 12):
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())
    return events


def supervise(monkeypatch, scripts: list[str]) -> None:
    """Supervise workers that are these scripts, one after the other."""
    left = iter(scripts)

    async def spawn(module: str) -> Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-c", next(left), stdin=PIPE, stdout=PIPE
        )

    monkeypatch.setattr(host_agent, "_spawn", spawn)
    config = AgentConfig(
        nonce="n",
        cluster="c",
        host="h",
        bind="127.0.0.1",
        slots=1,
        umask=0o022,
        scheduler="tls://127.0.0.1:1",
        credentials=Credentials(ca="", cert="", key=""),
    )
    asyncio.run(host_agent.Agent(config)._supervise())


def test_workers_that_never_get_ready_are_given_up_with_the_reason(monkeypatch, told):
    with pytest.raises(RuntimeError, match=r"5 workers in a row .* exit code 3"):
        supervise(monkeypatch, ["raise SystemExit(3)"] * 9)
    assert [event.kind for event in told] == ["worker-died"] * 4


def test_a_worker_that_was_ready_makes_a_new_count(monkeypatch, told):
    scripts = ["raise SystemExit(3)"] * 4 + ["print('{}')"] + ["raise SystemExit(4)"] * 9
    with pytest.raises(RuntimeError, match="exit code 4"):
        supervise(monkeypatch, scripts)
    assert len(told) == 4 + 1 + 4
