"""Batches give way to the people and the limits of a host, on real hosts; nothing is lost by it.

node01 and node02 share the driver's folder; node02 has as many slots as it says itself.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import invariants
import pytest
from product import wait_for
from rig import Rig
from standing import Bench, Standing

from dask_runner.errors import EXIT_INTERRUPTED

LEASE = 3.0
# Those whose host stands still must have begun to within it.
TIMEOUT = 10.0


@pytest.fixture(scope="module")
def standing(_can_build: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    with Standing(
        tmp_path_factory.mktemp("manners"),
        2,
        lease=LEASE,
        per_host={"node02": {"slots": "auto"}},
        environment={"DASK_RUNNER_CLUSTER_USER_IDLE": "10"},
    ) as made:
        yield made


@pytest.fixture
def bench(standing: Standing) -> Iterator[Bench]:
    with standing.bench() as made:
        yield made


@pytest.fixture
def ada(standing: Standing) -> Iterator[subprocess.Popen[str]]:
    """Somebody who logs in to node01, with a terminal."""
    words = standing.department.ssh("node01", user="ada")
    session = subprocess.Popen(
        [*words[:1], "-tt", *words[1:]],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    yield session
    session.kill()
    session.wait()
    session.stdin.close()


def batches_on(bench: Bench, name: str) -> dict[int, str]:
    """Pid -> state of the batch processes of the last run on a host."""
    there = set(bench.department[name].processes())
    found = {}
    for pid in there.intersection(invariants.survivors(bench.timestamps[-1])):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        found[pid] = stat.rpartition(")")[2].split()[0]
    return found


def stands_still(bench: Bench, name: str) -> bool:
    """All stopped, or (D) waiting in vfork for a child that is."""
    states = set(batches_on(bench, name).values())
    return "T" in states and states <= {"T", "D"}


def wait_until_node01_is_still(bench: Bench) -> None:
    one = bench.department["node01"]
    wait_for(lambda: bench.look(one).get("paused") == "in use by ada", "her to be seen", 20)
    wait_for(lambda: stands_still(bench, "node01"), "all batches there to stand still", 20)


def slots(bench: Rig) -> dict[str, int]:
    """Of each host."""
    return {host["name"]: host["slots"] for host in bench.status()["hosts"]}


def test_batches_stand_still_while_somebody_is_there_and_then_go_on(bench, request):
    room = slots(bench)
    one = bench.department["node01"]
    number = 3 * sum(room.values())
    words = ["--timeout", f"{TIMEOUT:g}", "--attempts", "1"]
    bench.job(
        f'echo "$1" >> /var/tmp/{bench.name}-executions\n'
        f"until test -e /var/tmp/{bench.name}-go; do sleep 0.02; done\n"
        'echo "$1" > "$3"\n'
    )
    driver = bench.start(*bench.words(number, *words))
    wait_for(lambda: len(bench.executions_on("node01")) == room[one.address], "its batches")
    session = request.getfixturevalue("ada")
    wait_until_node01_is_still(bench)
    bench.go("node01", "node02")
    told = " ".join(bench.run("status").stdout.split())
    assert "paused: in use by ada" in told
    # Longer than a batch may take, and than the lease: no clock runs for those that stand still.
    wait_for(lambda: bench.done() == number - room[one.address], "the rest to be done")
    time.sleep(TIMEOUT + 1.0)
    assert stands_still(bench, "node01")
    assert driver.poll() is None
    session.stdin.write("exit\n")
    session.stdin.flush()
    bench.end(driver)
    result = bench.check(finished=True)
    assert result.done == set(range(number))
    assert sorted(bench.executions()) == list(range(number)), "each once"
    assert not bench.notes("lost-host")


def test_a_host_that_stands_still_can_be_ended_all_the_same(bench, request):
    room = slots(bench)
    driver = bench.held(8, running=min(8, sum(room.values())))
    request.getfixturevalue("ada")
    wait_until_node01_is_still(bench)
    driver.send_signal(signal.SIGINT)
    time.sleep(0.3)  # two signals at once would be one
    driver.send_signal(signal.SIGINT)
    bench.end(driver, EXIT_INTERRUPTED)
    assert bench.check().pending == set(range(8))


def test_a_dry_test_shows_a_pilot_and_how_slots_come_about(bench):
    job = ("/bin/sh", "-c", 'echo "$1" > "$0"', "{output}", "{index}")
    said = bench.run("command", "-n", "4", "--dry-run", "--", *job).stdout
    one, two = (bench.department[name].address for name in ("node01", "node02"))
    cores = max(1, (os.cpu_count() or 1) - 1)
    assert f"{one}: 2 (as the hostfile or `up --slots` says)" in said
    assert f"{two}: {cores} (auto: cores less one)" in said
    assert "pilot: batch 0 here: " in said
    assert slots(bench) == {one: 2, two: cores}
    assert not bench.timestamps, "nothing was made"


@pytest.mark.parametrize(
    ("setting", "value", "said", "why"),
    [
        ("QUIET_HOURS", "00:00-00:00", "paused: quiet hours", "quiet hours 00:00-00:00"),
        ("LOAD", "0.0001", "paused: load of other", "load of other processes"),
        ("MEMORY_CEILING", "0.001", "no new batches: memory", "memory "),
    ],
)
def test_a_host_beyond_a_limit_gets_no_batches_and_the_run_says_why(
    bench, standing, setting, value, said, why
):
    address = bench.department["node01"].address
    environment = {**standing.rig.environment, f"DASK_RUNNER_CLUSTER_{setting}": value}
    bench.environment = environment
    words: list[Any] = ["--name", "limited", "--hosts", address]
    standing.rig.environment, before = environment, standing.rig.environment
    try:
        standing.rig.run("up", "--detach", *words)
    finally:
        standing.rig.environment = before
    try:
        driver = bench.start(*bench.words(4, "--cluster", "limited"))
        wait_for(lambda: bench.timestamps, "the run")
        (host,) = next(c for c in bench.json("status")["clusters"] if c["name"] == "limited")[
            "hosts"
        ]
        assert why in host["refusal"]
        assert said in " ".join(bench.run("status").stdout.split())
        driver.send_signal(signal.SIGINT)
        output = bench.end(driver, EXIT_INTERRUPTED)
        assert f"no host takes batches now ({address}: {why}" in output
        assert not bench.executions()
        assert bench.check().pending == set(range(4))
    finally:
        standing.rig.run("down", "--name", "limited")
