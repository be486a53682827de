"""Conclusions from runs through the command line: what is shown, written, recorded and refused."""

import csv
import hashlib
import json

import numpy as np
import pytest
import uproot
from product import Product
from scipy.special import ndtr

import dask_runner
from dask_runner import conclusions
from dask_runner.stats import counting

EDGES = np.geomspace(1100.0, 8000.0, 61)
CONFIG = """\
sqrt_s = 13000
data = "data.root:mjj"
method = "frozen"
[background]
parameters = [1e-3, 9.5, -5.0, -0.15]
[signal]
histogram = "signal_{mass}.root:mjj"
[cross_section]
luminosity = 1000
acceptance = 0.5
"""


def throw(product, *words):
    product.run("trials", *words, "--slots", "1", "--seed", "3", "-q")


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    """One run for all tests: starting a cluster is what takes time."""
    product = Product(tmp_path_factory.mktemp("counts"))
    throw(product, "--model", "counting", "--set", "b=3", "--grid", "n_sig=0,2,4,6", "-n", "3000")
    yield product
    product.close()


@pytest.fixture
def spectrum(product):
    rng = np.random.default_rng(2)
    middle = (EDGES[1:] + EDGES[:-1]) / 2
    with uproot.recreate(product.folder / "data.root") as file:
        file["mjj"] = (rng.poisson(1e5 * (middle / 1100) ** -6.0), EDGES)
    for mass in (2000, 3000):
        shares = np.diff(ndtr((EDGES - mass) / (0.05 * mass)))
        with uproot.recreate(product.folder / f"signal_{mass}.root") as file:
            file["mjj"] = (100 * shares, EDGES)
    (product.folder / "dijet.toml").write_text(CONFIG)
    throw(
        product, "--model", "spectrum", "--config", "dijet.toml", "--grid", "mass=2000,3000",
        "-n", "150",
    )  # fmt: skip
    return product


def test_counting_limits_blind_and_unblinded(counts):
    found = counts.json("limits", "--at", "n_sig=0")
    (point,) = found["points"]
    values = [
        point["events"][name]["value"] for name in ("minus2", "minus1", "median", "plus1", "plus2")
    ]
    assert values == pytest.approx((2.996, 3.643, 5.395, 7.663, 10.171), abs=6e-4)
    assert found["confidence"] == 0.95
    assert found["runs"] == counts.timestamps
    assert point["observed"] is None
    before = counts.lines("note")
    done = counts.run("limits", "--at", "n_sig=0", "--observed", "4", expect=2)
    assert "only with a reason" in done.stderr
    for observed, message in (("-1", "number of events"), ("x", "No such file")):
        words = ["limits", "--at", "n_sig=0", "--unblind", "approved", "--observed", observed]
        assert message in counts.run(*words, expect=None).stderr
    assert [line["kind"] for line in counts.lines("note")] == [line["kind"] for line in before]

    words = ["limits", "--at", "n_sig=0", "--unblind", "approved 2026", "--observed", "4"]
    found = counts.json(*words)
    limit = float(counting.upper_limit(4, 3))
    assert found["points"][0]["observed"] == pytest.approx(limit)
    assert "unblinded, as the manifest of each run says" in counts.run(*words).stdout
    first, second = [line for line in counts.lines("note") if line["kind"] == "unblinded"]
    assert first["data"]["reason"] == "approved 2026"
    assert first["data"]["results"]["limit"] == [pytest.approx(limit)]
    assert first["who"]
    assert second["time"] > first["time"]
    counts.check(finished=True)


