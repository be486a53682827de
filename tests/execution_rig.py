"""A pool of slots without Dask, and what tests ask of it. Polls with a bound, never sleeps blindly."""

import itertools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workloads_for_tests import ACT, ACT_IN_GROUP, FOLDER

from dask_runner.batch import Attempt, Batch, Outcome, PlannedOutput, WorkloadSpec
from dask_runner.execution.pool import Pool, PoolConfig
from dask_runner.execution.task import Group, Limits, decode_outcomes, encode_group
from dask_runner.files import path_to_text

RUN = f"20261120T225745Z-{os.getpid()}"  # others may be testing on this machine
_numbers = itertools.count(1000)  # below: for tests that choose their own


def act(act: str, *outputs: PlannedOutput, **parameters: Any) -> dict[str, Any]:
    return {"parameters": {"act": act, **parameters}, "outputs": outputs}


class Rig:
    """Runs groups of acts; attempts go to a folder of their own."""

    def __init__(self, pool: Pool, folder: Path) -> None:
        self.pool = pool
        self.attempts = folder / "attempts"
        self.attempts.mkdir()
        self.streamed: list[list[Outcome]] = []

    def group(
        self,
        *acts: dict[str, Any],
        workload: str = ACT,
        number: int = 0,
        first: int = 0,
        preload: tuple[str, ...] = (),
        **limits: Any,
    ) -> Group:
        number = number or next(_numbers)
        return Group(
            run=RUN,
            topic="topic",
            workload=WorkloadSpec(name=workload, configuration={}),
            attempts_folder=path_to_text(self.attempts),
            attempts=tuple(
                Attempt(batch=Batch(index=first + k, workload=workload, **one), number=number)
                for k, one in enumerate(acts)
            ),
            limits=Limits(**{"grace": 0.3, **limits}),
            versions={"dask-runner": "0.1", "numpy": "2"},
            preload=preload,
        )

    def run_group(self, group: Group) -> list[Outcome]:
        streamed: list[bytes] = []
        rest = self.pool.run(encode_group(group), streamed.append)
        self.streamed = [decode_outcomes(part) for part in streamed]
        return [outcome for part in self.streamed for outcome in part] + decode_outcomes(rest)

    def run(self, *acts: dict[str, Any], **options: Any) -> list[Outcome]:
        return self.run_group(self.group(*acts, **options))

    def one(self, act: dict[str, Any], **options: Any) -> Outcome:
        (outcome,) = self.run(act, **options)
        return outcome

    def grouped(self, *acts: dict[str, Any], **options: Any) -> list[Outcome]:
        return self.run(*acts, workload=ACT_IN_GROUP, **options)

    def start(self, *acts: dict[str, Any], **options: Any) -> "Started":
        return Started(lambda: self.run(*acts, **options))

    def log(self, outcome: Outcome) -> bytes:
        assert outcome.log is not None
        data = (self.attempts / outcome.log.path).read_bytes()
        return data[outcome.log.offset : outcome.log.offset + outcome.log.length]

    def body(self, outcome: Outcome) -> bytes:
        """The log without its head."""
        lines = self.log(outcome).splitlines(keepends=True)
        return b"".join(itertools.dropwhile(lambda line: line.startswith(b"# "), lines))


class Started:
    """A group that runs in a thread."""

    def __init__(self, work: Callable[[], list[Outcome]]) -> None:
        self._result: list[Outcome] | None = None
        self._thread = threading.Thread(target=self._work, args=(work,))
        self._thread.start()

    def _work(self, work: Callable[[], list[Outcome]]) -> None:
        self._result = work()

    def outcomes(self) -> list[Outcome]:
        self._thread.join(60)
        assert self._result is not None, "the group did not end"
        return self._result


def new_pool(folder: Path, **changes: Any) -> Pool:
    folder.mkdir(exist_ok=True)
    config = {
        "slots": 2,
        "host": "testhost",
        "scratch": str(folder),
        "import_path": (FOLDER,),
        "preload": ("workloads_for_tests",),
        "cluster": f"test-{os.getpid()}",
    }
    return Pool(PoolConfig(**{**config, **changes}))


def until(condition: Callable[[], Any], what: str, patience: float = 20.0) -> Any:
    """Poll until the condition holds, and return its value."""
    deadline = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.005)


def alive(pid: int) -> bool:
    """Running, or a zombie that nobody has reaped yet counts as dead."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat[stat.rindex(b")") + 2 :].split()[0] != b"Z"


def pids_in(path: Path, count: int) -> list[int]:
    """The pids that a batch has written into a file, one a line."""
    until(lambda: path.exists() and len(path.read_text().splitlines()) >= count, f"{path}")
    return [int(line) for line in path.read_text().split()]
