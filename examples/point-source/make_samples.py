"""Makes the samples of the point-source example: what a telescope measured in a year, with a source
hidden in it, and a simulation.

    python make_samples.py FOLDER [--events 100000] [--simulated 300000] [--n-sig 25] [--seed 7]

Both are drawn from the shipped description of a detector, and are in the columns that samples of
your own need: ra, dec, sigma (radians), log10E (of GeV); of the simulation also true_ra, true_dec,
true_E (GeV) and weight (GeV cm^2 sr). FOLDER gets experiment.npy and simulation.npy.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from dask_runner.sky.config import read_search
from dask_runner.sky.events import EVENT_COLUMNS, TRUTH_COLUMNS, Events
from dask_runner.sky.search import Search

# Where the source is hidden (degrees), and its spectrum is that of the search: E^-2.
RA, DEC = 77.4, 5.7
NAMES = {"log10e": "log10E", "true_e": "true_E"}


def table(sample: Events, columns: tuple[str, ...]) -> np.ndarray:
    """A structured array with these columns."""
    rows = np.zeros(len(sample), [(NAMES.get(name, name), "f8") for name in columns])
    for name in columns:
        rows[NAMES.get(name, name)] = getattr(sample, name)
    return rows


def synthetic(events: int, simulated: int, seed: int) -> Search:
    """The search with synthetic samples."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "synthetic.toml"
        path.write_text(
            f"[experiment]\nevents = {events}\nseed = {seed}\n"
            f"[simulation]\nevents = {simulated}\nseed = {seed}\n"
        )
        return Search.load(read_search(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--simulated", type=int, default=300_000)
    parser.add_argument("--n-sig", type=int, default=25)
    parser.add_argument("--seed", type=int, default=7)
    chosen = parser.parse_args()
    search = synthetic(chosen.events, chosen.simulated, chosen.seed)
    rng = np.random.default_rng(chosen.seed)
    source = search.injected(
        rng, float(np.radians(DEC)), float(np.radians(RA)), chosen.n_sig, search.flux()
    )
    everything = Events.joined([search.observed(), source])
    # Nobody sees from the order which ones are of the source.
    everything = everything.take(rng.permutation(len(everything)))
    chosen.folder.mkdir(parents=True, exist_ok=True)
    np.save(chosen.folder / "experiment.npy", table(everything, EVENT_COLUMNS))
    np.save(
        chosen.folder / "simulation.npy",
        table(search.simulation, (*EVENT_COLUMNS, *TRUTH_COLUMNS)),
    )
    print(f"{len(everything)} events, {len(search.simulation)} simulated, in {chosen.folder}")


if __name__ == "__main__":
    main()
