#!/usr/bin/env python3
"""Dijet-mass histograms of one ntuple, as a batch of `dask-runner command`.

    histograms.py FILE.NTUP.root OUTPUT.root

Every output has the same histograms, most of them empty, so that `dask-runner merge` adds them up:
`mjj_qcd`, `mjj_qstar_3000` ... (TH1D with Sumw2; sums of event weights), and for each of them
`sums_...` with what normalises it: events, sum of weights, tries, sum of cross sections in pb.
"""

import sys
from pathlib import Path
from typing import Any

import boost_histogram as bh
import numpy as np
import uproot
from numpy.typing import NDArray

from dask_runner import rootfiles

Array = NDArray[Any]

# 116 bins of equal ratio, 1.7 % wide.
EDGES = np.round(np.geomspace(1100, 8000, 117))
SAMPLES = {
    500001: "qcd",
    500003: "qstar_3000",
    500004: "qstar_4000",
    500005: "qstar_5000",
    500006: "qstar_6000",
    500007: "qstar_7000",
}
# In GeV, and half the difference of the rapidities: where jets of a resonance are, and few of QCD.
LEADING_PT = 440
SECOND_PT = 60
Y_STAR = 0.6


def dijets(jets: rootfiles.Table) -> tuple[Array, Array]:
    """Mass of the two hardest jets of each event that passes the selection, and its weight."""
    # A flat table, jets of an event by falling pT: a second jet follows its first.
    second = np.flatnonzero(jets["index"] == 1)
    first = second - 1
    momenta = [four_momenta(jets, rows) for rows in (first, second)]
    rapidity = [np.arctanh(pz / e) for e, _, _, pz in momenta]
    e, px, py, pz = np.add(*momenta)
    passes = (
        (jets["pt"][first] > LEADING_PT)
        & (jets["pt"][second] > SECOND_PT)
        & (np.abs(rapidity[0] - rapidity[1]) / 2 < Y_STAR)
    )
    mass = np.sqrt(np.maximum(e**2 - px**2 - py**2 - pz**2, 0))
    return mass[passes], jets["weight"][second][passes]


def four_momenta(jets: rootfiles.Table, rows: Array) -> Array:
    """E, px, py, pz: shape (4, rows)."""
    pt, eta, phi, mass = (jets[name][rows].astype(float) for name in ("pt", "eta", "phi", "mass"))
    p3 = pt * np.cosh(eta)
    return np.array([np.hypot(p3, mass), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)])


def main(source: Path, target: Path) -> None:
    events = rootfiles.read(source, "events")
    (run,) = set(events["run"].tolist())
    masses, weights = dijets(rootfiles.read(source, "jets"))
    sums = [
        events.entries,
        events["weight"].sum(),
        events["tries"].sum(),
        events["sigma_sum"].sum(),
    ]
    with uproot.recreate(target) as file:
        for number, name in SAMPLES.items():
            here = number == run
            spectrum = bh.Histogram(bh.axis.Variable(EDGES), storage=bh.storage.Weight())
            normalisation = bh.Histogram(bh.axis.Regular(len(sums), 0, len(sums)))
            if here:
                spectrum.fill(masses, weight=weights)
                normalisation[:] = sums
            file[f"mjj_{name}"] = spectrum
            file[f"sums_{name}"] = normalisation
    if run not in SAMPLES:
        sys.exit(f"{source}: run number {run} is none of this example's samples")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
