"""Skims: the right events and objects, bit by bit, and one file whatever the batches were."""

import json

import awkward as ak
import histogram_files
import numpy as np
import pyarrow.parquet as pq
import pytest
import uproot

from dask_runner import rootfiles
from dask_runner.errors import BadInputError, UsageError
from dask_runner.histograms import skim_joining
from dask_runner.histograms.selection import Selector
from dask_runner.histograms.skimming import (
    COLUMNS,
    Skim,
    is_numeric,
    objects_of,
    plain_type,
    resolve,
)
from dask_runner.histograms.spec import Job
from dask_runner.histograms.values import CountsDifferError
from dask_runner.rootfiles.chunks import reader
from dask_runner.workloads.histogram import Histogram

TREE = histogram_files.TREE
NAME = "mytree"
TYPES = {
    "event": "uint64_t",
    "met": "float",
    "jet_pt": "float[]",
    "jet_E": "float[]",
    "njet": "int",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("skims") / "source.root"
    return path, ak.Array(histogram_files.write(path, 1000, seed=5))


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """A file with lists of lists."""
    rng = np.random.default_rng(6)
    jets = rng.poisson(2, 500)
    tracks = rng.poisson(3, jets.sum())
    columns = {
        "jet_pt": ak.unflatten(rng.exponential(40e3, jets.sum()), jets),
        "jet_track_z": ak.unflatten(
            ak.unflatten(rng.normal(0, 1, tracks.sum()).astype("f4"), tracks), jets
        ),
        "met": rng.exponential(30, 500),
    }
    path = tmp_path_factory.mktemp("skims") / "deep.root"
    with uproot.recreate(path) as file:
        file.mkrntuple("events", ak.Array(columns).layout.form).extend(ak.Array(columns))
    return path, ak.Array(columns)


def skim(path, tree, texts, folder, *, size, where="", event=""):
    """The files of all ranges."""
    parts = []
    with reader(path, tree) as found:
        columns = resolve(texts, found.types)
        wanted = Skim(columns, found.types, objects_of(found, columns, where))
        job = Job(tree=tree, where=where, where_event=(event,) if event else ())
        selector = Selector(job)
        read = [name for one in selector.expressions for name in one.branches]
        branches = list(dict.fromkeys((*wanted.branches, *read)))
        for number, first in enumerate(range(0, found.entries, size)):
            part = folder / f"{size}-{number}.root"
            stop = min(first + size, found.entries)
            with wanted.writer(part, NAME) as out:
                for chunk in found.chunks(branches, first, stop, step=170):
                    selected = selector.select(str(path), chunk)
                    out.add(chunk, selected.columns, selected.events, selected.objects)
            assert rootfiles.validate(part, NAME) == out.entries
            parts.append(part)
    return parts


def test_events_objects_and_derived_columns(source, tmp_path):
    path, events = source
    texts = ["run", "flag", "small", "jet_*", "mu_pt", "ratio = jet_pt / jet_E", "twice = 2 * met"]
    parts = skim(path, TREE, texts, tmp_path, size=300, where="jet_pt > 30e3", event="met > 20")
    count, _ = skim_joining.join(parts, tmp_path / "skim.root", NAME, {"run": "x"})
    kept = events[events.met > 20]
    good = kept.jet_pt > 30e3
    with uproot.open(tmp_path / "skim.root") as file:
        found = file[NAME].arrays()
        assert json.loads(str(file["metadata"]))[COLUMNS] == [
            "run", "flag", "small", "jet_E", "jet_pt", "mu_pt", "ratio", "twice",
        ]  # fmt: skip
    assert count == len(kept) == len(found) < len(events)
    # In the order of the input, in the types of the input.
    for name in ("run", "flag", "small"):
        assert found[name].tolist() == kept[name].tolist()
        assert found[name].type.content == kept[name].type.content
    for name in ("jet_E", "jet_pt"):
        assert ak.all(found[name] == kept[name][good])
        assert ak.num(found[name]).tolist() == ak.sum(good, axis=1).tolist()
    # Another collection is not pruned.
    assert ak.all(found.mu_pt == kept.mu_pt)
    assert ak.all(found.ratio == (kept.jet_pt / kept.jet_E)[good])
    assert found.twice.tolist() == (2 * kept.met).tolist()


@pytest.mark.parametrize("ending", ["root", "parquet"])
def test_the_same_bytes_for_any_batch_size(source, deep, tmp_path, ending):
    for number, (path, tree, texts) in enumerate(
        ((source[0], TREE, ["*", "r = jet_pt / jet_E"]), (deep[0], "events", ["*"]))
    ):
        found = set()
        for size in (1000, 90):
            parts = skim(path, tree, texts, tmp_path, size=size, where="jet_pt > 25e3")
            target = tmp_path / f"skim{number}.{ending}"
            counts = skim_joining.join(parts, target, NAME, {"run": "x"})
            found.add((target.read_bytes(), counts))
        assert len(found) == 1


def test_lists_of_lists_are_an_rntuple(deep, tmp_path):
    path, events = deep
    parts = skim(path, "events", ["*"], tmp_path, size=200, where="jet_pt > 30e3", event="met > 10")
    _, content = skim_joining.join(parts, tmp_path / "skim.root", NAME, {})
    skim_joining.join(parts, tmp_path / "skim.parquet", NAME, {})
    kept = events[events.met > 10]
    good = kept.jet_pt > 30e3
    with uproot.open(tmp_path / "skim.root") as file:
        assert file.classname_of(NAME) == "ROOT::RNTuple"
        found = file[NAME].arrays()
    for one in (found, ak.from_parquet(tmp_path / "skim.parquet")):
        assert one.jet_track_z.tolist() == kept.jet_track_z[good].tolist()
        assert one.met.tolist() == kept.met.tolist()
    assert len(content) == 64


def test_parquet_has_lists_of_any_depth_and_the_cutflow(source, tmp_path):
    path, events = source
    parts = skim(path, TREE, ["run", "mu_pt"], tmp_path, size=400)
    skim_joining.join(parts, tmp_path / "s.parquet", NAME, {"cutflow": [1]})
    schema = pq.read_schema(tmp_path / "s.parquet")
    assert schema.names == ["run", "mu_pt"]
    assert not any(field.nullable for field in schema)
    about = json.loads(schema.metadata[skim_joining.PARQUET_KEY])
    assert about["cutflow"] == [1]
    assert pq.read_table(tmp_path / "s.parquet")["mu_pt"].to_pylist() == events.mu_pt.tolist()


def test_nothing_selected_is_an_empty_file(source, deep, tmp_path):
    for number, (path, tree) in enumerate(((source[0], TREE), (deep[0], "events"))):
        parts = skim(path, tree, ["met", "jet_*"], tmp_path, size=500, event="met > 1e9")
        for ending in ("root", "parquet"):
            target = tmp_path / f"empty{number}.{ending}"
            assert skim_joining.join(parts, target, NAME, {})[0] == 0
        assert ak.fields(ak.from_parquet(target))[0] == "met"
        with uproot.open(target.with_suffix(".root")) as file:
            assert file[NAME].num_entries == 0


def test_branches_with_a_common_counter_keep_it(tmp_path):
    counts = np.array([2, 0, 3])
    jets = rootfiles.Jagged(
        offsets=rootfiles.offsets_of(counts),
        columns={"pt": np.arange(5.0), "eta": np.arange(5.0) / 2},
    )
    path = tmp_path / "ours.root"
    table = rootfiles.Table(entries=3, columns={"met": np.ones(3)}, jagged={"jet": jets})
    rootfiles.write(path, {"events": table}, {})
    (part,) = skim(path, "events", ["*", "x = jet_pt"], tmp_path, size=3, where="jet_pt > 1.5")
    with uproot.open(part) as file:
        tree = file[NAME]
        assert tree["jet_pt"].count_branch.name == tree["jet_eta"].count_branch.name == "njet"
        assert tree["x"].count_branch.name == "nx"
        assert tree["njet"].array().tolist() == [0, 0, 3]
        assert tree["jet_eta"].array().tolist() == [[], [], [1.0, 1.5, 2.0]]
    # Our own readers see the same.
    assert rootfiles.read(part, NAME).jagged["x"][""].tolist() == [2, 3, 4]


def test_objects_that_do_not_fit_are_refused(source, tmp_path):
    path, _ = source
    with pytest.raises(CountsDifferError) as caught:
        skim(path, TREE, ["a = jet_pt + mu_pt"], tmp_path, size=100)
    assert caught.value.names == ("jet_pt", "mu_pt")
    # What was found in the first file does not hold for another.
    with reader(path, TREE) as found:
        wanted = Skim(("mu_pt",), found.types, pruned=("mu_pt",))
        selector = Selector(Job(tree=TREE, where="jet_pt > 1"))
        (chunk,) = found.chunks(["mu_pt", "jet_pt"], 0, 100, step=100)
        selected = selector.select(str(path), chunk)
    with pytest.raises(CountsDifferError) as caught:
        wanted.selected(chunk, selected.columns, selected.events, selected.objects)
    assert caught.value.names[0] == "mu_pt"


def test_a_counter_is_no_other_column(source, tmp_path):
    path, _ = source
    with pytest.raises(UsageError, match="needs a counter nr for it"):
        skim(path, TREE, ["r = 2 * mu_pt", "nr = met"], tmp_path, size=500)
    # The counters of what is read are counters of what is written.
    (part,) = skim(path, TREE, ["*"], tmp_path, size=1000, where="jet_pt > 40e3")
    with uproot.open(part) as file:
        tree = file[NAME]
        assert tree["njet_pt"].array().tolist() == ak.num(tree["jet_pt"].array()).tolist()


def test_lists_with_the_objects_of_where_are_found_in_the_data(source, deep):
    path, _ = source
    with reader(path, TREE) as found:
        columns = resolve(["*", "r = jet_pt / jet_E", "m = 2 * mu_pt"], found.types)
        assert objects_of(found, columns, "jet_pt > 25") == ("jet_E", "jet_pt", "r")
        assert objects_of(found, columns, "mu_pt > 25") == ("mu_pt", "m")
        assert objects_of(found, columns, "met > 25") == objects_of(found, columns, "") == ()
        with pytest.raises(UsageError, match="'jet_pt > 25': no column of the skim has these"):
            objects_of(found, ["met", "mu_pt"], "jet_pt > 25")
    with reader(deep[0], "events") as found:
        assert objects_of(found, ["jet_pt", "jet_track_z"], "jet_pt > 1") == (
            "jet_pt",
            "jet_track_z",
        )


def test_a_cut_of_events_where_objects_are_cut_selects_events(source, tmp_path):
    path, events = source
    (part,) = skim(path, TREE, ["jet_pt"], tmp_path, size=1000, where="met > 20")
    with uproot.open(part) as file:
        assert file[NAME]["jet_pt"].array().tolist() == events[events.met > 20].jet_pt.tolist()


def test_parts_that_do_not_fit_are_refused(source, tmp_path):
    path, _ = source
    (one,) = skim(path, TREE, ["met"], tmp_path, size=1000)
    (other,) = skim(path, TREE, ["run"], tmp_path / ".", size=2000)
    for ending in ("root", "parquet"):
        with pytest.raises(BadInputError, match=r"2000-0.root"):
            skim_joining.join([one, other], tmp_path / f"s.{ending}", NAME, {})


@pytest.mark.parametrize(
    ("texts", "columns"),
    [
        (["event", "jet_pt"], ("event", "jet_pt")),
        (["jet_*"], ("jet_pt", "jet_E")),
        (["*", "!jet_*", "!n*"], ("event", "met")),
        (["met", "met"], ("met",)),
        (["x=met / 2"], ("x = met / 2",)),
        (["y = met == 2"], ("y = met == 2",)),
    ],
)
def test_columns_are_resolved(texts, columns):
    assert resolve(texts, TYPES) == columns


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["mett"], "no such branch"),
        (["tau_*"], "no branch matches"),
        (["met", "!tau*"], "takes nothing away"),
        (["met", "!met"], "no column"),
        (["met = 2 * met", "met"], "two columns of the name met"),
        (["n b = met"], "n b = met: not NAME = EXPRESSION"),
        (["tést = met"], "not NAME = EXPRESSION"),
        (["x = tau_pt"], "tau_pt: there is no such branch"),
        (["x = __import__('os')"], "x"),
        (["x = met."], "not an expression"),
    ],
)
def test_wrong_columns_are_refused(texts, message):
    with pytest.raises(UsageError, match=message):
        resolve(texts, TYPES)


