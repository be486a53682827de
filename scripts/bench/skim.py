#!/usr/bin/env python3
"""What a skim costs: beside a bare loop of uproot and awkward that writes the same, in turns.

    scripts/bench/skim.py [--entries 500000] [--rounds 3]

Both sides read jets as lists of float32, cut events and jets, make one derived column, and write
ROOT with ZLIB level 1. Times are of the processor, because machines are shared.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import awkward as ak
import numpy as np
import uproot

from dask_runner.histograms import skim_joining
from dask_runner.histograms.ranges import RangeWork
from dask_runner.histograms.skimming import objects_of, resolve
from dask_runner.histograms.spec import Job
from dask_runner.rootfiles.chunks import reader

TREE = "TTbar/mytree"
NAMES = ("run", "jet_pt", "jet_E", "jet_eta")
TEXTS = (*NAMES, "ratio = jet_pt / jet_E")
WHERE, EVENT = 25.0, 60.0
STEP = 50_000


def make_file(path: Path, entries: int) -> None:
    rng = np.random.default_rng(1)
    types = {"run": "i4", **dict.fromkeys(NAMES[1:], "var * float32")}
    with uproot.recreate(path, compression=uproot.ZLIB(1)) as file:
        tree = file.mktree(TREE, types)
        for first in range(0, entries, STEP):
            events = min(STEP, entries - first)
            counts = rng.poisson(4, events)
            jets = [rng.exponential(60, counts.sum()).astype("f4") + 20 for _ in NAMES[1:]]
            lists = {
                name: ak.unflatten(one, counts) for name, one in zip(NAMES[1:], jets, strict=True)
            }
            tree.extend({"run": np.arange(first, first + events, dtype="i4"), **lists})


def bare(path: Path, target: Path) -> int:
    written = 0
    with uproot.recreate(target, compression=uproot.ZLIB(1)) as file:
        for chunk in uproot.iterate(f"{path}:{TREE}", list(NAMES), step_size=STEP):
            good = chunk.jet_pt > WHERE
            keep = ak.fill_none(ak.max(chunk.jet_pt, axis=1), 0) > EVENT
            events, jets = chunk[keep], good[keep]
            columns = {"run": events.run, **{name: events[name][jets] for name in NAMES[1:]}}
            columns["ratio"] = (events.jet_pt / events.jet_E)[jets]
            if not written:
                file.mktree("mytree", {name: one.type.content for name, one in columns.items()})
            file["mytree"].extend(columns)
            written += len(events)
    return written


def ours(path: Path, target: Path) -> int:
    job = Job(
        tree=TREE, where=f"jet_pt > {WHERE}", where_event=(f"max(jet_pt) > {EVENT}",), skim=TEXTS
    )
    with reader(path, TREE) as tree:
        columns = resolve(job.skim, tree.types)
        pruned = objects_of(tree, columns, job.where)
        whole = Job(
            tree=TREE,
            where=job.where,
            where_event=job.where_event,
            skim=columns,
            skim_objects=pruned,
        )
        work = RangeWork(whole, tree, str(path))
        work.run(0, tree.entries, step=0, target=target)
        return work.skimmed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--entries", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "jets.root"
        make_file(source, options.entries)
        took: dict[str, list[float]] = {"bare": [], "ours": []}
        for _ in range(options.rounds):
            for side, skim in (("bare", bare), ("ours", ours)):
                began = time.process_time()
                written = skim(source, folder / f"{side}.root")
                took[side].append(time.process_time() - began)
        rates = {side: options.entries / min(times) for side, times in took.items()}
        print(f"{written} of {options.entries} events; events/s of CPU, best of {options.rounds}:")
        print(
            f"  bare {rates['bare']:.3g}, ours {rates['ours']:.3g}: {rates['ours'] / rates['bare']:.2f}"
        )
        for ending in skim_joining.ENDINGS:
            began = time.process_time()
            parts = [folder / "ours.root"] * 4
            count, _ = skim_joining.join(parts, folder / f"joined{ending}", "mytree", {})
            rate = count / (time.process_time() - began)
            print(f"  joined to {ending}: {rate:.3g} events/s")
    print(f"  peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")


if __name__ == "__main__":
    main()
