"""Rows 15 and 16 of the fault matrix over hosts, two runs at once, and that the bits are the same.

One cluster for all: node01 and node02 share the driver's folder, node03 does not.
"""

import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from product import wait_for
from rig import RESULT, reference
from standing import Bench, Standing, kill

from dask_runner.errors import EXIT_INTERRUPTED, EXIT_USAGE

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
# A workload that nothing has installed: plans, runs and merges from the copy that is shipped.
SQUARES = """\
import socket
from pathlib import Path
from typing import ClassVar

from msgspec import Struct

from dask_runner.batch import Batch, PlannedOutput
from dask_runner.workloads.interface import MergedFile, MergeRequest, Plan


class Squares(Struct, frozen=True, kw_only=True):
    preload: ClassVar[tuple[str, ...]] = ()
    uses_folder: ClassVar[bool] = True
    number: int

    def plan(self) -> Plan:
        names = [f"{index}.txt" for index in range(self.number)]
        return Plan(
            batches=[
                Batch(index=index, workload="squares:Squares", outputs=(PlannedOutput(name=name),))
                for index, name in enumerate(names)
            ]
        )

    def run(self, batch: Batch, folder: Path) -> dict[str, float]:
        print("on", socket.gethostname())
        table = (Path(__file__).parent / "table.txt").read_text().split()
        (folder / f"{batch.index}.txt").write_text(table[batch.index])
        return {}

    def merge(self, request: MergeRequest) -> list[MergedFile]:
        return []
"""
SCRIPT = """\
import sys
import dask_runner
sys.path.insert(0, ".")
from squares import Squares
run = dask_runner.start(
    Squares(number=12), ship=["squares.py", "table.txt"], group=1, progress=False
)
print(*[path.read_text() for path in run.outputs()])
"""


