"""The embedded chain against bare Pythia, and small batches against large ones, in one run.

    python scripts/bench/chain.py [--events 500] [--rounds 4]

Prints both sides of each ratio and exits with 1 if a target is missed:
    generation with its output written     >= 0.80 of the rate of bare pythia.next()
    simulate ... ntuple                    <= 0.25 of the generation time per event
    2000 events at -b 25                   <= 1.30 times the time at -b 500
The third is the work of a batch in one process: read a range of a file of 500 events, all steps,
write and validate AOD and NTUP.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from dask_runner import chain, rootfiles
from dask_runner.chain import formats, generate, hidden_valley
from dask_runner.settings import Geometry

RUN = 304795
SAMPLE = hidden_valley.make_sample(RUN)
FILE_EVENTS = 500
KEPT = ("AOD", "NTUP")


def seconds(work: object, *arguments: object) -> float:
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def bare_pythia() -> object:
    """Pythia as a user would set it up, without our hooks."""
    pythia = generate.load_pythia().Pythia("", False)
    for line in (*SAMPLE.pythia.splitlines(), "Print:quiet = on", "Random:setSeed = on"):
        pythia.readString(line)
    assert pythia.init()
    return pythia


def run_bare(pythia: object, events: int) -> None:
    for _ in range(events):
        pythia.next()


def run_ours(target: Path, first: int, events: int) -> None:
    generate.generate_file(target, SAMPLE, first_event=first, count=events, seed=1, run_number=RUN)


def run_steps(data: formats.EventData) -> None:
    for step in chain.STEPS:
        data = chain.run_step(step, data, Geometry(), 1)


def run_batches(source: Path, folder: Path, size: int) -> None:
    for first in range(0, FILE_EVENTS, size):
        data = formats.read(source, first=first, count=size)
        for name, step in chain.STEPS.items():
            data = chain.run_step(name, data, Geometry(), 1)
            if step.output in KEPT:
                target = folder / f"{size}.{first}.{step.output}.root"
                formats.write(target, data)
                assert rootfiles.validate(target, formats.TREE) == size


def verdict(name: str, ours: str, theirs: str, ratio: float, good: bool) -> bool:
    print(f"{name:<24} {ours:<34} {theirs:<34} ratio {ratio:.3f}  {'ok' if good else 'MISSED'}")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=250, help="a round, for the first two ratios")
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    pythia = bare_pythia()
    bare = made = steps = 0.0
    small, large = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Initialisation and imports are paid once a process, and are not what is compared.
        source = folder / "source.EVNT.root"
        run_ours(source, 0, FILE_EVENTS)
        run_batches(source, folder, FILE_EVENTS)
        for number in range(options.rounds):
            target = folder / f"{number}.root"
            bare += seconds(run_bare, pythia, options.events)
            made += seconds(run_ours, target, 1000 * (number + 1), options.events)
            steps += seconds(run_steps, formats.read(target))
            for _ in range(2000 // FILE_EVENTS):
                small.append(seconds(run_batches, source, folder, 25))
                large.append(seconds(run_batches, source, folder, FILE_EVENTS))
    events = options.events * options.rounds
    per_round = 2000 // FILE_EVENTS / len(small)
    print(f"{events} events generated; {len(small)} x {FILE_EVENTS} events in batches\n")
    results = [
        verdict(
            "generation",
            f"ours, written {events / made:.0f}/s",
            f"bare next() {events / bare:.0f}/s",
            bare / made,
            bare / made >= 0.80,
        ),
        verdict(
            "reconstruction",
            f"steps {steps / events * 1e3:.3f} ms/event",
            f"generation {made / events * 1e3:.3f} ms/event",
            steps / made,
            steps / made <= 0.25,
        ),
        verdict(
            "small batches",
            f"2000 events at -b 25 {sum(small) * per_round:.3f} s",
            f"at -b 500 {sum(large) * per_round:.3f} s",
            sum(small) / sum(large),
            sum(small) / sum(large) <= 1.30,
        ),
    ]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
