"""What is asked for becomes a job: options, the TOML file, and errors that say where."""

import numpy as np
import pytest

from dask_runner.errors import UsageError
from dask_runner.histograms.binning import parse_axes
from dask_runner.histograms.drafting import Asked, draft

FILE = """\
files = "data/*.root"
tree = "TTbar/mytree"
where = "jet_pt > 25000"
where_event = ["met > 10", "count(jet_pt) > 1"]
weight = "w"

[samples]
ttbar = "mc/tt*.root"
qcd = "mc/qcd*.root"

[histograms.energy]
fill = "jet_E / 1000"
bins = [200, 0, 2000]
label = "E [GeV]"
by_sample = true

[histograms.map]
fill = "jet_eta : jet_phi"
bins = [[50, -5, 5], [64, -3.2, 3.2]]
weight = "w2"
where = "jet_E > 0"

[histograms.met]
fill = ["met"]
edges = [0, 10, 100, inf]
"""


def asked(**more):
    return Asked(**{"tree": "t", "files": ("a.root",), "fill": ("x",), "bins": ("10,0,1",), **more})


def test_the_whole_file(tmp_path):
    path = tmp_path / "jets.toml"
    path.write_text(FILE)
    found = draft(Asked(config=path))
    job = found.job
    assert (job.tree, job.where, job.weight) == ("TTbar/mytree", "jet_pt > 25000", "w")
    assert job.where_event == ("met > 10", "count(jet_pt) > 1")
    assert [(s.name, s.pattern) for s in job.samples] == [
        ("ttbar", "mc/tt*.root"),
        ("qcd", "mc/qcd*.root"),
    ]
    energy, plane, met = job.histograms
    assert energy.by_sample
    assert energy.axes[0].categories == ("ttbar", "qcd")
    assert energy.axes[1].label == "E [GeV]"
    assert energy.shape == (2, 202)
    assert (plane.fill, plane.weight, plane.where) == (("jet_eta", "jet_phi"), "w2", "jet_E > 0")
    assert [axis.label for axis in plane.axes] == ["jet_eta", "jet_phi"]
    assert met.axes[0].edges == (0, 10, 100, np.inf)
    assert found.files == ("data/*.root",)
    assert found.files_folder == found.samples_folder == tmp_path


