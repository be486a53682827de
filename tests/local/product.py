"""The product as a user starts it, for tests: commands as processes, faults as signals and disks.

A job appends "batch host pid" to a file outside the product and may wait for a file that the test
makes, so tests count real executions and never guess how long something takes.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import invariants

RUNNER = [sys.executable, "-m", "dask_runner"]
PATIENCE = 60.0
# "T seconds after the end" of invariant I7.
GRACE = 15.0

JOB = """\
echo "$1 $$" >> "$TEST_FOLDER/executions"
test -e "$TEST_FOLDER/go" || touch "$TEST_FOLDER/waiting"
until test -e "$TEST_FOLDER/go"; do sleep 0.02; done
echo "result of batch $1 with seed $2" > "$3"
"""


def wait_for(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Poll until the condition holds; its value."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {patience} s")


class Product:
    """dask-runner in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runner = RUNNER
        self.runs = folder / "runs"
        self.started: list[subprocess.Popen[str]] = []
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("DASK_RUNNER_")},
            "COLUMNS": "200",
        }

    def run(
        self, *words: str, expect: int | None = 0, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """A command to its end; fails the test if it ends with another code."""
        done = subprocess.run(
            [*self.runner, *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=180,
            check=False,
            **{"stdin": subprocess.DEVNULL, **options},
        )
        if expect is not None:
            assert done.returncode == expect, f"{words}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *words: str, expect: int | None = 0) -> Any:
        """What a command says with --json."""
        return json.loads(self.run(*words, "--json", expect=expect).stdout)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A command that goes on while the test does."""
        process = subprocess.Popen(
            [*self.runner, *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    @property
    def timestamps(self) -> list[str]:
        return sorted(path.parent.name for path in self.runs.glob("*/manifest.jsonl"))

    @property
    def last(self) -> Path:
        return self.runs / self.timestamps[-1]

    def lines(self, kind: str) -> list[dict[str, Any]]:
        """The records of a kind in the last run's manifest, as far as they are whole."""
        found = []
        for line in (self.last / "manifest.jsonl").read_bytes().splitlines(keepends=True):
            if line.startswith(b'{"type":"%s"' % kind.encode()) and line.endswith(b"\n"):
                found.append(json.loads(line))
        return found

    def done(self) -> int:
        """Batches that the last run's manifest calls done; 0 before there is one."""
        return sum(len(line["attempts"]) for line in self.lines("done")) if self.timestamps else 0

    def check(self, **expectations: Any) -> invariants.Result:
        """The invariants of the last run, and that nothing of it is left running."""
        self.nothing_left()
        return invariants.check(self.last, **expectations)

    def clusters(self) -> list[str]:
        """The clusters that the runs had."""
        names = []
        for path in self.runs.glob("*/manifest.jsonl"):
            for line in path.read_bytes().splitlines():
                if line.startswith(b'{"type":"note","kind":"cluster"'):
                    names.append(json.loads(line)["data"]["name"])
        return names

    def processes(self) -> list[int]:
        """What is alive of any cluster of these runs."""
        wanted = [f"DASK_RUNNER_CLUSTER={name}".encode() for name in self.clusters()]
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    environment = (entry / "environ").read_bytes().split(b"\0")
                except OSError:
                    continue
                if any(word in environment for word in wanted):
                    found.append(int(entry.name))
        return found

    def nothing_left(self) -> None:
        wait_for(lambda: not self.processes(), f"processes {self.processes()} left", GRACE)

    def find(self, word: str) -> int:
        """The pid of the one process of these clusters whose command line has `word`."""

        def look() -> int:
            for pid in self.processes():
                try:
                    if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                        return pid
                except OSError:
                    continue
            return 0

        return int(wait_for(look, f"a process with {word}"))

    def close(self) -> None:
        """End what the test left running, and only that."""
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.communicate()
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


class Jobs(Product):
    """A run of shell jobs that the test holds back and lets go."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.environment["TEST_FOLDER"] = str(folder)
        # Jobs run in a clean shell: what they need is in their setup.
        (folder / "setup.sh").write_text(f"export TEST_FOLDER='{folder}'\n")
        (folder / "job.sh").write_text(JOB)

    def words(self, number: int, *more: str) -> list[str]:
        job = ["/bin/sh", str(self.folder / "job.sh"), "{index}", "{seed}", "{output}"]
        return ["command", "-n", str(number), "--setup", "setup.sh", *more, "--", *job]

    def go(self) -> None:
        (self.folder / "go").touch()

    def executions(self) -> list[int]:
        """The batch of each execution, in order of their starts."""
        path = self.folder / "executions"
        return (
            [int(line.split()[0]) for line in path.read_text().splitlines()]
            if path.exists()
            else []
        )
