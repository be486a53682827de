"""RDO -> AOD: jets with EM fraction and b-tag, tracks, displaced vertices, missing momentum.

Jets are anti-kT 0.4 of calorimeter towers (fastjet). Tagging and vertex finding are parametrised
by the truth; docs/chain.md says what that means.
"""

import functools
from typing import Any

import numpy as np

from dask_runner.chain import kinematics, transform
from dask_runner.chain.digitize import ADC_GEV
from dask_runner.chain.formats import EventData
from dask_runner.chain.kinematics import MUON, Reals
from dask_runner.errors import UsageError
from dask_runner.rootfiles import Column, Jagged
from dask_runner.settings import Geometry

STEP = 3

JET_RADIUS = 0.4
JET_PT = 20.0
# Before the scale factor of at most sqrt(3^2 / pT + 1).
_CLUSTER_PT = 10.0
_LABEL_DR = 0.4
# The parametrised efficiencies of b and c hold for quarks made this near the beam, in mm.
PROMPT = 30.0
_TRACK_PT = 0.5
# Displaced vertices: our own parametrisation. Lengths in mm, momentum and mass in GeV.
_VERTEX_LEAST_R = 4.0
_VERTEX_RADIUS = 15.0
_VERTEX_TRACK_PT = 1.0
_VERTEX_TRACKS = 3
_VERTEX_SIGMA = (0.1, 0.1, 0.2)
_PION = 0.13957

BOTTOM, CHARM, TAU = 5, 4, 15


def reconstruct(data: EventData, geometry: Geometry, seed: int) -> EventData:  # noqa: ARG001  # all steps have these arguments
    """Jets, tracks, displaced vertices and missing transverse momentum."""
    towers = _Towers(data.jagged("tower"))
    jets = _labelled(_jets(towers), data.jagged("parton"))
    tracks = data.jagged("track")
    llp = data.jagged("llp")
    chance, *shifts = kinematics.draw(
        data.events,
        (kinematics.uniform, jets.counts),
        *[(kinematics.normal, llp.counts)] * 3,
        seed=seed,
        step=STEP,
    )
    met, met_phi = _missing(towers, tracks, data.entries)
    jagged = {
        "jet": _tagged(jets, chance),
        "track": _kept_tracks(tracks),
        "vertex": _vertices(llp, tracks, shifts),
        "llp": llp,
    }
    columns = data.carried() | {"met": met, "met_phi": met_phi}
    return data.next("AOD", type(data.events)(entries=data.entries, columns=columns, jagged=jagged))


class _Towers:
    """Towers in GeV as massless momenta from the origin."""

    def __init__(self, digits: Jagged) -> None:
        self.digits = digits
        self.em: Reals = digits["em"] * ADC_GEV
        self.had: Reals = digits["had"] * ADC_GEV
        self.eta, self.phi = kinematics.tower_centre(digits["ieta"], digits["iphi"])
        self.e = self.em + self.had
        self.pt: Reals = self.e / np.cosh(self.eta)
        self.px: Reals = self.pt * np.cos(self.phi)
        self.py: Reals = self.pt * np.sin(self.phi)
        self.pz: Reals = self.pt * np.sinh(self.eta)


@functools.lru_cache(maxsize=1)
def _fastjet() -> tuple[Any, Any]:
    """The compiled part of fastjet, and our jet definition."""
    try:
        import fastjet  # noqa: PLC0415  # an optional component
        import fastjet._ext  # noqa: PLC0415  # the awkward layer above it costs 0.7 ms a call
    except ImportError as error:
        raise UsageError(
            f"the jet finder is not installed ({error})", hint='pip install "dask-runner[chain]"'
        ) from error
    definition = fastjet.JetDefinition(fastjet.antikt_algorithm, JET_RADIUS)
    return fastjet._ext, definition  # noqa: SLF001  # see above


