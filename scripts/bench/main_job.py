#!/usr/bin/env python3
"""The main job in small and in large batches, and what a batch costs besides its steps.

scripts/bench/main_job.py [--events 2000] [--rounds 3]
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from dispatch import Clock

from dask_runner import pipeline
from dask_runner.api import Run, generate
from dask_runner.control import Control
from dask_runner.opening import Target
from dask_runner.settings import load_settings
from dask_runner.workloads.reconstruct import Reconstruct

SMALL, LARGE = 25, 500

# Also where a cluster is up.
HERE_ONLY = Target(cluster="local")


def run(folder: Path, size: int) -> tuple[float, float, Run]:
    """Seconds from the command's start, seconds of dispatch alone, and the run."""
    settings = load_settings(
        None,
        {},
        {
            "storage.runs": str(folder / "runs"),
            "generate.evnt_dir": str(folder / "evnt"),
            "run.batch_size": size,
            "run.slots": 2,
            "run.nice": 0,
        },
    ).settings
    workload = Reconstruct.from_settings(settings)
    clock = Clock()
    began = time.perf_counter()
    path, manifest = pipeline.create(pipeline.RunRequest(workload=workload, settings=settings))
    with manifest:
        pipeline.run(path, manifest, target=HERE_ONLY, control=Control(), progress=clock)
    return time.perf_counter() - began, clock.seconds, Run(path.path)


def overhead(done: Run) -> float:
    """The median over batches of wall time minus the CPU time of the steps, in s."""
    return statistics.median(outcome.wall - outcome.cpu for outcome in done.outcomes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dask-runner-bench-"))
    try:
        files = max(1, arguments.events // LARGE)
        generate(folder / "evnt", batch_size=LARGE, files=files, runs=folder / "runs", nice=0)
        times: dict[int, list[tuple[float, float]]] = {SMALL: [], LARGE: []}
        for _ in range(arguments.rounds):
            for size, seen in times.items():
                whole, dispatch, done = run(folder, size)
                seen.append((whole, dispatch))
                if size == SMALL:
                    extra = overhead(done)
        best = {size: tuple(map(min, zip(*seen, strict=True))) for size, seen in times.items()}
        for index, what in enumerate(("whole run", "dispatch alone")):
            small, large = best[SMALL][index], best[LARGE][index]
            print(f"{files * LARGE} events, {what}: -b {SMALL} {small:.2f} s, -b {LARGE} {large:.2f} s, "
                  f"ratio {small / large:.2f} (target for the whole <= 1.3)")  # fmt: skip
        print(f"a batch of {SMALL} events: wall minus cpu {extra * 1e3:.1f} ms (target <= 60)")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
