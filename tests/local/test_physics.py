"""Physics of 5000 real events: what was put in comes out."""

from typing import NamedTuple

import awkward as ak
import fastjet
import numpy as np
import pytest

from dask_runner import chain
from dask_runner.chain import generate, hidden_valley, kinematics
from dask_runner.chain.formats import EventData
from dask_runner.rootfiles import Jagged, offsets_of
from dask_runner.settings import Geometry

RUN = 304795
EVENTS = 5000
M_H, M_S, C_TAU = 125.0, 25.0, 760.0
UNSEEN = (12, 13, 14, 16)


class Sample(NamedTuple):
    evnt: EventData
    aod: EventData
    ntup: EventData


@pytest.fixture(scope="session")
def sample() -> Sample:
    sample = hidden_valley.make_sample(RUN)
    evnt = generate.generate(sample, first_event=0, count=EVENTS, seed=1, run_number=RUN)
    data, aod = evnt, evnt
    for step in chain.STEPS:
        data = chain.run_step(step, data, Geometry(), 1)
        aod = data if data.format == "AOD" else aod
    return Sample(evnt, aod, data)


def momenta(evnt: EventData) -> np.ndarray:
    """(e, px, py, pz) of both scalars of each event."""
    llp = evnt.jagged("llp")
    assert (llp.counts == 2).all()
    columns = [llp[name].astype(np.float64) for name in ("e", "px", "py", "pz")]
    return np.stack(columns, axis=1).reshape(-1, 2, 4)


def test_the_scalars_come_from_a_higgs_boson_of_the_right_mass(sample):
    total = momenta(sample.evnt).sum(axis=1)
    mass = np.sqrt(total[:, 0] ** 2 - (total[:, 1:] ** 2).sum(axis=1))
    assert mass.mean() == pytest.approx(M_H, abs=0.005)


def test_the_momentum_in_the_higgs_frame_is_that_of_the_masses(sample):
    both = momenta(sample.evnt)
    total, one = both.sum(axis=1), both[:, 0]
    dot = one[:, 0] * total[:, 0] - (one[:, 1:] * total[:, 1:]).sum(axis=1)
    mass2 = total[:, 0] ** 2 - (total[:, 1:] ** 2).sum(axis=1)
    energy = dot / np.sqrt(mass2)
    momentum = np.sqrt(energy**2 - M_S**2)
    expected = np.sqrt(M_H**2 / 4 - M_S**2)
    assert expected == pytest.approx(57.282, abs=0.001)
    assert momentum.mean() == pytest.approx(expected, abs=0.005)
    assert momentum.std() < 0.05


def test_proper_lifetimes_are_exponential_with_the_mean_asked_for(sample):
    llp = sample.evnt.jagged("llp")
    path, p = (
        np.sqrt(sum(llp[name].astype(np.float64) ** 2 for name in names))
        for names in (("x", "y", "z"), ("px", "py", "pz"))
    )
    proper = path * M_S / p
    error = C_TAU / np.sqrt(len(proper))
    assert proper.mean() == pytest.approx(C_TAU, abs=4 * error)
    assert (proper > C_TAU).mean() == pytest.approx(np.exp(-1), abs=4 * 0.5 / np.sqrt(len(proper)))
    assert proper == pytest.approx(llp["tau"], rel=1e-3, abs=0.01)


def test_branching_ratios_are_those_asked_for(sample):
    flavour = sample.evnt.jagged("llp")["flavour"]
    for pdg, expected in hidden_valley.branching_ratios(M_S).items():
        error = np.sqrt(expected * (1 - expected) / len(flavour))
        assert (flavour == pdg).mean() == pytest.approx(expected, abs=4 * error + 1e-4)


def test_quarks_know_which_scalar_they_come_from(sample):
    parton, llp = sample.evnt.jagged("parton"), sample.evnt.jagged("llp")
    found = parton["llp"] >= 0
    owner = llp.offsets[parton.entry] + np.maximum(parton["llp"], 0)
    for axis in ("x", "y", "z"):
        assert parton[axis][found] == pytest.approx(llp[axis][owner[found]], rel=1e-5, abs=1e-3)
    assert np.hypot(parton["x"], parton["y"])[~found].max() < 1e-3
    kinds = np.abs(parton["id"][found])
    assert (kinds == llp["flavour"][owner[found]]).mean() > 0.9


class TrueJets(NamedTuple):
    jets: Jagged
    late: np.ndarray
    electrons: np.ndarray


