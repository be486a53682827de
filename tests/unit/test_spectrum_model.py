import csv
import re
import warnings
from pathlib import Path

import msgspec
import numpy as np
import pytest
import spectrum_example as example
import uproot

from dask_runner.errors import BadInputError, UsageError
from dask_runner.rootfiles import Histogram, read_histogram
from dask_runner.seeds import TrialStreams
from dask_runner.stats.spectrum import scaled
from dask_runner.trials.model import Model
from dask_runner.trials.models.spectrum import Spectrum, observed, read_observed
from dask_runner.trials.models.spectrum_config import (
    BackgroundKeys,
    Config,
    CrossSectionKeys,
    SignalKeys,
)
from dask_runner.trials.models.spectrum_inputs import smoothed

EXPECTED = scaled(example.EDGES, example.SQRT_S, example.theta()).expected
DATA = np.random.default_rng(11).poisson(EXPECTED)
POINTS = [{"mass": 2000}, {"mass": 3000.0}, {"mass": 3000, "n_sig": 100}]

CONFIG = """
sqrt_s = 13000
data = "data.root:mjj"
[signal]
histogram = "signal_{mass}.root:jets/mjj"
"""
CROSS_SECTION = """
[cross_section]
luminosity = 37.0
luminosity_uncertainty = 0.03
generated = { 2000 = 5000, 3000 = 10000 }
efficiency = 0.9
branching_ratio = { 2000 = 0.5, 3000 = 0.6 }
"""


@pytest.fixture
def folder(tmp_path):
    with uproot.recreate(tmp_path / "data.root") as file:
        file["mjj"] = (DATA, example.EDGES)
        file["tree"] = {"x": np.arange(3)}
    for mass in (2000, 3000):
        write_template(tmp_path, mass, 4000 * example.template(mass))
    return tmp_path


def write_template(folder, mass, contents, edges=example.EDGES):
    with uproot.recreate(folder / f"signal_{mass}.root") as file:
        file["jets/mjj"] = (np.asarray(contents, float), edges)


def write_csv(path, contents, edges=example.EDGES, header=("low", "high", "content")):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        if header:
            writer.writerow(header)
        writer.writerows(zip(edges[:-1], edges[1:], contents, strict=True))


def plan(folder, text=CONFIG, points=POINTS):
    path = folder / "dijet.toml"
    path.write_text(text)
    return Spectrum.from_options(config=str(path), points=points)


def rows(model, point, trials, seed=3):
    trial = model.sampler(point)
    streams = TrialStreams(seed=seed, model="spectrum", point=point)
    return [trial(streams.at(index)) for index in range(trials)]


def columns(model, point, trials, seed=3):
    table = rows(model, point, trials, seed)
    return {name: np.array([row[name] for row in table]) for name in table[0]}


def test_toys_from_files(folder):
    model = plan(folder)
    assert isinstance(model, Model)
    assert model.parameters().required == ("mass",)
    found = columns(model, {"mass": 3000}, 300)
    assert set(found) == set(model.fields())
    assert found["converged"].all()
    assert np.isfinite([found[name] for name in found]).all()
    assert abs(np.mean(found["n_hat"] / found["n_error"])) < 0.2
    assert 0.85 < np.std(found["n_hat"] / found["n_error"]) < 1.15
    assert 90 < found["deviance"].mean() < 120
    assert np.all(found["limit_profile"] > found["limit"])
    assert found["n_events"].mean() == pytest.approx(DATA.sum(), rel=1e-3)


def test_it_travels_as_json_and_gives_the_same(folder):
    model = plan(folder, CONFIG + CROSS_SECTION)
    copy = msgspec.convert(msgspec.json.decode(msgspec.json.encode(model)), Spectrum)
    assert copy == model
    assert rows(copy, POINTS[2], 3) == rows(model, POINTS[2], 3)


def test_a_trial_depends_on_its_index_alone(folder):
    model = plan(folder, CONFIG + CROSS_SECTION)
    together = rows(model, {"mass": 2000}, 5)
    trial = model.sampler({"mass": 2000})
    streams = TrialStreams(seed=3, model="spectrum", point={"mass": 2000})
    for index in (4, 0, 2):
        assert trial(streams.at(index)) == together[index]


