#!/usr/bin/env python3
"""The manifest alone: cost of a record, of a million batches, and of reading them back.

    scripts/bench/manifest.py [BATCHES]        default 1 000 000; about half a minute and 400 MB

Prints both sides of every ratio, and exits with 1 if a limit is missed. The driver's and the
reader's memory are those of processes of their own.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from dask_runner.batch import Batch, Outcome, OutcomeStatus, WorkloadSpec
from dask_runner.manifest import Done, Header, Manifest, Started, read_state
from dask_runner.manifest.encoding import encode
from dask_runner.run_folder import RunFolder

STAMP = "20261120T225745Z"
GROUP = 1000
LIMIT_SECONDS = 5.0
LIMIT_MB = 600.0


def outcome(index: int) -> Outcome:
    """What a no-op batch leaves."""
    return Outcome(
        batch=index,
        attempt=1,
        status=OutcomeStatus.DONE,
        host="tev01",
        started="2026-11-20T22:57:45.123Z",
        wall=0.000123,
        cpu=0.000101,
        max_rss=41_234_432,
    )


def peak_mb() -> float:
    """The peak memory of this process. ru_maxrss would include that of the one it came from."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def best_of(work: Callable[[], object], times: int = 5) -> float:
    """Seconds of the fastest of a few tries."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def bench_encoding() -> None:
    """One outcome as a line with its check sum, against json.dumps of the same."""
    number = 20_000
    record = outcome(123_456)
    plain = json.loads(encode(record, 1))
    ours = best_of(lambda: [encode(record, seq) for seq in range(number)]) / number
    theirs = best_of(lambda: [json.dumps(plain) for _ in range(number)]) / number
    print(f"encode an outcome      {ours * 1e6:8.2f} us    json.dumps {theirs * 1e6:.2f} us")


def bench_fsync(folder: Path) -> None:
    """A record with an fsync of its own against one in the commit window."""
    run = RunFolder.at(folder / "fsync" / STAMP)
    run.path.mkdir(parents=True)
    with Manifest.create(run, header(), [], plan(1)) as manifest:
        durable = best_of(lambda: manifest.record(outcome(0), durable=True), 200)
        grouped = best_of(lambda: manifest.record(outcome(0)), 200)
    print(f"record, group commit   {grouped * 1e6:8.1f} us    durable {durable * 1e6:.1f} us")


def header() -> Header:
    return Header(timestamp=STAMP, seed=1, workload=WorkloadSpec(name="noop", configuration={}))


def plan(number: int) -> list[Batch]:
    return [Batch(index=index, workload="noop") for index in range(number)]


def write(runs: Path, number: int) -> None:
    """The whole life of a run of no-op batches, as the driver records it."""
    run = RunFolder.at(runs / STAMP)
    run.path.mkdir(parents=True)
    start = time.perf_counter()
    manifest = Manifest.create(run, header(), [], plan(number))
    created = time.perf_counter() - start
    rates = []
    with manifest:
        for first in range(0, number, GROUP):
            begin = time.perf_counter()
            indices = range(first, min(first + GROUP, number))
            attempts = tuple((index, 1) for index in indices)
            manifest.record(Started(attempts=attempts, group=str(first), host="tev01"))
            manifest.record(*map(outcome, indices))
            manifest.record(Done(attempts=attempts), durable=True)
            rates.append(len(indices) / (time.perf_counter() - begin))
    tenth = max(1, len(rates) // 10)
    early, late = (sorted(part)[len(part) // 2] for part in (rates[:tenth], rates[-tenth:]))
    print(f"write the plan         {created:8.2f} s     {created / number * 1e6:.2f} us a batch")
    print(f"record, last tenth     {late:8.0f} /s    first tenth {early:.0f} /s")
    print(f"memory of the writer   {peak_mb():8.0f} MB    limit {LIMIT_MB:.0f}")
    print(f"size of the manifest   {run.manifest.stat().st_size / 1e6:8.0f} MB")
    if peak_mb() > LIMIT_MB:
        sys.exit(1)


def read(runs: Path) -> None:
    """Load without a lock."""
    start = time.perf_counter()
    state = read_state(runs / STAMP)
    seconds = time.perf_counter() - start
    number = state.done.batches
    print(f"read_state             {seconds:8.2f} s     {seconds / number * 1e6:.2f} us a batch")
    print(f"memory of the reader   {peak_mb():8.0f} MB    limit {LIMIT_MB:.0f}")
    if peak_mb() > LIMIT_MB or state.pending.batches:
        sys.exit(1)


def status(runs: Path) -> bool:
    """The whole command, as a user waits for it. True if it met its limits."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "dask_runner", "status", STAMP, "--runs", runs]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:
        _, code, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(code)
    seconds, megabytes = time.perf_counter() - start, usage.ru_maxrss / 1024
    print(f"dask-runner status     {seconds:8.2f} s     limit {LIMIT_SECONDS:.0f}")
    print(f"memory of status       {megabytes:8.0f} MB    limit {LIMIT_MB:.0f}")
    return child.returncode == 0 and seconds < LIMIT_SECONDS and megabytes < LIMIT_MB


def main() -> None:
    """Run each part in a process of its own: `BATCHES`, or `part RUNS [BATCHES]` from itself."""
    match sys.argv[1:]:
        case ["write", runs, number]:
            write(Path(runs), int(number))
        case ["read", runs]:
            read(Path(runs))
        case [] | [_]:
            number = sys.argv[1] if len(sys.argv) > 1 else "1000000"
            with tempfile.TemporaryDirectory() as runs:
                bench_encoding()
                bench_fsync(Path(runs))
                for part in (["write", runs, number], ["read", runs]):
                    subprocess.run([sys.executable, __file__, *part], check=True)
                sys.exit(0 if status(Path(runs)) else 1)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
