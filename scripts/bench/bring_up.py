#!/usr/bin/env python3
"""Bringing a cluster up and down, beside dask's own SSHCluster, on the same test hosts in one run.

    scripts/bench/bring_up.py [--hosts 1,3,4,10,32] [--slots 4] [--repeat 1]

Needs root (the hosts are network namespaces). For each number of hosts it prints seconds and CPU
seconds (of the whole machine) until all slots are ready, seconds until everything is gone after the
end, and the processes that stayed, on the hosts and on this machine. Ours is shown twice: the first
start after a boot of the hosts computes their numerics self-test, later ones know it. SSHCluster gets
a worker for each slot up to 12 of them, and one for each host beyond: with more it takes minutes, or
deadlocks.

A line of ours that has a target ends with it and with `met` or `MISSED`: the ratio of the seconds
until ready is at most 0.25 on 3 hosts (12 workers of SSHCluster) and 0.6 on 32 (32 of its workers);
everything of ours is gone within 5 s, and nothing stays. The exit code is 1 if one was missed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).absolute().parent
sys.path.insert(0, str(HERE.parent.parent / "tests" / "cluster"))

from department import Department, missing  # noqa: E402  (found through the path above)

_PATIENCE = 300
_MOST_WORKERS = 12
# What ours must not exceed: the ratio by number of hosts, and seconds until everything is gone.
RATIOS = {3: 0.25, 32: 0.6}
GONE = 5.0

# What a user of SSHCluster writes; the first host is the scheduler's.
PEER = """
import sys, time
from dask.distributed import Client, SSHCluster

def main(hosts, threads, key, known_hosts):
    cluster = SSHCluster(
        [hosts[0], *hosts],
        connect_options={"known_hosts": known_hosts, "client_keys": [key], "username": "root"},
        # Without this it announces 127.0.1.1, as a Debian host calls itself, and never starts.
        worker_options={"nthreads": threads, "interface": "eth0"},
        scheduler_options={"port": 0, "dashboard": False, "interface": "eth0"},
        remote_python=sys.executable,
    )
    client = Client(cluster)
    client.wait_for_workers(len(hosts))
    print("ready", flush=True)
    sys.stdin.readline()
    client.close()
    cluster.close()
    print("closed", flush=True)

if __name__ == "__main__":
    main(sys.argv[4:], int(sys.argv[1]), sys.argv[2], sys.argv[3])
"""


class Result(NamedTuple):
    """Seconds until ready, CPU seconds of that, seconds until all is gone, who stayed."""

    ready: float
    cpu: float
    gone: float
    survivors: int


def cpu_seconds() -> float:
    """What all cores of this machine have worked."""
    user, nice, system, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def everything(department: Department) -> set[int]:
    """The processes on the hosts, and those on this machine that a command of this user's desk has
    started: manager, scheduler and its agent, or SSHCluster's program.
    """
    there = {pid for pids in department.processes().values() for pid in pids}
    mark = f"XDG_STATE_HOME={department.environment['XDG_STATE_HOME']}".encode()
    here = {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    return there | {pid for pid in here if mark in environment_of(pid)}


def new(department: Department, before: set[int]) -> set[int]:
    """Processes that were not there before, without those of sshd and those that have ended."""
    now = everything(department) - before
    return {pid for pid in now if "sshd" not in name_of(pid) and environment_of(pid)}


def environment_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []  # gone


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return "sshd"  # gone


def wait_gone(department: Department, before: set[int], patience: float) -> tuple[float, int]:
    """Seconds until nothing is left, and what is left after `patience` of them."""
    began = time.perf_counter()
    while left := new(department, before):
        if time.perf_counter() - began > patience:
            break
        time.sleep(0.02)
    return time.perf_counter() - began, len(left)


def ours(department: Department, folder: Path, slots: int) -> Result:
    """`up --detach` from the start of the command to its return, then `down`."""
    hostfile = department.hostfile(folder / "hostfile.txt", slots=slots)
    number = str(hostfile.read_text().count("slots="))
    before = everything(department)
    cpu, began = cpu_seconds(), time.perf_counter()
    command = [sys.executable, "-m", "dask_runner"]
    up = ["up", "--detach", "--hostfile", str(hostfile), "--min-hosts", number]
    run(department, [*command, *up])
    ready, used = time.perf_counter() - began, cpu_seconds() - cpu
    began = time.perf_counter()
    run(department, [*command, "down"])
    down = time.perf_counter() - began
    rest, survivors = wait_gone(department, before, 5.0)
    return Result(ready, used, down + rest, survivors)


def run(department: Department, command: list[str]) -> None:
    done = subprocess.run(
        command,
        env=department.environment,
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{command}\n{done.stdout}{done.stderr}")


def peer(department: Department, folder: Path, slots: int) -> Result:
    """SSHCluster from the start of its program to `wait_for_workers`, then its close()."""
    hosts = [host.address for host in department.hosts]
    workers, threads = len(hosts) * slots, 1
    if workers > _MOST_WORKERS:
        workers, threads = len(hosts), slots
    addresses = [hosts[number % len(hosts)] for number in range(workers)]
    program = folder / "peer.py"
    program.write_text(PEER)
    key = str(department.desk / ".ssh" / "id_ed25519")
    before = everything(department)
    cpu, began = cpu_seconds(), time.perf_counter()
    with subprocess.Popen(
        [sys.executable, program, str(threads), key, str(department.known_hosts), *addresses],
        env=department.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise SystemExit("SSHCluster did not start")
        ready, used = time.perf_counter() - began, cpu_seconds() - cpu
        began = time.perf_counter()
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        process.wait(_PATIENCE)
    _, survivors = wait_gone(department, before, 5.0)
    down = time.perf_counter() - began
    for pid in new(department, before):
        os.kill(pid, 9)
    return Result(ready, used, down, survivors)


def main() -> None:
    """Print a line for each number of hosts and each side, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--hosts", default="1,3,4,10,32")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=1)
    values = parser.parse_args()
    if reason := missing():
        raise SystemExit(reason)
    missed = False
    print("hosts slots            ready s   cpu s  ratio    gone s  survivors  targets")
    for number in [int(word) for word in values.hosts.split(",")] * values.repeat:
        with tempfile.TemporaryDirectory() as name, Department(number) as department:
            folder = Path(name)
            results = {
                "ours, first": ours(department, folder, values.slots),
                "ours": ours(department, folder, values.slots),
                "SSHCluster": peer(department, folder, values.slots),
            }
            for side, result in results.items():
                ratio = result.ready / results["SSHCluster"].ready
                shown, verdict = f"{ratio:.2f}", judge(number, ratio, result)
                if side == "SSHCluster":
                    shown, verdict = "", ""
                missed |= "MISSED" in verdict
                line = (
                    f"{number:5} {number * values.slots:5} {side:12} {result.ready:8.2f} "
                    f"{result.cpu:7.1f}  {shown:5} {result.gone:8.2f} {result.survivors:10}"
                    f"  {verdict}"
                )
                print(line.rstrip(), flush=True)
    raise SystemExit(1 if missed else 0)


def judge(number: int, ratio: float, result: Result) -> str:
    """Each target of a line of ours, and whether it is met."""
    targets = {f"gone <= {GONE:g} s": result.gone <= GONE, "survivors 0": result.survivors == 0}
    if number in RATIOS:
        targets = {f"ratio <= {RATIOS[number]}": ratio <= RATIOS[number], **targets}
    return ", ".join(f"{text} {'met' if met else 'MISSED'}" for text, met in targets.items())


if __name__ == "__main__":
    main()
