"""Makes the inputs of the coincidence example: sky maps, a list of neutrinos, and the lists of
their names. Everything is drawn from a fixed seed.

    python make_inputs.py FOLDER [--maps 20] [--nside 64] [--events 20000]

Maps are what networks of two and three gravitational-wave detectors give: a piece of a ring around
the axis of two of them, or a spot of a few degrees. Neutrinos are like those of a telescope at the
South Pole: a rate of 6 mHz, more of them from the north, energies falling like E^-3.7, and errors
around one degree.
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dask_runner.sky import healpix, lists, pixels

Floats = npt.NDArray[np.float64]

SEED = 20261127
RATE = 0.006  # events per second
SECONDS_A_DAY = 86400.0


def directions(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """Isotropic: right ascension and declination in radians."""
    return rng.uniform(0, 2 * np.pi, n), np.arcsin(rng.uniform(-1, 1, n))


def vectors(ra: Floats, dec: Floats) -> Floats:
    return np.array([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])


def a_map(rng: np.random.Generator, nside: int, instruments: str) -> Floats:
    """Two detectors: a piece of a ring. Three: a spot."""
    sky = vectors(*pixels.centres(nside, np.arange(pixels.pixel_number(nside))))
    axis, spot = (vectors(*directions(rng, 1))[:, 0] for _ in range(2))
    near = np.arccos(np.clip(sky.T @ spot, -1, 1))
    if instruments == "H1,L1":
        ring = np.arccos(np.clip(sky.T @ axis, -1, 1)) - np.arccos(np.clip(spot @ axis, -1, 1))
        width, length = np.radians(rng.uniform(2, 4)), np.radians(rng.uniform(25, 50))
        log_p = -0.5 * (ring / width) ** 2 - 0.5 * (near / length) ** 2
    else:
        log_p = -0.5 * (near / np.radians(rng.uniform(3, 8))) ** 2
    p = np.exp(log_p)
    return p / p.sum()


def neutrinos(rng: np.random.Generator, n: int) -> lists.EventList:
    """A list over n / RATE seconds, with more events from the north."""
    z = 2 * rng.beta(1.6, 1.1, n) - 1
    energy = 100.0 * (1 - rng.random(n)) ** (-1 / 2.7)
    sigma = np.radians(np.clip(1.2 * np.exp(0.35 * rng.standard_normal(n)), 0.2, 6))
    return lists.EventList(
        time=np.sort(58000.0 + rng.uniform(0, n / RATE / SECONDS_A_DAY, n)),
        ra=rng.uniform(0, 2 * np.pi, n),
        dec=np.arcsin(z),
        sigma=sigma,
        energy=energy,
    )


def make(folder: Path, *, maps: int, nside: int, events: int, seed: int = SEED) -> None:
    """Write maps/*.fits, maps.txt and neutrinos.csv into the folder, which may exist."""
    rng = np.random.default_rng(seed)
    (folder / "maps").mkdir(parents=True, exist_ok=True)
    names = []
    for number in range(maps):
        instruments = "H1,L1" if number % 2 else "H1,L1,V1"
        name = f"maps/G{100000 + number}.fits"
        healpix.write_map(folder / name, a_map(rng, nside, instruments), instruments=instruments)
        names.append(name)
    (folder / "maps.txt").write_text("\n".join(names) + "\n")
    lists.write_list(folder / "neutrinos.csv", neutrinos(rng, events))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--maps", type=int, default=20)
    parser.add_argument("--nside", type=int, default=64)
    parser.add_argument("--events", type=int, default=20_000)
    given = parser.parse_args()
    make(given.folder, maps=given.maps, nside=given.nside, events=given.events)
    print(f"{given.maps} maps and {given.events} neutrinos in {given.folder}")


if __name__ == "__main__":
    main()