def true_jets(evnt: EventData) -> TrueJets:
    """Jets of all particles that calorimeters see, with their energy shares from late decays and electrons."""
    particles = evnt.jagged("particle")
    _, eta, _ = kinematics.pt_eta_phi(particles["px"], particles["py"], particles["pz"])
    seen = ~np.isin(np.abs(particles["id"]), UNSEEN) & (np.abs(eta) < 4.9)
    visible = particles.where(seen)
    record = ak.zip({n: visible[n.lower()].astype(np.float64) for n in ("px", "py", "pz", "E")})
    record = ak.with_name(ak.unflatten(record, visible.counts), "Momentum4D")
    definition = fastjet.JetDefinition(fastjet.antikt_algorithm, 0.4)
    clusters = fastjet.ClusterSequence(record, definition)
    found = clusters.inclusive_jets(min_pt=20)
    members = ak.flatten(clusters.constituent_index(min_pt=20))
    flat = ak.flatten(found)
    pt, eta, phi = kinematics.pt_eta_phi(flat.px, flat.py, flat.pz)
    jets = Jagged(
        offsets=offsets_of(np.asarray(ak.num(found))), columns={"pt": pt, "eta": eta, "phi": phi}
    )
    jet = np.repeat(np.arange(len(pt)), np.asarray(ak.num(members)))
    member = np.asarray(ak.flatten(members)) + visible.offsets[jets.entry[jet]]
    energy = visible["e"][member].astype(np.float64)
    total = np.bincount(jet, weights=energy)
    late = np.hypot(visible["x"], visible["y"])[member] > 30
    electron = np.abs(visible["id"][member]) == 11
    return TrueJets(
        jets,
        np.bincount(jet, weights=energy * late) / total,
        np.bincount(jet, weights=energy * electron) / total,
    )


def test_the_response_of_prompt_jets_is_one_and_half_electromagnetic(sample):
    true = true_jets(sample.evnt)
    measured = sample.aod.jagged("jet")
    found, _ = kinematics.nearest(true.jets, measured, 0.2)
    prompt = (true.late < 0.02) & (true.electrons < 0.3)
    central = np.abs(true.jets["eta"]) < 2.5
    for low, high in ((30, 50), (50, 100), (100, 1000)):
        wanted = prompt & central & (true.jets["pt"] > low) & (true.jets["pt"] < high)
        used = wanted & (found >= 0)
        assert used.sum() > 100
        assert used.sum() / wanted.sum() > 0.95
        response = measured["pt"][found[used]] / true.jets["pt"][used]
        assert 0.95 < response.mean() < 1.05
        em, had = measured["em"][found[used]], measured["had"][found[used]]
        assert 0.5 < (em / (em + had)).mean() < 0.75


def test_jets_from_decays_in_the_hadronic_calorimeter_have_no_electromagnetic_part(sample):
    jets = sample.ntup.jets
    barrel = (jets["llp"] >= 0) & (np.abs(jets["eta"]) < 1.0) & (jets["llp_lz"] < 3500)
    passes = jets["cal_ratio"] > 1.2
    within = barrel & (jets["llp_lxy"] > 1970) & (jets["llp_lxy"] < 3865)
    before = barrel & (jets["llp_lxy"] < 1970)
    assert within.sum() > 300
    assert before.sum() > 1000
    assert passes[within].mean() >= 0.90
    assert passes[before].mean() <= 0.08
    assert jets["em_fraction"][within].mean() < 0.05
    assert passes[jets["llp"] < 0].mean() < 0.05


def test_the_other_columns_tell_late_decays_apart(sample):
    jets = sample.ntup.jets
    barrel = (jets["llp"] >= 0) & (np.abs(jets["eta"]) < 2.0)
    early = barrel & (jets["llp_lxy"] < 100)
    late = barrel & (jets["llp_lxy"] > 400)
    assert jets["n_tracks"][early].mean() > 10 * jets["n_tracks"][late].mean()
    vertices = sample.aod.jagged("vertex")
    llp = sample.aod.jagged("llp")
    owner = llp.offsets[vertices.entry] + vertices["llp"]
    assert np.abs(vertices["x"] - llp["x"][owner]).std() < 0.2
    assert 500 < len(owner) < 5000


def test_files_are_normalised_to_the_cross_section(sample):
    columns = sample.ntup.events.columns
    assert len(columns["event"]) == EVENTS
    sigma = columns["sigma_sum"].sum() / columns["tries"].sum()
    assert sigma == pytest.approx(0.0305, rel=0.05)  # pb; W h with W -> l nu, leading order
