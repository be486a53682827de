"""Histograms through the whole product: the same numbers whatever happens on the way."""

import json
from pathlib import Path

import awkward as ak
import histogram_files
import numpy as np
import pytest
import uproot
from product import Product, wait_for

TREE = histogram_files.TREE
WORDS = [
    "histogram", "--files", "data/*.root", "--tree", TREE, "--slots", "2", "-q",
    "--fill", "jet_E / 1000", "--bins", "200,0,2000", "--name", "energy",
    "--fill", "met : w", "--bins", "20,0,200 : 10,-1,3", "--name", "plane",
    "--where-event", "met > 3", "--weight", "w * exp(-met / 100)",
]  # fmt: skip
# A function that holds its batches back, or ends them, as files in its folder say.
FUNCTION = """\
import os, pathlib, time
import hist

FOLDER = pathlib.Path({folder!r})

def fill(chunk):
    if (FOLDER / "crash").exists():
        (FOLDER / "crash").unlink()
        os.kill(os.getpid(), 11)
    # Not where the run is planned.
    while "DASK_RUNNER_BATCH" in os.environ and (FOLDER / "hold").exists():
        (FOLDER / "waiting").touch()
        time.sleep(0.02)
    return hist.Hist.new.Reg(50, 0, 200, name="met").Weight().fill(chunk["met"], weight=chunk["w"])

fill.branches = ["met", "w"]
"""


def write_data(folder):
    (folder / "data").mkdir()
    return {
        number: histogram_files.write(folder / "data" / f"{number}.root", 2000, seed=number)
        for number in (1, 2, 3)
    }


