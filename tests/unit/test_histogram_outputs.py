"""Files of merged histograms: every number in each of them, as the programs that read them see it."""

import json
import math

import hist
import numpy as np
import pytest
import uproot
from boost_histogram.serialization import from_uhi
from histogram_results import (
    ALL,
    BY_SAMPLE,
    CUTFLOW,
    DECADES,
    EDGES,
    ENERGY,
    SAMPLE,
    filled,
    result,
)
from msgspec.structs import replace

from dask_runner.errors import UsageError
from dask_runner.histogram_results import summarize
from dask_runner.histograms import writing
from dask_runner.histograms.conversion import as_hist
from dask_runner.histograms.result import Filled
from dask_runner.reports import REPORTS
from dask_runner.workloads import histogram_merge
from dask_runner.workloads.interface import MergeRequest

WHOLE = result(*ALL, cutflow=(*CUTFLOW, *BY_SAMPLE))
FACTS = {"run": "20260101T000000Z", "events": 1000}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    for ending in ("root", "npz", "json"):
        writing.write(WHOLE, folder / f"h.{ending}", FACTS)
    return folder


def named(name):
    return next(one for one in ALL if one.spec.name == name)


def test_root_has_every_bin_with_its_error(written):
    with uproot.open(written / "h.root") as file:
        kinds = file.classnames(cycle=False)
        assert kinds["energy"] == "TH1D"
        assert kinds["plane"] == "TH2D"
        for name in ("energy", "plane"):
            found, one = file[name], named(name)
            assert np.array_equal(found.values(flow=True), one.values)
            assert np.array_equal(found.variances(flow=True), one.variances)
            assert found.member("fEntries") == one.counts.sum()
        plane = file["plane"]
        assert plane.axis("y").edges().tolist() == list(EDGES.edges)
        assert plane.axis("x").member("fTitle") == ENERGY.label
        # Equal bins are equal bins for ROOT too, which looks them up faster.
        assert len(plane.axis("x").member("fXbins")) == 0
        centres = np.arange(5, 200, 10)
        weights = named("energy").values[1:-1]
        assert file["energy"].member("fTsumwx") == pytest.approx((weights * centres).sum())


def test_root_has_samples_in_folders_and_their_sum(written):
    one = named("weighted")
    with uproot.open(written / "h.root") as file:
        for k, sample in enumerate(SAMPLE.categories):
            assert np.array_equal(file[f"{sample}/weighted"].values(flow=True), one.values[k])
            assert np.array_equal(file[f"{sample}/weighted"].variances(flow=True), one.variances[k])
        assert np.array_equal(file["weighted"].values(flow=True), one.values.sum(axis=0))
        assert file["decades"].axis().edges().tolist() == list(DECADES.edges)


def test_root_has_the_cutflow_with_names(written):
    with uproot.open(written / "h.root") as file:
        flow = file["cutflow"]
        assert flow.values().tolist() == [cut.count for cut in CUTFLOW]
        labels = [str(label) for label in flow.axis().member("fLabels")]
        assert labels == ["all", "met > 20", "objects: all", "objects: jet_pt > 25"]
        assert [int(x._bases[0].member("@fUniqueID")) for x in flow.axis().member("fLabels")] == [
            1,
            2,
            3,
            4,
        ]
        assert file["ttbar/cutflow_weights"].values()[1] == pytest.approx(40)
        assert "cutflow_weights" not in file
        facts = json.loads(str(file["metadata"]))
        assert facts["run"] == FACTS["run"]
        assert facts["events_read"] == facts["events_asked"] == 1000
        assert facts["cutflow"][1] == {
            "name": "met > 20",
            "level": "event",
            "count": 400,
            "weights": 400.0,
            "sample": "",
        }


def test_categories_are_labelled_bins(tmp_path):
    lepton = replace(SAMPLE, name="lepton", categories=("e", "mu", "tau"))
    one = filled("leptons", lepton, ENERGY)
    writing.write(result(one), tmp_path / "h.root", {})
    with uproot.open(tmp_path / "h.root") as file:
        found = file["leptons"]
        assert np.array_equal(found.values(flow=True)[1:-1], one.values)
        assert not found.values(flow=True)[[0, -1]].any()
        assert [str(label) for label in found.axis(0).member("fLabels")] == ["e", "mu", "tau"]


def test_three_axes_are_the_most_in_root(tmp_path):
    cube = filled("cube", ENERGY, EDGES, ENERGY)
    writing.write(result(cube), tmp_path / "h.root", {})
    with uproot.open(tmp_path / "h.root") as file:
        assert np.array_equal(file["cube"].values(flow=True), cube.values)
    more = result(filled("four", EDGES, EDGES, EDGES, EDGES))
    with pytest.raises(UsageError, match="up to 3 axes") as caught:
        writing.write(more, tmp_path / "four.root", {})
    assert ".npz" in caught.value.hint
    writing.write(more, tmp_path / "four.npz", {})


def test_npz(written):
    with np.load(written / "h.npz") as found:
        one = named("plane")
        assert np.array_equal(found["plane/values"], one.values[1:-1, 1:-1])
        assert np.array_equal(found["plane/flow/variances"], one.variances)
        assert found["plane/counts"].dtype == np.int64
        assert found["plane/edges_y"].tolist() == list(EDGES.edges)
        assert found["weighted/categories_sample"].tolist() == list(SAMPLE.categories)
        assert found["weighted/values"].shape == (2, 20)
        assert found["weighted/edges_x"].shape == (21,)
        assert json.loads(str(found["metadata"]))["schema"] == writing.SCHEMA


