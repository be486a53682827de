"""Batch processes of one host, without Dask: how many a second, and what a batch in a group costs.

    python scripts/bench/slots.py [--seconds 5] [--slots 2]

Prints rates beside their targets, and a bare fork of the same warm process for comparison.
"""

import argparse
import gc
import importlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import ClassVar

from msgspec import Struct

from dask_runner.batch import Attempt, Batch, OutcomeStatus, WorkloadSpec
from dask_runner.execution import numerics
from dask_runner.execution.pool import Pool, PoolConfig
from dask_runner.execution.task import Group, decode_outcomes, encode_group

HEAVY = ("uproot", "awkward", "scipy")
TARGET_SINGLES = 250.0
TARGET_GROUPED = 20.0


class Noop(Struct, frozen=True, kw_only=True):
    """Does nothing, in batch processes that import this file as the module `slots`."""

    preload: ClassVar[tuple[str, ...]] = ("slots",)
    uses_folder: ClassVar[bool] = False

    def run(self, batch: Batch, folder: Path) -> dict[str, float]:
        del batch, folder
        return {}


class NoopInFolder(Noop, frozen=True, kw_only=True):
    uses_folder: ClassVar[bool] = True


def encoded(workload: str, attempts: str, first: int, size: int) -> bytes:
    return encode_group(
        Group(
            run="20260101T000000Z",
            topic="bench",
            workload=WorkloadSpec(name=workload, configuration={}),
            attempts_folder=attempts,
            attempts=tuple(
                Attempt(batch=Batch(index=first + k, workload=workload), number=1)
                for k in range(size)
            ),
        )
    )


def rate(pool: Pool, slots: int, seconds: float, workload: str, size: int) -> float:
    """Batches a second in groups of `size`, one thread for each slot as in a Dask worker."""
    counts = [0] * slots
    with tempfile.TemporaryDirectory() as attempts:
        begin = time.perf_counter()

        def work(slot: int) -> None:
            number = slot
            while time.perf_counter() - begin < seconds:
                data = encoded(workload, attempts, number * size, size)
                streamed: list[bytes] = []
                streamed.append(pool.run(data, streamed.append))
                outcomes = [one for part in streamed for one in decode_outcomes(part)]
                assert len(outcomes) == size
                assert all(one.status is OutcomeStatus.DONE for one in outcomes), outcomes[0]
                counts[slot] += size
                number += slots

        threads = [threading.Thread(target=work, args=(slot,)) for slot in range(slots)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts) / (time.perf_counter() - begin)


def bare_forks(seconds: float) -> float:
    """Forks a second of a process with the same modules, that do nothing at all."""
    for name in HEAVY:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        count += 1
    return count / (time.perf_counter() - begin)


def bare_forks_on_all(slots: int, seconds: float) -> float:
    """The same in as many processes at once, in the pinned environment: with one thread each."""
    command = [sys.executable, __file__, "--bare", "--seconds", str(seconds)]
    environment = {**os.environ, **numerics.pinned_environment()}
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) for _ in range(slots)
    ]
    return sum(float(one.communicate()[0]) for one in running)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    slots, seconds = options.slots, options.seconds
    if options.bare:
        print(bare_forks(seconds))
        return
    bare = bare_forks_on_all(slots, seconds)
    with tempfile.TemporaryDirectory() as scratch:
        config = PoolConfig(
            slots=slots, host="bench", scratch=scratch,
            import_path=(str(Path(__file__).parent),), preload=(*HEAVY, "slots"),
        )  # fmt: skip
        pool = Pool(config)
        try:
            singles = rate(pool, slots, seconds, "slots:Noop", 1)
            folders = rate(pool, slots, seconds, "slots:NoopInFolder", 1)
            grouped = 1e6 / rate(pool, slots, seconds, "slots:Noop", 1000)
        finally:
            pool.close()
    print(f"{slots} slots, {', '.join(HEAVY)} loaded")
    print(f"one process a batch       {singles:8.0f} batches/s   (target {TARGET_SINGLES:.0f})")
    print(f"  with folder and log     {folders:8.0f} batches/s")
    print(f"  bare fork and wait      {bare:8.0f} forks/s     (ratio {singles / bare:.2f})")
    print(f"groups of 1000            {grouped:8.1f} us a batch  (target {TARGET_GROUPED:.0f})")


if __name__ == "__main__":
    main()
