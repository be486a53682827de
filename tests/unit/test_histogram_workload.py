"""The workload of histograms: the right numbers, and the same ones whatever the batches are."""

import math
import random
import sys
from pathlib import Path

import awkward as ak
import boost_histogram as bh
import hist
import histogram_files
import numpy as np
import pytest
import uproot
from msgspec.structs import replace

from dask_runner import histogram_runs, rootfiles
from dask_runner.batch import BatchFailedError, FailureKind
from dask_runner.errors import BadInputError, UsageError
from dask_runner.histograms.drafting import Asked
from dask_runner.opening import Target
from dask_runner.rootfiles.chunks import reader
from dask_runner.settings import Settings
from dask_runner.workloads.histogram_inputs import aligned
from dask_runner.workloads.interface import MergeRequest, Part

TREE = histogram_files.TREE
WEIGHTED = {
    "fill": (
        "jet_E / 1000",
        "met : exp(-met / 30) * sin(met)",
        "count(jet_pt > 25e3)",
        "log(mu_pt)",
    ),
    "bins": ("200,0,2000", "30,0,300 : [-1,-0.3,0,0.2,1]", "10,0,10", "50,1,1e6,log"),
    "names": ("energy", "plane", "number", "muons"),
    "weight": "w",
    "where_event": ("met > 3", "flag or met > 20"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    columns = {}
    for seed, name, number in ((1, "a1", 1500), (2, "a2", 1000), (3, "b10", 700), (4, "b9", 1)):
        path = folder / f"{name}.root"
        columns[path] = histogram_files.write(path, number, seed)
    return folder, columns


def asked(folder, **more):
    return Asked(**{"files": (f"{folder}/*.root",), "tree": TREE, **more})


def planned(wanted, batch_size=400):
    chunk = {"chunk": 500} if wanted.function else {}
    request = histogram_runs.HistogramRequest(asked=wanted, batch_size=batch_size, **chunk)
    return histogram_runs.plan(request, Settings(), Target(cluster="local")).workload


def result(workload, folder, order=None):
    """All batches in any order, through their bytes."""
    plan = workload.plan()
    assert not plan.problems
    batches = [*plan.batches]
    random.Random(order).shuffle(batches)
    parts = []
    for batch in batches:
        files = workload.run(batch, folder).files
        for name, content in files.items():
            (folder / name).write_bytes(content)
        parts.append(Part(batch=batch, folder=folder))
    return workload.result(MergeRequest(parts=parts, folder=folder))


def same(one, other):
    assert one.cutflow == other.cutflow
    assert (one.events_read, one.events_asked) == (other.events_read, other.events_asked)
    for mine, theirs in zip(one.histograms, other.histograms, strict=True):
        assert mine.spec == theirs.spec
        assert mine.nan == theirs.nan
        for what in ("counts", "values", "variances"):
            assert getattr(mine, what).tobytes() == getattr(theirs, what).tobytes()


def test_the_numbers_of_a_plain_loop(data, tmp_path):
    folder, columns = data
    workload = planned(
        asked(
            folder, fill=("jet_E / 1000",), bins=("20,0,2000",), where="jet_pt > 25e3",
            where_event=("met > 10",), weight="w",
        )
    )  # fmt: skip
    found = result(workload, tmp_path)
    (filled,) = found.histograms
    weights, squares, counts = ([[] for _ in range(22)] for _ in range(3))
    events, objects = [0, 0], [0, 0]
    for whole in columns.values():
        energies, momenta = whole["jet_E"].tolist(), whole["jet_pt"].tolist()
        for k in range(len(whole["met"])):
            events[0] += 1
            if not whole["met"][k] > 10:
                continue
            events[1] += 1
            for energy, momentum in zip(energies[k], momenta[k], strict=True):
                objects[0] += 1
                if momentum > 25e3:
                    objects[1] += 1
                    place = min(21, 1 + int(np.float32(energy) / np.float32(1000) // 100))
                    weights[place].append(whole["w"][k])
                    squares[place].append(whole["w"][k] * whole["w"][k])
                    counts[place].append(1)
    assert filled.counts.tolist() == [len(one) for one in counts]
    assert filled.values.tolist() == [math.fsum(one) for one in weights]
    assert filled.variances.tolist() == [math.fsum(one) for one in squares]
    assert [(c.name, c.level, c.count) for c in found.cutflow] == [
        ("all", "event", events[0]),
        ("met > 10", "event", events[1]),
        ("all", "object", objects[0]),
        ("jet_pt > 25e3", "object", objects[1]),
    ]
    every = math.fsum(w for whole in columns.values() for w in whole["w"])
    assert found.cutflow[0].weights == every
    assert (found.events_read, found.events_asked) == (3201, 3201)


def test_any_batch_size_and_order_gives_the_same_weighted_too(data, tmp_path):
    folder, _ = data
    wanted = asked(folder, **WEIGHTED)
    reference = result(planned(wanted, 10**6), tmp_path)
    assert len(planned(wanted, 37).plan().batches) > 80
    for size, order in ((400, 1), (37, 2), (299, 3)):
        same(reference, result(planned(wanted, size), tmp_path, order))
    assert reference["plane"].weighted
    assert reference["plane"].values.shape == (32, 6)


def test_without_weights_counts_are_the_values(data, tmp_path):
    folder, columns = data
    found = result(planned(asked(folder, fill=("met",), bins=("10,0,100",))), tmp_path)
    expected = bh.Histogram(bh.axis.Regular(10, 0, 100))
    for whole in columns.values():
        expected.fill(whole["met"])
    (filled,) = found.histograms
    assert not filled.weighted
    for what in (filled.counts, filled.values, filled.variances):
        assert what.tolist() == expected.values(flow=True).tolist()
    assert found.cutflow[0].weights == found.cutflow[0].count == 3201


def test_samples_have_rows_and_cutflows(data, tmp_path):
    folder, columns = data
    wanted = asked(
        folder, files=(), samples=(f"top={folder}/a*.root", f"rest={folder}/b*.root"),
        fill=("met", "met"), bins=("10,0,100",), names=("rows", "sum"), weight="w",
        where_event=("met > 20",),
    )  # fmt: skip
    rows = result(planned(replace(wanted, by_sample=True)), tmp_path)
    flat = result(planned(wanted), tmp_path)
    assert rows["rows"].spec.axes[0].categories == ("top", "rest")
    for k, letter in enumerate("ab"):
        only = asked(
            folder, files=(f"{folder}/{letter}*.root",), fill=("met",), bins=("10,0,100",),
            weight="w", where_event=("met > 20",),
        )  # fmt: skip
        one = result(planned(only), tmp_path)
        assert rows["rows"].values[k].tobytes() == one.histograms[0].values.tobytes()
        own = [c for c in rows.cutflow if c.sample == ("top", "rest")[k]]
        assert [(c.count, c.weights) for c in own] == [(c.count, c.weights) for c in one.cutflow]
    whole = [math.fsum(w for c in columns.values() for w in c["w"])]
    assert [flat.cutflow[0].weights] == whole
    assert rows["rows"].counts.sum(axis=0).tolist() == flat["sum"].counts.tolist()


def test_samples_without_events_are_there(data, tmp_path):
    folder, _ = data
    empty = tmp_path / "none.root"
    with uproot.recreate(empty) as file:
        file.mktree(TREE, {"met": "float32", "w": "float64"})
    samples = (f"none={empty}", f"top={folder}/a*.root")
    wanted = asked(
        folder, files=(), samples=samples, fill=("met",), bins=("5,0,100",), by_sample=True,
        where_event=("met > 20",), weight="w",
    )  # fmt: skip
    found = result(planned(wanted), tmp_path)
    assert found.histograms[0].counts.sum(axis=1)[0] == 0
    cuts = [(c.sample, c.name, c.count) for c in found.cutflow if c.sample == "none"]
    assert cuts == [("none", "all", 0), ("none", "met > 20", 0)]


def test_our_own_files_and_rntuples_give_the_same(data, tmp_path):
    folder, columns = data
    (path, whole) = next(iter(columns.items()))
    counts = ak.num(whole["jet_E"])
    table = rootfiles.Table(
        entries=1500,
        columns={"met": whole["met"], "w": whole["w"]},
        jagged={
            "jet": rootfiles.Jagged(
                offsets=rootfiles.offsets_of(counts),
                columns={n: np.asarray(ak.flatten(whole[f"jet_{n}"])) for n in ("E", "pt")},
            )
        },
    )
    own, modern = tmp_path / "own.root", tmp_path / "modern.root"
    rootfiles.write(own, {"jets": table}, {})
    with uproot.recreate(modern) as file:
        file.mkrntuple("jets", {n: whole[n] for n in ("jet_E", "jet_pt", "met", "w")})
    wanted = {
        "fill": ("jet_E", "count(jet_pt > 25e3)"), "bins": ("10,0,1e6",), "weight": "w * met",
        "where_event": ("met > 3",),
    }  # fmt: skip
    reference = result(planned(asked(folder, files=(str(path),), **wanted)), tmp_path)
    for other in (own, modern):
        workload = planned(asked(folder, files=(str(other),), tree="jets", **wanted))
        same(reference, result(workload, tmp_path))


def test_baskets_are_not_cut_where_it_costs_little(data):
    folder, _ = data
    with reader(folder / "a1.root", TREE) as tree:
        boundaries = tree.shape(["jet_E", "met"]).boundaries
    assert boundaries == (300, 600, 900, 1200, 1500)
    assert aligned(1500, 320, boundaries) == [
        (0, 300),
        (300, 300),
        (600, 300),
        (900, 300),
        (1200, 300),
    ]
    assert aligned(1500, 100, boundaries)[:4] == [(0, 100), (100, 100), (200, 100), (300, 100)]
    assert aligned(1500, 450, boundaries)[0] == (0, 450)
    assert aligned(1500, 700, boundaries, grid=500) == [(0, 500), (500, 500), (1000, 500)]
    assert aligned(0, 100, (0,)) == []
    for size in (1, 7, 299, 1499, 1500, 5000):
        ranges = aligned(1500, size, boundaries)
        assert sum(count for _, count in ranges) == 1500
        assert all(count > 0 for _, count in ranges)


def test_nan_is_counted_apart(data, tmp_path):
    folder, columns = data
    wanted = asked(
        folder, fill=("max(jet_E)", "first(mu_pt) : met"), bins=("5,0,1e6", "5,0,1e5 : 5,0,1")
    )
    found = result(planned(wanted), tmp_path)
    empty = sum(int(ak.sum(ak.num(whole["jet_E"]) == 0)) for whole in columns.values())
    assert found.histograms[0].nan == empty
    assert found.histograms[0].entries == 3201 - empty
    assert found.histograms[1].nan + found.histograms[1].entries == 3201


def broken_weight(folder, tmp_path, expression):
    return result(
        planned(asked(folder, fill=("met",), bins=("1,0,1",), weight=expression)), tmp_path
    )


def test_weights_that_are_not_finite_are_named(tmp_path):
    columns = histogram_files.events(1000, 5)
    columns["w"][777] = np.nan
    columns["met"][3] = np.inf
    histogram_files.write(tmp_path / "x.root", 1000, columns=columns)
    histogram_files.write(tmp_path / "y.root", 1000, 6)
    for expression, said in [
        ("w", "x.root: entry 777: the weight 'w' is nan"),
        ("met", "x.root: entry 3: the weight 'met' is inf"),
        ("w * 1e200", "and must be between -1e+150 and 1e+150"),
    ]:
        with pytest.raises((BadInputError, BatchFailedError)) as raised:
            broken_weight(tmp_path, tmp_path, expression)
        assert said in raised.value.message
    broken_weight(tmp_path, tmp_path, "where(isfinite(w), w, 0)")


@pytest.mark.parametrize(
    ("more", "kind", "said"),
    [
        ({"fill": ("jet_E + mu_pt",)}, BadInputError, "jet_E has"),
        ({"where": "mu_pt > 3"}, BadInputError, "jet_E has"),
        ({"weight": "mu_pt"}, BadInputError, "jet_E has"),
        ({"fill": ("met",), "where": "jet_pt > 3"}, UsageError, "one value for each event"),
        ({"fill": ("met",), "weight": "jet_pt"}, UsageError, "one value for each event"),
        ({"where_event": ("jet_pt > 3",)}, UsageError, "a cut on events has one value"),
        ({"fill": ("nothing",)}, BadInputError, "has no branch 'nothing'"),
        ({"where_event": ("jet_Pt > 3",)}, BadInputError, "--where-event: 'jet_Pt > 3': "),
        ({"tree": "other"}, BadInputError, "has no tree 'other'"),
        ({"files": ("/nowhere/*.root",)}, UsageError, "no file matches"),
        ({"files": ("/nowhere/x.root",)}, BadInputError, "No such file"),
        ({"files": ("ftp://x/y.root",)}, UsageError, "not read from where it is"),
        ({"function": "nothing:fill"}, UsageError, "cannot be imported"),
        ({"function": "math:pi"}, UsageError, "is no function"),
        ({"function": "math:sqrt"}, UsageError, "which branches does it read?"),
        (
            {"function": "math:sqrt", "branches": ("met",)},
            UsageError,
            "failed on the first entries",
        ),
        ({"function": "./nothing.py:fill"}, UsageError, "does not exist"),
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(data, more, kind, said):
    with pytest.raises(kind) as raised:
        planned(asked(data[0], **{"fill": ("jet_E",), "bins": ("1,0,1",), **more}))
    assert said in raised.value.message


def test_a_branch_that_is_not_there_is_told_with_its_line(data, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(f'tree = "{TREE}"\n[histograms.x]\nfill = "mett"\nbins = [1, 0, 1]\n')
    with pytest.raises(BadInputError) as raised:
        planned(Asked(config=path, files=(f"{data[0]}/*.root",)))
    assert "bad.toml:3: histograms.x.fill: 'mett': " in raised.value.message
    assert raised.value.hint.startswith("did you mean met")


def test_files_that_do_not_fit(data, tmp_path):
    folder, _ = data
    whole = {"met": histogram_files.events(10, 1)["jet_E"]}
    odd = tmp_path / "odd.root"
    with uproot.recreate(odd) as file:
        file.mktree(TREE, {"met": "var * float32"}).extend(whole)
    (tmp_path / "text.root").write_text("no ROOT file")
    (tmp_path / "link.root").symlink_to(folder / "a1.root")
    empty = tmp_path / "empty.root"
    with uproot.recreate(empty) as file:
        file.mktree(TREE, {"met": "float32"})
    files = (f"{folder}/a*.root", f"{tmp_path}/*.root")
    plan = planned(asked(folder, files=files, fill=("met",), bins=("1,0,1",))).plan()
    said = "\n".join(plan.problems)
    assert "odd.root: the branch 'met' has lists, not in" in said
    assert "text.root: not a ROOT file" in said
    assert "is the same file as" in said
    assert "empty" not in said
    assert "1 of them have none" in plan.notes
    with pytest.raises(UsageError, match="is of no sample"):
        planned(
            asked(folder, samples=(f"a={folder}/a*.root",), fill=("met",), bins=("1,0,1",))
        ).plan()
    samples = (f"a={folder}/a*.root", f"b={folder}/*")
    twice = asked(folder, samples=samples, fill=("met",), bins=("1,0,1",))
    with pytest.raises(UsageError, match="is of the samples"):
        planned(twice).plan()


def test_names_that_look_like_patterns(tmp_path, monkeypatch):
    folder = tmp_path / "odd [a-z]*"
    folder.mkdir()
    histogram_files.write(folder / "x[1].root", 100)
    histogram_files.write(folder / "y10.root", 100, 2)
    histogram_files.write(folder / "y9.root", 100, 3)
    monkeypatch.chdir(folder)
    for given, names in [
        ("x[1].root", ["x[1].root"]),
        ("*.root", ["x[1].root", "y9.root", "y10.root"]),
        (f"{folder}/x[1].root", ["x[1].root"]),
    ]:
        plan = planned(asked("", files=(given,), fill=("met",), bins=("1,0,1",))).plan()
        assert [Path(file.path).name for file in plan.inputs] == names


def test_a_file_with_another_number_of_entries_is_refused(tmp_path):
    path = tmp_path / "x.root"
    histogram_files.write(path, 1000)
    workload = planned(asked(tmp_path, fill=("met",), bins=("1,0,1",)))
    batch = workload.plan().batches[0]
    histogram_files.write(path, 1001)
    with pytest.raises(BatchFailedError, match="1001 entries, but 1000 when the run") as raised:
        workload.run(batch, tmp_path)
    assert (raised.value.kind, raised.value.path) == (FailureKind.BAD_INPUT, str(path))


def test_damage_costs_its_own_ranges(tmp_path):
    path = tmp_path / "x.root"
    histogram_files.write(path, 3000)
    workload = planned(asked(tmp_path, fill=("jet_E",), bins=("1,0,1",)), 300)
    histogram_files.damage(path)
    outcomes = []
    for batch in workload.plan().batches:
        try:
            workload.run(batch, tmp_path)
            outcomes.append("")
        except BatchFailedError as error:
            outcomes.append(error.message)
    assert [k for k, said in enumerate(outcomes) if said] == [5]
    assert str(path) in outcomes[5]
    assert "damaged" in outcomes[5]
    assert outcomes[5].endswith("entries 1500 to 1799 of jet_E")


FUNCTION = """\
import awkward as ak, hist

def fill(chunk):
    pairs = ak.combinations(chunk["jet_E"], 2)
    total = ak.flatten(pairs["0"] + pairs["1"])
    weights = ak.flatten(ak.broadcast_arrays(chunk["w"], pairs["0"])[0])
    mass = hist.Hist.new.Reg(20, 0, 1e6, name="m", label="sum").Weight()
    mass.fill(total, weight=weights)
    number = hist.Hist.new.Int(0, 5, name="n").StrCat(["few", "many"], name="c").Int64()
    counts = ak.num(chunk["jet_E"]).to_numpy()
    number.fill(counts, ["few" if n < 2 else "many" for n in counts])
    return {"mass": mass, "number": number}

fill.branches = ["jet_E", "w"]
"""


def with_function(folder, tmp_path, text, batch_size=400, **more):
    (tmp_path / "own_fill.py").write_text(text)
    sys.modules.pop("own_fill", None)
    wanted = asked(folder, function=f"{tmp_path}/own_fill.py:fill", **more)
    return planned(wanted, batch_size)


def test_a_function_gives_the_same_for_any_batch_size(data, tmp_path, monkeypatch):
    folder, columns = data
    monkeypatch.syspath_prepend(tmp_path)
    found = [
        result(with_function(folder, tmp_path, FUNCTION, size, where_event=("met > 3",)), tmp_path)
        for size in (1, 900, 10**6)
    ]
    same(found[0], found[1])
    same(found[0], found[2])
    samples = {"files": (), "samples": (f"top={folder}/a*.root", f"rest={folder}/b*.root")}
    rows = with_function(
        folder, tmp_path, FUNCTION, where_event=("met > 3",), by_sample=True, **samples
    )
    apart = result(rows, tmp_path)
    mass, number = found[0].histograms
    assert apart["number"].counts.shape == (2, *number.counts.shape)
    assert apart["number"].counts.sum(axis=0).tolist() == number.counts.tolist()
    assert number.spec.axes[1].categories == ("few", "many", "other")
    assert not number.weighted
    expected = hist.Hist.new.Reg(20, 0, 1e6).Weight()
    for whole in columns.values():
        taken = whole["met"] > 3
        pairs = ak.combinations(whole["jet_E"][taken], 2)
        weights = ak.broadcast_arrays(whole["w"][taken], pairs["0"])[0]
        expected.fill(ak.flatten(pairs["0"] + pairs["1"]), weight=ak.flatten(weights))
    np.testing.assert_allclose(mass.values, expected.values(flow=True), rtol=1e-12)
    np.testing.assert_allclose(mass.variances, expected.variances(flow=True), rtol=1e-12)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def fill(chunk): return 3", "gave int, not a histogram"),
        ("def fill(chunk): return {}", "gave an empty dict"),
        ("def fill(chunk): return {'a/b': H()}", "cannot be its name"),
        ("def fill(chunk): return hist.Hist.new.Reg(2, 0, 1).Mean()", "cannot be merged exactly"),
        ("def fill(chunk): return hist.Hist.new.Reg(2, 0, 1, growth=True).Int64()", "grows"),
        ("def fill(chunk): return H().fill([.5], weight=2)", "keeps no variances"),
        ("def fill(chunk): return {'met': H()}", "there is another histogram 'met'"),
        ("def fill(chunk): chunk['nothing']", "KeyError: 'nothing'"),
        ("def fill(chunk): raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_functions_that_give_something_else(data, tmp_path, monkeypatch, text, said):
    monkeypatch.syspath_prepend(tmp_path)
    head = "import hist\ndef H(): return hist.Hist.new.Reg(2, 0, 1).Double()\n"
    with pytest.raises(UsageError) as raised:
        with_function(
            data[0], tmp_path, head + text, fill=("met",), bins=("1,0,1",), names=("met",),
            branches=("met",),
        )  # fmt: skip
    assert said in raised.value.message


def test_what_a_function_says_is_no_result(data, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(tmp_path)
    text = (
        "import hist\nprint('imported')\ndef fill(chunk):\n    print('called')\n"
        "    return hist.Hist.new.Reg(2, 0, 1).Int64()\nfill.branches = ['met']\n"
    )
    with_function(data[0], tmp_path, text)
    said = capsys.readouterr()
    assert not said.out
    assert "imported\ncalled\n" in said.err


def test_a_function_that_changes_its_mind_fails_there(data, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    text = (
        "import hist\ndef fill(chunk):\n"
        "    return hist.Hist.new.Reg(2 + (len(chunk['run']) == 1), 0, 1).Int64()\n"
        "fill.branches = ['run']\n"
    )
    workload = with_function(data[0], tmp_path, text, batch_size=500)
    batches = workload.plan().batches
    workload.run(batches[0], tmp_path)
    (short,) = [batch for batch in batches if batch.count == 1]
    with pytest.raises(UsageError, match="its axes are not the same in all chunks"):
        workload.run(short, tmp_path)


def test_large_histograms_come_as_files(data, tmp_path):
    folder, _ = data
    wanted = asked(folder, fill=("met : w",), bins=("800,0,1 : 800,0,1",))
    (output,) = planned(wanted).plan().batches[0].outputs
    assert not output.returned
    found = result(planned(wanted), tmp_path)
    assert found.histograms[0].entries == 3201


def test_the_forecast_and_batches_by_time(data):
    workload = planned(asked(data[0], fill=("met",), bins=("1,0,1",)), 0)
    plan = workload.plan()
    assert any(note.startswith("expected: ") and "of CPU" in note for note in plan.notes)
    slow = replace(workload, measured=replace(workload.measured, entry=0.02), slots=1)
    assert max(batch.count for batch in slow.plan().batches) <= 30 / 0.02 * 1.25
    assert len(slow.plan().batches) > len(plan.batches)
