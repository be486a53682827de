"""The agent's supervision: deaths, restarts, leftovers, cancelling, what it answers (rows 10, 17)."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from agent_rig import Agent, Work, dead
from execution_rig import RUN, act, alive, pids_in, until

from dask_runner.batch import FailureKind, OutcomeStatus
from dask_runner.cluster.channel import Cancel, Event, Restart

LEASE = 10.0


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    with ExitStack() as stack:

        def start(**config: Any) -> Agent:
            agent = Agent(tmp_path, **{"lease": LEASE, **config})
            stack.callback(agent.close)
            return agent

        yield start
    assert list((tmp_path / "scratch").iterdir()) == []


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


def note_survivors(agent: Agent, pids: list[int], kind: str) -> list[list[int]]:
    """Who of them is alive in the moment when `kind` is told."""
    seen: list[list[int]] = []

    def look(event: Event) -> None:
        if event.kind == kind:
            seen.append([pid for pid in pids if alive(pid)])

    agent.on_event = look
    return seen


def test_row_10_a_dead_worker_is_told_when_its_tree_is_dead_and_replaced_once(
    agents, works, tmp_path
):
    agent = agents()
    work = works(agent)
    pids = busy(work, tmp_path)
    below = [pid for pid in agent.members() if pid != agent.process.pid]
    below.remove(agent.member("scheduler_process"))
    assert len(below) >= 4
    seen = note_survivors(agent, [*pids, *below], "worker-died")
    old = agent.member("worker_process")
    os.kill(old, signal.SIGKILL)
    agent.wait_told("worker", 2)
    assert seen == [[]]
    assert agent.told("worker-died")[0].text == "killed by SIGKILL"
    assert agent.told("worker-died")[0].pid == old
    (outcome,) = work.outcomes(work.start(act("say")))
    assert outcome.status is OutcomeStatus.DONE
    assert len(agent.told("worker")) == 2
    assert agent.told("worker")[0].address != agent.told("worker")[1].address


def test_row_18_a_worker_that_stands_still_is_killed_after_its_tree(agents, works, tmp_path):
    agent = agents(lease=2.0)
    pids = busy(works(agent), tmp_path)
    seen = note_survivors(agent, pids, "worker-died")
    os.kill(agent.member("worker_process"), signal.SIGSTOP)
    died = agent.wait_told("worker-died")
    assert "silent for 2" in died.text
    assert seen == [[]]
    agent.wait_told("worker", 2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_row_10_nothing_outlives_the_agent(agents, works, tmp_path, number):
    agent = agents()
    pids = busy(works(agent), tmp_path)
    folder = agent.folder
    agent.process.send_signal(number)
    agent.process.wait(10)
    until(lambda: dead(pids), "the end of the batches", 5)
    until(lambda: not agent.members(), "the end of all", 15)
    if number == signal.SIGTERM:
        assert not folder.exists()
    else:
        # The next agent of this host removes it.
        agents(cluster=agent.cluster, slots=0).wait_told("heartbeat")
        until(lambda: not folder.exists(), "the old folder's end")


def test_a_new_agent_first_ends_what_an_old_one_left(agents, works, tmp_path):
    old = agents()
    other = agents(cluster=old.cluster, host="h2", slots=0)
    other.wait_told("heartbeat")
    pids = busy(works(old), tmp_path)
    folder = old.folder
    # Cut off for the driver, as it were: alive, and in possession of its batches.
    os.kill(old.process.pid, signal.SIGSTOP)
    before = set(old.members())
    assert set(pids) < before
    new = agents(cluster=old.cluster)
    new.wait_told("folder")
    assert dead([*before]), "an old process was alive when the new agent was there"
    new.wait_told("worker")
    until(lambda: not folder.exists(), "the old folder's end")
    assert new.folder.exists()
    assert other.process.poll() is None
    assert other.folder.exists()


def test_row_17_a_dead_scheduler_returns_on_the_same_port_with_a_new_worker(
    agents, works, tmp_path
):
    agent = agents()
    pids = busy(works(agent), tmp_path)
    os.kill(agent.member("scheduler_process"), signal.SIGKILL)
    again = agent.wait_told("scheduler", 2)
    assert again.address == agent.told("scheduler")[0].address
    agent.wait_told("worker", 2)
    assert dead(pids), "batches of the old worker live on"
    assert "killed" in agent.told("scheduler-died")[0].text
    work = works(agent)
    (outcome,) = work.outcomes(work.start(act("say")))
    assert outcome.status is OutcomeStatus.DONE


def taken(thief: socket.socket, port: int) -> bool:
    """True once the thief has the port."""
    try:
        thief.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def test_a_scheduler_finds_another_port_if_its_own_is_taken(agents):
    agent = agents(slots=0)
    first = agent.wait_told("scheduler").address
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        pid = agent.member("scheduler_process")
        # Held still, so that it cannot have a new scheduler there before the thief.
        agent.process.send_signal(signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
        until(lambda: taken(thief, int(first.rpartition(":")[2])), "its death")
        thief.listen()
        agent.process.send_signal(signal.SIGCONT)
        second = agent.wait_told("scheduler", 2).address
    assert second != first


def test_a_restarted_worker_goes_to_the_scheduler_it_is_told(agents, works, tmp_path):
    first, second = agents(), agents(host="h2", slots=0)
    pids = busy(works(first), tmp_path)
    seen = note_survivors(first, pids, "worker-died")
    address = second.wait_told("scheduler").address
    first.tell(Restart(scheduler=address))
    first.wait_told("worker", 2)
    assert seen == [[]]
    from distributed import Client

    from dask_runner.cluster.dask_settings import security

    with Client(address, security=_security(security), set_as_default=False, timeout=20) as client:
        workers = client.scheduler_info(n_workers=-1)["workers"]
    assert set(workers) == {first.told("worker")[-1].address}


def _security(make: Any) -> Any:
    from agent_rig import CREDENTIALS

    return make(CREDENTIALS)


def test_a_run_is_cancelled_and_no_other(agents, works, tmp_path):
    agent = agents()
    work = works(agent)
    future = work.start(act("escapes", pids=str(tmp_path / "pids"), then="sleeps"))
    pids = pids_in(tmp_path / "pids", 4)
    agent.tell(Cancel(driver="20010101T000000Z"))
    agent.wait_vitals(lambda vitals: [slot.run for slot in vitals.slots] == [RUN], "its slot")
    assert not dead(pids)
    agent.tell(Cancel(driver=RUN))
    (outcome,) = work.outcomes(future)
    assert dead(pids)
    assert outcome.failure.kind is FailureKind.CANCELLED


def test_batches_are_as_nice_as_the_host_wants(agents, works, tmp_path):
    work = works(agents(nice=7))
    seen = tmp_path / "seen"
    (outcome,) = work.outcomes(work.start(act("looks_around", into=str(seen)), nice=3))
    assert outcome.status is OutcomeStatus.DONE, outcome
    assert '"nice": 7,' in seen.read_text()


def test_a_short_host_refuses_and_says_why(agents):
    agent = agents(slots=0, scratch_floor=1 << 60)
    vitals = agent.wait_vitals(lambda vitals: vitals.refusal, "a refusal")
    assert vitals.refusal.startswith("scratch has only ")
    assert vitals.memory_total > vitals.memory_free > 0
    assert vitals.cores == os.cpu_count()
    other = agents(host="h2", slots=0, memory_ceiling=1e-9)
    assert "memory" in other.wait_vitals(lambda vitals: vitals.refusal, "a refusal").refusal


def test_memory_of_the_batches_counts_where_the_host_has_a_share(agents, works, tmp_path):
    agent = agents(memory=120_000_000, memory_ceiling=0.9)
    agent.wait_vitals(lambda vitals: vitals.cores, "an examination")
    assert not agent.told("heartbeat")[-1].vitals.refusal
    work = works(agent)
    work.start(act("eats", megabytes=150))
    vitals = agent.wait_vitals(lambda vitals: vitals.refusal, "a refusal")
    assert "of 0.1 GB" in vitals.refusal


def test_a_host_that_others_have_filled_refuses_also_where_it_has_a_share(agents):
    agent = agents(slots=0, memory=1 << 60, memory_ceiling=1e-9)
    vitals = agent.wait_vitals(lambda vitals: vitals.refusal, "a refusal")
    assert vitals.refusal.startswith("memory ")


def test_operations_answer_each_with_its_value_or_its_error(agents, tmp_path):
    agent = agents(slots=0)
    (tmp_path / "probe").write_text("the token\n")
    look = agent.ask("look", path=str(tmp_path / "probe"), token="the token")
    assert look == {"seen": True, "writable": True}
    look = agent.ask("look", path=str(tmp_path / "probe"), token="another")
    assert look == {"seen": False, "writable": False}
    missing = agent.ask("look", path=str(tmp_path / "no" / "probe"), token="t")
    assert missing == {"seen": False, "writable": False}
    attempts = Path(agent.ask("folder", holder="20261120T225745Z/0123abcd"))
    assert attempts.is_relative_to(agent.folder)
    assert attempts.stat().st_mode & 0o777 == 0o700
    (attempts / "000").mkdir()
    (attempts / "000" / "file").write_text("12345")
    (there, not_there) = agent.ask("stat", paths=[str(attempts / "000" / "file"), "/nowhere"])
    assert there["size"] == 5
    assert not_there is None
    agent.ask("remove", path=str(attempts / "000"))
    agent.ask("remove", path=str(attempts / "000"))
    assert list(attempts.iterdir()) == []
    for path in (tmp_path / "probe", attempts.parent, attempts / ".." / "..", Path("/")):
        assert "stays" in agent.call("remove", path=str(path)).text, path
    (attempts / "link").symlink_to(tmp_path)
    assert "stays" in agent.call("remove", path=str(attempts / "link" / "probe")).text
    agent.ask("remove", path=str(attempts / "link"))
    assert (tmp_path / "probe").exists()
    assert "no operation 'dance'" in agent.call("dance").text
    assert "KeyError" in agent.call("look").text
    assert "not the name of a driver" in agent.call("folder", holder="../x").text


def test_a_host_behind_address_translation_listens_everywhere_and_tells_its_outer_address(agents):
    # An address for documentation: no machine has it.
    agent = agents(slots=0, bind="192.0.2.1")
    address = agent.wait_told("scheduler").address
    assert address.startswith("tls://192.0.2.1:")
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=5):
        pass


def test_the_dashboard_is_on_loopback_and_only_if_asked_for(agents):
    assert agents(slots=0).wait_told("scheduler").dashboard == 0
    agent = agents(host="h2", slots=0, dashboard=True)
    port = agent.wait_told("scheduler").dashboard
    import psutil

    process = psutil.Process(agent.member("scheduler_process"))
    places = {
        (connection.laddr.ip, connection.laddr.port)
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert ("127.0.0.1", port) in places
    assert {ip for ip, _ in places} == {"127.0.0.1"}