def _cluster(towers: _Towers) -> tuple[Jagged, Column, Column]:
    """The jets, and for each constituent its jet and its tower."""
    extension, definition = _fastjet()
    offsets = towers.digits.offsets
    momenta = (towers.px, towers.py, towers.pz, towers.e)
    clusters = extension.interfacemulti(*momenta, offsets[:-1], offsets[1:], definition)
    *columns, ends = clusters.to_numpy(_CLUSTER_PT)
    jets = Jagged(
        offsets=np.asarray(ends, dtype=np.int64),
        columns=dict(zip(("px", "py", "pz", "E"), columns, strict=True)),
    )
    ends, members, _ = clusters.to_numpy_with_constituents(_CLUSTER_PT)
    # The arrays may have unused room at their end.
    ends = ends[: jets.offsets[-1] + 1]
    jet = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
    tower = members[: ends[-1]].astype(np.int64)
    return jets, jet, tower + offsets[jets.entry[jet]]


def _jets(towers: _Towers) -> Jagged:
    if not len(towers.e):
        empty = dict.fromkeys((*_JET_COLUMNS, "n_towers"), np.empty(0))
        return Jagged(offsets=towers.digits.offsets, columns=empty)
    raw, jet, tower = _cluster(towers)
    count = len(raw["E"])
    pt, eta, phi = kinematics.pt_eta_phi(raw["px"], raw["py"], raw["pz"])
    scale = np.sqrt((3.0 - 0.2 * np.abs(eta)) ** 2 / pt + 1.0)
    mass2 = raw["E"] ** 2 - raw["px"] ** 2 - raw["py"] ** 2 - raw["pz"] ** 2
    distance = kinematics.delta_r(towers.eta[tower], towers.phi[tower], eta[jet], phi[jet])
    em = kinematics.sums(jet, towers.em[tower], count)
    had = kinematics.sums(jet, towers.had[tower], count)
    moment = kinematics.sums(jet, towers.pt[tower] * distance, count)
    total = kinematics.sums(jet, towers.pt[tower], count)
    columns = {
        "pt": pt * scale,
        "eta": eta,
        "phi": phi,
        "mass": np.sqrt(np.maximum(mass2, 0.0)) * scale,
        "em": em,
        "had": had,
        "width": moment / total,
        "n_towers": np.bincount(jet, minlength=count),
    }
    jets = Jagged(offsets=raw.offsets, columns=columns).where(columns["pt"] > JET_PT)
    return _sorted(jets)


_JET_COLUMNS = ("pt", "eta", "phi", "mass", "em", "had", "width")


def _sorted(jets: Jagged) -> Jagged:
    """Each event's jets by falling transverse momentum."""
    order = np.lexsort((-jets["pt"], jets.entry))
    return Jagged(
        offsets=jets.offsets, columns={name: v[order] for name, v in jets.columns.items()}
    )


def _labelled(jets: Jagged, partons: Jagged) -> Jagged:
    """Flavour: the heaviest of b, c, tau within 0.4, else 0; and how far from the beam it began."""
    _, eta, phi = kinematics.pt_eta_phi(partons["px"], partons["py"], partons["pz"])
    left, right = kinematics.pairs(jets, partons)
    distance = kinematics.delta_r(jets["eta"][left], jets["phi"][left], eta[right], phi[right])
    close = distance < _LABEL_DR
    left, right, distance = left[close], right[close], distance[close]
    kind = np.abs(partons["id"][right])
    rank = np.select([kind == BOTTOM, kind == CHARM], [0, 1], default=2)
    radius = np.hypot(partons["x"].astype(np.float64), partons["y"].astype(np.float64))
    flavour = np.zeros(len(jets["pt"]), dtype=np.int32)
    prompt = np.ones(len(jets["pt"]), dtype=np.bool_)
    # Written from the least to the most important: the last one written stays.
    order = np.lexsort((right, distance, rank))[::-1]
    flavour[left[order]] = kind[order]
    prompt[left[order]] = radius[right[order]] < PROMPT
    columns = jets.columns | {"flavour": flavour, "prompt": prompt}
    return Jagged(offsets=jets.offsets, columns=columns)


def b_tag_rate(pt: Reals, flavour: Column, prompt: Column) -> Reals:
    """The chance of a jet to be tagged."""
    light = 0.002 + 7.3e-6 * pt
    bottom = 0.80 * np.tanh(0.003 * pt) * 30.0 / (1.0 + 0.086 * pt)
    charm = 0.20 * np.tanh(0.02 * pt) / (1.0 + 0.0034 * pt)
    rate: Reals = np.where(
        prompt & (flavour == BOTTOM), bottom, np.where(prompt & (flavour == CHARM), charm, light)
    )
    return rate


