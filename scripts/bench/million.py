#!/usr/bin/env python3
"""A run of a million no-op batches: memory of client and scheduler, throughput, reading commands.

scripts/bench/million.py [--batches 1000000]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
from dispatch import HERE, settings
from workloads import Nothing

from dask_runner import pipeline
from dask_runner.control import Control
from dask_runner.opening import Target
from dask_runner.progress import QuietProgress, Snapshot


class Rates(QuietProgress):
    """When how many batches were done."""

    def __init__(self) -> None:
        self.points: list[tuple[float, int]] = []

    def update(self, snapshot: Snapshot) -> None:
        self.points.append((time.perf_counter(), snapshot.done))

    def rate(self, first: int, last: int) -> float:
        """Batches a second between two numbers done."""
        inside = [(t, n) for t, n in self.points if first <= n <= last]
        return (inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0])


class Memory(threading.Thread):
    """The largest resident sizes of the client and of the scheduler, sampled."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.client = self.scheduler = 0
        self.ended = threading.Event()

    def run(self) -> None:
        me = psutil.Process()
        while not self.ended.wait(0.25):
            self.client = max(self.client, me.memory_info().rss)
            for child in me.children(recursive=True):
                try:
                    if any("scheduler_process" in word for word in child.cmdline()):
                        self.scheduler = max(self.scheduler, child.memory_info().rss)
                except psutil.Error:
                    continue


# Also where a cluster is up.
HERE_ONLY = Target(cluster="local")


def timed(runs: Path, *words: str) -> float:
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "dask_runner", *words, "--runs", str(runs)],
        check=False, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": HERE},
    )  # fmt: skip
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=1_000_000)
    number = parser.parse_args().batches
    runs = Path(tempfile.mkdtemp(prefix="dask-runner-bench-"))
    try:
        request = pipeline.RunRequest(
            workload=Nothing(number=number), settings=settings(runs), import_path=(HERE,)
        )
        memory, rates = Memory(), Rates()
        memory.start()
        began = time.perf_counter()
        folder, manifest = pipeline.create(request)
        planned = time.perf_counter() - began
        with manifest:
            pipeline.run(folder, manifest, target=HERE_ONLY, control=Control(), progress=rates)
        seconds = time.perf_counter() - began
        memory.ended.set()
        tenth = number // 10
        first, last = rates.rate(0, tenth), rates.rate(number - tenth, number)
        print(f"{number} batches in {seconds:.1f} s, of which the plan {planned:.1f} s")
        print(
            f"client {memory.client / 1e6:.0f} MB, scheduler {memory.scheduler / 1e6:.0f} MB (target < 600)"
        )
        print(
            f"first tenth {first:.0f}/s, last tenth {last:.0f}/s, ratio {last / first:.2f} (target >= 0.8)"
        )
        print(f"status {timed(runs, 'status', folder.timestamp):.2f} s (target < 5)")
        print(f"rerun -t {timed(runs, 'rerun', '-t', folder.timestamp):.2f} s (target < 10)")
        print(f"manifest {folder.manifest.stat().st_size / 1e6:.0f} MB")
    finally:
        shutil.rmtree(runs, ignore_errors=True)


if __name__ == "__main__":
    main()