@pytest.fixture(scope="module")
def standing(_can_build: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    folder = tmp_path_factory.mktemp("driver")
    with Standing(folder, 3, node03={"shared": False}) as made:
        yield made


@pytest.fixture
def bench(standing: Standing) -> Iterator[Bench]:
    with standing.bench() as made:
        yield made


def done(bench: Bench) -> set[int]:
    """The batches that the last run's manifest calls done."""
    return {index for line in bench.lines("done") for index, _ in line["attempts"]}


def test_row_15_a_driver_killed_at_a_random_moment_and_again_during_recovery(bench):
    moment = random.Random(1)
    bench.job(f'echo "$1" >> /var/tmp/{bench.name}-executions\nsleep 0.1\n{RESULT} > "$3"\n')
    driver = bench.start(*bench.words(60))
    wanted = moment.randrange(1, 30)
    wait_for(lambda: bench.done() >= wanted, f"{wanted} batches")
    time.sleep(moment.random() * 0.3)  # the random moment itself
    kill(driver)
    wait_for(lambda: not bench.batches_left(), "its batches to end", 8.0)
    bench.nothing_left()
    before, executed = done(bench), Counter(bench.executions())
    manifest = bench.last / "manifest.jsonl"
    earlier = Path(shutil.copy(manifest, bench.folder / "earlier.jsonl"))
    size = manifest.stat().st_size
    again = bench.start("rerun", "last")
    wait_for(lambda: manifest.stat().st_size > size, "the rerun to write")
    time.sleep(moment.random() * 2.0)  # the random moment itself
    kill(again)
    bench.run("rerun", "last")
    result = bench.check(finished=True, earlier=earlier, reference_hash=reference(60))
    assert result.done == set(range(60))
    later = Counter(bench.executions()) - executed
    assert not before & set(later), "what was done is not executed again"


def test_row_15_batches_of_a_killed_driver_end_on_all_hosts(bench):
    driver = bench.held(12, running=6)
    assert len(bench.batches_left()) >= 6
    kill(driver)
    wait_for(lambda: not bench.batches_left(), "its batches to end", 5.0)
    bench.nothing_left()
    wait_for(lambda: not bench.status().get("runs"), "the run to be detached")
    bench.go()
    bench.run("rerun", "last")
    result = bench.check(finished=True, reference_hash=reference(12))
    assert result.done == set(range(12))
    assert max(Counter(bench.executions()).values()) == 2


@pytest.mark.parametrize("number", SIGNALS)
def test_row_16_the_first_signal_drains_and_rerun_goes_on(bench, number):
    driver = bench.held(12, running=6)
    driver.send_signal(number)
    bench.go()
    bench.end(driver, EXIT_INTERRUPTED)
    result = bench.check()
    assert len(result.done) >= 6, "what ran has ended well, also on the host without the folder"
    assert not result.failed
    bench.run("rerun", "last")
    assert bench.check(finished=True, reference_hash=reference(12)).done == set(range(12))
    assert sorted(bench.executions()) == list(range(12)), "each once"


@pytest.mark.parametrize("number", SIGNALS)
def test_row_16_the_second_signal_ends_at_once(bench, number):
    driver = bench.held(12, running=6)
    driver.send_signal(number)
    time.sleep(0.3)  # two signals at once would be one
    driver.send_signal(number)
    bench.end(driver, EXIT_INTERRUPTED)
    wait_for(lambda: not bench.batches_left(), "its batches to end", 5.0)
    result = bench.check()
    assert result.pending == set(range(12)), "cancelled batches are nobody's failure"


def test_two_runs_at_once_each_get_what_they_can_use(bench):
    small = bench.start(*bench.words(20, "--max-slots", "1"))
    wait_for(lambda: len(bench.executions()) == 1, "its one job")
    large = bench.start(*bench.words(20))
    wait_for(lambda: len(bench.executions()) == 6, "all slots to be busy")
    runs = bench.status()["runs"]
    assert {run["pid"]: run["slots"] for run in runs} == {small.pid: 1, large.pid: 5}
    bench.go()
    bench.end(small)
    bench.end(large)
    bench.nothing_left()
    assert sorted(bench.executions()) == sorted([*range(20), *range(20)]), "each once"
    for timestamp in bench.timestamps:
        assert bench.run("verify", timestamp).returncode == 0


def test_this_machine_alone_on_request_though_a_cluster_is_up(bench):
    bench.job('hostname > "$3"\n')
    said = bench.run(*bench.words(2, "--cluster", "local")).stderr
    assert "using cluster" not in said
    assert not {"node01", "node02", "node03"} & {
        path.read_text().strip() for path in (bench.last / "outputs").iterdir()
    }
    refused = bench.run(*bench.words(1, "--cluster", "nobody"), expect=None)
    assert refused.returncode not in {0, EXIT_USAGE}
    assert "nobody" in refused.stderr
    assert "main" in refused.stderr


def test_a_workload_of_ones_own_is_shipped_to_hosts_that_do_not_have_it(bench):
    (bench.folder / "squares.py").write_text(SQUARES)
    table = [str(number**2) for number in range(12)]
    (bench.folder / "table.txt").write_text("\n".join(table))
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=bench.folder,
        env=bench.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == table
    assert bench.check(finished=True).done == set(range(12))
    hosts = {line["host"] for line in bench.lines("started")}
    assert bench.department["node03"].address in hosts
    (bench.folder / "squares.py").unlink()
    assert bench.run("verify", "last").returncode == 0


def test_generated_events_are_the_same_bits_as_on_this_machine(bench):
    content = []
    for place in ("local", "main"):
        words = ["generate", "-b", "5", "-n", "6", "--run-number", "304795", "-q"]
        bench.run(*words, "--evnt-dir", place, "--cluster", place)
        result = bench.check(finished=True)
        assert result.done == set(range(6))
        content.append(result.content)
    assert content[0] == content[1]
    # The second run was on the hosts, and where the folder is not seen, events came from there.
    unshared = bench.department["node03"].address
    assert unshared in {line["host"] for line in bench.lines("started")}
    outputs = {note["data"]["host"]: note["data"].get("outputs") for note in bench.notes("staging")}
    assert outputs[unshared] == "copied"
