"""What a test may do to a test host does what it says, and can be undone."""

import errno
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from department.host import Host
from department_visits import reachable, ssh, unreachable
from product import wait_for


def test_a_host_that_is_cut_off_is_silent_and_goes_on(department):
    host = department["node01"]
    serving = host.popen([sys.executable, "-I", "-c", ECHO], stdout=subprocess.PIPE)
    port = int(serving.stdout.readline())
    with socket.create_connection((host.address, port), 5) as connection:
        connection.settimeout(5)
        connection.sendall(b"before")
        assert connection.recv(6) == b"before"
        host.cut()
        connection.sendall(b"during")
        connection.settimeout(0.5)
        with pytest.raises(TimeoutError):
            connection.recv(6)
        assert unreachable(department, "node01")
        assert reachable(department, "node02")
        host.heal()
        connection.settimeout(10)
        assert connection.recv(6) == b"during"
    serving.stdout.close()
    assert reachable(department, "node01")


ECHO = """
import socket
server = socket.create_server(("", 0))
print(server.getsockname()[1], flush=True)
connection = server.accept()[0]
while data := connection.recv(100):
    connection.sendall(data)
"""

LISTEN = """
import socket
box = socket.socket(type=socket.SOCK_DGRAM)
box.bind(("", 0))
print(box.getsockname()[1], flush=True)
while True:
    print(box.recv(9).decode(), flush=True)
"""


class Box:
    """Who hears a datagram? One on a host, or here (None)."""

    def __init__(self, host: Host | None) -> None:
        words = [sys.executable, "-I", "-c", LISTEN]
        self.host = host
        self.process = subprocess.Popen(
            words if host is None else host.command(words), stdout=subprocess.PIPE, text=True
        )
        self.port = int(self.process.stdout.readline())

    def hears(self, sender: Host | None, address: str) -> bool:
        """Within a time that is long for a datagram."""
        say = f"import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.sendto(b'x', ('{address}', {self.port}))"
        words = [sys.executable, "-I", "-c", say]
        subprocess.run(words if sender is None else sender.command(words), check=True)
        if not select.select([self.process.stdout], [], [], 1.0)[0]:
            return False
        return self.process.stdout.readline() == "x\n"

    def close(self) -> None:
        self.process.kill()
        self.process.stdout.close()
        self.process.wait()


@pytest.fixture
def boxes(department):
    made = {name: Box(department[name]) for name in ("node01", "node02")} | {"desk": Box(None)}
    yield made
    for box in made.values():
        box.close()
        if box.host is not None:
            for pid in box.host.processes():
                if (
                    pid != box.host.pid
                    and b"SOCK_DGRAM" in Path(f"/proc/{pid}/cmdline").read_bytes()
                ):
                    os.kill(pid, signal.SIGKILL)


def test_one_way_cuts(department, boxes):
    host, other = department["node01"], department["node02"]

    def heard() -> dict[str, bool]:
        return {
            "desk hears node01": boxes["desk"].hears(host, department.network.desk),
            "node02 hears node01": boxes["node02"].hears(host, other.address),
            "node01 hears desk": boxes["node01"].hears(None, host.address),
            "node01 hears node02": boxes["node01"].hears(other, host.address),
            "desk hears node02": boxes["desk"].hears(other, department.network.desk),
        }

    everything = heard()
    assert all(everything.values()), everything
    host.mute()
    assert heard() == {name: not name.endswith("hears node01") for name in everything}
    host.heal()
    assert heard() == everything
    host.deafen()
    assert heard() == {name: not name.startswith("node01") for name in everything}
    host.heal()
    assert heard() == everything


def test_a_cut_host_stays_cut_while_others_change(department):
    host, other = department["node01"], department["node02"]
    host.cut()
    other.mute()
    other.heal()
    other.kill()
    other.boot()
    assert reachable(department, "node02")
    assert unreachable(department, "node01")


