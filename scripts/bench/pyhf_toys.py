#!/usr/bin/env python3
"""Toys of a pyhf workspace per second: pyhf's own loop, our trial on one core, a run on two slots.

scripts/bench/pyhf_toys.py [--toys 400] [--trials 200000] [--slots 2] [--no-run]

A toy is what ToyCalculator makes of one: a pseudo-experiment with signal and one without, and the
test statistic of both. Target: the run at least 1.8 times pyhf's own loop. All times are wall times:
the machine should have nothing else to do. A fit that fails costs pyhf all its toys; that is said.
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyhf

from dask_runner.seeds import TrialStreams
from dask_runner.trials.models.pyhf_model import Pyhf

TARGET = 1.8
MU = 1.0


def sample(name: str, data: list[float], *modifiers: tuple[str, str, Any]) -> dict[str, Any]:
    written = [{"name": n, "type": kind, "data": values} for n, kind, values in modifiers]
    return {"name": name, "data": data, "modifiers": written}


def workspace(channels: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The observed counts are the nominal ones without signal."""
    counts = {
        name: np.sum([s["data"] for s in samples if s["name"] != "signal"], axis=0).round().tolist()
        for name, samples in channels.items()
    }
    return {
        "version": "1.0.0",
        "channels": [{"name": name, "samples": samples} for name, samples in channels.items()],
        "observations": [{"name": name, "data": data} for name, data in counts.items()],
        "measurements": [{"name": "main", "config": {"poi": "mu", "parameters": []}}],
    }


def readme() -> dict[str, Any]:
    """Two bins, three parameters: the example of pyhf's README."""
    signal = sample("signal", [12.0, 11.0], ("mu", "normfactor", None))
    background = sample("background", [50.0, 52.0], ("uncorr", "shapesys", [3.0, 7.0]))
    return workspace({"c": [signal, background]})


def regions() -> dict[str, Any]:
    """A signal and a control region of four bins, fourteen parameters."""

    def shape(data: list[float]) -> tuple[str, str, Any]:
        low, high = [0.93 * x for x in data], [1.08 * x + 0.2 for x in data]
        return "scale", "histosys", {"lo_data": low, "hi_data": high}

    effect = ("efficiency", "normsys", {"lo": 0.95, "hi": 1.06})
    free = ("strength", "normfactor", None)
    channels = {}
    for name, signal in (("signal", [2.0, 8.0, 9.0, 3.0]), ("control", [0.1, 0.1, 0.1, 0.1])):
        falling, flat = [80.0, 60.0, 40.0, 30.0], [20.0, 18.0, 16.0, 15.0]
        stat = (f"stat_{name}", "staterror", [0.04 * x for x in falling])
        theory = (f"theory_{name}", "normsys", {"lo": 0.85, "hi": 1.2})
        channels[name] = [
            sample("signal", signal, ("mu", "normfactor", None), effect),
            sample("falling", falling, free, shape(falling), stat),
            sample("flat", flat, effect, theory),
        ]
    return workspace(channels)


def theirs(content: dict[str, Any], toys: int) -> float:
    """Toys per second of pyhf, by wall time."""
    config = content["measurements"][0]["config"]
    spec = {"channels": content["channels"], "parameters": config["parameters"]}
    model = pyhf.Model(spec, poi_name=config["poi"], validate=False)
    counts = {o["name"]: o["data"] for o in content["observations"]}
    data = [n for name in model.config.channels for n in counts[name]] + model.config.auxdata
    calculator = pyhf.infer.calculators.ToyCalculator(
        data, model, ntoys=toys, track_progress=False, test_stat="qtilde"
    )
    np.random.seed(1)  # noqa: NPY002 - pyhf draws from the global state
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calculator.distributions(MU)
    return toys / (time.perf_counter() - began)


def ours(path: Path, trials: int) -> float:
    """Trials of ours per second, by wall time."""
    trial = Pyhf.from_options(workspace=path).sampler({"mu": MU})
    streams = TrialStreams(seed=1, model="pyhf", point={"mu": MU})
    began = time.perf_counter()
    for index in range(trials):
        trial(streams.at(index))
    return trials / (time.perf_counter() - began)


def whole_run(path: Path, trials: int, slots: int) -> float:
    """Trials per second of wall time in a run, from the command's start to its end."""
    words = ["trials", "--model", "pyhf", "--workspace", str(path), "--set", f"mu={MU:g}"]
    words += ["-n", str(trials), "--slots", str(slots), "--cluster", "local", "-q"]
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "dask_runner", *words],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return trials / (time.perf_counter() - began)


def compare(name: str, content: dict[str, Any], arguments: argparse.Namespace, share: int) -> None:
    """One line for each side; `share` is how many times fewer toys a slower model gets."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "workspace.json"
        path.write_text(json.dumps(content))
        mine = ours(path, 10 * arguments.toys // share)
        print(f"{name}: our trial {mine:.0f} toys/s on one core", flush=True)
        run = 0.0
        if not arguments.no_run:
            run = whole_run(path, arguments.trials // share, arguments.slots)
            print(f"{name}: a run {run:.0f} toys/s on {arguments.slots} slots", flush=True)
    try:
        peer = theirs(content, max(5, arguments.toys // share))
    except pyhf.exceptions.FailedMinimization as error:
        print(f"{name}: pyhf lost its toys to a failed fit: {error}")
        return
    print(f"{name}: pyhf's own loop {peer:.1f} toys/s; our trial {mine / peer:.1f} times that")
    if run:
        good = "good" if run / peer >= TARGET else "NOT MET"
        print(f"{name}: the run {run / peer:.1f} times that: {good} (at least {TARGET})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toys", type=int, default=400)
    parser.add_argument("--trials", type=int, default=200_000)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--no-run", action="store_true")
    arguments = parser.parse_args()
    # What pyhf says of a failed fit is said here in one line.
    logging.disable(logging.CRITICAL)
    compare("readme", readme(), arguments, 1)
    compare("regions", regions(), arguments, 10)


if __name__ == "__main__":
    sys.exit(main())
