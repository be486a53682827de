"""What no expression says: the mass and the distance of the two hardest jets, as histograms."""

from typing import Any

import awkward as ak
import hist
import numpy as np


def dijets(chunk: dict[str, Any]) -> dict[str, hist.Hist]:
    """Two histograms of a chunk of events. Jets, in the order of falling pT, are awkward arrays;
    what has one value for each event is a numpy array.
    """
    two = ak.num(chunk["jet_pt"]) >= 2
    pt, eta, phi = (chunk[f"jet_{name}"][two][:, :2] for name in ("pt", "eta", "phi"))
    d_eta = np.asarray(eta[:, 0] - eta[:, 1])
    d_phi = np.asarray(phi[:, 0] - phi[:, 1])
    # Of jets without a mass: 2 pT1 pT2 (cosh(d eta) - cos(d phi)).
    mass = np.sqrt(2 * np.asarray(pt[:, 0] * pt[:, 1]) * (np.cosh(d_eta) - np.cos(d_phi)))
    weight = np.asarray(chunk["weight"][two])
    mjj = hist.Hist.new.Reg(60, 0, 1200, name="mjj", label="$m_{jj}$ [GeV]").Weight()
    gap = hist.Hist.new.Reg(50, 0, 5, name="gap", label=r"$|\Delta\eta|$").Weight()
    return {
        "mjj": mjj.fill(mass, weight=weight),
        "gap": gap.fill(np.abs(d_eta), weight=weight),
    }


dijets.branches = ["jet_pt", "jet_eta", "jet_phi", "weight"]
