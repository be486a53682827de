#!/usr/bin/env python3
"""Cost of a batch, beside what the peers need for a task, all in one run.

    scripts/bench/dispatch.py [--batches 100000] [--tasks 20000] [--processes 2000] [--spin 40]

Prints both sides and the ratio for: a bare `client.map` of no-ops on the same cluster; batches in
groups; a process for each batch; batches of a second on all cores; HyperQueue and GNU parallel if
they are installed. All batches go the ordinary way: process, outcome stream, manifest.
"""

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Self

from workloads import Nothing, Spin

from dask_runner import pipeline
from dask_runner.cluster.interface import ClusterConfig
from dask_runner.cluster.local import LocalCluster
from dask_runner.control import Control
from dask_runner.opening import Target
from dask_runner.progress import QuietProgress
from dask_runner.settings import Settings, load_settings
from dask_runner.summary import Summary

HERE = str(Path(__file__).parent.absolute())


def noop(number: int) -> int:
    return number


def settings(runs: Path, **values: object) -> Settings:
    given = {f"run.{key}": value for key, value in {"slots": 2, "nice": 0, **values}.items()}
    return load_settings(None, {}, {**given, "storage.runs": str(runs)}).settings


def bare_map(tasks: int) -> float:
    """Seconds for each task of a `client.map` on a cluster with our settings."""
    with LocalCluster(ClusterConfig(slots=2)) as cluster:
        client = cluster.client()
        client.gather(client.map(noop, range(100), pure=False))
        began = time.perf_counter()
        client.gather(client.map(noop, range(tasks), pure=False))
        seconds = time.perf_counter() - began
        client.close()
    return seconds / tasks


def our_run(workload: object, values: Settings, cluster: str = "local") -> tuple[float, Summary]:
    """Seconds from the first dispatch to the last record, and the summary."""
    request = pipeline.RunRequest(
        workload=workload, settings=values, import_path=(HERE,), target=Target(cluster=cluster)
    )
    folder, manifest = pipeline.create(request)
    with manifest:
        progress = Clock()
        summary = pipeline.run(
            folder, manifest, target=request.target, control=Control(), progress=progress
        )
    shutil.rmtree(folder.path)
    return progress.seconds, summary


class Clock(QuietProgress):
    """Times dispatch alone: the cluster is up when it is entered."""

    seconds = 0.0

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        self.seconds = time.perf_counter() - self._began


def hyperqueue(tasks: int) -> float | None:
    """Seconds for each /bin/true of HyperQueue's LocalCluster, or None if it is not installed."""
    try:
        from hyperqueue import Job, LocalCluster  # noqa: PLC0415
        from hyperqueue.cluster import WorkerConfig  # noqa: PLC0415
    except ImportError:
        return None
    # Its table, progress bar and logs are not part of the measurement.
    silence = io.StringIO()
    with redirect_stdout(silence), redirect_stderr(silence), LocalCluster() as cluster:
        cluster.start_worker(WorkerConfig(cores=2))
        client = cluster.client()
        job = Job()
        for _ in range(tasks):
            job.program(["/bin/true"], stdout=None, stderr=None)
        began = time.perf_counter()
        client.wait_for_jobs([client.submit(job)])
        return (time.perf_counter() - began) / tasks


def gnu_parallel(tasks: int) -> float | None:
    """Seconds for each /bin/true of GNU parallel, or None if it is not installed."""
    if shutil.which("parallel") is None:
        return None
    numbers = "\n".join(str(i) for i in range(tasks))
    began = time.perf_counter()
    subprocess.run(
        ["parallel", "-j2", "/bin/true", "{}"], input=numbers, text=True, check=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return (time.perf_counter() - began) / tasks


def line(what: str, ours: float, theirs: float | None, *, target: str = "") -> None:
    beside = (
        "not installed"
        if theirs is None
        else f"{theirs * 1e6:10.1f} us   ratio {ours / theirs:.4f}"
    )
    print(f"{what:44} {ours * 1e6:10.1f} us   {beside}   {target}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=100_000)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--processes", type=int, default=2000)
    parser.add_argument("--spin", type=int, default=40)
    arguments = parser.parse_args()
    runs = Path(tempfile.mkdtemp(prefix="dask-runner-bench-"))
    try:
        measure(arguments, runs)
    finally:
        shutil.rmtree(runs, ignore_errors=True)


def measure(arguments: argparse.Namespace, runs: Path) -> None:
    bare = bare_map(arguments.tasks)
    seconds, _ = our_run(Nothing(number=arguments.batches), settings(runs))
    line(f"{arguments.batches} no-ops beside client.map", seconds / arguments.batches, bare,
         target="(target <= 0.05)")  # fmt: skip
    seconds, _ = our_run(Nothing(number=arguments.processes), settings(runs, group=1))
    each = seconds / arguments.processes
    print(f"a process for each batch: {1 / each:.0f} batches/s on two slots (target >= 250)")
    line("a process for each batch beside HyperQueue", each, hyperqueue(arguments.processes))
    line("a process for each batch beside GNU parallel", each, gnu_parallel(arguments.processes))
    if arguments.spin:
        seconds, summary = our_run(Spin(number=arguments.spin, seconds=1.0), settings(runs))
        cores = min(2, os.cpu_count() or 1)
        ideal = summary.timings.cpu / cores
        print(f"{arguments.spin} batches of 1 s: wall {seconds:.2f} s, cpu/cores {ideal:.2f} s, "
              f"ratio {seconds / ideal:.3f} (target <= 1.05)")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
