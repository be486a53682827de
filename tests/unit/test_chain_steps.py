"""The steps on made-up events: independence of batches, and the physics rules one by one."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from chain_events import evnt

from dask_runner import chain
from dask_runner.chain import digitize, formats, kinematics, reconstruct, simulate
from dask_runner.chain.formats import EventData
from dask_runner.errors import UsageError
from dask_runner.rootfiles import Jagged, Table, offsets_of
from dask_runner.settings import Geometry

GEOMETRY = Geometry()


def run(data: EventData, last: str = "ntuple", seed: int = 1) -> EventData:
    for step in chain.STEPS:
        data = chain.run_step(step, data, GEOMETRY, seed)
        if step == last:
            return data
    raise AssertionError(last)


def content(data: EventData) -> list[bytes]:
    tables = [data.events] + ([data.jets] if data.jets else [])
    arrays = []
    for table in tables:
        arrays += list(table.columns.values())
        for jagged in table.jagged.values():
            arrays += [jagged.counts, *jagged.columns.values()]
    return [array.tobytes() for array in arrays]


def one_particle(
    pdg: int, momentum: tuple, place: tuple = (0, 0, 0), count: int = 400
) -> EventData:
    """`count` events with one particle each."""
    base = evnt(count).events
    columns = {"id": np.full(count, pdg, dtype=np.int32)}
    for name, value in zip(("px", "py", "pz"), momentum, strict=True):
        columns[name] = np.full(count, value, dtype=np.float32)
    columns["e"] = np.full(count, np.sqrt(np.sum(np.square(momentum)) + 0.02), dtype=np.float32)
    for name, value in zip(("x", "y", "z"), place, strict=True):
        columns[name] = np.full(count, value, dtype=np.float32)
    particle = Jagged(offsets=np.arange(count + 1), columns=columns)
    events = Table(entries=count, columns=base.columns, jagged=base.jagged | {"particle": particle})
    return EventData(format="EVNT", events=events)


def shares(pdg: int, momentum: tuple, place: tuple) -> tuple[float, float]:
    """Mean energy in the electromagnetic and in the hadronic calorimeter, as shares."""
    data = one_particle(pdg, momentum, place)
    hits = run(data, "simulate").jagged("hit")
    energy = data.jagged("particle")["e"].sum()
    return float(hits["em"].sum() / energy), float(hits["had"].sum() / energy)


@pytest.mark.parametrize("size", [1, 7, 25, 100])
@pytest.mark.parametrize("last", ["simulate", "digitize", "reconstruct", "ntuple"])
def test_no_step_depends_on_what_else_is_in_the_batch(size, last):
    whole = content(run(evnt(100), last))
    parts = [content(run(evnt(min(size, 100 - k), first=k), last)) for k in range(0, 100, size)]
    assert [b"".join(pieces) for pieces in zip(*parts, strict=True)] == whole


def test_another_seed_gives_other_results_but_the_same_truth():
    a, b = run(evnt(60)), run(evnt(60), seed=2)
    assert (a.events["event"] == b.events["event"]).all()
    assert not np.array_equal(a.jets["pt"], b.jets["pt"])


def test_the_last_bits_do_not_depend_on_vector_units(tmp_path):
    """Steps store float32, whose rounding hides most of what CPUs do differently; batch processes
    are pinned all the same.
    """
    program = (
        "import sys, hashlib; sys.path.insert(0, sys.argv[1])\n"
        "from test_chain_steps import run, content, evnt\n"
        "sizes = [1, 7, 40]\n"
        "parts = [[content(run(evnt(min(s, 40 - k), first=k))) for k in range(0, 40, s)] "
        "for s in sizes]\n"
        "joined = {b''.join(b''.join(p) for p in zip(*x)) for x in parts}\n"
        "assert len(joined) == 1\n"
    )
    from numpy._core import _multiarray_umath as umath

    features = [f for f in umath.__cpu_dispatch__ if f not in umath.__cpu_baseline__]
    present = [f for f in features if umath.__cpu_features__.get(f)]
    environment = os.environ | {"NPY_DISABLE_CPU_FEATURES": " ".join(present)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(Path(__file__).parent)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_events_without_particles_pass_through():
    base = evnt(3).events
    empty = {
        name: Jagged(
            offsets=offsets_of(np.zeros(3, dtype=np.int64)),
            columns={k: v[:0] for k, v in jagged.columns.items()},
        )
        for name, jagged in base.jagged.items()
    }
    events = Table(entries=3, columns=base.columns, jagged=empty)
    result = run(EventData(format="EVNT", events=events))
    assert result.entries == 3
    assert result.events["n_jets"].tolist() == [0, 0, 0]
    assert result.jets.entries == 0


def test_a_step_refuses_the_wrong_format_and_unknown_names():
    with pytest.raises(UsageError, match="reads HITS, not EVNT"):
        chain.run_step("digitize", evnt(1), GEOMETRY, 1)
    with pytest.raises(UsageError, match="no step 'sim'"):
        chain.run_step("sim", evnt(1), GEOMETRY, 1)


@pytest.mark.parametrize(
    ("pdg", "place", "em", "had"),
    [
        (22, (0, 0, 0), 1, 0),
        (11, (0, 0, 0), 1, 0),
        (22, (1700, 0, 0), 1, 0),
        (22, (2500, 0, 0), 0, 1),
        (211, (2500, 0, 0), 0, 1),
        (130, (800, 0, 5000), 0, 1),
        (22, (4000, 0, 0), 0, 0),
        (22, (0, 0, 6500), 0, 0),
        (13, (0, 0, 0), 0, 0),
        (12, (0, 0, 0), 0, 0),
        (310, (0, 0, 0), 0.3, 0.7),
        (3122, (1970.5, 0, 0), 0, 1),
    ],
)
def test_where_energy_goes(pdg, place, em, had):
    assert shares(pdg, (20.0, 3.0, 1.0), place) == pytest.approx((em, had), abs=1e-3)


def test_hadrons_shower_early_or_late():
    em, had = shares(211, (20.0, 3.0, 1.0), (0, 0, 0))
    assert 0.3 < em < 0.6
    assert em + had == pytest.approx(1, abs=1e-3)
    later, _ = shares(211, (20.0, 3.0, 1.0), (1800, 0, 0))
    assert 0.02 < later < em / 2


@pytest.mark.parametrize(("pdg", "sign"), [(211, -1), (-211, 1), (11, 1), (2212, -1), (22, 0)])
def test_the_field_bends_by_the_expected_angle(pdg, sign):
    hits = run(one_particle(pdg, (5.0, 0.0, 0.0), count=1), "simulate").jagged("hit")
    _, phi = kinematics.tower_centre(hits["ieta"], hits["iphi"])
    # sin(phi) = R / (2 r), with r = 5 GeV / (0.3 * 2 T) = 8.34 m and R = 1.5 m
    assert phi[0] == pytest.approx(sign * np.arcsin(1.5 / (2 * 8.339)), abs=np.radians(5.01))
    assert np.sign(phi[0]) == (sign or np.sign(phi[0]))


def test_soft_particles_curl_to_the_end_cap():
    hits = run(one_particle(211, (0.3, 0.0, 0.3), count=1), "simulate").jagged("hit")
    eta, _ = kinematics.tower_centre(hits["ieta"], hits["iphi"])
    assert eta[0] > np.arcsinh(3.7 / 1.5)


def test_straight_paths_reach_the_face_where_geometry_says():
    hits = run(one_particle(22, (0.0, 4.0, 4.0), (0, 0, 500), count=1), "simulate").jagged("hit")
    eta, phi = kinematics.tower_centre(hits["ieta"], hits["iphi"])
    assert eta[0] == pytest.approx(np.arcsinh((1.5 + 0.5) / 1.5), abs=0.051)
    assert phi[0] == pytest.approx(np.pi / 2, abs=np.radians(5.01))


@pytest.mark.parametrize(
    ("pdg", "pt", "eta", "expected"),
    [(211, 5, 0, 0.95), (211, 5, 2, 0.85), (211, 0.5, 0, 0.70), (13, 5, 0, 0.99), (11, 150, 2, 0.90), (11, 0.5, 2, 0.50), (211, 0.05, 0, 0), (211, 5, 2.7, 0)],
)  # fmt: skip
def test_tracking_efficiency_is_the_cards(pdg, pt, eta, expected):
    data = one_particle(pdg, (pt, 0.0, pt * np.sinh(eta)), count=3000)
    found = run(data, "digitize").jagged("track").offsets[-1] / 3000
    assert found == pytest.approx(expected, abs=4 * np.sqrt(0.25 / 3000))


def test_momentum_resolution_is_the_cards():
    tracks = run(one_particle(211, (10.0, 0.0, 0.0), count=3000), "digitize").jagged("track")
    expected = np.hypot(0.06, 1.3e-3 * 10)
    assert tracks["pt"].std() / 10 == pytest.approx(expected, rel=0.06)
    assert tracks["pt"].mean() == pytest.approx(10, rel=0.01)


def test_tracks_start_within_300_mm():
    near = run(one_particle(211, (10, 0, 0), (290, 0, 0)), "digitize").jagged("track")
    far = run(one_particle(211, (10, 0, 0), (310, 0, 0)), "digitize").jagged("track")
    assert near.offsets[-1] > 350
    assert far.offsets[-1] == 0


def test_calorimeter_resolution_and_counts():
    towers = run(one_particle(22, (50.0, 0.0, 0.0), count=3000), "digitize").jagged("tower")
    energy = towers["em"] * digitize.ADC_GEV
    assert energy.std() == pytest.approx(np.sqrt((0.0017 * 50) ** 2 + 0.101**2 * 50), rel=0.06)
    assert towers["em"].dtype == np.int32
    assert (towers["had"] == 0).all()


def test_what_is_below_two_sigmas_is_not_read_out():
    # HCAL noise is 1.59 GeV in the barrel: 1 GeV is far below two of them.
    low = run(one_particle(211, (1.0, 0.1, 0.0), (2500, 0, 0), count=500), "digitize")
    high = run(one_particle(211, (30.0, 0.1, 0.0), (2500, 0, 0), count=500), "digitize")
    assert low.jagged("tower").offsets[-1] < 25
    assert high.jagged("tower").offsets[-1] > 490


def test_b_tags_need_a_production_near_the_beam():
    pt = np.array([80.0, 80.0, 80.0, 80.0])
    flavour = np.array([5, 5, 4, 0])
    prompt = np.array([True, False, True, True])
    b, far, c, light = reconstruct.b_tag_rate(pt, flavour, prompt)
    assert b == pytest.approx(0.80 * np.tanh(0.24) * 30 / (1 + 0.086 * 80))
    assert c == pytest.approx(0.20 * np.tanh(1.6) / (1 + 0.0034 * 80))
    assert far == light == pytest.approx(0.002 + 7.3e-6 * 80)


def test_the_energy_ratio_has_a_floor_of_one_count():
    data = one_particle(130, (60.0, 1.0, 0.5), (2500, 0, 0), count=50)
    jets = run(data, "reconstruct").jagged("jet")
    assert len(jets["pt"]) > 45
    expected = np.log10(jets["had"] / digitize.ADC_GEV)
    assert jets["cal_ratio"] == pytest.approx(expected, abs=1e-5)


def test_missing_momentum_balances_what_is_seen():
    aod = run(one_particle(22, (40.0, 0.1, 0.0), count=200), "reconstruct")
    assert aod.events["met"].mean() == pytest.approx(40, rel=0.03)
    assert np.abs(np.abs(aod.events["met_phi"]) - np.pi).max() < 0.2


def test_nearest_takes_the_nearest_of_the_same_event():
    def group(counts, eta):
        return Jagged(
            offsets=offsets_of(np.array(counts)),
            columns={"eta": np.array(eta, dtype=float), "phi": np.zeros(len(eta))},
        )

    found, distance = kinematics.nearest(
        group([2, 1], [0.0, 1.0, 0.0]), group([2, 1], [0.3, 0.1, 9.0]), 0.4
    )
    assert found.tolist() == [1, -1, -1]
    assert distance[0] == pytest.approx(0.1)


def test_charges():
    pdg = np.array([11, -11, 211, -2212, 3112, -3112, 3222, 3312, 22, 130, 2112])
    assert simulate.charges(pdg).tolist() == [-1, 1, 1, -1, -1, 1, 1, -1, 0, 0, 0]


def test_labels_of_jets_name_a_scalar_of_their_event():
    jets = run(evnt(100)).jets
    matched = jets["llp"] >= 0
    assert 20 < matched.sum() < len(matched)
    assert set(jets["llp"][matched]) <= {0, 1}
    assert (jets["llp_dr"][matched] < 0.4).all()
    assert (jets["llp_lxy"][~matched] == -1).all()
    assert set(jets["llp_flavour"][matched]) <= {4, 5}


def test_every_format_has_the_columns_that_normalise():
    data = evnt(5)
    for step in ("", *chain.STEPS):
        data = chain.run_step(step, data, GEOMETRY, 1) if step else data
        assert set(formats.CARRIED) <= set(data.events.columns)
        assert (data.events["sigma_sum"] == evnt(5).events["sigma_sum"]).all()
