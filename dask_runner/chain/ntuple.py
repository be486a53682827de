"""AOD -> NTUP: a flat table of jets with truth labels for training, and a table of events."""

import numpy as np

from dask_runner.chain import kinematics, transform
from dask_runner.chain.formats import EventData
from dask_runner.rootfiles import Column, Jagged, Table
from dask_runner.settings import Geometry

_TRACK_DR = 0.2
_TRACK_PT = 2.0
_LLP_DR = 0.4
_FROM_JETS = (
    "pt", "eta", "phi", "mass", "em", "had", "cal_ratio", "width", "n_towers", "b_tag", "flavour",
)  # fmt: skip


def ntuple(data: EventData, geometry: Geometry, seed: int) -> EventData:  # noqa: ARG001  # all steps have these arguments
    """One row per jet in the tree `jets`, one per event in `events`."""
    jets, llp = data.jagged("jet"), _directions(data.jagged("llp"))
    entry = jets.entry
    identity = {name: data.events[name][entry] for name in ("run", "event", "weight")}
    columns: dict[str, Column] = {
        **identity,
        "index": (np.arange(len(entry)) - jets.offsets[entry]).astype(np.int32),
        **{name: jets[name] for name in _FROM_JETS},
        "em_fraction": _em_fraction(jets),
        **_tracks(jets, data.jagged("track")),
        "met": data.events["met"][entry],
        "met_dphi": _met_angle(data, jets),
        **_truth(jets, llp),
    }
    per_event = data.carried() | {
        "met": data.events["met"],
        "met_phi": data.events["met_phi"],
        "n_jets": jets.counts.astype(np.int32),
        "n_vertices": data.jagged("vertex").counts.astype(np.int32),
        "n_llps": llp.counts.astype(np.int32),
    }
    events = Table(entries=data.entries, columns=per_event)
    return data.next("NTUP", events, Table(entries=len(entry), columns=columns))


def _directions(llp: Jagged) -> Jagged:
    pt, eta, phi = kinematics.pt_eta_phi(llp["px"], llp["py"], llp["pz"])
    return Jagged(offsets=llp.offsets, columns=llp.columns | {"pt": pt, "eta": eta, "phi": phi})


def _em_fraction(jets: Jagged) -> Column:
    total = jets["em"] + jets["had"]
    return (jets["em"] / np.where(total > 0, total, 1)).astype(np.float32)


def _tracks(jets: Jagged, tracks: Jagged) -> dict[str, Column]:
    """Standard tracks in the core of each jet: jets from late decays have none."""
    hard = tracks.where(tracks["pt"] > _TRACK_PT)
    left, right = kinematics.pairs(jets, hard)
    distance = kinematics.delta_r(
        jets["eta"][left], jets["phi"][left], hard["eta"][right], hard["phi"][right]
    )
    near = distance < _TRACK_DR
    count = len(jets["pt"])
    weights = hard["pt"][right[near]].astype(np.float64)
    _, closest = kinematics.nearest(jets, hard, np.pi)
    return {
        "n_tracks": np.bincount(left[near], minlength=count).astype(np.int32),
        "track_pt_sum": kinematics.sums(left[near], weights, count).astype(np.float32),
        "track_dr": closest.astype(np.float32),
    }


def _met_angle(data: EventData, jets: Jagged) -> Column:
    away = data.events["met_phi"][jets.entry].astype(np.float64) - jets["phi"]
    return np.abs(kinematics.wrapped(away)).astype(np.float32)


def _truth(jets: Jagged, llp: Jagged) -> dict[str, Column]:
    """Labels: the scalar that points to the jet, where it decayed and to what."""
    found, distance = kinematics.nearest(jets, llp, _LLP_DR)
    matched = found >= 0
    where = found[matched]
    x, y, z = (llp[axis].astype(np.float64) for axis in ("x", "y", "z"))
    number = np.arange(len(x)) - llp.offsets[llp.entry]
    values = {
        "llp_pt": llp["pt"],
        "llp_eta": llp["eta"],
        "llp_lxy": np.sqrt(x * x + y * y),
        "llp_lz": np.abs(z),
    }
    columns: dict[str, Column] = {
        "llp": np.full(len(found), -1, dtype=np.int32),
        "llp_flavour": np.zeros(len(found), dtype=np.int32),
        "llp_dr": np.where(matched, distance, -1.0).astype(np.float32),
    }
    columns["llp"][matched] = number[where]
    columns["llp_flavour"][matched] = llp["flavour"][where]
    for name, column in values.items():
        columns[name] = np.full(len(found), -1.0, dtype=np.float32)
        columns[name][matched] = column[where]
    return columns


if __name__ == "__main__":
    raise SystemExit(transform.main("ntuple"))
