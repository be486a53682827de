"""ROOT files of jets for tests of histograms: lists, single values, several baskets."""

import awkward as ak
import numpy as np
import uproot

TREE = "TTbar/mytree"
TYPES = {
    "jet_E": "var * float32",
    "jet_pt": "var * float32",
    "mu_pt": "var * float64",
    "met": "float32",
    "w": "float64",
    "flag": "bool",
    "small": "uint8",
    "run": "int32",
}


def events(number, seed):
    """Columns of some events, in MeV: awkward for lists."""
    rng = np.random.default_rng(seed)
    jets, muons = rng.poisson(2, number), rng.poisson(1, number)

    def lists(counts, scale, kind):
        return ak.unflatten(rng.exponential(scale, counts.sum()).astype(kind), counts)

    return {
        "jet_E": lists(jets, 300e3, "f4"),
        "jet_pt": lists(jets, 40e3, "f4"),
        "mu_pt": lists(muons, 30e3, "f8"),
        "met": rng.exponential(30, number).astype("f4"),
        "w": rng.normal(1, 0.4, number),
        "flag": rng.random(number) < 0.5,
        "small": rng.integers(0, 255, number).astype("u1"),
        "run": np.arange(number, dtype="i4"),
    }


def write(path, number=1000, seed=1, basket=300, columns=None):
    """A file; returns what is in it."""
    columns = events(number, seed) if columns is None else columns
    with uproot.recreate(path) as file:
        types = {name: TYPES[name] for name in columns}
        tree = file.mktree(TREE, types)
        for first in range(0, number, basket):
            tree.extend({name: column[first : first + basket] for name, column in columns.items()})
    return columns


def damage(path, branch="jet_E", basket=5, length=40):
    """Overwrite some bytes of a basket: the file opens, but that cannot be read. Returns what was
    there.
    """
    with uproot.open(path) as file:
        start = int(file[TREE][branch].member("fBasketSeek")[basket]) + 150
    whole = path.read_bytes()
    data = bytearray(whole)
    data[start : start + length] = b"\xff" * length
    path.write_bytes(data)
    return whole
