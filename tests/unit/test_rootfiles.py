"""ROOT files: what is written is read, by us and by uproot; what is damaged is named."""

import runpy
from pathlib import Path

import awkward as ak
import boost_histogram as bh
import numpy as np
import pytest
import uproot
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_runner import rootfiles
from dask_runner.errors import BadInputError
from dask_runner.rootfiles import Jagged, Table

REPOSITORY = Path(__file__).parents[2]


def table(entries: int, seed: int = 1, mean: float = 3.0) -> Table:
    stream = np.random.default_rng(seed)
    offsets = rootfiles.offsets_of(stream.poisson(mean, entries))
    items = offsets[-1]
    return Table(
        entries=entries,
        columns={
            "event": np.arange(entries),
            "weight": stream.random(entries),
            "flag": stream.integers(-5, 5, entries).astype(np.int8),
        },
        jagged={
            "jet": Jagged(
                offsets=offsets,
                columns={
                    "pt": stream.random(items).astype(np.float32),
                    "id": np.arange(items, dtype=np.int32),
                },
            ),
            "hit": Jagged(offsets=offsets, columns={"cell": np.arange(items, dtype=np.int16)}),
        },
    )


def same(a: Table, b: Table) -> bool:
    return (
        a.entries == b.entries
        and all((a[k] == b[k]).all() and a[k].dtype == b[k].dtype for k in a.columns)
        and all(
            (j.offsets == b.jagged[n].offsets).all()
            and all((v == b.jagged[n][k]).all() for k, v in j.columns.items())
            for n, j in a.jagged.items()
        )
    )


def by_uproot(path: Path, data: Table) -> None:
    """The same table in a file that we did not write."""
    with uproot.recreate(path, compression=uproot.ZLIB(1)) as file:
        columns = dict(data.columns)
        for name, group in data.jagged.items():
            record = ak.zip(dict(group.columns))
            columns[name] = ak.unflatten(record, group.counts)
        types = {
            k: v.dtype if isinstance(v, np.ndarray) else v.type.content for k, v in columns.items()
        }
        file.mktree("events", types).extend(columns)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a file.root"


@given(st.integers(0, 60), st.integers(1, 70), st.floats(0, 4), st.data())
@settings(max_examples=30, deadline=None)
def test_any_range_is_read_as_it_was_written(tmp_path_factory, entries, basket, mean, data):
    path = tmp_path_factory.mktemp("range") / "t.root"
    written = table(entries, mean=mean)
    rootfiles.write(path, {"events": written}, {}, basket=basket)
    first = data.draw(st.integers(0, entries))
    count = data.draw(st.integers(0, entries - first))
    read = rootfiles.read(path, "events", first=first, count=count)
    assert same(read, written.slice(first, first + count))


def test_uproot_reads_every_branch_of_our_files(path):
    written = table(230)
    rootfiles.write(path, {"events": written, "more": table(7), "none": table(0)}, {"a": "ü"})
    with uproot.open(path) as file:
        assert str(file["metadata"]) == '{"a": "\\u00fc"}'
        assert file["none"].num_entries == 0
        arrays = file["events"].arrays()
        for name, column in written.columns.items():
            assert (np.asarray(arrays[name]) == column).all()
        for group, jagged in written.jagged.items():
            assert (np.asarray(arrays[f"n{group}"]) == jagged.counts).all()
            for name, column in jagged.columns.items():
                values = arrays[f"{group}_{name}"]
                assert (np.asarray(ak.num(values)) == jagged.counts).all()
                assert (np.asarray(ak.flatten(values)) == column).all()
        part = file["events"].arrays(entry_start=95, entry_stop=205)
        assert (np.asarray(part["event"]) == np.arange(95, 205)).all()
        assert file["events"]["jet_pt"].count_branch.name == "njet"


def test_files_of_others_are_read_alike(path):
    written = table(230)
    by_uproot(path, written)
    read = rootfiles.read(path, "events", first=20, count=150)
    assert same(read, written.slice(20, 170))
    assert rootfiles.count_entries(path, "events") == 230
    assert rootfiles.validate(path, "events") == 230
    assert rootfiles.read_metadata(path) == {}


def test_equal_content_gives_equal_bytes_under_any_name(tmp_path):
    a, b = tmp_path / "a.root", tmp_path / "another name.root"
    for target in (a, b):
        rootfiles.write(target, {"events": table(50)}, {"k": 1})
    assert a.read_bytes() == b.read_bytes()


