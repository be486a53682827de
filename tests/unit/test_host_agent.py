"""What the agent does about workers that cannot start, without a cluster."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from typing import Any

import pytest

from dask_runner.cluster.channel import AgentConfig, Event
from dask_runner.cluster.credentials import Credentials
from dask_runner.cluster.host import children
from dask_runner.cluster.host.children import Delay, Hands
from dask_runner.cluster.host.outbox import Outbox
from dask_runner.cluster.host.worker_keeper import WorkerKeeper

READY = """print('{"kind": "worker"}')"""
FAILS = "raise SystemExit(3)"


class ToldOutbox(Outbox):
    """Keeps what is told instead of writing it."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def tell(self, event: Event) -> None:
        self.events.append(event)

    def tell_line(self, line: bytes) -> None:
        pass


class ScriptedHands(Hands):
    """Starts these scripts, one after the other; the processes of pytest are not its to sweep."""

    def __init__(self, scripts: list[str]) -> None:
        super().__init__()
        self._left = iter(scripts)

    async def start(self, module: str, *, keep: bool = False) -> Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-c", next(self._left), stdin=PIPE, stdout=PIPE
        )

    async def sweep(self) -> list[int]:
        return []


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(children, "BACKOFF", (0.0, 0.0))
    if sys.version_info < (3, 12):
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())


def keep(scripts: list[str], **config: Any) -> list[Event]:
    """Keep workers that are these scripts; what was told."""
    outbox = ToldOutbox()

    async def run() -> None:
        worker = WorkerKeeper(
            AgentConfig(
                nonce="n", cluster="c", host="h", bind="127.0.0.1", slots=1, umask=0o022,
                scheduler="tls://127.0.0.1:1", credentials=Credentials(ca="", cert="", key=""),
                **config,
            ),
            hands=ScriptedHands(scripts), outbox=outbox, lease="",
        )  # fmt: skip
        await worker.keep()

    try:
        asyncio.run(run())
    except RuntimeError as error:
        outbox.events.append(Event(kind="given-up", text=str(error)))
    return outbox.events


def test_workers_that_never_get_ready_are_given_up_with_the_reason():
    told = keep([FAILS] * 9)
    assert [event.kind for event in told] == ["worker-died"] * 5 + ["given-up"]
    assert told[-1].text.startswith("5 workers in a row")
    assert "exit code 3" in told[-1].text


def test_a_worker_that_was_ready_makes_a_new_count():
    told = keep([FAILS] * 4 + [READY] + ["raise SystemExit(4)"] * 9)
    assert len(told) == 4 + 1 + 5 + 1
    assert "exit code 4" in told[-1].text


def test_with_a_lease_the_driver_decides_when_to_give_up():
    told = keep([FAILS] * 9, lease=10.0)
    assert len(told) == 9 + 1
    assert "StopIteration" in told[-1].text


def test_something_that_prints_there_is_no_sign_of_readiness():
    assert len(keep(["print('hello')\nprint('{}')\nraise SystemExit(3)"] * 9)) == 6


def test_the_delay_grows_until_a_worker_has_had_a_good_life(monkeypatch):
    monkeypatch.setattr(children, "BACKOFF", (0.1, 1.0))
    delay = Delay()
    assert [delay.after(1.0) for _ in range(6)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    assert delay.after(100.0) == pytest.approx(0.1)
    assert delay.after(1.0) == pytest.approx(0.2)
