"""Jobs with a pulse, for tests of what is alive when: each execution writes down its start and, ten
times a second, that it still runs; so does a descendant of it that has escaped from its session.

One cluster serves many tests: `at` gives each of them a folder and runs of its own.
"""

import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from department import Department
from invariants import Result
from product import wait_for
from rig import RESULT, Rig, reference

from dask_runner.execution import process_tree

# Leases of a few seconds.
LEASE = 4.0
CLUSTER = "DASK_RUNNER_CLUSTER="

# Arguments: index, seed, output. It waits for `go`, or for its own `go-<index>`. All times are of
# /proc/uptime, the same clock on all hosts. With `quick-<index>` it has no pulse, and takes no time.
JOB = (
    """\
me="$1 $(hostname) $$"
if test -e "$TEST_FOLDER/quick-$1"; then
    read -r now rest < /proc/uptime
    echo "$me $now" >> "$TEST_FOLDER/executions"
    """
    + RESULT
    + """ > "$3"
    echo "$me $now" >> "$TEST_FOLDER/ends"
    exit
fi
beat() {
    while :; do
        read -r now rest < /proc/uptime
        echo "$now" >> "$TEST_FOLDER/beats/$me"
        sleep 0.1
    done
}
read -r now rest < /proc/uptime
echo "$me $now" >> "$TEST_FOLDER/executions"
beat &
( setsid sh -c '(setsid sh "$TEST_FOLDER/escaped.sh" "$1" </dev/null >/dev/null 2>&1 &) ' - "$me" & )
until test -e "$TEST_FOLDER/go" || test -e "$TEST_FOLDER/go-$1"; do sleep 0.05; done
sleep "${TEST_SECONDS:-0}"
"""
    + RESULT
    + """ > "$3"
kill $!
read -r now rest < /proc/uptime
echo "$me $now" >> "$TEST_FOLDER/ends"
"""
)
ESCAPED = """\
while :; do
    read -r now rest < /proc/uptime
    echo "$now" >> "$TEST_FOLDER/beats/$1 escaped"
    sleep 0.1
done
"""


@dataclass(frozen=True)
class Execution:
    """One start or end of a batch, by the job's own word: where, which process there, and when."""

    batch: int
    host: str
    pid: int
    when: float


