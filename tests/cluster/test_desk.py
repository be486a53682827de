"""The user's side of a cluster: signals to `up`, logging out, what `status --watch` and the dashboard
show and to whom, and hostfile keys that limit a host.

One department for all tests; those at the end share a cluster too.
"""

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from department import Department
from product import RUNNER, wait_for
from pulse import while_true
from rig import Rig

HOSTS = ("node01", "node02")
# A terminal of its own for a command; the terminal is closed when this is killed.
TERMINAL = "import pty, sys; pty.spawn(sys.argv[1:])"
# MB of memory that batches may take on node01, and what one takes.
MEMORY, HUNGER = 200, 195
NICE, NICER = 4, 9
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"


@pytest.fixture(scope="module")
def desk(_can_build: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("desk")
    with Department(len(HOSTS), share=[folder]) as department:
        rig = Rig(folder, department)
        try:
            yield rig
        finally:
            rig.close()


@pytest.fixture(scope="module")
def cluster(desk: Rig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """With a dashboard, and limits for node01."""
    # Whether bokeh is there makes no difference to who can reach the server.
    pretended = tmp_path_factory.mktemp("pretended")
    (pretended / "bokeh.py").touch()
    desk.write_hostfile(slots=2, node01={"memory": MEMORY, "nice": NICER})
    desk.environment["PYTHONPATH"] = str(pretended)
    try:
        desk.up("--dashboard")
    finally:
        del desk.environment["PYTHONPATH"]
    desk.environment["DASK_RUNNER_RUN_NICE"] = str(NICE)
    yield desk
    desk.down()


@pytest.fixture
def folder(cluster: Rig) -> Iterator[Path]:
    """Of the jobs, which wait for `go` there."""
    for name in ("go", "waiting", "executions"):
        (cluster.folder / name).unlink(missing_ok=True)
    yield cluster.folder
    for driver in cluster.started:
        if driver.poll() is None:
            driver.kill()
        driver.communicate()
    cluster.started.clear()


def terminal(rig: Rig, *words: str) -> subprocess.Popen[str]:
    """A command of dask-runner on a terminal of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", TERMINAL, *words],
        cwd=rig.folder,
        env=rig.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    rig.started.append(process)
    return process


def read_until(process: subprocess.Popen[str], *words: str) -> None:
    """Until it has printed a line with all these words."""
    assert process.stdout is not None
    while line := process.stdout.readline():
        if all(word in line for word in words):
            return
    raise AssertionError(f"it ended and never said {words}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_row_16_a_signal_to_up_ends_everything(desk, number):
    desk.write_hostfile()
    manager = desk.start("up")
    wait_for(lambda: desk.json("status")["clusters"], "the cluster")
    for name in HOSTS:
        desk.wait_phase(name, "up")
    manager.send_signal(number)
    assert manager.wait(20) == 0
    desk.nothing_left()


def test_a_detached_cluster_outlives_the_terminal_and_the_hostfile_may_leave_slots_open(desk):
    addresses = [desk.department[name].address for name in HOSTS]
    desk.hostfile.write_text(f"{addresses[0]} slots=1\n{addresses[1]}\n")
    script = f"{' '.join(RUNNER)} up --detach --nthreads 3; echo settled; sleep 100"
    logged_in = terminal(desk, "/bin/sh", "-c", script)
    read_until(logged_in, "settled")
    status = desk.status()
    # --nthreads is --slots: for those that do not say.
    assert [host["slots"] for host in status["hosts"]] == [1, 3]
    logged_in.kill()
    logged_in.wait()
    os.kill(status["pid"], signal.SIGHUP)
    while_true(lambda: desk.json("status")["clusters"], 1.0, "it ended with the terminal")
    desk.go()
    assert "using cluster main" in desk.run(*desk.words(8)).stderr
    assert desk.check_while_up(finished=True).done == set(range(8))
    os.kill(status["pid"], signal.SIGTERM)
    desk.nothing_left()


def test_the_dashboard_is_for_its_own_machine_only(cluster):
    status = cluster.status()
    port = status["dashboard"]
    assert f"ssh -L 8787:localhost:{port} {status['scheduler']}" in cluster.run("status").stdout
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as page:
        assert page.status == 200
    here = cluster.department.network.desk
    for name in HOSTS:
        host = cluster.department[name]
        # The way there is open: the scheduler itself can be reached.
        scheduler = status["address"].rpartition(":")[2]
        assert host.run([sys.executable, "-c", CONNECT, here, scheduler]).returncode == 0
        refused = host.run([sys.executable, "-c", CONNECT, here, str(port)], check=False)
        assert "ConnectionRefusedError" in refused.stderr


def test_status_watch_follows_the_cluster_until_the_user_has_seen_enough(cluster):
    watch = terminal(cluster, *RUNNER, "status", "--watch")
    address = cluster.department["node02"].address
    read_until(watch, address, "up")
    cluster.run("hosts", "drain", address)
    read_until(watch, address, "drained")
    cluster.run("hosts", "add", address)
    read_until(watch, address, "up")
    (pid,) = children(watch.pid)
    os.kill(pid, signal.SIGINT)
    assert watch.wait(10) == 0
    cluster.wait_phase("node02", "up")


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_nice_of_the_hostfile_is_the_least_of_its_host(cluster, folder):
    (folder / "job.sh").write_text('echo "$(hostname) $(nice)" > "$3"\nsleep 0.3\n')
    cluster.run(*cluster.words(12))
    assert cluster.check_while_up(finished=True).done == set(range(12))
    seen = {path.read_text().strip() for path in (cluster.last / "outputs").iterdir()}
    # Of the tests themselves, and so of the hosts' sshd.
    ours = os.nice(0)
    assert seen == {f"node01 {ours + NICER}", f"node02 {ours + NICE}"}


def test_memory_of_the_hostfile_is_what_batches_may_take_together(cluster, folder):
    host = cluster.department["node01"]
    (folder / "job.sh").write_text(
        'echo "$1 $(hostname)" >> "$TEST_FOLDER/executions"\n'
        f"{{ head -c {HUNGER}000000 /dev/zero\n"
        '  until test -e "$TEST_FOLDER/go"; do sleep 0.05; done\n'
        f"}} | tail -c {HUNGER}000000 > /dev/null\n"
        'echo "$1" > "$3"\n'
    )
    words = ("--hosts", host.address, "--max-slots", "1", "--memory", "1000")
    driver = cluster.start(*cluster.words(2, *words))
    refusal = wait_for(lambda: cluster.look(host).get("refusal"), "it to be full")
    assert "batches use 0.2 of 0.2 GB" in refusal
    assert "no new batches: batches use" in " ".join(cluster.run("status").stdout.split())
    assert len(cluster.executions()) == 1
    cluster.go()
    said, _ = driver.communicate(timeout=60)
    assert driver.returncode == 0, said
    assert cluster.check_while_up(finished=True).done == {0, 1}
