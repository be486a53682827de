"""The lease: whoever stands still or falls silent, the batches are dead in time (rows 13 and 18)."""

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from agent_rig import Agent, Work, dead
from execution_rig import act, pids_in, until

from dask_runner.batch import OutcomeStatus

LEASE = 2.0
# What a host may take to kill its batches; the driver allows it as much.
MARGIN = 2.0


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    with ExitStack() as stack:

        def start(**config: Any) -> Agent:
            agent = Agent(tmp_path, **{"lease": LEASE, **config})
            stack.callback(agent.close)
            return agent

        yield start


@pytest.fixture
def works(tmp_path: Path) -> Iterator[Callable[[Agent], Work]]:
    with ExitStack() as stack:

        def start(agent: Agent) -> Work:
            work = Work(agent, tmp_path)
            stack.callback(work.close)
            return work

        yield start


def busy(work: Work, folder: Path) -> list[int]:
    """Start a batch that escapes in all ways, and sleeps; the pids of its descendants."""
    work.start(act("escapes", pids=str(folder / "pids"), then="sleeps"))
    return pids_in(folder / "pids", 4)


def in_time(agent: Agent, pids: list[int]) -> None:
    until(lambda: dead(pids), "the end of the batches", 30)
    assert time.monotonic() - agent.last_echo < LEASE + MARGIN


def test_echoes_keep_a_host_at_work_for_longer_than_a_lease(agents, works, tmp_path):
    agent = agents()
    pids = busy(works(agent), tmp_path)
    began = agent.told("heartbeat")[-1].vitals.reading
    agent.wait_vitals(lambda vitals: vitals.reading > began + 2 * LEASE, "two leases")
    assert not dead(pids)


def test_a_host_that_hears_nothing_ends_its_batches_and_itself(agents, works, tmp_path):
    agent = agents()
    pids = busy(works(agent), tmp_path)
    agent.echoing = False
    in_time(agent, pids)
    agent.wait_gone(LEASE + MARGIN)
    assert "no word from the driver" in agent.told("error")[-1].text


def test_old_echoes_prolong_nothing(agents, tmp_path):
    from dask_runner.cluster.channel import Echo

    agent = agents(slots=0)
    agent.wait_told("heartbeat", 2)
    agent.echoing = False
    reading = agent.told("heartbeat")[-1].vitals.reading
    began = time.monotonic()

    def nag() -> bool:
        agent.tell(Echo(reading=reading))
        agent.tell(Echo(reading=reading + 1e6))
        return agent.process.poll() is not None

    until(nag, "the agent's end", 20)
    assert time.monotonic() - began < LEASE + MARGIN
    agent.wait_gone(1)


def test_a_stopped_agent_keeps_no_batch_alive(agents, works, tmp_path):
    agent = agents()
    pids = busy(works(agent), tmp_path)
    os.kill(agent.process.pid, signal.SIGSTOP)
    in_time(agent, pids)
    until(lambda: not agent.member("worker_process"), "the worker's end", 10)
    os.kill(agent.process.pid, signal.SIGCONT)
    agent.wait_gone(15)


def test_a_stopped_worker_keeps_no_batch_alive(agents, works, tmp_path):
    agent = agents()
    pids = busy(works(agent), tmp_path)
    os.kill(agent.member("worker_process"), signal.SIGSTOP)
    agent.echoing = False
    in_time(agent, pids)
    agent.wait_gone(5)


def test_stopped_agent_and_worker_keep_no_batch_alive(agents, works, tmp_path):
    agent = agents()
    pids = busy(works(agent), tmp_path)
    os.kill(agent.member("worker_process"), signal.SIGSTOP)
    os.kill(agent.process.pid, signal.SIGSTOP)
    in_time(agent, pids)
    os.kill(agent.process.pid, signal.SIGCONT)
    agent.wait_gone(5)


def test_an_agent_whose_words_nobody_reads_ends_in_time(agents, works, tmp_path):
    agent = agents()
    pids = busy(works(agent), tmp_path)
    fcntl.fcntl(agent.process.stdout, 1031, 4096)  # F_SETPIPE_SZ
    agent.echoing = agent.reading = False
    agent._reader.join(10)
    from dask_runner.cluster.channel import Call

    for number in range(4):  # fills the pipe at once
        agent.send(Call(id=number, operation="stat", arguments={"paths": ["/nowhere"] * 2000}))
    in_time(agent, pids)
    agent.wait_gone(LEASE + MARGIN)


def test_batches_that_the_lease_ends_are_nobodys_fault(tmp_path):
    from execution_rig import Rig, new_pool

    from dask_runner.execution.lease import Lease

    lease = Lease(1.0)
    pool = new_pool(tmp_path / "pool", lease=lease.path)
    try:
        rig = Rig(pool, tmp_path)
        pids = tmp_path / "pids"
        outcomes = rig.run(act("escapes", pids=str(pids), then="sleeps"), act("say"))
        assert dead(pids_in(pids, 4))
        assert [outcome.status for outcome in outcomes] == [OutcomeStatus.RETURNED] * 2
        assert not any(outcome.failure for outcome in outcomes)
        assert rig.one(act("say")).status is OutcomeStatus.RETURNED, "nothing starts any more"
    finally:
        pool.close()
        lease.close()
