"""Scans of the sky through the whole product: the same maps whatever happens on the way."""

import csv
import json
import signal

import healpy
import numpy as np
import pytest
from product import Product, wait_for

SEARCH = """\
[experiment]
events = {events}
[simulation]
events = 20000
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The runs that several tests look at: background trials, and skies with p-values."""
    thing = Product(tmp_path_factory.mktemp("skies"))
    (thing.folder / "search.toml").write_text(SEARCH.format(events=3000))
    words = ["trials", "--model", "point-source", "--config", "search.toml", "--seed", "3"]
    thing.run(*words, "--grid", "dec=-80,-30,0,30,80", "-n", "2000", "-q", "--slots", "2")
    thing.background = thing.last.name
    skies = ["--nside", "4", "-n", "20", "--background", thing.background, "-b", "500"]
    thing.run(*scan(*skies, "--seed", "4"))
    thing.skies = thing.last.name
    yield thing
    thing.close()


def scan(*more):
    return ["skyscan", "--config", "search.toml", "--slots", "2", "-q", *map(str, more)]


def merged(product, run="last", *more):
    """The merged files by name."""
    found = product.json("merge", run, *more)
    return {file["path"].rpartition("/")[2]: file for file in found["files"]}


def test_a_scan_that_is_killed_and_done_again_gives_the_same_map(product):
    (product.folder / "search.toml").write_text(SEARCH.format(events=20_000))
    product.run(*scan("--nside", 16, "--seed", 7))
    content = product.check(finished=True).content
    whole = merged(product, "last", "--plot", "map.png")["skymap.fits"]
    assert whole["entries"] == 3072
    assert (product.folder / "map.png").stat().st_size > 10_000
    driver = product.start(*scan("--nside", 16, "--seed", 7, "-b", 120))
    wait_for(lambda: len(product.timestamps) == 2 and product.done() >= 3, "some batches done")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    done = product.done()
    assert 3 <= done < 26
    failed = product.run("merge", "last", expect=None)
    assert failed.returncode != 0
    assert "is not complete" in failed.stderr
    partial = product.json("skymap", "last", "--partial")
    assert partial["missing"] > 0
    product.run("rerun", "last", "-q")
    product.check(finished=True, reference_hash=content)
    again = merged(product)["skymap.fits"]
    assert again["content_hash"] == whole["content_hash"]
    assert len(product.lines("batch")) == 26


def test_more_skies_are_those_that_would_have_been(shared):
    shared.run(*scan("--nside", 4, "-n", 2, "--keep", "maps", "--seed", 9, "-b", 100))
    shared.run("skyscan", "--extend", "last", "-n", "4", "-q")
    shared.check(finished=True)
    extended = merged(shared)
    shared.run(*scan("--nside", 4, "-n", 4, "--keep", "maps", "--seed", 9))
    whole = merged(shared)
    assert {name: file["content_hash"] for name, file in extended.items()} == {
        name: file["content_hash"] for name, file in whole.items()
    }
    assert set(whole) == {*(f"skymap.{k:06d}.fits" for k in range(4)), "hottest.npy"}
    for words, message in [
        (["-n", "2"], "has 4 skies, more than 2"),
        ([], "how many skies"),
        (["-n", "9", "--seed", "2"], "nothing else can be changed"),
    ]:
        done = shared.run("skyscan", "--extend", "last", *words, expect=2)
        assert message in done.stderr