def test_options_beside_a_file_take_its_keys_place_and_add_histograms(tmp_path):
    path = tmp_path / "jets.toml"
    path.write_text(FILE)
    found = draft(asked(config=path, tree="other", where="pt > 1", names=("x",), by_sample=True))
    assert (found.job.tree, found.job.where, found.job.weight) == ("other", "pt > 1", "w")
    assert [spec.name for spec in found.job.histograms] == ["energy", "map", "met", "x"]
    assert found.job.histograms[-1].by_sample
    assert found.files_folder != tmp_path


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("bins = [200, 0, 2000]", "bin = 3", "jets.toml:13: histograms.energy.bin: unknown key"),
        ('weight = "w"', 'wheight = "w"', "jets.toml:5: wheight: unknown key"),
        ("[200, 0, 2000]", "[200, 0]", "jets.toml:13: histograms.energy.bins: [200.0, 0.0] is"),
        ("[200, 0, 2000]", "[200, 5, 5]", "from 5 to 5 there are no bins"),
        ("[200, 0, 2000]", "[0.5, 0, 1]", "0.5 bins?"),
        ("[200, 0, 2000]", "{}", "jets.toml:13: histograms.energy.bins: Expected"),
        ("[0, 10, 100, inf]", "[0, 10, 10]", "jets.toml:25: histograms.met.edges: the edges do"),
        ("[0, 10, 100, inf]", "[0, nan]", "at least two edges"),
        ("edges = [0, 10, 100, inf]", "", "jets.toml:23: histograms.met: either bins or edges"),
        ('fill = ["met"]', "", "jets.toml:23: histograms.met: has no fill"),
        ('"jet_E / 1000"', '"jet_E /"', "jets.toml:12: histograms.energy.fill: 'jet_E /': not an"),
        ('"jet_E > 0"', '"open(x)"', "jets.toml:21: histograms.map.where: 'open(x)': there is"),
        ('"met > 10"', '"met.x"', "jets.toml:4: where_event: 'met.x': a dot"),
        ("[50, -5, 5], ", "", "2 axes, but bins for 1"),
        ('"E [GeV]"', '["a", "b"]', "1 axes, but 2 labels"),
        ("[histograms.met]", "[histograms.cutflow]", "'cutflow' cannot be its name"),
        ("[histograms.met]", '[histograms."a/b"]', "jets.toml:23: histograms.a/b: 'a/b' cannot"),
        ("[histograms.met]", "[histograms.qcd]", "two histograms or samples have the name qcd"),
        ('fill = ["met"]', 'fill = ""', "jets.toml:24: histograms.met.fill: empty expression"),
        ("[samples]", "[samples", "not a TOML file"),
        ('tree = "TTbar/mytree"', "", "which tree?"),
        ('where = "jet_pt > 25000"', "where = 3", "jets.toml:3: where: Expected `str`"),
    ],
)  # fmt: skip
def test_errors_say_where(tmp_path, monkeypatch, old, new, said):
    assert old in FILE
    (tmp_path / "jets.toml").write_text(FILE.replace(old, new, 1))
    monkeypatch.chdir(tmp_path)
    from pathlib import Path

    with pytest.raises(UsageError) as raised:
        draft(Asked(config=Path("jets.toml")))
    assert said in raised.value.message


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"fill": ()}, "--bins without --fill"),
        ({"fill": (), "bins": ()}, "what is to be filled?"),
        ({"bins": ()}, "1 --fill and 0 --bins"),
        ({"fill": ("x", "y"), "bins": ("1,0,1",) * 3}, "2 --fill and 3 --bins"),
        ({"fill": ("x : y : z",)}, "more than two axes"),
        ({"fill": ("x : y",)}, "2 axes, but bins for 1"),
        ({"names": ("a", "b")}, "2 --name and 1 --fill"),
        ({"files": ()}, "which files?"),
        ({"tree": ""}, "which tree?"),
        ({"by_sample": True}, "there are no samples"),
        ({"samples": ("a",)}, "not a new NAME=GLOB"),
        ({"samples": ("a=x", "a=y")}, "not a new NAME=GLOB"),
        ({"samples": ("a/b=x",)}, "cannot be its name"),
        ({"skim": ("x",)}, "histograms or a skim, not both"),
        (
            {"fill": (), "bins": (), "skim": ("x",), "samples": ("a=x",), "by_sample": True},
            "--by-sample does nothing to a skim",
        ),
        ({"fill": (), "bins": (), "function": "m:f", "where": "x > 1"}, "--where does nothing"),
        ({"bins": ("10,0",)}, "is not [N, low, high]"),
        ({"bins": ("nan,0,1",)}, "nan bins?"),
        ({"bins": ("1e400,0,1",)}, "inf bins?"),
        ({"bins": ("1,0,inf",)}, "from 0 to inf there are no bins"),
        ({"bins": ("10,-1e308,1e308",)}, "there are no bins"),
        ({"bins": ("a,0,1",)}, "'a' is not a number"),
        ({"bins": ("10,0,1,log",)}, "begin above 0"),
        ({"bins": ("100000000,0,1",)}, "more than"),
        ({"branches": ("x",)}, "there is no --function"),
        ({"where": "x >"}, "--where: 'x >': not an expression"),
    ],
)
def test_options_that_make_no_sense(more, said):
    with pytest.raises(UsageError) as raised:
        draft(asked(**more))
    assert said in raised.value.message


def test_axes_and_names():
    assert parse_axes("[0, 1,5]", "")[0].edges == (0, 1, 5)
    edges = parse_axes("3,1,1000,log", "")[0].edges
    np.testing.assert_allclose(edges, [1, 10, 100, 1000])
    assert edges[0] == 1
    assert edges[-1] == 1000
    two = parse_axes("10,0,1 : [0,1,2]", "")
    assert [axis.kind for axis in two] == ["regular", "variable"]
    found = draft(
        asked(
            fill=("jet_E / 1000", "jet_E/1000", "`a:b` : y", "cutflow"),
            bins=("1,0,1", "1,0,1", "1,0,1 : 2,0,1", "1,0,1"),
        )
    )
    names = [spec.name for spec in found.job.histograms]
    assert names == ["jet_E_1000", "jet_E_1000_2", "a_b__y", "cutflow_2"]
    assert found.job.histograms[2].fill == ("`a:b`", "y")