class Pulse(Rig):
    """A rig of such jobs."""

    def __init__(self, folder: Path, department: Department, *, lease: float = LEASE) -> None:
        self.root = folder
        super().__init__(folder, department, lease=lease)

    def at(self, name: str) -> "Pulse":
        """The same cluster for another test, which begins when all hosts are up."""
        folder = self.root / name
        (folder / "beats").mkdir(parents=True)
        self.folder, self.runs = folder, folder / "runs"
        self.environment["TEST_FOLDER"] = str(folder)
        (folder / "setup.sh").write_text(f"export TEST_FOLDER='{folder}'\n")
        (folder / "job.sh").write_text(JOB)
        (folder / "escaped.sh").write_text(ESCAPED)
        return self

    def begin(self, number: int, *words: str) -> Any:
        """Start a run of so many batches, and return when all of them wait: no more than slots."""
        driver = self.start(*self.words(number, "-q", *words))
        self.wait_waiting(driver, number)
        return driver

    def wait_waiting(self, driver: Any, number: int) -> None:
        """Until so many batches wait for their go."""

        def there() -> bool:
            assert driver.poll() is None, driver.communicate()[0]
            return len(self.waiting()) == number

        wait_for(there, f"{number} batches to wait")

    def end_runs(self) -> None:
        """End those that a test which failed has left, or the next test finds no slots."""
        for driver in self.started:
            if driver.poll() is None:
                driver.kill()
            driver.communicate()
        self.started.clear()

    def let_go(self, *batches: int) -> None:
        for batch in batches:
            (self.folder / f"go-{batch}").touch()

    def release(self, batches: Iterable[int]) -> None:
        """Let these go, and wait until they are done."""
        wanted = set(batches)
        self.let_go(*wanted)
        wait_for(lambda: wanted <= self.done_batches(), f"batches {wanted} to be done")

    def wait_starts(self, batches: Iterable[int], number: int) -> None:
        """Until each of the batches has been started so often."""
        wanted = set(batches)
        starts = number * len(wanted)
        wait_for(lambda: len(self.starts_of(wanted)) >= starts, f"{starts} starts of {wanted}")

    def finish(self, driver: Any, number: int) -> Result:
        """Let all go; the run ends well, and nothing of it was wrong at any time."""
        self.go()
        said, _ = driver.communicate(timeout=90)
        assert driver.returncode == 0, said
        result = self.check(finished=True, reference_hash=reference(number))
        assert result.done == set(range(number))
        self.assert_one_at_a_time()
        return result

    # ------------------------------------------------------------------ what ran

    def starts(self) -> list[Execution]:
        """All executions, in order of their starts."""
        return self._executions("executions")

    def ends(self) -> list[Execution]:
        """Those that came to their end, in that order."""
        return self._executions("ends")

    def _executions(self, name: str) -> list[Execution]:
        path = self.folder / name
        lines = path.read_text().splitlines() if path.exists() else []
        words = [line.split() for line in lines]
        return [Execution(int(w[0]), w[1], int(w[2]), float(w[3])) for w in words if len(w) == 4]

    def starts_of(self, batches: Iterable[int]) -> list[Execution]:
        wanted = set(batches)
        return [one for one in self.starts() if one.batch in wanted]

    def waiting(self) -> list[Execution]:
        """The last executions of the batches that have not been told to go."""
        return [
            one for one in self.latest().values() if not (self.folder / f"go-{one.batch}").exists()
        ]

    def latest(self) -> dict[int, Execution]:
        return {one.batch: one for one in self.starts()}

    def on_host(self, host: str) -> set[int]:
        """The batches that wait on a host."""
        return {one.batch for one in self.waiting() if one.host == host}

    def done_batches(self) -> set[int]:
        """What the manifest calls done."""
        lines = self.lines("done") if self.timestamps else []
        return {index for line in lines for index, _ in line["attempts"]}

    def last_beat(self, execution: Execution) -> float:
        """When anything of it was last seen alive."""
        name = f"{execution.batch} {execution.host} {execution.pid}"
        last = execution.when
        for path in (self.folder / "beats" / name, self.folder / "beats" / f"{name} escaped"):
            if path.exists():
                last = max([last, *map(float, path.read_text().split())])
        return last

    def escaped(self, execution: Execution) -> bool:
        """Whether its descendant has got away, and beats."""
        name = f"{execution.batch} {execution.host} {execution.pid} escaped"
        return (self.folder / "beats" / name).exists()

    thaw = 0.0

    def assert_one_at_a_time(self) -> None:
        """Nothing of an execution was alive when the next one of its batch began; with `thaw` what
        stood still meanwhile may have lived on for so many seconds when it was continued, before
        its slot, which was continued with it, had killed it.
        """
        by_batch = defaultdict(list)
        for one in self.starts():
            by_batch[one.batch].append(one)
        for starts in by_batch.values():
            for before, after in pairwise(starts):
                late = self.last_beat(before) - after.when
                assert late < self.thaw, (
                    f"{before} was alive {late:.2f} s after the start of {after}"
                )

    # ------------------------------------------------------------------ what is told

    def texts(self, kind: str) -> str:
        """The notes of that kind in the last run's manifest, as text."""
        return "\n".join(note["text"] for note in self.notes(kind))

    def outcomes_of(self, batch: int) -> list[str]:
        """What became of each of its attempts."""
        return [line["status"] for line in self.lines("outcome") if line["batch"] == batch]

    def lost_with(self, host: str) -> set[int]:
        """The batches that the manifest says were lost with a host."""
        address = self.department[host].address
        notes = [one for one in self.notes("lost-host") if one["data"]["host"] == address]
        return {batch for note in notes for batch in note["data"]["batches"]}

    def all_up(self) -> None:
        """Wait until every host is up."""
        for host in self.department.hosts:
            self.wait_phase(host, "up")

    def nothing_left(self) -> None:
        """Of the runs: the cluster goes on."""
        wait_for(lambda: not self.job_processes(), "the end of all jobs", 15)

    def job_processes(self) -> list[int]:
        """Whoever works in this test's folder."""
        mark = f"TEST_FOLDER={self.folder}".encode()
        return [pid for pid in self.cluster_processes() if mark in environment_of(pid)]

    def down(self) -> None:
        self.run("down")
        super().nothing_left()

    # ------------------------------------------------------------------ processes

    def _on_hosts(self) -> set[int]:
        return {pid for pids in self.department.processes(CLUSTER).values() for pid in pids}

    def cluster_processes(self) -> list[int]:
        """As the rig's, quicker: here are many processes."""
        found = self._on_hosts()
        state = f"XDG_STATE_HOME={self.environment['XDG_STATE_HOME']}".encode()
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            words = environment_of(pid)
            if state in words and any(one.startswith(CLUSTER.encode()) for one in words):
                found.add(pid)
        return sorted(found)

    def scheduler_process(self, word: str = "scheduler_process", cluster: str = "main") -> int:
        """The process of the scheduler, or of its agent on this machine, with that word."""
        state = f"XDG_STATE_HOME={self.environment['XDG_STATE_HOME']}".encode()

        def look() -> int:
            for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
                if word.encode() not in command_of(pid):
                    continue
                words = environment_of(pid)
                ours = any(one.startswith(f"{CLUSTER}{cluster}".encode()) for one in words)
                here = state in words and b"DASK_RUNNER_HOST=.scheduler" in words
                if ours and (here or (word == "scheduler_process" and pid in self._on_hosts())):
                    return pid
            return 0

        return int(wait_for(look, f"{word} of the scheduler"))

    def signal(self, number: signal.Signals, *pids: int) -> None:
        """To those that are still there."""
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def freeze(self, host: str) -> list[int]:
        """Have all of ours on the host stand still, also what they start meanwhile."""

        def still() -> list[int]:
            found = self.department[host].processes(CLUSTER)
            moving = [pid for pid in found if process_tree.state(pid) not in "TZX"]
            self.signal(signal.SIGSTOP, *moving)
            return found if not moving else []

        return list(wait_for(still, f"all on {host} to stand still"))


def environment_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def while_true(condition: Callable[[], Any], seconds: float, what: str) -> None:
    """The condition holds now, and for so long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert condition(), what
        time.sleep(0.1)
