"""HITS -> RDO: what the electronics would read out: towers in ADC counts, measured tracks.

Resolutions and efficiencies are those of the Delphes ATLAS card.
"""

import numpy as np
from numpy.typing import NDArray

from dask_runner.chain import kinematics, transform
from dask_runner.chain.formats import EventData
from dask_runner.chain.kinematics import ELECTRON, MUON, Reals
from dask_runner.rootfiles import Jagged
from dask_runner.settings import Geometry

STEP = 2

ADC_GEV = 0.030
_SIGMAS = 2.0
_ECAL_LEAST = 0.5
_HCAL_LEAST = 1.0
# |eta| up to: constant term, stochastic term, noise / GeV: sigma^2 = (c E)^2 + s^2 E + n^2.
_ECAL = ((3.2, 0.0017, 0.101, 0.0), (4.9, 0.035, 0.285, 0.0))
_HCAL = ((1.7, 0.0302, 0.5205, 1.59), (3.2, 0.05, 0.706, 0.0), (4.9, 0.0942, 1.0, 0.0))

_HADRON = 211
# Efficiency for |eta| below 1.5 and below 2.5, from a momentum on.
_EFFICIENCY = {
    _HADRON: ((0.1, 0.70, 0.60), (1.0, 0.95, 0.85)),
    ELECTRON: ((0.1, 0.73, 0.50), (1.0, 0.95, 0.83), (100.0, 0.99, 0.90)),
    MUON: ((0.1, 0.75, 0.70), (1.0, 0.99, 0.98)),
}
_CENTRAL = 1.5
# |eta| up to: a, b of sigma(pT) / pT = sqrt(a^2 + b^2 pT^2).
_RESOLUTION = {
    _HADRON: ((0.5, 0.06, 1.3e-3), (1.5, 0.10, 1.7e-3), (2.5, 0.25, 3.1e-3)),
    ELECTRON: ((0.5, 0.03, 1.3e-3), (1.5, 0.05, 1.7e-3), (2.5, 0.15, 3.1e-3)),
    MUON: ((0.5, 0.01, 1.0e-4), (1.5, 0.015, 1.5e-4), (2.5, 0.025, 3.5e-4)),
}
# Our own: impact parameter resolution in mm, constant and times GeV / pT.
_IMPACT = (0.02, 0.10)


def digitize(data: EventData, geometry: Geometry, seed: int) -> EventData:  # noqa: ARG001  # all steps have these arguments
    """Smear, cut at two standard deviations, count in units of 30 MeV; measure tracks."""
    towers, sums = _towers(data)
    tracks = data.jagged("track")
    of_tower = (kinematics.normal, towers.counts)
    of_track = (kinematics.normal, tracks.counts)
    numbers = kinematics.draw(
        data.events,
        of_tower,
        of_tower,
        of_track,
        of_track,
        of_track,
        (kinematics.uniform, tracks.counts),
        seed=seed,
        step=STEP,
    )
    jagged = {
        "tower": _counts(towers, sums, numbers[:2]),
        "track": _measured(tracks, numbers[2:5], numbers[5]),
        "llp": data.jagged("llp"),
        "parton": data.jagged("parton"),
    }
    events = type(data.events)(entries=data.entries, columns=data.carried(), jagged=jagged)
    return data.next("RDO", events)


