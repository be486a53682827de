#!/usr/bin/env python3
"""What trials cost: whole runs, reproducible streams, loading. Both sides in one run, as ratios.

    scripts/bench/trials.py run [--trials 50000000] [--slots 2]    counting and gaussian, end to end
    scripts/bench/trials.py streams                                beside one plain PCG64 stream
    scripts/bench/trials.py loading [--files 1000]                 beside one .npy of the same size

Targets: at least 1e6 trials/s a core, memory flat; vectorised models at most 1.3 times PCG64, single
trials at most 2 us; loading at most 3 times one file.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from dask_runner.seeds import TrialStreams, trial_uniforms
from dask_runner.trials import models
from dask_runner.trials.loading import TrialData, TrialFile
from dask_runner.trials.tables import table_type

COMMAND = [sys.executable, "-m", "dask_runner"]
MODELS = {"counting": ["--set", "b=3"], "gaussian": []}
_REPEAT = 7


def judged(value: float, limit: float, *, least: bool = False) -> str:
    good = value >= limit if least else value <= limit
    return f"{'good' if good else 'NOT MET'} ({'at least' if least else 'at most'} {limit:g})"


def whole_runs(trials: int, slots: int) -> None:
    """Trials per second and core of a run, from its first record to its last, and its memory."""
    for model, more in MODELS.items():
        for number in (trials // 10, trials):
            with tempfile.TemporaryDirectory() as name:
                before = time.perf_counter()
                words = ["trials", "--model", model, *more, "-n", str(number), "-q"]
                used = peak(
                    [*COMMAND, *words, "--cluster", "local", "--slots", str(slots)], Path(name)
                )
                wall = time.perf_counter() - before
                rate = number / wall / slots
                # In the small run the start of the cluster counts too much; it is there for memory.
                verdict = judged(rate, 1e6, least=True) if number == trials else ""
                print(
                    f"{model:9} {number:.0e} trials: {wall:6.1f} s in all, {rate / 1e6:.2f}e6 "
                    f"trials/s a core {verdict}, driver's peak {used / 1e6:.0f} MB",
                    flush=True,
                )


def peak(command: list[str], folder: Path) -> int:
    """Run to the end; the largest resident set of the driver in bytes."""
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return usage.ru_maxrss * 1024


def best(work: Callable[[], None], count: int) -> float:
    """The shortest of several times, in s for each of `count`."""
    times = []
    for _ in range(_REPEAT):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times) / count


def streams() -> None:
    """Models on our streams beside the same models on one PCG64 stream; single trials."""
    for name, point in (("counting", {"b": 3, "n_sig": 0}), ("gaussian", {})):
        beside_pcg64(name, point)
    where = TrialStreams(seed=1, model="m", point={"mass": 1})

    def singles() -> None:
        for trial in range(20_000):
            where.at(trial).rng()

    single = best(singles, 20_000)
    print(f"a stream for a single trial: {single * 1e6:.2f} us {judged(single * 1e6, 2)}")


def beside_pcg64(name: str, point: dict[str, float]) -> None:
    """Print what a trial costs on both sides."""
    block, blocks = 1 << 17, 16
    plain = np.random.Generator(np.random.PCG64(1))
    sampler = models.builtin(name)().sampler(point)
    stream = partial(trial_uniforms, seed=1, model=name, point=point, count=block, words=1)

    def ours() -> None:
        for k in range(blocks):
            sampler.run(stream(first=k * block))

    def theirs() -> None:
        for _ in range(blocks):
            sampler.run(plain.random((block, 1)))

    mine, other = best(ours, block * blocks), best(theirs, block * blocks)
    print(
        f"{name:9} {mine * 1e9:6.1f} ns a trial, PCG64 {other * 1e9:6.1f} ns, ratio "
        f"{mine / other:.2f} {judged(mine / other, 1.3)}"
    )


def loading(number: int) -> None:
    """1e7 trials of four columns from many files, beside one .npy of the same bytes."""
    trials = 10_000_000
    kind = table_type({"n_hat": "<f8", "nll": "<f8", "deviance": "<f8", "limit": "<f8"})
    with tempfile.TemporaryDirectory() as name:
        folder, files, each = Path(name), [], trials // number
        rows = np.zeros(each, kind)
        for k in range(number):
            path = folder / f"{k}.npy"
            np.save(path, rows)
            point = {"mass": 2000 + 100 * (k % 50)}
            files.append(TrialFile(path=path, point=point, first=(k // 50) * each, count=each))
        one = folder / "one.npy"
        np.save(one, np.zeros(trials, kind))
        whole, peer = [], []
        for _ in range(_REPEAT):
            began = time.perf_counter()
            found = TrialData(files)
            total = sum(len(there.table) for _, there in found)
            whole.append(time.perf_counter() - began)
            began = time.perf_counter()
            size = len(np.load(one))
            peer.append(time.perf_counter() - began)
            if (total, size) != (trials, trials):
                raise SystemExit(f"{total} and {size} trials, not {trials}")
        ratio = min(whole) / min(peer)
        print(
            f"{number} files: {min(whole):.2f} s, one file {min(peer):.2f} s, ratio {ratio:.2f} "
            f"{judged(ratio, 3)}; peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB"
        )


def main() -> None:
    """One of the three measurements."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("run", "streams", "loading"))
    parser.add_argument("--trials", type=float, default=5e7)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--files", type=int, default=1000)
    values = parser.parse_args()
    if values.what == "run":
        whole_runs(int(values.trials), values.slots)
    elif values.what == "streams":
        streams()
    else:
        loading(values.files)


if __name__ == "__main__":
    main()
