"""EVNT -> HITS: where particles go and what they leave in the calorimeters, without resolution.

A parametrised fast simulation, not Geant4: a helix from the production vertex to the face of the
calorimeter, then a share for each calorimeter. Particles born inside a calorimeter leave their
energy there: stock Delphes drops them, but they are the point of this sample.
"""

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from dask_runner.chain import kinematics, transform
from dask_runner.chain.formats import EventData
from dask_runner.chain.kinematics import Reals
from dask_runner.rootfiles import Jagged
from dask_runner.settings import Geometry

STEP = 1

_MM = 1e-3
# p_T / GeV = 0.2998 * B / T * R / m
_BENDING = 0.299792458
_STRAIGHT = 1e-9
# Our own: depth of the electromagnetic calorimeter in interaction lengths, and the scale on which
# a hadron shower that starts in it deposits its energy there. The Delphes card puts all of a
# hadron into the hadronic part, which makes the EM fraction of prompt jets too low.
ECAL_DEPTH = 1.2
SHOWER_DEPTH = 0.6
# The card's shares for the neutral strange hadrons that live long enough.
_STRANGE = (310, 3122)
_STRANGE_EM = 0.3
_INVISIBLE = (12, 14, 16)
_EM = (11, 22)
TRACK_RADIUS = 300.0
TRACK_ETA = 2.5
TRACK_PT = 0.1

# x, y and z of all particles, in m.
Place = tuple[Reals, Reals, Reals]

_POSITIVE = (-11, -13, -15, 211, 321, 2212, 3222, -3112, -3312, -3334)


def simulate(data: EventData, geometry: Geometry, seed: int) -> EventData:
    """Energy deposits by tower, and the charged particles that the tracker may see."""
    particles = data.jagged("particle")
    position = _Position.of(particles, geometry)
    jagged = {
        "hit": _hits(data, particles, position, seed),
        "track": _tracks(particles, geometry),
        "llp": data.jagged("llp"),
        "parton": data.jagged("parton"),
    }
    events = type(data.events)(entries=data.entries, columns=data.carried(), jagged=jagged)
    return data.next("HITS", events)


class _Position(Struct, frozen=True, kw_only=True):
    """Where each particle enters the calorimeters, or where it is born in them; lengths in m.
    `depth`: how much of the ECAL is before it, as a share (0 from its front, 1 in the HCAL).
    `seen` is false for what is born beyond.
    """

    eta: Reals
    phi: Reals
    depth: Reals
    seen: NDArray[np.bool_]

    @classmethod
    def of(cls, particles: Jagged, geometry: Geometry) -> "_Position":
        x, y, z = (particles[name].astype(np.float64) * _MM for name in ("x", "y", "z"))
        r = np.sqrt(x * x + y * y)
        depth = _depth(r, np.abs(z), geometry)
        outside = np.maximum(r / geometry.hcal_outer_radius, np.abs(z) / geometry.hcal_outer_z)
        inner = (r < geometry.ecal_inner_radius) & (np.abs(z) < geometry.ecal_inner_z)
        moved = _at_face(particles, (x, y, z), inner, geometry)
        _, eta, phi = kinematics.pt_eta_phi(*moved)
        return cls(eta=eta, phi=phi, depth=depth, seen=outside < 1.0)


def _depth(r: Reals, z: Reals, geometry: Geometry) -> Reals:
    barrel = (r - geometry.ecal_inner_radius) / (
        geometry.ecal_outer_radius - geometry.ecal_inner_radius
    )
    endcap = (z - geometry.ecal_inner_z) / (geometry.ecal_outer_z - geometry.ecal_inner_z)
    depth: Reals = np.clip(np.maximum(barrel, endcap), 0.0, 1.0)
    return depth


def _at_face(particles: Jagged, born: Place, inner: NDArray[np.bool_], geometry: Geometry) -> Place:
    """The places at the inner face of the calorimeter, for those born inside of it."""
    out = (born[0].copy(), born[1].copy(), born[2].copy())
    charge = charges(particles["id"])
    for charged in (False, True):
        chosen = np.flatnonzero(inner & ((charge != 0) == charged))
        momentum = [particles[name][chosen].astype(np.float64) for name in ("px", "py", "pz")]
        start = (born[0][chosen], born[1][chosen], born[2][chosen])
        pt = np.maximum(np.sqrt(momentum[0] ** 2 + momentum[1] ** 2), _STRAIGHT)
        if charged:
            curvature = -charge[chosen] * _BENDING * geometry.field / pt
            end = _helix(start, momentum, pt, curvature, geometry)
        else:
            end = _line(start, momentum, pt, geometry)
        for target, values in zip(out, end, strict=True):
            target[chosen] = values
    return out


def _line(start: Place, momentum: list[Reals], pt: Reals, geometry: Geometry) -> Place:
    x, y, z = start
    ux, uy = momentum[0] / pt, momentum[1] / pt
    along = x * ux + y * uy
    room = geometry.ecal_inner_radius**2 - x * x - y * y
    to_barrel = np.sqrt(along * along + room) - along
    path = np.minimum(to_barrel, _to_endcap(z, momentum[2], pt, geometry))
    return x + ux * path, y + uy * path, z + momentum[2] / pt * path