def test_the_content_hash_ignores_baskets_compression_metadata_and_writer(tmp_path):
    hashes = set()
    for basket in (1, 7, 100):
        target = tmp_path / f"{basket}.root"
        rootfiles.write(target, {"events": table(110)}, {"basket": basket}, basket=basket)
        hashes.add(rootfiles.content_hash(target))
    by_uproot(tmp_path / "u.root", table(110))
    hashes.add(rootfiles.content_hash(tmp_path / "u.root"))
    assert len(hashes) == 1


def test_the_content_hash_sees_values_types_order_and_where_lists_end(path):
    def hash_of(data: Table) -> str:
        rootfiles.write(path, {"events": data}, {})
        return rootfiles.content_hash(path)

    base = table(40)
    seen = {hash_of(base), hash_of(base.slice(0, 39))}
    changed = base["weight"].copy()
    changed[7] = np.nextafter(changed[7], 1)
    seen.add(
        hash_of(Table(entries=40, columns=base.columns | {"weight": changed}, jagged=base.jagged))
    )
    narrow = base["event"].astype(np.int32)
    seen.add(
        hash_of(Table(entries=40, columns=base.columns | {"event": narrow}, jagged=base.jagged))
    )
    backwards = base["event"][::-1].copy()
    seen.add(
        hash_of(Table(entries=40, columns=base.columns | {"event": backwards}, jagged=base.jagged))
    )
    offsets = base.jagged["hit"].offsets.copy()
    offsets[5] = offsets[4] if offsets[5] != offsets[4] else offsets[6]
    moved = Jagged(offsets=offsets, columns=base.jagged["hit"].columns)
    seen.add(hash_of(Table(entries=40, columns=base.columns, jagged=base.jagged | {"hit": moved})))
    assert len(seen) == 6


def test_the_independent_script_finds_the_same_hash(path):
    rootfiles.write(path, {"events": table(60), "jets": table(0), "more": table(9)}, {"x": 1})
    script = runpy.run_path(str(REPOSITORY / "scripts" / "content_hash.py"))
    assert script["content_hash"](str(path)) == rootfiles.content_hash(path)


def test_no_bit_of_our_files_can_flip_unnoticed(path):
    rootfiles.write(path, {"events": table(12)}, {"k": 1}, basket=5)
    good = path.read_bytes()
    stream = np.random.default_rng(3)
    # Every byte of the ends, where the books are, and a sample of the rest.
    places = [*range(300), *range(len(good) - 300, len(good))]
    places += stream.integers(0, len(good), 700).tolist()
    for place in places:
        bad = bytearray(good)
        bad[place] ^= 1 << int(stream.integers(8))
        path.write_bytes(bad)
        with pytest.raises(BadInputError, match=r"a file\.root"):
            rootfiles.validate(path, "events")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.5, 0.9, 0.999])
def test_truncated_files_are_refused_by_all_that_read_them(path, share):
    rootfiles.write(path, {"events": table(200)}, {})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    for use in (rootfiles.validate, rootfiles.count_entries, rootfiles.read):
        with pytest.raises(BadInputError, match="truncated|empty|not a ROOT|damaged"):
            use(path, "events")


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated_files_of_others_are_called_truncated(path, share):
    by_uproot(path, table(400))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(BadInputError, match="truncated"):
        rootfiles.count_entries(path, "events")


def test_flipped_bits_in_files_of_others_raise_nothing_but_bad_input(path):
    by_uproot(path, table(300, mean=20))
    good = path.read_bytes()
    stream = np.random.default_rng(5)
    messages = []
    for place in stream.integers(0, len(good), 60):
        bad = bytearray(good)
        bad[place] ^= 1 << int(stream.integers(8))
        path.write_bytes(bad)
        try:
            rootfiles.validate(path, "events")
        except BadInputError as error:
            messages.append(error.message)
    assert len(messages) > 20
    assert all(str(path) in message for message in messages)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), (b"", "empty file"), (b"<html>not found</html>" * 9, "not a ROOT")],
)
def test_files_that_are_no_root_files_are_named(path, content, message):
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInputError, match=message):
        rootfiles.count_entries(path, "events")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(BadInputError, match="directory"):
        rootfiles.validate(tmp_path, "events")


def test_a_missing_tree_is_named_with_those_that_are_there(path):
    rootfiles.write(path, {"other": table(3)}, {})
    with pytest.raises(BadInputError, match=r"no tree 'events' \(its trees: other\)"):
        rootfiles.count_entries(path, "events")
    by_uproot(path, table(3))
    with pytest.raises(BadInputError, match=r"no tree 'CollectionTree' \(its trees: events\)"):
        rootfiles.count_entries(path, "CollectionTree")