def test_json_is_what_hist_reads(written):
    document = json.loads((written / "h.json").read_text())
    assert document["schema"] == writing.SCHEMA
    assert document["missing"] == []
    for one in ALL:
        found = hist.Hist(from_uhi(document["histograms"][one.spec.name]))
        assert found == as_hist(one)
        about = document["histograms"][one.spec.name]["metadata"]
        assert about["nan"] == 3
        assert about["entries"] == one.counts.sum()
    assert document["histograms"]["energy"]["metadata"]["where"] == "jet_pt > 25"
    counts = document["histograms"]["weighted"]["metadata"]["counts"]
    assert counts == named("weighted").counts.tolist()


def test_endless_bins_are_written(tmp_path):
    axis = replace(EDGES, edges=(-math.inf, 0.0, 1.0, math.inf))
    one = result(filled("endless", axis))
    for ending in ("root", "npz", "json"):
        writing.write(one, tmp_path / f"h.{ending}", {})
    found = json.loads((tmp_path / "h.json").read_text())["histograms"]["endless"]
    assert found["axes"][0]["edges"] == list(axis.edges)
    assert hist.Hist(from_uhi(found)) == as_hist(one.histograms[0])


def test_as_hist_can_project():
    one = named("weighted")
    found = as_hist(one)
    assert found["ttbar", :].values(flow=True).tolist() == one.values[0].tolist()
    assert found[sum, :].variances().tolist() == pytest.approx(
        one.variances.sum(axis=0)[1:-1].tolist()
    )


@pytest.mark.parametrize("ending", ["root", "npz", "json"])
def test_equal_results_give_equal_bytes(written, tmp_path, ending):
    writing.write(WHOLE, tmp_path / f"h.{ending}", FACTS)
    assert (tmp_path / f"h.{ending}").read_bytes() == (written / f"h.{ending}").read_bytes()


def test_the_ending_is_the_format():
    with pytest.raises(UsageError, match="the ending says") as caught:
        writing.check_name("h.csv")
    assert ".root, .npz, .json" in caught.value.hint
    for name in ("s.npz", "s"):
        with pytest.raises(UsageError, match="format of a skim"):
            histogram_merge.check_name(name, skim=True)
    for name in ("s.root", "s.parquet", "cutflow.json"):
        histogram_merge.check_name(name, skim=True)


def test_merging_names_and_hashes(tmp_path):
    request = MergeRequest(parts=(), folder=tmp_path, metadata=FACTS)
    made = histogram_merge.write(WHOLE, request, skim=False)
    assert [file.path.rpartition("/")[2] for file in made] == ["histograms.root", "histograms.json"]
    assert len({file.content_hash for file in made}) == 1
    named_files = replace(request, names=("a.npz",))
    (one,) = histogram_merge.write(WHOLE, named_files, skim=False)
    assert one.content_hash == made[0].content_hash
    assert (tmp_path / "a.npz").stat().st_size == one.bytes
    changed = replace(ALL[0], counts=ALL[0].counts + 1)
    assert histogram_merge.content_hash(result(changed)) != histogram_merge.content_hash(
        result(ALL[0])
    )


def test_summary_of_a_histogram():
    spec = replace(ALL[0].spec, axes=(replace(ENERGY, bins=2),))
    values = np.array([1.0, 2.0, 6.0, 4.0])
    one = Filled(spec=spec, counts=values.astype(int), values=values, variances=values, nan=2)
    found = summarize(one)
    (axis,) = found.axes
    assert (axis.underflow, axis.overflow, found.nan) == (1, 4, 2)
    assert (found.entries, found.integral) == (13, 8.0)
    assert axis.mean == pytest.approx((2 * 50 + 6 * 150) / 8)
    assert axis.deviation == pytest.approx(math.sqrt(0.25 * 0.75) * 100)
    empty = summarize(replace(one, values=0 * values))
    assert empty.axes[0].mean is None
    assert summarize(replace(one, counts=0 * one.counts, weighted=True)).entries is None
    everything = replace(EDGES, edges=(-math.inf, math.inf))
    assert summarize(filled("all", everything)).axes[0].mean is None


def test_the_report_in_words_and_json(capsys):
    from rich.console import Console

    from dask_runner.histogram_results import HistogramReport

    words = filled("words", replace(SAMPLE, name="lepton", label="lepton"))
    whole = result(
        *ALL, words, cutflow=(*CUTFLOW, *BY_SAMPLE), missing=("a.root entries 0 to 499",)
    )
    view = HistogramReport(
        run="20260101T000000Z",
        files=(),
        histograms=tuple(summarize(one) for one in whole.histograms),
        cutflow=whole.cutflow,
        events_read=whole.events_read,
        events_asked=whole.events_asked,
        missing=whole.missing,
    )
    REPORTS["terminal"](view, Console())
    text = capsys.readouterr().out
    assert "1000 of 1500 events read" in text
    assert "missing: a.root entries 0 to 499" in text
    assert "cutflow of zprime" in text
    assert "40.00 %" in text
    assert "Jet energy [GeV]" in text
    assert "lepton" in text
    assert "2 categories" in text
    REPORTS["json"](view, Console())
    found = json.loads(capsys.readouterr().out)
    assert found["histograms"][2]["axes"][1]["bins"] == 3
    assert found["cutflow"][1]["count"] == 400
