"""Maps, lists and configurations for tests of coincidences, small and made by hand."""

from pathlib import Path

import numpy as np

from dask_runner.sky import healpix, lists, pixels

NSIDE = 16


def directions(nside=NSIDE):
    return pixels.centres(nside, np.arange(pixels.pixel_number(nside)))


def spot(ra, dec, width, nside=NSIDE):
    """A Gaussian around a place; radians."""
    p = np.exp(-0.5 * (pixels.separation(*directions(nside), ra, dec) / width) ** 2)
    return p / p.sum()


def delta(pixel, nside=NSIDE):
    p = np.zeros(pixels.pixel_number(nside))
    p[pixel] = 1
    return p


def flat(nside=NSIDE):
    return np.full(pixels.pixel_number(nside), 0.3)


def write_maps(folder: Path, maps, instruments=()):
    """Maps and maps.txt; relative paths in it."""
    names = []
    for number, p in enumerate(maps):
        name = f"map{number}.fits"
        given = instruments[number] if number < len(instruments) else ""
        healpix.write_map(folder / name, p, instruments=given, time="2017-08-17T12:41:04")
        names.append(name)
    (folder / "maps.txt").write_text("# maps\n" + "\n".join(names) + "\n")
    return folder / "maps.txt"


def events(n, *, seed=1, sigma=0.05, energy=1000.0, time=None):
    rng = np.random.default_rng(seed)
    return lists.EventList(
        time=58000 + np.arange(n) / 100 if time is None else np.full(n, time),
        ra=rng.uniform(0, 2 * np.pi, n),
        dec=np.arcsin(rng.uniform(-1, 1, n)),
        sigma=np.full(n, sigma),
        energy=np.full(n, energy),
    )


def config(folder: Path, text: str):
    path = folder / "coincidence.toml"
    path.write_text(text)
    return path


POOL = '[background]\nevents = "pool.csv"\nrate = 0.005\n'