def test_sensitivity_distribution_and_export(counts):
    found = counts.json("sensitivity", "--sigma", "1.5")
    (only,) = found["strengths"]
    sensitivity = only["sensitivity"]
    assert sensitivity["value"] == pytest.approx(
        float(counting.sensitivity(3)), abs=4 * sensitivity["error"] + 0.02
    )
    assert sensitivity["threshold"]["source"] == "exact"
    done = counts.run("sensitivity", "--plot", "p.png")
    assert "warning: b=3: no discovery potential" in done.stderr
    assert (counts.folder / "p.png").stat().st_size > 10_000
    done = counts.run("distribution", "--field", "n", "--at", "n_sig=0", "--at", "b=3")
    assert "distribution of n: 3000 trials" in done.stdout
    counts.run("distribution", "--plot", "d.pdf")
    assert len(list(counts.folder.glob("d.b=3,n_sig=*.pdf"))) == 4
    counts.run("export", "--to", "trials.csv")
    with (counts.folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    trials = dask_runner.load_trials(runs=counts.runs)
    assert [float(row["ts"]) for row in rows] == trials.ts.tolist()
    done = counts.run("export", "--to", "trials.csv", expect=2)
    assert "exists already" in done.stderr


def test_spectrum_from_expectation_to_observation(spectrum):
    folder = spectrum.folder
    (folder / "theory.csv").write_text("mass [GeV], cross_section [fb]\n1000, 1000\n3500, 1e-3\n")
    words = ["limits", "--theory", "theory.csv", "--plot", "b.png", "--plot", "b.pdf"]
    done = spectrum.run(*words)
    assert "as cross section [fb], events / (luminosity 1000 x" in done.stdout
    assert "expected  excluded up to 2" in done.stdout
    assert "undercovers" in done.stderr
    assert "observed" not in done.stdout
    assert {path.suffix for path in folder.glob("b.*")} == {".png", ".pdf"}

    found = spectrum.json(*words[:3], "--unblind", "thesis", "--observed", "data.root:mjj")
    for point in found["points"]:
        assert point["observed_cross_section"] == pytest.approx(point["observed"] / 500)
    (note,) = [line for line in spectrum.lines("note") if line["kind"] == "unblinded"]
    data = note["data"]
    assert data["source"] == f"{folder / 'data.root'}:mjj"
    assert data["sha256"] == hashlib.sha256((folder / "data.root").read_bytes()).hexdigest()
    assert data["results"]["mass"] == [2000, 3000]
    # Without --observed: what the TOML file names.
    again = spectrum.json("limits", "--unblind", "thesis")
    assert [p["observed"] for p in again["points"]] == [p["observed"] for p in found["points"]]


def test_in_python_without_a_command_line(counts):
    trials = dask_runner.load_trials(runs=counts.runs)
    found = conclusions.limits(trials.at(n_sig=0), axis="b")
    assert json.loads(counts.run("limits", "--at", "n_sig=0", "--json").stdout)["points"][0][
        "events"
    ]["median"]["value"] == pytest.approx(found.points[0].events.median.value)


def test_refused_before_anything_is_read(counts):
    for words, message in (
        (["limits", "--plot", "b.jpg"], "not a plot"),
        (["limits", "--plot", "no/b.png"], "no folder"),
        (["limits", "--theory", "no.csv"], "No such file"),
        (["sensitivity", "--fit", "chi3"], "chi3"),
        (["export", "--to", "trials.xlsx"], "the ending says the format"),
        (["cls"], "needs the field q_sb"),
        (["limits", "--at", "n_sig=0", "--acceptance", "0.5"], "--luminosity too"),
        (["limits", "--at", "n_sig=7"], "no point has n_sig=7"),
    ):
        done = counts.run(*words, expect=None)
        assert done.returncode in {2, 4}, done.stderr
        assert message in done.stderr


def test_runs_that_are_not_complete(product):
    throw(
        product, "--model", "gaussian", "--grid", "mu=0,1", "-n", "1000", "-b", "500",
        "--first", "3",
    )  # fmt: skip
    done = product.run("distribution", "--signal", "mu", expect=3)
    assert "500 trials" in done.stderr
    done = product.run("distribution", "--signal", "mu", "--partial")
    assert "warning: only 1500 of 2000 trials are done" in done.stderr
    assert "eta 0.5" in done.stdout or "eta 0.4" in done.stdout
