"""Processes of a cluster that are killed or stand still (rows 10, 17, 18, 25): what they had started
is dead before anything takes its place, and only what was lost runs again.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from department import Department
from product import wait_for
from pulse import Pulse
from rig import alive, know_numerics

HOSTS = ("node01", "node02", "node03")
SLOTS = 2
ALL = SLOTS * len(HOSTS)


@pytest.fixture(scope="module")
def cluster(_can_build: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulse]:
    folder = tmp_path_factory.mktemp("kills")
    with Department(len(HOSTS), share=[folder]) as department:
        rig = Pulse(folder, department)
        try:
            rig.up(slots=SLOTS)
            yield rig
        finally:
            rig.close()


@pytest.fixture
def rig(cluster: Pulse, request: pytest.FixtureRequest) -> Iterator[Pulse]:
    """The cluster with all hosts up, and a folder for this test."""
    cluster.all_up()
    yield cluster.at(request.node.name)
    cluster.end_runs()
    for host in cluster.department.hosts:
        # Of a test that failed.
        if not host.alive:
            host.boot()
        host.heal()
        if not host.named("sshd"):
            host.start_sshd()


def test_row_10_a_worker_and_an_agent_are_killed(rig):
    driver = rig.begin(ALL)
    lost = {host: rig.on_host(host) for host in ("node01", "node02")}
    wait_for(lambda: all(rig.escaped(one) for one in rig.waiting()), "all to have escapees")
    rig.release(rig.on_host("node03"))
    old = {host: rig.department[host].processes("DASK_RUNNER_CLUSTER=") for host in lost}
    os.kill(rig.on("node01", "worker_process"), signal.SIGKILL)
    rig.wait_starts(lost["node01"], 2)
    # One after the other: what had failed on node01 could be sent to the dying node02, and would
    # then wait for node03 alone, whose slots are held.
    rig.wait_phase("node01", "up")
    os.kill(rig.on("node02", "host_agent"), signal.SIGKILL)
    rig.wait_starts(lost["node02"], 2)
    # The agent whose worker was killed is the same; of all others nobody is left.
    left = [pid for host in lost for pid in old[host] if alive(pid)]
    assert left == [rig.on("node01", "host_agent")]
    assert rig.lost_with("node01") == lost["node01"]
    # Its worker may have told that it ends what it has, and have got others before it was gone.
    assert f"the worker on {rig.department['node02'].address} is gone" in rig.texts("lost-host")
    status = rig.wait_phase("node01", "up")
    assert any("its worker died (killed by SIGKILL)" in error for error in status["errors"])
    status = rig.wait_phase("node02", "up")
    assert any("its agent ended (killed by SIGKILL)" in error for error in status["errors"])
    rig.finish(driver, ALL)
    # The dying worker of node02 gives its batches back, and may get them again before it is known
    # to be gone: they begin once more. `finish` has checked that nothing ran twice at once.
    assert ALL + 2 * SLOTS <= len(rig.starts()) <= ALL + 3 * SLOTS
    assert f"{rig.department['node02'].address} is back" in rig.texts("host-joined")


def test_row_17_the_scheduler_and_then_its_agent_are_killed(rig):
    driver = rig.begin(ALL)
    done = rig.on_host("node03")
    rig.release(done)
    others = set(range(ALL)) - done
    address = rig.status()["address"]
    os.kill(rig.scheduler_process("scheduler_process"), signal.SIGKILL)
    rig.wait_starts(others, 2)
    os.kill(rig.scheduler_process("host_agent"), signal.SIGKILL)
    rig.wait_starts(others, 3)
    assert rig.status()["address"] == address
    rig.finish(driver, ALL)
    assert len(rig.starts()) == len(done) + 3 * len(others)
    assert len(rig.notes("cluster-restarted")) == 2
    assert not rig.notes("lost-host"), "no host is to blame"
    events = rig.status()["events"]
    assert sum("the scheduler was started again" in event for event in events) == 2


def test_row_17_a_scheduler_on_a_host_is_killed_and_then_its_host_agent(rig):
    hosts = [rig.department[name].address for name in ("node01", "node02")]
    words = ("--name", "other", "--hosts", ",".join(hosts), "--scheduler", hosts[1])
    rig.run("up", "--detach", "--hostfile", str(rig.hostfile), *words)
    driver = rig.begin(2 * SLOTS, "--cluster", "other")
    done = rig.on_host("node01")
    rig.release(done)
    others = set(range(2 * SLOTS)) - done
    os.kill(rig.scheduler_process("scheduler_process", "other"), signal.SIGKILL)
    rig.wait_starts(others, 2)
    scheduler = rig.scheduler_process("scheduler_process", "other")
    os.kill(parent(scheduler), signal.SIGKILL)
    rig.wait_starts(others, 3)
    rig.finish(driver, 2 * SLOTS)
    assert len(rig.starts()) == len(done) + 3 * len(others)
    assert len(rig.notes("cluster-restarted")) == 2
    rig.run("down", "--name", "other")


def test_row_17_the_host_of_the_scheduler_is_cut_off_and_then_loses_its_power(rig):
    hosts = [rig.department[name].address for name in ("node01", "node02")]
    words = ("--name", "other", "--hosts", ",".join(hosts), "--scheduler", hosts[1])
    rig.run("up", "--detach", "--hostfile", str(rig.hostfile), *words)
    driver = rig.begin(2 * SLOTS, "--cluster", "other")
    done = rig.on_host("node01")
    rig.release(done)
    others = set(range(2 * SLOTS)) - done
    host = rig.department["node02"]
    host.cut()
    wait_for(lambda: phase_in(rig, "other", host.address) == "lost", "it to be lost")
    host.heal()
    rig.wait_starts(others, 2)
    host.kill()
    wait_for(lambda: phase_in(rig, "other", host.address) != "up", "it to be lost again")
    host.boot()
    know_numerics(host)
    rig.wait_starts(others, 3)
    rig.finish(driver, 2 * SLOTS)
    assert len(rig.starts()) == len(done) + 3 * len(others)
    assert len(rig.notes("cluster-restarted")) == 2
    rig.run("down", "--name", "other")


def phase_in(rig: Pulse, cluster: str, address: str) -> str:
    """Of a host in a cluster of that name."""
    clusters = rig.json("status")["clusters"]
    (found,) = (one for one in clusters if one["name"] == cluster)
    return next(str(host["phase"]) for host in found["hosts"] if host["name"] == address)


def test_row_18_processes_that_stand_still_are_fenced(rig):
    rig.thaw = 0.5
    driver = rig.begin(ALL)
    worker, frozen = rig.on_host("node01"), rig.on_host("node02")
    rig.release(rig.on_host("node03"))
    host = rig.department["node02"]
    # Nobody can come and clear up: those that go on after the lease must end by themselves.
    host.stop_sshd()
    rig.signal(signal.SIGSTOP, rig.on("node01", "worker_process"))
    old = rig.freeze("node02")
    lost = rig.wait_phase("node02", "lost")
    assert "not heard of for longer than its lease" in " ".join(lost["errors"])
    rig.wait_starts(frozen, 2)
    again = {one.when for one in rig.starts_of(frozen)}
    rig.signal(signal.SIGCONT, *old)
    wait_for(lambda: not any(map(alive, old)), "those that went on to end", 10)
    assert {one.when for one in rig.starts_of(frozen)} == again
    host.start_sshd()
    rig.wait_phase("node02", "up")
    # The worker's agent has waited longer for its word than a busy machine may take.
    rig.wait_starts(worker, 2)
    assert any("killed: silent for" in error for error in rig.look("node01")["errors"])
    assert rig.lost_with("node01") == worker
    assert rig.lost_with("node02") == frozen
    rig.finish(driver, ALL)
    assert len(rig.starts()) == ALL + len(worker | frozen)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
