"""Hosts that are cut off, for a moment, for long, again and again, one way, or switched off (rows
12, 13, 14, 25): a batch that runs elsewhere was dead before, and everybody comes back by himself.
"""

import random
import signal
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest
from department import Department
from product import wait_for
from pulse import Pulse, while_true
from rig import know_numerics

# As 12 s of 30 s. A shorter lease would be over before TCP tries again what was lost: after 3 s.
LEASE = 6.0
SHORT = 0.4 * LEASE
SLOTS = 2
SHARED = ("node01", "node02", "node03")
ALL = SLOTS * len(SHARED)
# Of files that take seconds at that speed, to and from a host without the folder.
MEGABITS = 16
BYTES = 6_000_000
# The state of a connection in /proc/net/tcp.
ESTABLISHED = "01"
# Runs on any host, and waits for a file there; what it reads and writes is large.
TOOL = """\
#!/bin/sh
echo "$1 $(hostname)" >> /tmp/tool-starts
cat "$DASK_RUNNER_SHIPPED/large" > "$2"
"""


@pytest.fixture(scope="module")
def cluster(_can_build: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulse]:
    folder = tmp_path_factory.mktemp("partitions")
    with Department(4, node04={"shared": False}, share=[folder]) as department:
        rig = Pulse(folder, department, lease=LEASE)
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
        if host.alive:
            host.heal()


def begin(rig: Pulse):
    """A run on all shared hosts, each slot with a batch that waits; node03's are done then, so that
    there is room.
    """
    driver = rig.begin(ALL, "--hosts", f"!{rig.department['node04'].address}")
    rig.release(rig.on_host("node03"))
    return driver


def test_row_12_a_short_cut_changes_nothing(rig):
    driver = begin(rig)
    workers = {host: rig.on(host, "worker_process") for host in SHARED}
    before = {host: rig.look(host) for host in SHARED}
    for host in SHARED:
        rig.department[host].cut()
    time.sleep(SHORT)
    for host in SHARED:
        rig.department[host].heal()
    while_true(
        lambda: all(rig.look(host)["phase"] == "up" for host in SHARED), LEASE, "a host was lost"
    )
    rig.finish(driver, ALL)
    assert len(rig.starts()) == ALL
    assert {host: rig.on(host, "worker_process") for host in SHARED} == workers
    for host in SHARED:
        assert rig.look(host).get("errors") == before[host].get("errors")
    assert not rig.notes("lost-host")


def test_row_13_after_a_long_cut_batches_run_elsewhere_and_the_host_returns(rig):
    driver = begin(rig)
    cut, deaf = rig.on_host("node01"), rig.on_host("node02")
    rig.department["node01"].cut()
    rig.department["node02"].deafen()
    began = time.monotonic()
    for host in ("node01", "node02"):
        assert rig.wait_phase(host, "lost")["errors"]
    assert time.monotonic() - began > LEASE
    # There is room for two of the four.
    wait_for(lambda: len(rig.starts_of(cut | deaf)) == len(cut | deaf) + SLOTS, "two to run again")
    assert rig.lost_with("node01") == cut
    assert rig.lost_with("node02") == deaf
    for host in ("node01", "node02"):
        rig.department[host].heal()
        rig.wait_phase(host, "up")
    rig.finish(driver, ALL)
    assert len(rig.starts()) == ALL + len(cut | deaf)
    assert {line["status"] for line in rig.lines("outcome")} == {"done", "returned"}, "no blame"
    back = rig.texts("host-joined")
    assert all(f"{rig.department[host].address} is back" in back for host in ("node01", "node02"))


def test_row_25_an_outcome_that_comes_when_its_host_has_been_given_up_is_ignored(rig):
    number, quick = 60, 30
    # Short ones, so that others are sent in groups of several.
    rig.let_go(*range(quick))
    for batch in range(quick):
        (rig.folder / f"quick-{batch}").touch()
    # Each batch of a group tells its outcome as soon as it ends, not the group when it does.
    rig.environment["DASK_RUNNER_RUN_GROUP"] = "1"
    words = ("--hosts", f"!{rig.department['node04'].address}")
    driver = rig.start(*rig.words(number, "-q", *words))
    del rig.environment["DASK_RUNNER_RUN_GROUP"]
    rig.wait_waiting(driver, ALL)
    late, following = first_of_group(rig, "node01")
    # What its host tells arrives here, but nobody reads it until the host has been given up.
    scheduler = rig.scheduler_process()
    rig.signal(signal.SIGSTOP, scheduler)
    waiting = partial(unread, scheduler, rig.department["node01"].address)
    # The worker's sign of life, which it sends again only when that one is answered.
    wait_for(lambda: any(waiting().values()), "a sign of life")
    before = waiting()
    rig.let_go(late)
    wait_for(lambda: rig.starts_of([following]), "the next one, which starts when that is told")
    wait_for(
        lambda: any(size > before.get(one, size) for one, size in waiting().items()),
        "the outcome to arrive",
    )
    (rig.folder / f"go-{late}").unlink()
    rig.department["node01"].cut()
    rig.wait_phase("node01", "lost")
    # A moment after the host: what was told before is still welcome then.
    wait_for(lambda: rig.outcomes_of(late) == ["returned"], "the run to give it up")
    rig.signal(signal.SIGCONT, scheduler)
    (note,) = wait_for(lambda: rig.notes("late-outcome"), "the late outcome")
    assert note["data"] == {"batch": late, "attempt": 1}
    assert late not in rig.done_batches()
    rig.department["node01"].heal()
    rig.wait_phase("node01", "up")
    rig.finish(driver, number)
    assert [one.batch for one in rig.ends()].count(late) == 2
    assert rig.outcomes_of(late) == ["returned", "done"]