def test_fields_have_their_kinds(folder):
    model = plan(folder, CONFIG + CROSS_SECTION)
    row = rows(model, {"mass": 2000}, 1)[0]
    for name, kind in model.fields().items():
        assert np.array(row[name]).astype(kind) == row[name]
    assert isinstance(row["converged"], bool)


@pytest.mark.parametrize("method", ["frozen", "profile", "both"])
def test_methods(folder, method):
    both = rows(plan(folder), {"mass": 2000}, 1)[0]
    model = plan(folder, f'method = "{method}"\n' + CONFIG)
    row = rows(model, {"mass": 2000}, 1)[0]
    assert list(row).count("limit") == 1
    assert ("limit_profile" in row) == (method == "both")
    assert row["limit"] == both["limit_profile" if method == "profile" else "limit"]
    assert set(row) == set(model.fields())
    assert any("undercovers" in note for note in model.notes) == (method != "profile")


def test_injected_signal_comes_back(folder):
    found = columns(plan(folder), {"mass": 3000, "n_sig": 400}, 100)
    assert found["n_hat"].mean() == pytest.approx(400, abs=40)
    assert found["ts"].mean() > 15


def test_cross_sections_and_luminosity(folder):
    model = plan(folder, CONFIG + CROSS_SECTION)
    # 4000 of 10000 generated events are in the template.
    assert model.visible(3000) == pytest.approx(37 * 0.4 * 0.9 * 0.6)
    found = columns(model, {"mass": 3000}, 300)
    np.testing.assert_allclose(
        found["limit_cross_section"] * found["luminosity"] * 0.4 * 0.9 * 0.6, found["limit"]
    )
    spread = np.log(found["luminosity"] / 37)
    assert spread.std() == pytest.approx(np.log(1.03), rel=0.15)
    assert abs(spread.mean()) < 0.006
    # A stream of its own: with or without, the toys are the same.
    assert rows(plan(folder), {"mass": 3000}, 1)[0]["data_crc"] == found["data_crc"][0]


def test_given_acceptance_and_no_uncertainty(folder):
    text = CONFIG + "[cross_section]\nluminosity = 10\nacceptance = 0.5\n"
    row = rows(plan(folder, text), {"mass": 3000}, 1)[0]
    assert "luminosity" not in row
    assert row["limit_profile_cross_section"] == pytest.approx(row["limit_profile"] / 5)


def test_background_from_parameters_needs_no_data(folder):
    p1, *others = example.theta()
    text = CONFIG.replace('data = "data.root:mjj"\n', "")
    text += f"[background]\nparameters = {[float(np.exp(p1)), *map(float, others)]}\n"
    model = plan(folder, text)
    assert model.data == ""
    found = columns(model, {"mass": 3000}, 50)
    assert found["n_events"].mean() == pytest.approx(1e6, rel=1e-3)


def test_background_from_a_scaled_histogram_in_csv(folder):
    write_csv(folder / "background.csv", EXPECTED / 4)
    text = CONFIG + '[background]\nhistogram = "background.csv"\nscale = 2.0\n'
    model = plan(folder, text)
    background = scaled(model.edges, model.sqrt_s, model.background.theta).expected
    np.testing.assert_allclose(background, EXPECTED / 2, rtol=1e-5)
    assert "background.csv" in model.notes[0]


def test_the_range_cuts_all_histograms(folder):
    first, stop = example.EDGES[10], example.EDGES[100]
    model = plan(folder, f"range = [{first}, {stop}]\n" + CONFIG)
    assert len(model.edges) == 91
    assert len(model.templates[0].shares) == 90
    np.testing.assert_array_equal(read_observed(model), DATA[10:100])


def test_observed_data_enter_no_result_but_on_demand(folder):
    model = plan(folder)
    counts = read_observed(model)
    np.testing.assert_array_equal(counts, DATA)
    other = counts.copy()
    other[40] += 300
    row, changed = observed(model, 3000, counts), observed(model, 3000, other)
    assert row["limit"] > 0
    assert row["converged"]
    assert changed["data_crc"] != row["data_crc"]
    assert set(row) == set(model.fields())
    # Nothing of the data but the shape of the background is in what travels.
    assert str(int(DATA[0])) not in re.findall(r"\d+", msgspec.json.encode(model).decode())


