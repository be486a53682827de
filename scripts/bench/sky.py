#!/usr/bin/env python3
"""What sky trials and scans cost, with the shipped detector and 100 000 events.

    scripts/bench/sky.py trials [--trials 4000] [--events 100000]  one core: trials/s beside whole skies
    scripts/bench/sky.py throw [--trials 60000] [--slots 2]     the command, end to end; memory
    scripts/bench/sky.py scan [--nside 64] [--events 100000]    one core: pixels/s beside one by one
    scripts/bench/sky.py run  [--nside 64] [--slots 2]          the command, end to end; memory

Targets: at least 1500 background trials/s on a core at one declination, and 250 pixels/s for a whole
sky of nside 64. Rates are per second of CPU,
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

from dask_runner.seeds import TrialStreams
from dask_runner.sky.config import read_search
from dask_runner.sky.likelihood import Evaluator
from dask_runner.sky.pixels import centres, pixel_number
from dask_runner.sky.search import Search
from dask_runner.trials.models.point_source import PointSource
from dask_runner.workloads.skyscan import SkyScan

COMMAND = [sys.executable, "-m", "dask_runner"]
TRIALS = 1500.0
PIXELS = 250.0
# Points of which trials are timed; the first is the one that is judged.
POINTS = ({"dec": 5}, {"dec": -30}, {"dec": 60}, {"dec": 5, "n_sig": 10}, {"dec": -30, "n_sig": 10})
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


def trials(events: int, trials: int) -> None:
    """Trials of each point on one core, as a batch throws them, and with whole scrambled skies."""
    with tempfile.TemporaryDirectory() as folder:
        path = config_file(Path(folder), events)
        began = time.process_time()
        model = PointSource.from_options(config=path)
        print(f"prepared in {time.process_time() - began:.2f} s of CPU: {model.notes[0]}")
    for point in POINTS:
        rate, clock, near = thrown(model, point, trials)
        verdict = "" if "n_sig" in point else judged(rate, TRIALS)
        text = " ".join(f"{name}={value}" for name, value in point.items())
        print(
            f"{text:16} {rate:5.0f} trials/s of CPU {verdict}, {clock:.0f} by the clock; "
            f"{near:.0f} events near on average",
            flush=True,
        )
    whole = whole_skies(model, max(10, trials // 100))
    rate, _, _ = thrown(model, POINTS[0], trials)
    print(
        f"whole skies of {events} events at dec=5: {whole:.0f} trials/s of CPU, ours are "
        f"{rate / whole:.1f} times quicker"
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"peak memory {peak:.0f} MB")


def thrown(model: PointSource, point: dict[str, float], number: int) -> tuple[float, float, float]:
    """Trials per second of CPU and of the clock, and the mean number of events near the source."""
    trial = model.sampler(point)
    streams = TrialStreams(seed=1, model="point-source", point=point)
    trial(streams.at(number))
    cpu, wall = time.process_time(), time.perf_counter()
    near = [trial(streams.at(index))["n_near"] for index in range(number)]
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return number / cpu, number / wall, float(np.mean(near))


def whole_skies(model: PointSource, number: int) -> float:
    """The same test statistic, from skies of which every event gets a right ascension."""
    search = Search.load(model.search)
    rng = np.random.Generator(np.random.Philox(1))
    began = time.process_time()
    for _ in range(number):
        Evaluator(search, search.scrambled(rng)).at(0.0, np.radians(5))
    return number / (time.process_time() - began)


def throw(events: int, trials: int, slots: int) -> None:
    """The command on a local cluster, at one declination."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = ["trials", "--model", "point-source", "--config", config_file(folder, events)]
        words += ["--set", "dec=5", "-n", trials, "--cluster", "local", "--slots", slots]
        summary, wall = finished([*words, "-q", "--json"], folder)
    (host,) = summary["hosts"]
    print(
        f"{trials} trials at dec=5 on {slots} slots: {wall:.1f} s in all, "
        f"{trials / host['cpu']:.0f} trials for each s of CPU "
        f"{judged(trials / host['cpu'], TRIALS)}; memory of a slot {host['max_rss'] / 1e6:.0f} MB"
    )


def finished(words: list[object], folder: Path) -> tuple[dict, float]:
    """What a command says as JSON, and how long it took."""
    began = time.perf_counter()
    done = subprocess.run(
        [*COMMAND, *map(str, words)], cwd=folder, check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout), time.perf_counter() - began


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
        summary, wall = finished(words, folder)
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
    for name in WORK:
        one = commands.add_parser(name)
        one.add_argument("--events", type=int, default=100_000)
        if name in {"scan", "run"}:
            one.add_argument("--nside", type=int, default=64)
        else:
            one.add_argument("--trials", type=int, default=4000 if name == "trials" else 60_000)
        if name in {"throw", "run"}:
            one.add_argument("--slots", type=int, default=2)
    chosen = vars(parser.parse_args())
    WORK[chosen.pop("command")](**chosen)


WORK = {"trials": trials, "throw": throw, "scan": scan, "run": run}


if __name__ == "__main__":
    main()
