"""A host whose user comes back: its batches stand still, and neither lease nor timeout ends them."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_rig import Agent, Work
from execution_rig import act, pids_in, until

from dask_runner.batch import OutcomeStatus
from dask_runner.cluster.channel import Politeness
from dask_runner.execution import process_tree

LEASE = 3.0
NOBODY = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another's terminal")


class Terminal:
    """A pseudo-terminal of another user."""

    def __init__(self) -> None:
        self.ends = os.openpty()
        self.path = os.ttyname(self.ends[1])
        os.chown(self.path, NOBODY, -1)
        self.away()

    def typed(self) -> None:
        os.utime(self.path)

    def away(self) -> None:
        os.utime(self.path, (time.time() - 3600, time.time() - 3600))

    def close(self) -> None:
        for end in self.ends:
            os.close(end)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


@pytest.fixture
def agent(tmp_path: Path, terminal: Terminal) -> Iterator[Agent]:
    agent = Agent(tmp_path, lease=LEASE, politeness=Politeness(user_idle=10))
    yield agent
    agent.close()


@pytest.fixture
def work(agent: Agent, tmp_path: Path) -> Iterator[Work]:
    work = Work(agent, tmp_path)
    yield work
    work.close()


def stand_still(pids: list[int]) -> bool:
    return all(process_tree.state(pid) == "T" for pid in pids)


def test_batches_stand_still_while_somebody_types_and_lose_nothing(agent, work, terminal, tmp_path):
    go = tmp_path / "go"
    sleeping = work.start(act("escapes", pids=str(tmp_path / "pids"), then="sleeps"), timeout=60)
    waiting = work.start(act("waits_for", path=str(go)), timeout=LEASE)
    pids = pids_in(tmp_path / "pids", 4)
    until((tmp_path / "go.waiting").exists, "the second batch")
    terminal.typed()
    vitals = agent.wait_vitals(lambda vitals: vitals.paused, "a pause")
    assert vitals.paused == vitals.refusal == "in use by nobody"
    until(lambda: stand_still(pids), "a standstill")
    began = vitals.reading
    agent.wait_vitals(lambda vitals: vitals.reading > began + 1.5 * LEASE, "longer than the lease")
    assert stand_still(pids)
    terminal.away()
    agent.wait_vitals(lambda vitals: not vitals.paused, "the end of the pause")
    go.touch()
    (outcome,) = work.outcomes(waiting)
    assert outcome.status is OutcomeStatus.DONE
    assert not sleeping.done()
    assert not stand_still(pids)


def test_a_new_worker_is_polite_too(agent, work, terminal, tmp_path):
    terminal.typed()
    agent.wait_vitals(lambda vitals: vitals.paused, "a pause")
    os.kill(agent.member("worker_process"), 9)
    agent.wait_told("worker", 2)
    go = tmp_path / "go"
    go.touch()
    future = work.start(act("waits_for", path=str(go)))
    began = agent.told("heartbeat")[-1].vitals.reading
    agent.wait_vitals(lambda vitals: vitals.reading > began + 1, "a second")
    assert not (tmp_path / "go.waiting").exists()
    terminal.away()
    (outcome,) = work.outcomes(future)
    assert outcome.status is OutcomeStatus.DONE
