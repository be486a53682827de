#!/usr/bin/env python3
"""What sky trials and scans cost, with the shipped detector and 100 000 events.

    scripts/bench/sky.py scan [--nside 64] [--events 100000]    one core: pixels/s beside one by one
    scripts/bench/sky.py run  [--nside 64] [--slots 2]          the command, end to end; memory

Targets: at least 250 pixels/s on a core for a whole sky of nside 64. Rates are per second of CPU,
and of the clock too: other work on the machine makes the latter smaller.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from dask_runner.sky.config import read_search
from dask_runner.sky.likelihood import Evaluator
from dask_runner.sky.pixels import centres, pixel_number
from dask_runner.sky.search import Search
from dask_runner.workloads.skyscan import SkyScan

COMMAND = [sys.executable, "-m", "dask_runner"]
PIXELS = 250.0
# Of the slow side, which would take minutes for a sky.
_SLOW = 12


def judged(value: float, limit: float) -> str:
    return f"{'good' if value >= limit else 'NOT MET'} (at least {limit:g})"


def config_file(folder: Path, events: int) -> Path:
    path = folder / "search.toml"
    path.write_text(f"[experiment]\nevents = {events}\n")
    return path


def prepared(events: int, nside: int) -> tuple[SkyScan, Search]:
    with tempfile.TemporaryDirectory() as folder:
        config = read_search(config_file(Path(folder), events))
    pixels = pixel_number(nside)
    workload = SkyScan(
        search=config, seed=1, nside=nside, first_pixel=0, pixels=pixels, size=pixels
    )
    return workload, Search.load(config)


def scan(events: int, nside: int) -> None:
    """A whole sky on one core, and the same pixels with every event evaluated for each."""
    began = time.process_time()
    workload, search = prepared(events, nside)
    print(f"prepared in {time.process_time() - began:.2f} s: {len(search.experiment)} events")
    evaluator = workload.evaluator(search, 0)
    cpu, wall = time.process_time(), time.perf_counter()
    table, missed = workload.scan(evaluator, 0, 0, workload.pixels)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    rate = workload.pixels / cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(
        f"nside {nside}: {workload.pixels} pixels in {cpu:.1f} s of CPU ({wall:.1f} s): "
        f"{rate:.0f} pixels/s on a core {judged(rate, PIXELS)}, {missed} did not converge, "
        f"peak memory {peak:.0f} MB"
    )
    slow(workload, search, table, rate)


def slow(workload: SkyScan, search: Search, table: np.ndarray, rate: float) -> None:
    """The same test statistics from all events, near or not."""
    events = workload.events(search, 0)
    places = np.linspace(0, workload.pixels - 1, _SLOW).astype(int)
    ra, dec = centres(workload.nside, places)
    began = time.process_time()
    difference = 0.0
    for place, a, d in zip(places, ra, dec, strict=True):
        evaluator = Evaluator(search, events)
        evaluator._prepared.reach[:] = 4.0  # every event is near  # noqa: SLF001
        difference = max(difference, abs(evaluator.at(a, d).ts - table["ts"][place]))
    each = (time.process_time() - began) / _SLOW
    print(
        f"all events for each pixel: {1 / each:.1f} pixels/s, {rate * each:.0f} times slower; "
        f"largest difference of TS {difference:.1e}"
    )


def run(events: int, nside: int, slots: int) -> None:
    """The command on a local cluster."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = ["skyscan", "--config", config_file(folder, events), "--nside", nside]
        words += ["--cluster", "local", "--slots", slots, "-q", "--json"]
        began = time.perf_counter()
        done = subprocess.run(
            [*COMMAND, *map(str, words)], cwd=folder, check=True, capture_output=True, text=True
        )
        wall = time.perf_counter() - began
    summary = json.loads(done.stdout)
    (host,) = summary["hosts"]
    pixels = pixel_number(nside)
    rate = pixels / host["cpu"]
    print(
        f"skyscan --nside {nside} on {slots} slots: {wall:.1f} s in all, {rate:.0f} pixels for each "
        f"s of CPU {judged(rate, PIXELS)}; memory of a slot {host['max_rss'] / 1e6:.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("scan", "run"):
        one = commands.add_parser(name)
        one.add_argument("--events", type=int, default=100_000)
        one.add_argument("--nside", type=int, default=64)
        if name == "run":
            one.add_argument("--slots", type=int, default=2)
    chosen = vars(parser.parse_args())
    {"scan": scan, "run": run}[chosen.pop("command")](**chosen)


if __name__ == "__main__":
    main()
