"""Rows 8, 11, 28, 29 and 30 of the fault matrix on hosts with and without the driver's folder.

One cluster for all: node01 and node02 share the folder, node03 does not, and its scratch is small.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import workloads_for_tests
from product import wait_for
from standing import JOB, PLACE, Bench, Standing, kinds

from dask_runner.errors import EXIT_FAILED_BATCHES, EXIT_STORAGE

# MB of node03's scratch, and below how many of them it gets no batches.
SCRATCH, FLOOR = 48, 8
CAP = 100_000

# One batch of each kind of badness, and a good one.
ACTS = r"""
case "$1" in
0) echo fine > "$3";;
1) trap '' TERM INT HUP; echo 'I stay'; while :; do sleep 1; done;;
2) echo first words; head -c 20000000 /dev/zero | tr '\0' 'x'; echo; echo last words; exit 5;;
3) echo 'about to die'; kill -SEGV $$;;
4) for n in 1 2; do setsid sh -c 'trap "" TERM HUP; (sleep 300; :) & sleep 300; :' & done
   echo left some > "$3";;
5) printf '\377\376 is no text\n'; exit 6;;
6) echo hungry; dd if=/dev/zero of=/dev/null bs=250M count=1000;;
esac
"""
# A gigabyte.
FLOOD = 1_000_000_000
# Two batches raise an error, one says what is wrong with its input, one is good.
RAISING = """\
import sys
sys.path.insert(0, {folder!r})
import dask_runner
from dask_runner.batch import Batch
from workloads_for_tests import ACT, Act
acts = [dict(act="raises"), dict(act="raises", kind="BadInputError"), dict(act="say"),
        dict(act="raises")]