def test_a_range_beyond_the_end_is_refused(path):
    rootfiles.write(path, {"events": table(3)}, {})
    with pytest.raises(BadInputError, match="only 3"):
        rootfiles.read(path, "events", first=2, count=2)


def test_rntuples_are_counted_and_read_through(path):
    with uproot.recreate(path) as file:
        file["events"] = {"x": np.arange(40.0)}
    assert rootfiles.count_entries(path, "events") == 40
    assert rootfiles.validate(path, "events") == 40
    with pytest.raises(BadInputError, match="'events' is a .*RNTuple, which cannot be merged"):
        rootfiles.concatenate([path], path.with_name("joined.root"), {})


def test_joined_files_equal_the_file_that_was_never_cut(tmp_path):
    whole = table(230)
    rootfiles.write(tmp_path / "whole.root", {"events": whole}, {})
    hashes = set()
    for size in (13, 100, 230):
        parts = []
        for first in range(0, 230, size):
            parts.append(tmp_path / f"{size}.{first}.root")
            part = whole.slice(first, min(first + size, 230))
            rootfiles.write(parts[-1], {"events": part}, {})
        target = tmp_path / f"joined.{size}.root"
        assert rootfiles.concatenate(parts, target, {"m": 1}) == {"events": 230}
        assert rootfiles.read_metadata(target) == {"m": 1}
        assert same(rootfiles.read(target, "events"), whole)
        hashes |= {rootfiles.content_hash(target), target.read_bytes()}
    # One content hash, and even the same bytes.
    assert len(hashes) == 2
    assert rootfiles.content_hash(tmp_path / "whole.root") in hashes


def test_files_with_other_branches_are_not_joined(tmp_path):
    a, b = tmp_path / "a.root", tmp_path / "b.root"
    rootfiles.write(a, {"events": table(3)}, {})
    fewer = table(3)
    rootfiles.write(b, {"events": Table(entries=3, columns=fewer.columns)}, {})
    with pytest.raises(BadInputError, match=r"b\.root"):
        rootfiles.concatenate([a, b], tmp_path / "c.root", {})


def _with_histograms(path: Path, seed: int) -> dict[str, bh.Histogram]:
    stream = np.random.default_rng(seed)
    regular = bh.axis.Regular(5, 0, 1)
    histograms = {
        "a/h1": bh.Histogram(regular),
        "w": bh.Histogram(regular, storage=bh.storage.Weight()),
        "h2": bh.Histogram(regular, bh.axis.Variable([0, 0.2, 1])),
        "h3": bh.Histogram(regular, regular, bh.axis.Regular(2, 0, 1)),
        "p": bh.Histogram(regular, storage=bh.storage.WeightedMean()),
    }
    for name, histogram in histograms.items():
        options = {"weight": stream.random(80)} if name in {"w", "p"} else {}
        if name == "p":
            options["sample"] = stream.random(80)
        histogram.fill(*stream.random((histogram.ndim, 80)) * 1.2 - 0.1, **options)
    with uproot.recreate(path) as file:
        for name, histogram in histograms.items():
            file[name] = histogram
        tree = file.mktree("d/t", {"x": "var * float32", "n": "int32"})
        tree.extend({"x": ak.Array([[1.0, 2.0], [], [float(seed)]]), "n": np.arange(3)})
    return histograms


def test_histograms_are_added_up_with_their_errors(tmp_path):
    parts = [tmp_path / f"{k}.root" for k in range(3)]
    filled = [_with_histograms(part, seed) for seed, part in enumerate(parts)]
    target = tmp_path / "sum.root"
    assert rootfiles.concatenate(parts, target, {}) == {"d/t": 9}
    with uproot.open(target) as file:
        for name in filled[0]:
            expected = sum((f[name] for f in filled[1:]), filled[0][name])
            found = file[name]
            assert found.values(flow=True) == pytest.approx(expected.values(flow=True))
            if name == "w":
                assert found.variances(flow=True) == pytest.approx(expected.variances(flow=True))
        assert file["a/h1"].member("fEntries") == 240
        assert file["d/t"]["x"].array().tolist()[-1] == [2.0]


def test_histograms_with_other_bins_are_not_added(tmp_path):
    parts = [tmp_path / "a.root", tmp_path / "b.root"]
    for bins, part in zip((4, 5), parts, strict=True):
        with uproot.recreate(part) as file:
            file["h"] = np.histogram([0.5], bins, (0, 1))
    with pytest.raises(BadInputError, match=r"b\.root: histogram 'h' has other bins"):
        rootfiles.concatenate(parts, tmp_path / "c.root", {})


def test_an_empty_list_of_parts_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="nothing to join"):
        rootfiles.concatenate([], tmp_path / "c.root", {})
