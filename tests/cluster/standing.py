"""One cluster for all tests of a module, and a bench at it for each: bringing up costs seconds.

Jobs write who ran to a file on their own host, so that executions are counted also where the
test's folder is not seen.
"""

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from department import Department
from product import wait_for
from rig import LEASE, RESULT, Rig

# Of each host's own disk; seen from here through Host.path.
PLACE = "/var/tmp"
JOB = f"""\
echo "$1" >> {{place}}/{{name}}-executions
until test -e {{place}}/{{name}}-go; do sleep 0.02; done
{RESULT} > "$3"
"""


class Bench(Rig):
    """A folder of its own before a cluster that is up and stays up."""

    def __init__(self, folder: Path, department: Department, lease: float) -> None:
        folder.mkdir()
        super().__init__(folder, department, lease=lease)
        self.name = folder.name
        self.job(JOB.format(place=PLACE, name=self.name))

    # ------------------------------------------------------------------ jobs

    def job(self, text: str) -> None:
        """What a batch runs: $1 is its index, $2 its seed, $3 its output."""
        (self.folder / "job.sh").write_text(text)

    def words(self, number: int, *more: str) -> list[str]:
        job = ["/bin/sh", "{shipped}/job.sh", "{index}", "{seed}", "{output}"]
        return ["command", "-n", str(number), "--ship", "job.sh", *more, "--", *job]

    def go(self, *names: str) -> None:
        """Let the jobs end, on these hosts or on all."""
        for host in self.department.hosts:
            if not names or host.name in names:
                host.path(f"{PLACE}/{self.name}-go").touch()

    def executions_on(self, name: str) -> list[int]:
        """The batches that began on a host, in that order."""
        path = self.department[name].path(f"{PLACE}/{self.name}-executions")
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def executions(self) -> list[int]:
        return [batch for host in self.department.hosts for batch in self.executions_on(host.name)]

    def held(self, number: int, *more: str, running: int) -> Any:
        """A run with so many jobs that are running and wait."""
        driver = self.start(*self.words(number, *more))
        wait_for(lambda: len(self.executions()) >= running, f"{running} jobs to run")
        return driver

    def end(self, driver: Any, code: int = 0) -> str:
        """What a run said that ends so."""
        output, _ = driver.communicate(timeout=90)
        assert driver.returncode == code, output
        return str(output)

    def lines(self, kind: str) -> list[dict[str, Any]]:
        """None before there is a run."""
        return super().lines(kind) if self.timestamps else []

    def addresses(self, *names: str) -> str:
        """For --hosts."""
        return ",".join(self.department[name].address for name in names)

    # ------------------------------------------------------------------ what is left

    def nothing_left(self) -> None:
        """Nothing of the runs; the cluster stays."""
        wait_for(lambda: not self.batches_left(), f"{self.batches_left()} to end", 15.0)
        wait_for(lambda: not self._files_left(), f"{self._files_left()} to be removed", 15.0)

    def _files_left(self) -> list[Path]:
        """What is left of these runs in the private folders of agents."""
        hosts = [host for host in self.department.hosts if host.alive]
        return [
            path
            for host in hosts
            for base in ("/tmp", host.scratch)
            for stamp in self.timestamps
            for path in host.path(base).glob(f"dask-runner-*/attempts/{stamp}*")
        ]

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.communicate()
        self.nothing_left()


class Standing:
    """A department with a cluster that is up. `per_host` are hostfile keys, `environment` is for
    `up`.
    """

    def __init__(
        self,
        folder: Path,
        hosts: int,
        *,
        lease: float = LEASE,
        slots: int = 2,
        environment: Mapping[str, str] | None = None,
        per_host: Mapping[str, Mapping[str, Any]] | None = None,
        **options: Mapping[str, Any],
    ) -> None:
        self._folder = folder
        self._lease = lease
        self.department = Department(hosts, share=[folder], **options)
        self.rig = Rig(folder, self.department, lease=lease)
        self.rig.environment |= environment or {}
        try:
            self.status = self.rig.up(slots=slots, **(per_host or {}))
        except BaseException:
            self.__exit__()
            raise

    @contextmanager
    def bench(self) -> Iterator[Bench]:
        """For one test: all hosts are up when it begins, nothing of it is left when it ends."""
        number = len(list(self._folder.glob("bench-*")))
        bench = Bench(self._folder / f"bench-{number}", self.department, self._lease)
        for host in self.department.hosts:
            bench.wait_phase(host, "up")
        try:
            yield bench
        finally:
            bench.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self.rig.run("down", expect=None)
            self.rig.nothing_left()
        finally:
            self.rig.close()
            self.department.close()


def kinds(rig: Rig) -> dict[int, str]:
    """The kind of failure of each batch of the last run that failed."""
    return {
        line["batch"]: line["failure"]["kind"]
        for line in rig.lines("outcome")
        if line["status"] == "failed"
    }


def kill(process: Any) -> None:
    """SIGKILL, which says nothing to anybody."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