def test_folders_and_objects_of_classes():
    types = {"a/met": "float", "b/met": "float", "a/name": "std::string", "a/p4": "TLorentzVector"}
    with pytest.raises(UsageError, match="is one of a/met, b/met"):
        resolve(["met"], types)
    with pytest.raises(UsageError, match=r"two columns of the name met"):
        resolve(["*/met"], types)
    with pytest.raises(UsageError, match=r"a/name \(std::string\)") as caught:
        resolve(["a/*"], types)
    assert "'!name'" in caught.value.hint
    assert resolve(["a/*", "!name", "!p4"], types) == ("a/met",)


def test_points_in_names_are_written_as_underscores(tmp_path):
    columns = {"jet.pt": np.arange(3.0), "jet.E": np.arange(3.0) * 2}
    path = tmp_path / "points.root"
    with uproot.recreate(path) as file:
        file.mktree("events", {name: column.dtype for name, column in columns.items()})
        file["events"].extend(columns)
    assert resolve(["*", "!jet.E"], dict.fromkeys(columns, "double")) == ("jet.pt",)
    (part,) = skim(path, "events", ["jet.*", "r = `jet.pt` / 2"], tmp_path, size=3)
    assert rootfiles.read(part, NAME).columns.keys() == {"jet_pt", "jet_E", "r"}