def test_observed_data_must_fit(folder):
    model = plan(
        folder,
        CONFIG.replace('data = "data.root:mjj"', "") + "[background]\n"
        "parameters = [0.1, 9.5, -5.0, -0.15]\n",
    )
    with pytest.raises(UsageError, match="no observed data are named"):
        read_observed(model)
    write_csv(folder / "half.csv", EXPECTED)
    with pytest.raises(BadInputError, match="whole numbers"):
        read_observed(model, "half.csv", folder)
    write_csv(folder / "short.csv", DATA[1:], example.EDGES[1:])
    with pytest.raises(BadInputError, match="another binning.*115 bins, not 116"):
        read_observed(model, "short.csv", folder)
    with pytest.raises(UsageError, match="do not fit"):
        observed(model, 3000, DATA[1:])


def test_points_without_sense_are_refused(folder):
    model = plan(folder)
    with pytest.raises(UsageError, match="no template for mass 2500"):
        model.sampler({"mass": 2500})
    with pytest.raises(UsageError, match="expects a negative number"):
        model.sampler({"mass": 3000, "n_sig": -1e6})
    with pytest.raises(UsageError, match="not a number"):
        model.sampler({"mass": "heavy"})
    for points in ([], [{"n_sig": 3}]):
        with pytest.raises(UsageError, match="mass"):
            plan(folder, points=points)
    with pytest.raises(UsageError, match="needs --config"):
        Spectrum.from_options(config=None, points=POINTS)


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        ("sqrt_s =", "sqrts =", "unknown key sqrts", "did you mean sqrt_s"),
        ("histogram =", "histgram =", "unknown key signal.histgram", "did you mean histogram"),
        ("sqrt_s", "luminosity = 3\nsqrt_s", "unknown key luminosity", r"in section \[cross_section\]"),
        ("sqrt_s", "zzz = 3\nsqrt_s", "unknown key zzz", "the keys are"),
        ("sqrt_s = 13000", "sqrt_s = -1", "sqrt_s", ""),
        ("sqrt_s = 13000", "", "sqrt_s", ""),
        ("sqrt_s = 13000", "sqrt_s = ", "not a TOML file", ""),
        ("sqrt_s = 13000", "sqrt_s = 5000", "beyond sqrt_s = 5000", "unit"),
        ("sqrt_s", 'method = "bayes"\nsqrt_s', "method", ""),
        ("sqrt_s", "range = [1105, 5000]\nsqrt_s", "range: 1105 is not an edge", ""),
        ('data = "data.root:mjj"', "", "there is no background", ""),
        ("data.root:mjj", "data.root:mj", "has no TH1 'mj' .it has: mjj.", ""),
        ("data.root:mjj", "data.root:tree", "has no TH1 'tree'", ""),
        ("data.root:mjj", "gone.root:mjj", "gone.root", ""),
        ("data.root:mjj", "data.txt", "not a spectrum", "FILE.csv"),
        ("signal_{mass}", "signal_{mass}_x", "for mass 2000: .*signal_2000_x.root", ""),
        ("signal_{mass}", "signal_2000", "the same for all masses", ""),
        ("signal_{mass}", "signal_{mass}_{tag}", "only {mass} may be in braces", ""),
        ("[signal]", "[background]\nscale = 2\n[signal]", "is for a background.histogram", ""),
        ("[signal]", '[background]\nhistogram = "a.csv"\nparameters = [1, 2, 3, 4]\n[signal]', "both", ""),
        ("[signal]", "[background]\nparameters = [-1, 2, 3, 4]\n[signal]", "p1, the first", ""),
        ("[signal]", "[background]\nparameters = [1e-300, 200, 3, 4]\n[signal]", "background.parameters: the background is 0", ""),
        ("[signal]", "[cross_section]\nluminosity = 3\n[signal]", "either acceptance or generated", ""),
        ("[signal]", "[cross_section]\nluminosity = 3\ngenerated = 100\n[signal]", "4000 events of 100", ""),
        ("[signal]", "[cross_section]\nluminosity = 3\nacceptance = { 2000 = 0.5 }\n[signal]", "acceptance has no value for mass 3000", "2000"),
        ("[signal]", "[cross_section]\nluminosity = 3\nacceptance = { a = 0.5 }\n[signal]", "'a' is not a mass", ""),
    ],
)  # fmt: skip
def test_wrong_keys_are_named(folder, old, new, message, hint):
    with pytest.raises(BadInputError, match=message) as caught:
        plan(folder, CONFIG.replace(old, new, 1))
    assert re.search(hint, caught.value.hint)