def test_a_slow_host_is_slow_both_ways(department):
    data = bytes(500_000)

    def seconds() -> list[float]:
        there, back = (
            department.ssh("node01", "cat"),
            department.ssh("node01", f"head -c {len(data)} /dev/zero"),
        )
        taken = []
        for command, given in (([*there, ">", "/dev/null"], data), (back, b"")):
            start = time.monotonic()
            subprocess.run(command, input=given, capture_output=True, check=True)
            taken.append(time.monotonic() - start)
        return taken

    department["node01"].slow(2)
    # 500 kB at 2 Mbit/s are 2 s.
    assert min(seconds()) > 1.5
    department["node01"].slow(0)
    wait_for(lambda: max(seconds()) < 1.5, "it is quick again")


def test_power_off_says_nothing_and_boot_brings_back_the_disk(department):
    host = department["node01"]
    host.run(["sh", "-c", "echo kept > /home/scratch/file; echo lost > /tmp/file"])
    waiting = host.popen(["sleep", "600"])
    with socket.create_connection((host.address, 22), 5) as connection:
        connection.settimeout(5)
        while not connection.recv(100).endswith(b"\n"):
            pass
        host.kill()
        assert waiting.wait(10) != 0
        connection.settimeout(0.5)
        with pytest.raises(TimeoutError):
            connection.recv(100)
    assert not host.alive
    assert host.processes() == []
    assert unreachable(department, "node01")
    host.boot()
    assert reachable(department, "node01")
    assert host.run(["cat", "/home/scratch/file"]).stdout == "kept\n"
    assert not host.path("/tmp/file").exists()


def test_sshd_stops_and_starts(department):
    host = department["node01"]
    program, *words = department.ssh("node01", "echo in; cat")
    session = subprocess.Popen([program, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert session.stdout.readline() == b"in\n"
    host.stop_sshd()
    assert "Connection refused" in ssh(department, "node01").stderr
    assert session.poll() is None
    host.start_sshd()
    assert reachable(department, "node01")
    host.stop_sshd(sessions=True)
    session.communicate(timeout=10)
    assert session.returncode == 255
    assert "Connection refused" in ssh(department, "node01").stderr


def test_a_swapped_host_key_is_noticed(department):
    host = department["node01"]
    old = host.public_key
    assert host.swap_key() != old
    assert "IDENTIFICATION HAS CHANGED" in ssh(department, "node01").stderr
    department.write_known_hosts()
    assert reachable(department, "node01")
    department.forget_keys()
    assert "Host key verification failed" in ssh(department, "node01").stderr


def test_a_full_scratch_is_full_for_everybody(make_department):
    department = make_department(1, node01={"scratch_mb": 3, "tmp_mb": 2})
    host = department["node01"]
    host.run(["sh", "-c", "echo mine > /home/scratch/mine"], user="ada")
    for folder in (host.scratch, "/tmp"):
        host.fill_scratch(folder)
        for user in ("root", "ada"):
            write = ["dd", "if=/dev/zero", f"of={folder}/more-{user}", "bs=1", "count=1"]
            assert os.strerror(errno.ENOSPC) in host.run(write, user=user, check=False).stderr
        host.empty_scratch(folder)
        host.run(["dd", "if=/dev/zero", f"of={folder}/more", "bs=1M", "count=1"])
    assert host.path("/home/scratch/mine").read_text() == "mine\n"


def test_behind_the_bastion_there_is_no_other_way(make_department):
    department = make_department(3, node03={"behind": "node01"})
    host = department["node03"]
    look = f"import socket; socket.create_connection(('{host.address}', 22), 1)"
    direct = subprocess.run([sys.executable, "-I", "-c", look], capture_output=True, check=False)
    assert direct.returncode != 0
    beside = department["node02"].run([sys.executable, "-I", "-c", look], check=False)
    assert beside.returncode != 0
    department["node01"].run([sys.executable, "-I", "-c", look])
    assert reachable(department, "node03")
    department["node01"].cut()
    assert unreachable(department, "node03")