def unread(pid: int, peer: str) -> dict[str, int]:
    """Bytes that have come from a peer for the process's network and were not read, for each
    connection.
    """
    octets = bytes(int(part) for part in peer.split("."))
    wanted = octets[::-1].hex().upper()
    found = {}
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, queues, *_ = line.split()
        if remote.startswith(f"{wanted}:") and state == ESTABLISHED:
            found[f"{local} {remote}"] = int(queues.partition(":")[2], 16)
    return found


def first_of_group(rig: Pulse, host: str) -> tuple[int, int]:
    """A batch that waits on the host, and the one behind it in its group."""
    waiting = rig.on_host(host)
    groups = [[index for index, _ in line["attempts"]] for line in rig.lines("started")]
    return next((one[0], one[1]) for one in groups if one[0] in waiting and len(one) > 1)


def test_row_14_a_flapping_link_and_a_mute_host_converge(rig):
    driver = begin(rig)
    rig.department["node02"].mute()
    dice = random.Random(14)
    end = time.monotonic() + 3 * LEASE
    while time.monotonic() < end:
        rig.department["node01"].cut()
        time.sleep(dice.uniform(0.2, 1.5 * LEASE))
        rig.department["node01"].heal()
        time.sleep(dice.uniform(0.2, 0.5 * LEASE))
    rig.wait_phase("node02", "lost")
    rig.department["node02"].heal()
    for host in SHARED:
        rig.wait_phase(host, "up")
    rig.finish(driver, ALL)


def test_a_host_is_switched_off_and_on_again(rig):
    driver = begin(rig)
    host = rig.department["node02"]
    lost = rig.on_host("node02")
    host.kill()
    rig.wait_phase("node02", "lost")
    rig.wait_starts(lost, 2)
    assert rig.lost_with("node02") == lost
    host.boot()
    know_numerics(host)
    rig.wait_phase("node02", "up")
    rig.finish(driver, ALL)
    assert len(rig.starts()) == ALL + len(lost)
    rig.run(*rig.words(SLOTS, "-q", "--hosts", host.address))
    assert [one.host for one in rig.starts()[-SLOTS:]] == ["node02"] * SLOTS


def copied(rig: Pulse, words: Iterable[str] = ()):
    """A run whose batches read and write much, on the host without the folder and on node03."""
    (rig.folder / "tool.sh").write_text(TOOL)
    (rig.folder / "tool.sh").chmod(0o755)
    (rig.folder / "large").write_bytes(random.Random(1).randbytes(BYTES))
    hosts = ",".join(rig.department[name].address for name in ("node03", "node04"))
    ship = ["--ship", "tool.sh", "--ship", "large", "--hosts", hosts, "-q", *words]
    return rig.start("command", "-n", "12", *ship, "--", "{shipped}/tool.sh", "{index}", "{output}")


def incomplete(rig: Pulse, folder: str) -> bool:
    """Whether some of a large file is there, on node04."""
    sizes = []
    for path in rig.department["node04"].path(folder).rglob("*"):
        try:
            sizes.append(path.stat().st_size if path.is_file() else 0)
        except OSError:
            continue
    return any(0 < size < BYTES and size > BYTES // 20 for size in sizes)


def settle(rig: Pulse, driver) -> None:
    """A host that is cut off while its files are copied is lost as any other; nothing hangs."""
    host = rig.department["node04"]
    host.cut()
    rig.wait_phase("node04", "lost")
    said, _ = driver.communicate(timeout=60)
    assert driver.returncode == 0, said
    assert rig.check(finished=True).done == set(range(12))
    host.slow(0)
    host.heal()
    rig.wait_phase("node04", "up")
    again = copied(rig)
    said, _ = again.communicate(timeout=60)
    assert again.returncode == 0, said
    address = host.address
    assert {line["host"] for line in rig.lines("outcome") if line["status"] == "done"} >= {address}
    wait_for(lambda: not [*host.path("/tmp").glob("dask-runner-*/attempts/*")], "no attempts there")


def test_a_host_is_cut_off_while_its_inputs_are_copied(rig):
    rig.department["node04"].slow(MEGABITS)
    driver = copied(rig)
    cache = str(Path("~root/.cache/dask-runner").expanduser())
    wait_for(lambda: incomplete(rig, cache), "a part of the input")
    settle(rig, driver)


def test_a_host_is_cut_off_while_its_outputs_are_copied(rig):
    # What was shipped by the test above is in the host's cache: only outputs take time.
    rig.department["node04"].slow(MEGABITS)
    driver = copied(rig)
    starts = rig.department["node04"].path("/tmp/tool-starts")
    before = len(starts.read_text().splitlines())
    wait_for(lambda: len(starts.read_text().splitlines()) > before, "a batch there")
    run = wait_for(lambda: [*rig.runs.glob("*/attempts")], "the attempts")[0]

    def coming() -> bool:
        found = [path.stat().st_size for path in run.rglob("*") if path.is_file()]
        return any(BYTES // 20 < size < BYTES for size in found)

    wait_for(coming, "a part of an output")
    settle(rig, driver)
