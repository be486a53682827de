#!/usr/bin/env python3
"""What coincidence trials cost, beside the same odds by a loop over events with healpy.

    scripts/bench/coincidence.py core [--nside 64,256] [--maps 20]   one core, in this process
    scripts/bench/coincidence.py run [--trials 400000] [--slots 2]   a whole run, and its memory
    scripts/bench/coincidence.py planning [--maps 200]               what many maps cost at planning

The search is that of examples/coincidence: 6 events expected in a window, errors around 1.2
degrees, energies, two classes. Targets: at least 10 000 trials/s a core with maps of nside 64 and
1500 with nside 256, and at least 2 times the loop, which does nothing but the overlaps. Rates are
for CPU time; wall time is shown too.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import healpy
import numpy as np

from dask_runner.seeds import trial_uniforms
from dask_runner.sky.healpix import read_map
from dask_runner.sky.lists import read_list
from dask_runner.trials.models.coincidence import Coincidence

EXAMPLE = Path(__file__).parents[2] / "examples" / "coincidence"
sys.path[:0] = [str(EXAMPLE)]
import make_inputs  # noqa: E402

COMMAND = [sys.executable, "-m", "dask_runner"]
TARGETS = {64: 10_000, 256: 1500}
TIMES_FASTER = 2
_LOOP = 200


def judged(value: float, limit: float) -> str:
    return f"{'good' if value >= limit else 'NOT MET'} (at least {limit:g})"


def example(folder: Path, *, maps: int, nside: int) -> None:
    make_inputs.make(folder, maps=maps, nside=nside, events=20_000)
    (folder / "coincidence.toml").write_bytes((EXAMPLE / "coincidence.toml").read_bytes())


def core(nsides: list[int], maps: int) -> None:
    """Trials of a class in this process, and a loop over the events of some of them."""
    for nside in nsides:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            example(folder, maps=maps, nside=nside)
            one_core(folder, nside)


def one_core(folder: Path, nside: int) -> None:
    model = Coincidence.from_options(config=folder / "coincidence.toml", items=folder / "maps.txt")
    point = {"detector": "HL", "n_sig": 1}
    block = model.sampler(point)
    number = block.rows
    uniforms = trial_uniforms(
        seed=1, model="coincidence", point=point, first=0, count=number, words=block.words
    )
    first = block.run(uniforms)  # maps are read once
    cpu, wall = time.process_time(), time.perf_counter()
    trial_uniforms(
        seed=1, model="coincidence", point=point, first=0, count=number, words=block.words
    )
    block.run(uniforms)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    events = int(first["n_events"].sum())
    loop = by_loop(model, events / number)
    rate, faster = number / cpu, loop / (cpu / events)
    print(
        f"nside {nside}: {rate:.0f} trials/s of CPU {judged(rate, TARGETS.get(nside, 0))}, "
        f"{number / wall:.0f}/s of wall time, {1e6 * cpu / events:.1f} us an event; "
        f"the loop {1e6 * loop:.0f} us an event: {faster:.1f} times faster "
        f"{judged(faster, TIMES_FASTER)}",
        flush=True,
    )


def by_loop(model: Coincidence, mean: float) -> float:
    """CPU seconds an event of the plain way: a disc, a Gaussian, a sum, one event at a time."""
    sky = read_map(model.maps[1].local)
    pool, rng = read_list(model.lists[0].local), np.random.default_rng(1)
    vectors = np.array(healpy.pix2vec(sky.nside, np.arange(len(sky.density))))
    done, cpu = 0, time.process_time()
    for _ in range(_LOOP):
        for _ in range(rng.poisson(mean)):
            k = rng.integers(len(pool))
            place = healpy.ang2vec(np.pi / 2 - pool.dec[k], rng.uniform(0, 2 * np.pi))
            near = healpy.query_disc(sky.nside, place, min(5 * pool.sigma[k], np.pi))
            weight = np.exp((place @ vectors[:, near] - 1) / pool.sigma[k] ** 2)
            (weight * sky.density[near]).sum() / max(weight.sum(), 1e-300)
            done += 1
    return (time.process_time() - cpu) / done


def whole_run(trials: int, slots: int) -> None:
    """A run of two classes: its CPU in the batches, wall time, the driver's memory."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        example(folder, maps=20, nside=64)
        words = ["trials", "--model", "coincidence", "--config", "coincidence.toml"]
        words += ["--items", "maps.txt", "--grid", "detector=HL,HLV", "-n", str(trials // 2)]
        words += ["--cluster", "local", "--slots", str(slots), "-q", "--json"]
        began = time.perf_counter()
        process = subprocess.Popen(
            [*COMMAND, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdout is not None
        told = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        if status:
            raise SystemExit(f"the run ended with {os.waitstatus_to_exitcode(status)}")
        summary = json.loads(told)
        cpu = summary["cpu"] if "cpu" in summary else summary["timings"]["cpu"]
        rate = trials / cpu
        print(
            f"{trials} trials on {slots} slots: {wall:.1f} s in all, {cpu:.1f} s of CPU in batches: "
            f"{rate:.0f} trials/s a core {judged(rate, TARGETS[64])}; driver's peak "
            f"{usage.ru_maxrss / 1024:.0f} MB"
        )


def planning(maps: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        example(folder, maps=maps, nside=64)
        began, cpu = time.perf_counter(), time.process_time()
        model = Coincidence.from_options(
            config=folder / "coincidence.toml", items=folder / "maps.txt"
        )
        print(
            f"{len(model.maps)} maps of nside 64 are hashed and read at planning in "
            f"{time.perf_counter() - began:.1f} s ({time.process_time() - cpu:.1f} s of CPU)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("core", "run", "planning"))
    parser.add_argument("--nside", default="64,256")
    parser.add_argument("--maps", type=int, default=0)
    parser.add_argument("--trials", type=int, default=400_000)
    parser.add_argument("--slots", type=int, default=2)
    given = parser.parse_args()
    if given.what == "core":
        core([int(text) for text in given.nside.split(",")], given.maps or 20)
    elif given.what == "run":
        whole_run(given.trials, given.slots)
    else:
        planning(given.maps or 200)


if __name__ == "__main__":
    main()
