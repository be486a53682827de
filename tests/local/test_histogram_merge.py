"""What users get out of histogram runs: files, pictures, skims, from paths and from servers."""

import json
import re

import awkward as ak
import histogram_files
import numpy as np
import pytest
import uproot
from product import Product
from range_server import serving

import dask_runner
from dask_runner.errors import FailedBatchesError, UsageError
from dask_runner.histograms.conversion import as_hist

TREE = histogram_files.TREE
RUN = ["histogram", "--tree", TREE, "--slots", "2", "-q"]
FILL = ["--fill", "jet_pt / 1000", "--bins", "20,0,200", "--name", "pt"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with files of two samples and a finished run of them, another one half done."""
    thing = Product(tmp_path_factory.mktemp("place"))
    events = {}
    for name, seed in (("a1", 1), ("a2", 2), ("b1", 3)):
        path = thing.folder / f"{name}.root"
        events[name] = ak.Array(histogram_files.write(path, 1000, seed=seed))
    samples = ["--sample", "a=a*.root", "--sample", "b=b*.root", "--by-sample"]
    more = ["--fill", "met : jet_E", "--bins", "5,0,100 : [0,1e5,1e6]", "--name", "plane"]
    thing.run(*RUN, *samples, *FILL, *more, "-b", "400")
    thing.whole = thing.last.name
    thing.run(*RUN, "--files", "a1.root", *FILL, "-b", "50", "--first", "1", expect=None)
    thing.half = thing.last.name
    thing.events = events
    yield thing
    thing.close()


def test_all_formats_and_pictures_at_once(place):
    names = ["out.root", "out.npz", "out.json"]
    words = [word for name in names for word in ("--to", name)]
    done = place.run("merge", place.whole, *words, "--plot", "jets.png", "--plot", "jets.pdf")
    assert "3000 of 3000 events read" in done.stdout
    assert "cutflow of b" in done.stdout
    expected, _ = np.histogram(
        ak.flatten(place.events["b1"].jet_pt).to_numpy() / 1000, 20, (0, 200)
    )
    with uproot.open(place.folder / "out.root") as file:
        assert file["b/pt"].values().tolist() == expected.tolist()
        assert file.classnames(cycle=False)["plane"] == "TH2D"
    with np.load(place.folder / "out.npz") as found:
        assert found["pt/values"][1].tolist() == expected.tolist()
    document = json.loads((place.folder / "out.json").read_text())
    assert document["run"] == place.whole
    assert document["events_read"] == document["events_asked"] == 3000
    for name in ("pt", "plane"):
        assert (place.folder / f"jets.{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (place.folder / f"jets.{name}.pdf").read_bytes().startswith(b"%PDF")
    # Nothing is overwritten, and nothing else is left.
    again = place.run("merge", place.whole, "--to", "out.root", expect=2)
    assert "exists already" in again.stderr
    assert not list(place.folder.glob(".*"))


def test_the_usual_names_and_json(place):
    said = place.json("merge", place.whole)
    names = [file["path"].rpartition("/")[2] for file in said["files"]]
    assert names == ["histograms.root", "histograms.json"]
    assert (place.runs / place.whole / "merged" / "histograms.root").is_file()
    assert said["events_read"] == said["events_asked"] == 3000
    # It can be said and drawn again.
    assert place.json("merge", place.whole, "--plot", "again.png")["files"] == said["files"]
    assert (place.folder / "again.pt.png").is_file()
    pt, plane = said["histograms"]
    assert pt["samples"] == ["a", "b"]
    assert [axis["bins"] for axis in plane["axes"]] == [5, 2]
    assert said["cutflow"][0] == {
        "name": "all",
        "level": "event",
        "count": 3000,
        "weights": 3000.0,
        "sample": "",
    }


def test_incomplete_runs_are_refused_without_acceptance(place):
    done = place.run("merge", place.half, "--to", "half.json", expect=3)
    assert "a1.root entries" in done.stderr
    assert re.search(r"\.\.\. and \d+ more", done.stderr)
    assert "--acceptance" in done.stderr
    assert not (place.folder / "half.json").exists()
    said = place.json("merge", place.half, "--to", "half.json", "--acceptance", "0.02")
    assert 0 < said["events_read"] < said["events_asked"] == 1000
    assert all("a1.root entries" in line for line in said["missing"])
    with pytest.raises(FailedBatchesError):
        dask_runner.open_run(place.half, runs=place.runs).histograms()


def test_wrong_names_are_refused_before_anything(place):
    done = place.run("merge", place.whole, "--to", "x.root", "-o", "out", expect=2)
    assert "--output-dir has nothing to say" in done.stderr
    done = place.run("merge", place.whole, "--to", "x.root", "--plot", "x.gif", expect=2)
    assert "not a plot" in done.stderr
    done = place.run("merge", place.whole, "--to", "x.root", "--norm", expect=2)
    assert "--norm is about plots" in done.stderr
    run = dask_runner.open_run(place.whole, runs=place.runs)
    x = place.folder / "x.root"
    for to, message in (
        ([place.folder / "x.csv"], "the ending says the format"),
        ([place.folder / "none" / "x.root"], "there is no folder"),
        ([x, place.folder / "data" / ".." / "x.root"], "two files of the name"),
    ):
        with pytest.raises(UsageError, match=message):
            run.merge(to=to)
    assert not x.exists()


def test_results_in_python(place):
    run = dask_runner.open_run(place.whole, runs=place.runs)
    result = run.histograms()
    assert result["pt"].spec.shape == (2, 22)
    assert as_hist(result["pt"])["b", ::sum] == result["pt"].counts[1].sum()
    merged = run.merge(to=[place.folder / "python.npz"])
    assert merged.events == merged.events_total == 3000


def test_a_skim_for_any_batch_size(place):
    words = [*RUN, "--files", "a*.root", "--where", "jet_pt > 30e3", "--where-event", "met > 20"]
    for column in ("run", "*jet_*", "!njet*", "ratio = jet_pt / jet_E"):
        words += ["--skim", column]
    hashes = set()
    for size in ("2000", "350"):
        place.run(*words, "-b", size)
        place.check(finished=True)
        said = place.json("merge", "last", "--to", f"s{size}.root", "--to", f"s{size}.parquet")
        hashes.add(said["files"][0]["content_hash"])
    assert len(hashes) == 1
    whole = ak.concatenate([place.events["a1"], place.events["a2"]])
    kept = whole[whole.met > 20]
    good = kept.jet_pt > 30e3
    parquet = [(place.folder / f"s{size}.parquet").read_bytes() for size in ("2000", "350")]
    assert len(parquet[0]) > 1000
    for found in (
        uproot.open(f"{place.folder}/s350.root:mytree").arrays(),
        ak.from_parquet(place.folder / "s350.parquet"),
    ):
        assert found.run.tolist() == kept.run.tolist()
        assert found.jet_pt.tolist() == kept.jet_pt[good].tolist()
        assert found.ratio.tolist() == (kept.jet_pt / kept.jet_E)[good].tolist()
    cutflow = said["cutflow"]
    assert [cut["count"] for cut in cutflow if cut["level"] == "event"] == [2000, len(kept)]
    assert said["files"][0]["entries"] == len(kept)
    assert place.run("merge", "last", "--plot", "s.png", expect=2).stderr.count("no histogram")


def test_files_on_a_server_are_read_by_ranges(place):
    pytest.importorskip("aiohttp")
    with serving(place.folder) as server:
        urls = [server.url(f"{name}.root") for name in ("a1", "a2")]
        words = [word for url in urls for word in ("--files", url)]
        place.run(*RUN, *words, *FILL, "-b", "500")
        place.check(finished=True)
        far = place.json("merge", "last", "--to", "far.json")
        assert far["events_read"] == 2000
        # Each file is opened several times, and never read as a whole.
        assert len(server.requests) > 8
        size = (place.folder / "a1.root").stat().st_size
        assert max(last - first for first, last in server.requests) < 0.7 * size
        server.tag = '"2"'
        (line, _) = place.json("verify", "last", expect=None)["changed_inputs"]
        assert "the server says that it has changed" in line
    expected, _ = np.histogram(
        ak.flatten(
            ak.concatenate([place.events["a1"].jet_pt, place.events["a2"].jet_pt])
        ).to_numpy()
        / 1000,
        20,
        (0, 200),
    )
    document = json.loads((place.folder / "far.json").read_text())
    assert document["histograms"]["pt"]["storage"]["values"][1:-1] == expected.tolist()