def _towers(data: EventData) -> tuple[Jagged, tuple[Reals, Reals]]:
    """The towers that were hit, in order of their place, with the sums of their energies."""
    hits = data.jagged("hit")
    cells = kinematics.N_ETA * kinematics.N_PHI
    place = hits["ieta"].astype(np.int64) * kinematics.N_PHI + hits["iphi"]
    keys, inverse = np.unique(hits.entry * cells + place, return_inverse=True)
    entry, cell = np.divmod(keys, cells)
    offsets = np.searchsorted(entry, np.arange(data.entries + 1)).astype(np.int64)
    columns = {
        "ieta": (cell // kinematics.N_PHI).astype(np.int16),
        "iphi": (cell % kinematics.N_PHI).astype(np.int16),
    }
    em = kinematics.sums(inverse, hits["em"], len(keys))
    had = kinematics.sums(inverse, hits["had"], len(keys))
    return Jagged(offsets=offsets, columns=columns), (em, had)


def _counts(towers: Jagged, sums: tuple[Reals, Reals], random: list[Reals]) -> Jagged:
    eta, _ = kinematics.tower_centre(towers["ieta"], towers["iphi"])
    em = _read_out(sums[0], np.abs(eta), _ECAL, _ECAL_LEAST, random[0])
    had = _read_out(sums[1], np.abs(eta), _HCAL, _HCAL_LEAST, random[1])
    columns = towers.columns | {"em": em, "had": had}
    return Jagged(offsets=towers.offsets, columns=columns).where((em > 0) | (had > 0))


def _read_out(
    energy: Reals,
    eta: Reals,
    table: tuple[tuple[float, float, float, float], ...],
    least: float,
    random: Reals,
) -> NDArray[np.int32]:
    sigma = _calorimeter_sigma(energy, eta, table)
    smeared = _log_normal(energy, sigma, random)
    kept = (smeared > least) & (smeared > _SIGMAS * _calorimeter_sigma(smeared, eta, table))
    return np.where(kept, np.rint(smeared / ADC_GEV), 0.0).astype(np.int32)


def _calorimeter_sigma(
    energy: Reals, eta: Reals, table: tuple[tuple[float, float, float, float], ...]
) -> Reals:
    region = np.searchsorted([row[0] for row in table], eta)
    constant, stochastic, noise = (
        np.array([row[column] for row in table])[np.minimum(region, len(table) - 1)]
        for column in (1, 2, 3)
    )
    sigma: Reals = np.sqrt(
        (constant * energy) ** 2 + stochastic * stochastic * energy + noise * noise
    )
    return sigma


def _log_normal(mean: Reals, sigma: Reals, random: Reals) -> Reals:
    """A log-normal value of this mean and width; zero stays zero."""
    safe = np.where(mean > 0.0, mean, 1.0)
    spread = np.log1p((sigma / safe) ** 2)
    value: Reals = np.where(
        mean > 0.0, np.exp(np.log(safe) - 0.5 * spread + np.sqrt(spread) * random), 0.0
    )
    return value


def _measured(tracks: Jagged, random: list[Reals], chance: Reals) -> Jagged:
    """The tracks that are found, with measured momentum and impact parameters."""
    pt, eta = tracks["pt"].astype(np.float64), np.abs(tracks["eta"])
    efficiency, sigma = _performance(np.abs(tracks["id"]), pt, eta)
    spread = np.sqrt(_IMPACT[0] ** 2 + (_IMPACT[1] / pt) ** 2)
    columns = tracks.columns | {
        "pt": _log_normal(pt, sigma * pt, random[0]).astype(np.float32),
        "d0": (tracks["d0"] + spread * random[1]).astype(np.float32),
        "z0": (tracks["z0"] + spread * random[2]).astype(np.float32),
    }
    return Jagged(offsets=tracks.offsets, columns=columns).where(chance < efficiency)


def _performance(kind: NDArray[np.int32], pt: Reals, eta: Reals) -> tuple[Reals, Reals]:
    """Efficiency and relative momentum resolution of each track."""
    efficiency = np.zeros(len(pt))
    sigma = np.zeros(len(pt))
    lepton = (kind == ELECTRON) | (kind == MUON)
    for species, rows in _EFFICIENCY.items():
        mine = ~lepton if species == _HADRON else kind == species
        for least, central, forward in rows:
            value = np.where(eta < _CENTRAL, central, forward)
            efficiency = np.where(mine & (pt > least), value, efficiency)
        for limit, a, b in reversed(_RESOLUTION[species]):
            value = np.sqrt(a * a + b * b * pt * pt)
            sigma = np.where(mine & (eta <= limit), value, sigma)
    return efficiency, sigma


if __name__ == "__main__":
    raise SystemExit(transform.main("digitize"))
