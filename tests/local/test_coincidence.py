"""Coincidences through the whole product, from the inputs that the example makes."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from product import Product, wait_for

from dask_runner.conclusions.coincidences import full_table, load

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "coincidence"
GRID = ["--grid", "detector=HL,HLV"]
SIGNAL = ["--grid", "n_sig=0,2"]


def make_example(folder):
    """The example's files, small."""
    script, small = EXAMPLE / "make_inputs.py", ["--maps", "4", "--nside", "16", "--events", "300"]
    subprocess.run([sys.executable, script, folder, *small], check=True, capture_output=True)
    shutil.copy(EXAMPLE / "coincidence.toml", folder)


def words(*more, n="300"):
    files = ["--config", "coincidence.toml", "--items", "maps.txt"]
    own = ["--model", "coincidence", *files, *GRID, "-n", n, "--slots", "2", "-q", "--seed", "7"]
    return ["trials", *own, *more]


def table(run):
    """All trials of a run in a fixed order, without the names of runs and batches."""
    rows = full_table(load([run]))
    names = [name for name in rows.dtype.names if name not in {"run", "batch"}]
    return np.sort(rows[names], order=["detector", "n_sig", "trial"]).tobytes()


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A run of 300 trials at each of 4 points, and its rows."""
    product = Product(tmp_path_factory.mktemp("coincidence"))
    make_example(product.folder)
    product.run(*words(*SIGNAL))
    content = product.check(finished=True).content
    yield product, table(product.last), content
    product.close()


@pytest.fixture
def product(tmp_path, reference):
    """Another folder with links to the same files at the same names."""
    thing = Product(tmp_path)
    for name in ("coincidence.toml", "maps.txt", "neutrinos.csv", "maps"):
        copy = shutil.copytree if name == "maps" else shutil.copy
        copy(reference[0].folder / name, tmp_path / name)
    yield thing
    thing.close()


def without_folder(run):
    rows = full_table(load([run]))
    keys = np.argsort(rows, order=["detector", "n_sig", "trial"])
    names = [Path(name).name for name in rows["map"][keys]]
    return names, rows["log10_odds"][keys].tobytes(), rows["n_events"][keys].tobytes()


def test_the_example_gives_a_table_and_p_values(reference):
    product, _, _ = reference
    view = product.json("coincidence", "table", "--to", "all.csv", "--distribution", "chance.npz")
    assert view["account"]["trials"] == 1200
    assert len(view["rows"]) == 20
    assert view["rows"][0]["map"].startswith(str(product.folder / "maps"))
    lines = (product.folder / "all.csv").read_text().splitlines()
    assert lines[0].startswith("log10_odds,n_events,map,batch,")
    assert len(lines) == 1201
    found = product.json("coincidence", "pvalue", "--plot", "p.png", "--to", "p.csv", "--top", "3")
    points = {(one["detector"], one["n_sig"]): one for one in found["points"]}
    assert set(points) == {("HL", 2), ("HLV", 2)}
    # Injected signals are found.
    assert all(one["median"] < 0.2 for one in points.values())
    assert {path.name for path in product.folder.glob("p*.png")} == {"p_HL.png", "p_HLV.png"}
    # Of trials with signal: those without are what they are compared with.
    heads, *lines = (product.folder / "p.csv").read_text().splitlines()
    assert heads.endswith(",p,from_tail")
    assert len(lines) == 600
    row = found["rows"][0]
    words = ["pvalue", "--background", "chance.npz", "--detector", row["detector"], "--odds"]
    (given,) = product.json("coincidence", *words, str(row["log10_odds"]))["given"]
    assert given["p"] == row["p"]
    text = product.run("coincidence", "pvalue").stdout
    assert "300 trials" in text
    assert "log10 odds" in text
    done = product.run("coincidence", "pvalue", "--background", "nothing.npz", expect=4)
    assert "nothing.npz" in done.stderr


def test_batch_size_extension_kill_and_rerun_change_no_number(product, reference):
    first, _, _ = reference
    driver = product.start(*words(*SIGNAL, "-b", "10", n="100"))
    wait_for(lambda: product.timestamps and product.done() >= 2, "two batches")
    driver.kill()
    driver.wait()
    assert product.done() < 40
    product.run("rerun", "last")
    product.run("trials", "--extend", "last", "-n", "+200", "-b", "70", "-q")
    product.check(finished=True)
    assert without_folder(product.last) == without_folder(first.last)
    (planned,) = {len(batch["inputs"]) for batch in product.lines("batch")}
    assert planned == len(product.lines("input")) == 5
    (extension,) = product.lines("extension")
    assert all(len(batch["inputs"]) == 5 for batch in extension["batches"])


def test_other_maps_are_refused_whatever_the_user_accepts(reference):
    product, rows, _ = reference
    before = (product.last / "manifest.jsonl").read_bytes()
    path = product.folder / "maps" / "G100000.fits"
    content = path.read_bytes()
    changed = bytearray(content)
    changed[-2000] ^= 1
    path.write_bytes(changed)
    for command in (
        ["rerun", "last"],
        ["rerun", "last", "--accept-changed-inputs"],
        ["trials", "--extend", "last", "-n", "+20", "-q"],
    ):
        done = product.run(*command, expect=4)
        assert "G100000.fits" in done.stderr
        assert "another model" in done.stderr
    assert "input changed" in product.run("verify", "last", expect=3).stdout
    path.rename(path.with_suffix(".away"))
    assert "No such file" in product.run("rerun", "last", expect=4).stderr
    path.write_bytes(content)
    product.run("verify", "last")
    assert (product.last / "manifest.jsonl").read_bytes().startswith(before)
    assert table(product.last) == rows
    product.run("rerun", "last")


def test_an_observed_pair_is_recorded(reference):
    product, _, _ = reference
    lines = (product.folder / "neutrinos.csv").read_text().splitlines()
    (product.folder / "near.csv").write_text("\n".join(lines[:9]) + "\n")
    pair = ["--map", "maps/G100001.fits", "--list", "near.csv", "--detector", "HL"]
    done = product.run("coincidence", "observe", *pair, "--unblind", "approved", expect=4)
    assert "--time MJD" in done.stderr
    done = product.run("coincidence", "observe", *pair, "--unblind", " ", expect=2)
    assert "needs a reason" in done.stderr
    time = lines[5].split(",")[0]
    found = product.json(
        "coincidence", "observe", *pair, "--time", time, "--unblind", "approved", "--plot", "o.png"
    )
    assert found["p"]["value"] > 0
    (note,) = [line for line in product.lines("note") if line["kind"] == "unblinded"]
    assert note["data"]["reason"] == "approved"
    assert note["data"]["results"]["log10_odds"] == found["log10_odds"]
    assert (product.folder / "o.png").exists()


def test_a_dry_test_tells_the_cost_and_what_is_wrong(product):
    done = product.run(*words("-t", n="100000"))
    assert "5 input files" in done.stdout
    assert "expected: " in done.stdout
    assert "class HL: 2 maps, each trial has 6 events" in done.stdout
    assert not product.timestamps
    (product.folder / "maps.txt").write_text("maps/G100000.fits\nmaps/G7.fits\n")
    done = product.run(*words("-t"), expect=4)
    assert "maps.txt line 2: maps/G7.fits: there is no such file" in done.stderr
    done = product.run("coincidence", "table", "--runs", str(product.folder), expect=None)
    assert done.returncode