def test_a_source_is_found_and_judged(shared):
    source = ["--inject", "dec=19,ra=101,n_sig=30", "--background", shared.background]
    shared.run(*scan("--nside", 4, "--seed", 5, *source))
    found = shared.json(
        "skymap", "last", "--plot", "map.png", "--plot-p", "p.png", "--to", "m.fits"
    )
    best = found["spots"][0]
    assert abs(best["dec"] - 19) < 15
    assert best["mlog10p"] > 4
    assert found["background"] == [shared.background]
    assert healpy.read_map(shared.folder / "m.fits", field=0).max() == best["mlog10p"]
    for name in ("map.png", "p.png"):
        assert (shared.folder / name).stat().st_size > 10_000
    assert "exists already" in shared.run("skymap", "--to", "m.fits", expect=2).stderr
    judged = shared.json("hottest", shared.skies, "--observed", "last", "--plot", "hottest.png")
    assert judged["skies"] == len(judged["values"]) == 20
    assert judged["looks"]["number"] == pytest.approx(192, rel=1)
    seen = judged["observed"]
    assert seen["spot"]["mlog10p"] == best["mlog10p"]
    assert seen["post_trial"]["value"] < 0.05
    counted = seen["post_trial"]["counted"]
    assert (counted["k"], counted["n"], counted["safe"]) == (0, 20, 1 / 21)
    text = shared.run("hottest", shared.skies, "--observed", "last").stdout
    assert "Clopper-Pearson" in text
    # A sky with a source is no background.
    assert "injected source" in shared.run("hottest", "last", expect=2).stderr
    # In the table of the merged run, every digit.
    assert "spots.csv" in merged(shared)
    with (shared.last / "merged" / "spots.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert float(rows[0]["ts"]) == best["ts"]


def test_the_observed_sky_is_looked_at_with_a_reason_and_a_record(shared):
    count = len(shared.timestamps)
    more = ["--nside", "4", "--background", shared.background]
    done = shared.run(*scan(*more, "--unblind", " "), expect=2)
    assert "needs a reason" in done.stderr
    shared.run(*scan(*more, "--unblind", "a test", "-t"))
    assert len(shared.timestamps) == count
    shared.run(*scan(*more, "--unblind", "approved in a test"))
    lines = [
        json.loads(line) for line in (shared.last / "manifest.jsonl").read_bytes().splitlines()
    ]
    kinds = [line.get("kind", line["type"]) for line in lines]
    # Recorded before anything was started.
    assert kinds.index("unblinded") < kinds.index("started")
    found = shared.json("skymap")
    assert found["unblinded"]["reason"] == "approved in a test"
    assert found["unblinded"]["who"]
    judged = shared.json("hottest", shared.skies, "--observed", "last")
    assert judged["observed"]["unblinded"]["reason"] == "approved in a test"
    assert "unblinded, as the manifest says" in shared.run("skymap").stdout
    for words, message in [
        (["hottest", "last"], "it is no background"),
        (["skyscan", "--extend", "last", "-n", "2"], "one observed sky"),
    ]:
        assert message in shared.run(*words, expect=2).stderr


def test_p_values_of_another_search_are_refused(shared):
    (shared.folder / "other.toml").write_text(SEARCH.format(events=2500))
    words = ["skyscan", "--config", "other.toml", "--background", shared.background]
    done = shared.run(*words, "--nside", "4", expect=2)
    assert "of another search" in done.stderr
    assert "experiment.events is 3000 there, 2500 here" in done.stderr
    done = shared.run(*words[:-1], shared.skies, "--nside", "4", expect=2)
    assert "is no run of trials" in done.stderr


def test_the_users_own_samples_and_what_becomes_of_another_file(product):
    """The same map from files, in which the synthetic events are."""
    from dask_runner.sky.config import read_search
    from dask_runner.sky.events import EVENT_COLUMNS, TRUTH_COLUMNS
    from dask_runner.sky.search import Search

    config = product.folder / "search.toml"
    config.write_text(SEARCH.format(events=2000))
    search = Search.load(read_search(config))
    for name, sample, columns in (
        ("experiment", search.experiment, EVENT_COLUMNS),
        ("simulation", search.simulation, (*EVENT_COLUMNS, *TRUTH_COLUMNS)),
    ):
        table = np.zeros(len(sample), [(column, "f8") for column in columns])
        for column in columns:
            table[column] = getattr(sample, column)
        np.save(product.folder / f"{name}.npy", table)
    product.run(*scan("--nside", 4, "--seed", 2))
    merged(product)
    synthetic = healpy.read_map(product.last / "merged" / "skymap.fits", field=0)
    config.write_text(
        'livetime = 365.25\n[experiment]\nfile = "experiment.npy"\n'
        '[simulation]\nfile = "simulation.npy"\n'
    )
    product.run(*scan("--nside", 4, "--seed", 2, "-b", 50, "--first", 2), expect=None)
    done = product.done()
    table["weight"] *= 2
    np.save(product.folder / "simulation.npy", table)
    refused = product.run("rerun", "last", "-q", expect=None)
    assert refused.returncode != 0
    assert "simulation.npy" in refused.stderr
    assert product.done() == done == 2
    table["weight"] /= 2
    np.save(product.folder / "simulation.npy", table)
    product.run("rerun", "last", "-q")
    product.check(finished=True)
    merged(product)
    found = healpy.read_map(product.last / "merged" / "skymap.fits", field=0)
    # Hosts compute with pinned instructions, this test does not: last bits of the samples differ.
    assert np.allclose(found, synthetic, rtol=0, atol=1e-9)
    assert found.max() > 1