batches = [Batch(index=k, workload=ACT, parameters=act) for k, act in enumerate(acts)]
run = dask_runner.start(
    Act(batches=tuple(batches)), ship=[{source!r}], hosts=sys.argv[1], attempts=1
)
assert run.summary.failed == 3
"""
ENDS = {1: "timeout", 2: "exit-code", 3: "signal", 5: "exit-code", 6: "memory"}
WORDS = {1: "I stay", 2: "last words", 3: "about to die", 5: "is no text", 6: "hungry"}


@pytest.fixture(scope="module")
def standing(_can_build: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    with Standing(
        tmp_path_factory.mktemp("bad-hosts"),
        3,
        node03={"shared": False, "scratch_mb": SCRATCH},
        per_host={"node03": {"scratch": "/home/scratch"}},
        environment={"DASK_RUNNER_CLUSTER_SCRATCH_FLOOR": str(FLOOR)},
    ) as made:
        yield made


@pytest.fixture
def bench(standing: Standing) -> Iterator[Bench]:
    try:
        with standing.bench() as made:
            yield made
    finally:
        standing.department["node03"].empty_scratch()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", mount], check=True)
    yield mount
    subprocess.run(["umount", "-l", mount], check=True)


@pytest.mark.parametrize("host", ["node01", "node03"])
def test_row_11_bad_batches_end_with_their_cause_their_log_and_no_survivor(bench, host):
    bench.job(ACTS)
    bench.environment["DASK_RUNNER_RUN_LOG_CAP"] = str(CAP // 1000)
    limits = ["--attempts", "1", "--timeout", "3", "--memory", "150"]
    there = ["--hosts", bench.addresses(host)]
    bench.run(*bench.words(7, *limits, *there), expect=EXIT_FAILED_BATCHES)
    result = bench.check(finished=True)
    assert result.done == {0, 4}
    assert kinds(bench) == ENDS
    for batch, words in WORDS.items():
        log = bench.run("logs", "last", str(batch)).stdout
        assert words in log, log
    assert "first words" in bench.run("logs", "last", "2").stdout
    for path in (bench.last / "attempts").rglob("*log*"):
        assert path.stat().st_size < 2 * CAP
    # The host is as good as before.
    bench.job('echo "$1" > "$3"\n')
    bench.run(*bench.words(2, *there))


def test_row_11_a_batch_that_raises_ends_with_its_exception(bench):
    source = workloads_for_tests.__file__
    script = RAISING.format(folder=workloads_for_tests.FOLDER, source=source)
    words = [sys.executable, "-c", script, bench.addresses("node01", "node03")]
    subprocess.run(words, cwd=bench.folder, env=bench.environment, check=True, timeout=60)
    result = bench.check(finished=True)
    assert result.done == {2}
    assert kinds(bench) == {0: "exception", 1: "bad-input", 3: "exception"}
    causes = [line["failure"] for line in bench.lines("outcome") if line["status"] == "failed"]
    assert all("event 12 is odd" in cause["message"] for cause in causes)
    # The whole story is in the log, which has come here.
    log = bench.run("logs", "last", "3").stdout
    assert "Traceback" in log
    assert "ValueError: event 12 is odd" in log


def test_row_11_a_flood_of_output_costs_no_memory(bench):
    there = ["--hosts", bench.addresses("node03"), "--max-slots", "1"]
    bench.job('echo "$1" > "$3"\n')
    bench.run(*bench.words(1, *there))
    before = peaks(bench)
    bench.job(f"head -c {FLOOD} /dev/zero | tr '\\0' x\necho; echo last words; exit 5\n")
    bench.environment["DASK_RUNNER_RUN_LOG_CAP"] = str(CAP // 1000)
    # Else it takes a minute where others work.
    bench.environment["DASK_RUNNER_RUN_NICE"] = "0"
    words = ["--attempts", "1", "--memory", "150", *there]
    bench.run(*bench.words(1, *words), expect=EXIT_FAILED_BATCHES)
    assert bench.check(finished=True).failed == {0}
    assert kinds(bench) == {0: "exit-code"}
    (outcome,) = (line for line in bench.lines("outcome") if line["status"] == "failed")
    assert outcome["log"]["dropped"] + outcome["log"]["length"] > FLOOD
    log = bench.run("logs", "last", "0").stdout
    assert "last words" in log
    assert len(log) < 2 * CAP
    grown = {pid: peak - before[pid] for pid, peak in peaks(bench).items() if pid in before}
    assert len(grown) >= 8, "agents, workers, their helpers, scheduler"
    assert max(grown.values()) < FLOOD // 50, grown


def peaks(bench: Bench) -> dict[int, int]:
    """The most memory in bytes that each process of the cluster has ever used."""
    found = {}
    for pid in [bench.status()["pid"], *bench.cluster_processes()]:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue
        found[pid] = sum(1024 * int(line.split()[1]) for line in lines if "VmHWM:" in line)
    return found


def _quiet(bench, host) -> bool:
    """True if nothing runs on the host, and nothing has begun there for 3 s."""
    before = len(bench.executions_on(host.name))
    time.sleep(3)
    still = len(bench.executions_on(host.name)) == before
    return still and not bench.look(host).get("running")


def test_row_8_a_full_scratch_fails_nothing_and_its_host_is_used_again_when_there_is_space(bench):
    bench.job(
        f'echo "$1" >> /var/tmp/{bench.name}-executions\n'
        'dd if=/dev/zero of="$DASK_RUNNER_SCRATCH/mine" bs=100k count=10 2>&1\n'
        "sleep 0.2\n"
        'test "$(stat -c %s "$DASK_RUNNER_SCRATCH/mine")" = 1024000 || exit 3\n'
        'echo "$1" > "$3"\n'
    )
    small = bench.department["node03"]
    driver = bench.start(*bench.words(80))
    wait_for(lambda: len(bench.executions_on("node03")) >= 3, "batches on node03")
    small.fill_scratch()
    wait_for(lambda: "scratch has only" in bench.look(small).get("refusal", ""), "its refusal")
    # What had been sent there before still runs; what is told of it is up to 2 s old.
    wait_for(lambda: _quiet(bench, small), "its batches to end")
    before = len(bench.executions_on("node03"))
    assert "no new batches: scratch has only" in " ".join(bench.run("status").stdout.split())
    bench.end(driver)
    assert len(bench.executions_on("node03")) == before
    assert bench.check(finished=True).done == set(range(80))
    failed = [line for line in bench.lines("outcome") if line["status"] == "failed"]
    assert {line["host"] for line in failed} <= {small.address}
    small.empty_scratch()
    wait_for(lambda: not bench.look(small).get("refusal"), "its scratch to be seen empty")
    bench.run(*bench.words(12))
    assert len(bench.executions_on("node03")) > before
    assert bench.check(finished=True).done == set(range(12))


def test_row_8_a_full_disk_here_stops_the_run_and_a_rerun_goes_on(bench, small_disk):
    bench.job('head -c 300000 /dev/zero > "$3"\n')
    words = ["--hosts", bench.addresses("node03"), "--output-dir", str(small_disk / "results")]
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2_000_000))
    done = bench.run(*bench.words(8, *words), expect=EXIT_STORAGE)
    assert "No space left" in done.stderr
    assert "rerun" in done.stderr
    result = bench.check()
    assert result.done
    assert not result.failed, "it is no batch's fault"
    ballast.unlink()
    bench.run("rerun", "last")
    assert bench.check(finished=True).done == set(range(8))


def test_row_28_a_broken_tool_on_one_host_is_announced_and_no_batch_suffers(bench):
    tool = f"/var/tmp/{bench.name}-tool"
    for host in bench.department.hosts:
        host.path(tool).write_text('#!/bin/sh\nsleep 0.2\necho "$1" > "$2"\n')
        host.path(tool).chmod(0o755)
    bad = bench.department["node03"]
    good_tool = bad.path(tool).read_text()
    bad.path(tool).write_text('#!/bin/sh\necho "libX.so.6: no such file" >&2\nexit 127\n')
    # The last batch waits, so that there is time to look.
    bench.job(
        f'echo "$1" >> /var/tmp/{bench.name}-executions\n'
        f'test "$1" = 59 && until test -e /var/tmp/{bench.name}-go; do sleep 0.02; done\n'
        f'{tool} "$1" "$3"\n'
    )
    driver = bench.start(*bench.words(60))
    wait_for(lambda: bench.notes("quarantine"), "the quarantine")
    wait_for(lambda: bench.look(bad).get("announced"), "its announcement")
    assert "quarantine: " in bench.run("status").stdout
    bench.go()
    output = bench.end(driver)
    assert f"{bad.address} is under quarantine" in output
    result = bench.check(finished=True)
    assert result.done == set(range(60))
    (note,) = bench.notes("quarantine")
    assert note["data"]["host"] == bad.address
    assert "failures in a row" in note["text"]
    assert len(bench.executions_on("node03")) < 20
    assert not bench.look(bad).get("announced"), "it was that run's"
    # Repaired, it is as good as any for the next run.
    bad.path(tool).write_text(good_tool)
    before = len(bench.executions_on("node03"))
    bench.run(*bench.words(12))
    assert len(bench.executions_on("node03")) > before


def test_row_29_what_fails_here_and_there_is_the_batchs_fault(bench):
    bench.job(
        f'echo "$1" >> /var/tmp/{bench.name}-executions\n'
        'test "$1" = 3 && { echo "cannot open table 3"; exit 41; }\n'
        'echo "$1" > "$3"\n'
    )
    words = ["--hosts", bench.addresses("node01", "node03"), "--attempts", "5"]
    bench.run(*bench.words(8, *words), expect=EXIT_FAILED_BATCHES)
    assert bench.executions_on("node01").count(3) == bench.executions_on("node03").count(3) == 1
    assert bench.check(finished=True).failed == {3}
    (note,) = bench.notes("poison")
    assert note["data"]["hosts"] == sorted(
        bench.department[name].address for name in ("node01", "node03")
    )
    assert not bench.notes("quarantine")
    assert "cannot open table 3" in bench.run("errors", "last").stdout


def test_row_30_a_host_without_the_folder_leaves_and_comes_back_during_a_run(bench):
    bench.job(JOB.format(place=PLACE, name=bench.name) + 'head -c 3000000 /dev/urandom >> "$3"\n')
    driver = bench.held(12, running=6)
    leaving = bench.department["node03"]
    # Its outputs take longer to come here than a host needs to end.
    leaving.slow(8)
    began = bench.executions_on("node03")
    bench.run("hosts", "drain", leaving.address)
    bench.wait_phase(leaving, "draining")
    bench.go("node03")
    bench.wait_phase(leaving, "drained")
    assert bench.executions_on("node03") == began, "it got no new ones"
    # What it had done is here, though it is gone.
    wait_for(lambda: bench.done() == len(began), "its batches")
    leaving.slow(0)
    leaving.path(f"/var/tmp/{bench.name}-go").unlink()
    bench.run("hosts", "add", leaving.address)
    wait_for(lambda: len(bench.executions_on("node03")) > len(began), "it to be used again")
    bench.go()
    bench.end(driver)
    assert bench.check(finished=True).done == set(range(12))
    assert sorted(bench.executions()) == list(range(12)), "each once"
    assert [note["data"]["host"] for note in bench.notes("host-joined")] == [leaving.address]


def test_errors_on_hosts_are_told_as_data_too(bench):
    bench.job('echo "on $(hostname)" >&2; exit 9\n')
    words = ["--hosts", bench.addresses("node03"), "--attempts", "1"]
    done = bench.run(*bench.words(2, *words, "--json"), expect=EXIT_FAILED_BATCHES)
    assert json.loads(done.stdout)["failed"] == 2
    (cause,) = bench.json("errors", "last")["causes"]
    assert "on node03" in cause["tail"]