def _tagged(jets: Jagged, chance: Reals) -> Jagged:
    em, had = np.maximum(jets["em"], ADC_GEV), np.maximum(jets["had"], ADC_GEV)
    tagged = chance < b_tag_rate(jets["pt"], jets["flavour"], jets["prompt"])
    columns: dict[str, Column] = {name: jets[name].astype(np.float32) for name in _JET_COLUMNS}
    columns["cal_ratio"] = np.log10(had / em).astype(np.float32)
    columns["n_towers"] = jets["n_towers"].astype(np.int32)
    columns["flavour"] = jets["flavour"]
    columns["b_tag"] = tagged.astype(np.int8)
    return Jagged(offsets=jets.offsets, columns=columns)


def _missing(towers: _Towers, tracks: Jagged, entries: int) -> tuple[Column, Column]:
    """Minus the sum of all towers and muons."""
    muon = np.flatnonzero(np.abs(tracks["id"]) == MUON)
    pt, phi = tracks["pt"][muon].astype(np.float64), tracks["phi"][muon].astype(np.float64)
    entry = np.concatenate((towers.digits.entry, tracks.entry[muon]))
    x = np.concatenate((towers.px, pt * np.cos(phi)))
    y = np.concatenate((towers.py, pt * np.sin(phi)))
    sum_x = -kinematics.sums(entry, x, entries)
    sum_y = -kinematics.sums(entry, y, entries)
    met = np.sqrt(sum_x * sum_x + sum_y * sum_y)
    return met.astype(np.float32), np.arctan2(sum_y, sum_x).astype(np.float32)


def _kept_tracks(tracks: Jagged) -> Jagged:
    kept = tracks.where(tracks["pt"] > _TRACK_PT)
    columns = {name: kept[name] for name in ("pt", "eta", "phi", "charge", "d0", "z0")}
    return Jagged(offsets=kept.offsets, columns=columns)


def _vertices(llp: Jagged, tracks: Jagged, shifts: list[Reals]) -> Jagged:
    """Where enough measured tracks begin near the true decay of a scalar in the tracker."""
    left, right = kinematics.pairs(llp, tracks)
    separation = np.zeros(len(left))
    for axis in ("x", "y", "z"):
        separation += (llp[axis][left].astype(np.float64) - tracks[axis][right]) ** 2
    used = (separation < _VERTEX_RADIUS**2) & (tracks["pt"][right] > _VERTEX_TRACK_PT)
    left, right = left[used], right[used]
    count = len(llp["x"])
    number = np.bincount(left, minlength=count)
    radius = np.hypot(llp["x"].astype(np.float64), llp["y"].astype(np.float64))
    columns: dict[str, Column] = {
        axis: (llp[axis] + sigma * shift).astype(np.float32)
        for axis, sigma, shift in zip(("x", "y", "z"), _VERTEX_SIGMA, shifts, strict=True)
    }
    columns["n_tracks"] = number.astype(np.int32)
    columns["mass"] = _mass(tracks, left, right, count).astype(np.float32)
    columns["llp"] = (np.arange(count) - llp.offsets[llp.entry]).astype(np.int32)
    found = Jagged(offsets=llp.offsets, columns=columns)
    return found.where((number >= _VERTEX_TRACKS) & (radius > _VERTEX_LEAST_R))


def _mass(tracks: Jagged, group: Column, chosen: Column, count: int) -> Reals:
    """The invariant mass of each group of tracks, taken as pions."""
    pt, eta, phi = (tracks[name][chosen].astype(np.float64) for name in ("pt", "eta", "phi"))
    pz = pt * np.sinh(eta)
    energy = np.sqrt(pt * pt + pz * pz + _PION**2)
    sums = [
        kinematics.sums(group, values, count)
        for values in (energy, pt * np.cos(phi), pt * np.sin(phi), pz)
    ]
    mass: Reals = np.sqrt(
        np.maximum(sums[0] ** 2 - sums[1] ** 2 - sums[2] ** 2 - sums[3] ** 2, 0.0)
    )
    return mass


if __name__ == "__main__":
    raise SystemExit(transform.main("reconstruct"))