def _helix(
    start: Place,
    momentum: list[Reals],
    pt: Reals,
    curvature: Reals,
    geometry: Geometry,
) -> Place:
    """Along x(s) = cx + sin(phi0 + k s) / k, y(s) = cy - cos(phi0 + k s) / k."""
    x, y, z = start
    phi0 = np.arctan2(momentum[1], momentum[0])
    cx = x - np.sin(phi0) / curvature
    cy = y + np.cos(phi0) / curvature
    distance = np.maximum(np.sqrt(cx * cx + cy * cy), _STRAIGHT)
    wanted = (geometry.ecal_inner_radius**2 - distance**2 - 1.0 / curvature**2) * (
        curvature / (2.0 * distance)
    )
    leaves = np.abs(wanted) <= 1.0
    angle = np.arcsin(np.clip(wanted, -1.0, 1.0))
    gamma = np.arctan2(cy, cx)
    turn = np.minimum(
        _forward(gamma + angle - phi0, curvature),
        _forward(gamma + np.pi - angle - phi0, curvature),
    )
    to_barrel = np.where(leaves, turn / np.abs(curvature), np.inf)
    path = np.minimum(to_barrel, _to_endcap(z, momentum[2], pt, geometry))
    phi = phi0 + curvature * path
    return (
        cx + np.sin(phi) / curvature,
        cy - np.cos(phi) / curvature,
        z + momentum[2] / pt * path,
    )


def _forward(angle: Reals, curvature: Reals) -> Reals:
    """The turn in the direction of the curvature, from 0 to 2 pi."""
    turn = angle * np.sign(curvature)
    forward: Reals = turn - 2 * np.pi * np.floor(turn / (2 * np.pi))
    return forward


def _to_endcap(z: Reals, pz: Reals, pt: Reals, geometry: Geometry) -> Reals:
    room = geometry.ecal_inner_z - z * np.sign(pz)
    path: Reals = room * pt / np.maximum(np.abs(pz), _STRAIGHT * pt)
    return path


def _hits(data: EventData, particles: Jagged, position: _Position, seed: int) -> Jagged:
    kind = np.abs(particles["id"])
    ieta, iphi = kinematics.tower_of(position.eta, position.phi)
    stops = ~np.isin(kind, (*_INVISIBLE, kinematics.MUON)) & position.seen
    chosen = Jagged(
        offsets=particles.offsets,
        columns={
            "kind": kind,
            "energy": particles["e"].astype(np.float64),
            "depth": position.depth,
            "ieta": ieta.astype(np.int16),
            "iphi": iphi.astype(np.int16),
        },
    ).where(stops & (ieta >= 0) & (ieta < kinematics.N_ETA))
    share = _em_share(data, chosen, seed)
    energy = chosen["energy"]
    columns = {
        "ieta": chosen["ieta"],
        "iphi": chosen["iphi"],
        "em": (energy * share).astype(np.float32),
        "had": (energy * (1.0 - share)).astype(np.float32),
    }
    return Jagged(offsets=chosen.offsets, columns=columns)


def _em_share(data: EventData, chosen: Jagged, seed: int) -> Reals:
    """Which part of its energy each particle leaves in the electromagnetic calorimeter."""
    kind, ahead = chosen["kind"], 1.0 - chosen["depth"]
    (start,) = kinematics.draw(
        data.events, (kinematics.exponential, chosen.counts), seed=seed, step=STEP
    )
    inside = np.maximum(ECAL_DEPTH * ahead - start, 0.0)
    hadron = 1.0 - np.exp(-inside / SHOWER_DEPTH)
    share = np.where(np.isin(kind, _STRANGE), _STRANGE_EM * ahead, hadron)
    result: Reals = np.where(np.isin(kind, _EM), np.where(ahead > 0.0, 1.0, 0.0), share)
    return result


def charges(pdg: NDArray[np.int32]) -> NDArray[np.int64]:
    """The electric charge of final particles."""
    return np.isin(pdg, _POSITIVE).astype(np.int64) - np.isin(-pdg, _POSITIVE)


def _tracks(particles: Jagged, geometry: Geometry) -> Jagged:
    """Charged particles that start near the beam, with their true impact parameters in mm."""
    charge = charges(particles["id"])
    pt, eta, phi = kinematics.pt_eta_phi(*(particles[name] for name in ("px", "py", "pz")))
    x, y, z = (particles[name].astype(np.float64) for name in ("x", "y", "z"))
    started = (x * x + y * y < TRACK_RADIUS**2) & (np.abs(z) < geometry.tracker_half_length / _MM)
    seen = (charge != 0) & (np.abs(eta) < TRACK_ETA) & (pt > TRACK_PT) & started
    with_all = Jagged(
        offsets=particles.offsets,
        columns={
            "id": particles["id"],
            "charge": charge.astype(np.int8),
            "pt": pt,
            "eta": eta,
            "phi": phi,
            "x": particles["x"],
            "y": particles["y"],
            "z": particles["z"],
        },
    ).where(seen)
    d0, z0 = _impact(with_all, geometry)
    columns = with_all.columns | {
        "pt": with_all["pt"].astype(np.float32),
        "eta": with_all["eta"].astype(np.float32),
        "phi": with_all["phi"].astype(np.float32),
        "d0": d0.astype(np.float32),
        "z0": z0.astype(np.float32),
    }
    return Jagged(offsets=with_all.offsets, columns=columns)


def _impact(tracks: Jagged, geometry: Geometry) -> tuple[Reals, Reals]:
    """Distance of the helix from the beam line, signed, and z at that place."""
    x, y, z = (tracks[name].astype(np.float64) for name in ("x", "y", "z"))
    phi = tracks["phi"]
    curvature = -tracks["charge"] * _BENDING * geometry.field * _MM / tracks["pt"]
    cx, cy = x - np.sin(phi) / curvature, y + np.cos(phi) / curvature
    d0 = np.sign(curvature) * np.sqrt(cx * cx + cy * cy) - 1.0 / curvature
    # The straight path to the nearest approach: exact for the stiff tracks that matter.
    path = x * np.cos(phi) + y * np.sin(phi)
    return d0, z - path * np.sinh(tracks["eta"])


if __name__ == "__main__":
    raise SystemExit(transform.main("simulate"))