def test_wrong_templates_are_named(folder):
    shares = example.template(2000)
    write_template(folder, 2000, shares[1:], example.EDGES[1:])
    with pytest.raises(
        BadInputError, match="signal_2000.*another binning than data.root:mjj: 115 bins"
    ):
        plan(folder)
    write_template(folder, 2000, shares, example.EDGES + np.where(np.arange(117) == 5, 10, 0))
    with pytest.raises(BadInputError, match="edge 5 is"):
        plan(folder)
    write_template(folder, 2000, 0 * shares)
    with pytest.raises(BadInputError, match="mass 2000.*signal_2000.*empty"):
        plan(folder)
    write_template(folder, 2000, np.where(np.arange(116) == 7, -1.0, shares))
    with pytest.raises(BadInputError, match="mass 2000.*negative content -1 in the bin from"):
        plan(folder)
    write_template(folder, 2000, np.where(np.arange(116) == 7, np.nan, shares))
    with pytest.raises(BadInputError, match="no numbers"):
        plan(folder)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (np.where(np.arange(116) == 7, -3, DATA), "negative content -3"),
        (DATA + 0.5, "whole numbers"),
        (0 * DATA, "fewer than 4 bins"),
    ],
)
def test_wrong_data_are_named(folder, contents, message):
    write_csv(folder / "data.csv", contents)
    with pytest.raises(BadInputError, match=message):
        plan(folder, CONFIG.replace("data.root:mjj", "data.csv"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("low,high,content\n", "no bins"),
        ("1,2,3\n2,3\n", "row 2: the three numbers"),
        ("1,2,3\n2.5,3,1\n", "row 2: begins at 2.5"),
        ("1,2,3\n2,1,1\n", "do not rise"),
        ("1,2,3\n2,x,1\n", "row 2"),
    ],
)
def test_wrong_csv_files_are_named(folder, text, message):
    (folder / "data.csv").write_text(text)
    with pytest.raises(BadInputError, match=message):
        plan(folder, CONFIG.replace("data.root:mjj", "data.csv"))


def test_a_csv_is_as_good_as_root(folder):
    write_csv(folder / "data.csv", DATA, header=None)
    same = plan(folder, CONFIG.replace("data.root:mjj", "data.csv"))
    assert same.background.theta == plan(folder).background.theta


def test_smoothing_widens_by_a_gaussian():
    edges = np.linspace(2000, 4000, 201)
    centres = (edges[:-1] + edges[1:]) / 2
    rough = Histogram(edges=edges, contents=1000 * example.template(3000, 0.03, edges))
    smooth = smoothed(rough, 0.04).contents
    assert smooth.sum() == pytest.approx(1000)
    mean = (smooth * centres).sum() / 1000
    assert mean == pytest.approx(3000, rel=1e-3)
    assert np.sqrt((smooth * (centres - mean) ** 2).sum() / 1000) == pytest.approx(150, rel=0.01)
    assert smoothed(rough, 0.0) is rough


def test_th1_of_a_folder_is_read(folder):
    histogram = read_histogram(folder / "signal_3000.root", "jets/mjj")
    np.testing.assert_allclose(histogram.edges, example.EDGES)
    assert histogram.contents.sum() == pytest.approx(4000)


def test_no_warnings_at_masses_without_events(folder):
    write_template(folder, 7900, example.template(7900))
    model = plan(folder, points=[{"mass": 7900}])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = columns(model, {"mass": 7900}, 200)
    assert found["converged"].all()
    assert found["limit"].min() == pytest.approx(2.9957, abs=1e-3)


def test_every_key_is_in_the_docs():
    text = (Path(__file__).parents[2] / "docs" / "spectrum.md").read_text()
    for kind in (Config, SignalKeys, BackgroundKeys, CrossSectionKeys):
        for key in kind.__struct_fields__:
            assert re.search(rf"^(\[{key}\]|{key} =)", text, re.MULTILINE), key