@pytest.fixture
def data(product):
    return write_data(product.folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with batches of whole files: its report, and the columns."""
    product = Product(tmp_path_factory.mktemp("whole"))
    columns = write_data(product.folder)
    product.run(*WORDS, "-b", "2000")
    report = merged(product)
    product.check(finished=True)
    yield report, columns
    product.close()


def merged(product, *more):
    """The content, which does not depend on batches, of a merge to a new folder."""
    target = f"merged{len(list(product.folder.glob('merged*')))}"
    return product.json("merge", "last", "-o", target, *more)


def test_any_batch_size_gives_the_same_and_what_numpy_gives(product, data, whole):
    report, _ = whole
    product.run(*WORDS, "-b", "700")
    # Cut at the ends of baskets of 300.
    assert len(product.lines("batch")) == 12
    again = merged(product)
    product.check(finished=True)
    assert [file["content_hash"] for file in report["files"]] == [
        file["content_hash"] for file in again["files"]
    ]
    assert (again["events_read"], again["events_asked"]) == (6000, 6000)
    assert sum(line["counters"]["events_read"] for line in product.lines("outcome")) == 6000
    file, other = (Path(found["files"][0]["path"]) for found in (report, again))
    with uproot.open(file) as one, uproot.open(other) as two:
        for name in ("energy", "plane"):
            values = one[name].values(flow=True)
            assert values.tobytes() == two[name].values(flow=True).tobytes()
            assert one[name].variances().tobytes() == two[name].variances().tobytes()
        total = one["energy"].values(flow=True).sum()
    expected = 0.0
    for columns in data.values():
        weights = columns["w"] * np.exp(-columns["met"] / 100) * (columns["met"] > 3)
        expected += (weights * np.asarray(ak.num(columns["jet_E"]))).sum()
    assert total == pytest.approx(expected, rel=1e-12)


def test_killed_drivers_and_batches_cost_nothing_but_time(product, data):
    (product.folder / "own_met.py").write_text(FUNCTION.format(folder=str(product.folder)))
    words = [
        "histogram", "--files", "data/*.root", "--tree", TREE, "--slots", "2",
        "--function", "own_met.py:fill", "--chunk", "500", "-b", "1000",
    ]  # fmt: skip
    (product.folder / "hold").touch()
    driver = product.start(*words)
    wait_for((product.folder / "waiting").exists, "a batch that waits")
    driver.kill()
    driver.wait()
    product.nothing_left()
    (product.folder / "hold").unlink()
    (product.folder / "crash").touch()
    product.run("rerun", "last", "-q")
    product.check(finished=True)
    assert not (product.folder / "crash").exists()
    failures = [line["failure"] for line in product.lines("outcome") if line.get("failure")]
    assert [failure["kind"] for failure in failures] == ["signal"]
    with uproot.open(merged(product)["files"][0]["path"]) as file:
        (name,) = (key for key in file.keys(cycle=False) if key.startswith("histogram"))
        values = file[name].values(flow=True)
    expected = np.zeros(52)
    for columns in data.values():
        places = np.clip(columns["met"] // 4 + 1, 0, 51).astype(int)
        expected += np.bincount(places, columns["w"], 52)
    np.testing.assert_allclose(values, expected, rtol=1e-9)


def test_a_damaged_file_costs_its_ranges_and_can_be_replaced(product, data, whole):
    path = product.folder / "data" / "2.root"
    good = histogram_files.damage(path, basket=3)
    product.run(*WORDS, "-b", "600", expect=3)
    failures = [line["failure"] for line in product.lines("outcome") if line.get("failure")]
    assert {(one["kind"], one["path"]) for one in failures} == {("bad-input", str(path))}
    assert len(failures) == 1
    assert "damaged" in failures[0]["message"]
    refused = product.run("merge", "last", expect=3)
    assert "2.root entries 600 to 1199" in refused.stderr
    part = merged(product, "--acceptance", "0.9")
    assert (part["events_read"], part["events_asked"]) == (5400, 6000)
    assert part["missing"] == [f"{path} entries 600 to 1199"]
    histogram_files.write(path, 2001, seed=1)
    product.run("rerun", "last", "-q", "--accept-changed-inputs", expect=3)
    failure = product.lines("outcome")[-1]["failure"]
    assert "2001 entries, but 2000 when the run was planned" in failure["message"]
    path.write_bytes(good)
    done = product.run("rerun", "last", "-q", expect=4)
    assert "--accept-changed-inputs" in done.stderr
    product.run("rerun", "last", "-q", "--accept-changed-inputs")
    product.check(finished=True)
    assert merged(product)["files"][0]["content_hash"] == whole[0]["files"][0]["content_hash"]
    assert any("2.root" in json.dumps(note) for note in product.lines("note"))


def test_the_dry_test_forecasts_and_leaves_nothing(product, data):
    said = product.run(*WORDS, "-b", "500", "-t").stdout
    assert "expected: " in said
    assert "of CPU" in said
    assert "12 batches, 6000 events" in said
    assert not product.runs.exists()
    histogram_files.damage(product.folder / "data" / "1.root", basket=0)
    product.run(*WORDS, "-t")
    (product.folder / "data" / "1.root").write_bytes(b"root")
    done = product.run(*WORDS, "-t", expect=4)
    assert "1.root" in done.stdout + done.stderr
    for more, said in [
        (["--where", "jet_pt >"], "--where: 'jet_pt >': not an expression"),
        (["--where", "tau_pt > 3"], "has no branch 'tau_pt'"),
        (["--bins", "3"], "2 --fill and 3 --bins"),
    ]:
        done = product.run(*WORDS, *more, expect=None)
        assert done.returncode in {2, 4}
        assert said in done.stderr
    assert not product.runs.exists()


def test_from_a_file_with_samples(product, data):
    (product.folder / "jets.toml").write_text(
        f'tree = "{TREE}"\nby_sample = true\nwhere = "jet_pt > 25000"\n'
        '[samples]\none = "data/1.root"\nrest = "data/[23]*.root"\n'
        '[histograms.energy]\nfill = "jet_E / 1000"\nbins = [20, 0, 2000]\n'
    )
    (product.folder / "data" / "3cut.root").write_bytes(
        (product.folder / "data" / "3.root").read_bytes()[:5000]
    )
    words = ["histogram", "--config", "jets.toml", "--slots", "2", "-q"]
    assert "3cut.root: truncated" in product.run(*words, expect=4).stderr
    done = product.run(*words, "--skip-bad-inputs")
    assert f"left out: {product.folder}/data/3cut.root: truncated" in done.stderr
    report = merged(product)
    assert report["histograms"][0]["samples"] == ["one", "rest"]
    rows = {(c["sample"], c["level"], c["name"]): c["count"] for c in report["cutflow"]}
    assert rows["one", "event", "all"] == 2000
    assert rows["rest", "event", "all"] == 4000
    jets = sum(int(np.sum(np.concatenate(c["jet_pt"].tolist()) > 25000)) for c in data.values())
    assert rows["", "object", "jet_pt > 25000"] == jets
    assert report["histograms"][0]["entries"] == jets
    product.check(finished=True)
