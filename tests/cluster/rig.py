"""A department with the product before it, for tests of whole clusters: up, runs, faults, down.

Jobs run on the hosts and write to a folder that they share with the test, so executions are counted
there whoever ran them.
"""

import json
import os
import platform
import pwd
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import invariants
from department import Department, Host
from department.accounts import USERS
from product import GRACE, Jobs, Product, wait_for

# Leases in tests are short: a real one is tried by scripts/long_partition.
LEASE = 4.0
MARGIN = 2.0
# What jobs write: $1 is the batch, $2 its seed.
RESULT = 'echo "result of batch $1 with seed $2"'
# Who ran what, for `executions`: the batch and the host's own name.
JOB = f"""\
echo "$1 $(hostname)" >> "$TEST_FOLDER/executions"
test -e "$TEST_FOLDER/go" || touch "$TEST_FOLDER/waiting"
until test -e "$TEST_FOLDER/go"; do sleep 0.02; done
{RESULT} > "$3"
"""


class Rig(Jobs):
    """Jobs on the hosts of a department; `hosts` by their names there, like node01."""

    def __init__(self, folder: Path, department: Department, *, lease: float = LEASE) -> None:
        super().__init__(folder)
        (folder / "job.sh").write_text(JOB)
        self.department = department
        self.environment = {
            **department.environment,
            "COLUMNS": "200",
            "TEST_FOLDER": str(folder),
            "DASK_RUNNER_CLUSTER_LEASE": str(lease),
        }
        self.hostfile = folder / "hostfile.txt"
        for host in department.hosts:
            know_numerics(host)
        where, content = _numerics()
        ours = department.desk / "cache" / where / f"selftest-{platform.node()}"
        ours.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        ours.write_bytes(content)

    # ------------------------------------------------------------------ the cluster

    def up(self, *words: str, slots: int = 2, expect: int = 0, **per_host: Any) -> Any:
        """Start the cluster in the background; its status as JSON."""
        if not self.hostfile.exists():
            self.write_hostfile(slots=slots, **per_host)
        done = self.run("up", "--detach", "--json", *words, expect=expect)
        return json.loads(done.stdout) if expect == 0 else done

    def write_hostfile(self, *, slots: int = 2, **per_host: Any) -> None:
        self.department.hostfile(self.hostfile, slots=slots, per_host=per_host)

    def down(self) -> None:
        self.run("down")
        self.nothing_left()

    def status(self) -> Any:
        """The one cluster that is up."""
        (cluster,) = self.json("status")["clusters"]
        return cluster

    def look(self, host: Host | str) -> Any:
        """The status of one host."""
        address = self.department[host].address if isinstance(host, str) else host.address
        return next(one for one in self.status()["hosts"] if one["name"] == address)

    def wait_phase(self, host: Host | str, *phases: str, patience: float = 60.0) -> Any:
        """The host's status once it is in one of these phases."""

        def there() -> Any:
            found = self.look(host)
            return found if found["phase"] in phases else None

        return wait_for(there, f"{host} to be {' or '.join(phases)}", patience)

    # ------------------------------------------------------------------ what runs

    def cluster_processes(self) -> list[int]:
        """Everything of our clusters on the hosts and here, as seen from here."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    environment = (entry / "environ").read_bytes()
                except OSError:
                    continue
                if b"DASK_RUNNER_CLUSTER=" in environment and self._ours(int(entry.name)):
                    found.append(int(entry.name))
        return found

    def _ours(self, pid: int) -> bool:
        """On a host of this department, or started by us: not of another test department."""
        if any(pid in pids for pids in self.department.processes().values()):
            return True
        state = self.environment["XDG_STATE_HOME"].encode()
        try:
            return state in Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False

    def processes(self) -> list[int]:
        return self.cluster_processes()

    def on(self, host: str, word: str) -> int:
        """The pid (as seen from here) of the one process of ours on a host whose command line has
        `word`.
        """

        def look() -> int:
            for pid in self.department[host].processes("DASK_RUNNER_CLUSTER="):
                try:
                    if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                        return pid
                except OSError:
                    continue
            return 0

        return int(wait_for(look, f"a process with {word} on {host}"))

    def hosts_of_executions(self) -> list[tuple[int, str]]:
        """Batch and host of each execution, in order of their starts."""
        path = self.folder / "executions"
        if not path.exists():
            return []
        lines = [line.split() for line in path.read_text().splitlines()]
        return [(int(line[0]), line[1]) for line in lines if len(line) == 2]

    def notes(self, kind: str) -> list[dict[str, Any]]:
        """The notes of that kind in the last run's manifest."""
        return [line for line in self.lines("note") if line["kind"] == kind]

    def batches_left(self) -> list[int]:
        """The processes of these runs' batches, on whatever host. Runs elsewhere on this machine
        may have begun in the same second, and have the same names.
        """
        found = {pid for stamp in self.timestamps for pid in invariants.survivors(stamp)}
        there = self.department.processes().values() if found else ()
        return sorted(found.intersection(set().union(*there)))

    def check_while_up(self, **expectations: Any) -> invariants.Result:
        """The invariants of the last run, of which nothing is left; the cluster goes on."""
        wait_for(lambda: not self.batches_left(), f"{self.batches_left()} to end", GRACE)
        return invariants.check(self.last, **expectations)

    def close(self) -> None:
        """End the clusters that the test did not, and whatever is left then."""
        # All of them first: they are removed by those that end.
        for path in [*Path(self.environment["XDG_STATE_HOME"]).rglob("session.json")]:
            session = json.loads(path.read_bytes())
            if self.folder.exists():
                self.run("down", "--name", session["name"], expect=None)
            # Managers have no marker; one that goes on would start again what is killed below.
            if self._ours(session["pid"]):
                os.kill(session["pid"], signal.SIGKILL)
        super().close()


@cache
def _numerics() -> tuple[str, bytes]:
    """The file in which a host remembers its self-test, without the host's name, and its content:
    all test hosts are this machine, which need compute it only once.
    """
    with tempfile.TemporaryDirectory() as folder:
        code = "from dask_runner.execution.numerics import cached_selftest as s; s()"
        environment = {**os.environ, "XDG_CACHE_HOME": folder}
        subprocess.run([sys.executable, "-I", "-c", code], env=environment, check=True)
        (file,) = Path(folder).rglob("selftest-*")
        return str(file.parent.relative_to(folder)), file.read_bytes()


def know_numerics(host: Host, user: str = "root") -> None:
    """Let a host remember its self-test (that user's), as after an earlier start."""
    where, content = _numerics()
    home = pwd.getpwuid(0).pw_dir if user == "root" else f"/home/{user}"
    file = host.path(home) / ".cache" / where / f"selftest-{host.name}"
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.write_bytes(content)
    if user != "root":
        for path in (file, file.parent, file.parent.parent):
            os.chown(path, USERS[user].uid, USERS[user].uid)


@cache
def reference(number: int) -> str:
    """The content of so many results as jobs write them, of a run on this machine alone that
    nothing has disturbed: for invariant I10.
    """
    with tempfile.TemporaryDirectory() as folder:
        product = Product(Path(folder))
        try:
            job = ("/bin/sh", "-c", f'{RESULT.replace("$1", "$0").replace("$2", "$1")} > "$2"')
            words = ("command", "-n", str(number), "-q", "--cluster", "local")
            product.run(*words, "--", *job, "{index}", "{seed}", "{output}")
            return product.check(finished=True).content
        finally:
            product.close()


def boottime() -> float:
    """Seconds since the machine was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