@pytest.mark.parametrize("kind", ["float", "std::vector<std::vector<float>>", "uint64_t[3]", "int32[]",
                                  "bool", "double[][4]", "unsigned int", "std::int32_t", "ULong64_t"])  # fmt: skip
def test_numbers_and_lists_of_them(kind):
    assert is_numeric(kind)


@pytest.mark.parametrize(
    "kind", ["std::string", "TLorentzVector", "std::vector<std::string>", "char*"]
)
def test_what_is_not_numbers(kind):
    assert not is_numeric(kind)


def test_types_are_the_same_whoever_says_them():
    same = ("float32[]", "float[]", "std::vector<float>", "vector<float>")
    assert {plain_type(kind) for kind in same} == {"float32 in 1 lists"}
    same = ("std::vector<std::vector<std::int32_t>>", "int32_t[][4]")
    assert {plain_type(kind) for kind in same} == {"int32 in 2 lists"}
    assert plain_type("double") == "float64 in 0 lists"


def test_files_whose_skims_could_not_be_joined_are_problems_of_the_plan(tmp_path):
    histogram_files.write(tmp_path / "a.root", 100)
    columns = histogram_files.events(100, 2)
    with uproot.recreate(tmp_path / "b.root") as file:
        types = {**histogram_files.TYPES, "jet_pt": "var * float64"}
        file.mktree(TREE, types)
        file[TREE].extend({**columns, "jet_pt": ak.values_astype(columns["jet_pt"], "f8")})
    (problem,) = problems(f"{tmp_path}/*.root", "x = jet_pt")
    assert "b.root: the branch 'jet_pt' is float64 in 1 lists, not float32 in 1 lists" in problem
    assert not problems(f"{tmp_path}/*.root", "jet_E")
    (problem,) = problems(f"{tmp_path}/a.root", "none")
    assert "has no branch 'none'" in problem


def problems(files, column):
    workload = Histogram(job=Job(tree=TREE, skim=(column,)), files=(files,), batch_size=50)
    return workload.plan().problems
