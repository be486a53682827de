"""Trials for other programs: nothing is rounded, nothing is replaced."""

import csv

import numpy as np
import pytest
from trial_files import trials_at

from dask_runner import conclusions, rootfiles
from dask_runner.errors import StorageError, UsageError

FIELDS = {"x": "<f8", "y": "<f4", "n": "<i4", "crc": "<u4", "converged": "?"}


@pytest.fixture
def trials(tmp_path):
    def make(_point, rng):
        return {
            "x": rng.normal(size=50) * 10.0 ** rng.integers(-300, 300, 50),
            "y": rng.random(50, dtype="f4"),
            "n": rng.integers(-9, 9, 50),
            "crc": rng.integers(0, 2**32, 50),
            "converged": rng.random(50) < 0.5,
        }

    points = [{"mass": 0.1 + 0.2}, {"mass": 2000}]
    return trials_at(tmp_path, points, make, FIELDS, failed=[3])


def same(table, columns):
    for name in table.dtype.names:
        expected = table[name]
        np.testing.assert_array_equal(np.asarray(columns[name]), expected, err_msg=name)


def test_csv(trials, tmp_path):
    found = conclusions.export(trials, tmp_path / "trials.csv")
    table = trials.flat()
    assert (found.trials, found.columns) == (100, table.dtype.names)
    with (tmp_path / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    kinds = {"f": float, "i": int, "u": int, "b": lambda text: text == "true"}
    columns = {
        name: np.array([kinds[table.dtype[name].kind](row[name]) for row in rows]).astype(
            table.dtype[name]
        )
        for name in table.dtype.names
    }
    same(table, columns)
    assert rows[0]["mass"] == "0.30000000000000004"
    assert (rows[3]["x"], rows[3]["failed"]) == ("nan", "true")


def test_parquet(trials, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    conclusions.export(trials, tmp_path / "trials.parquet")
    read = parquet.read_table(tmp_path / "trials.parquet")
    table = trials.flat()
    same(table, {name: read[name].to_numpy() for name in table.dtype.names})
    assert str(read.schema.field("y").type) == "float"


def test_root(trials, tmp_path):
    conclusions.export(trials, tmp_path / "trials.root")
    read = rootfiles.as_awkward([tmp_path / "trials.root"], "trials")
    table = trials.flat()
    same(table, {name: read[name].to_numpy() for name in table.dtype.names})


@pytest.mark.parametrize("ending", ["csv", "parquet", "root"])
def test_a_file_is_never_replaced(trials, tmp_path, ending):
    path = tmp_path / f"trials.{ending}"
    path.write_text("precious")
    with pytest.raises(UsageError, match="exists already"):
        conclusions.export(trials, path)
    assert path.read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_other_endings_and_folders(trials, tmp_path):
    with pytest.raises(UsageError, match="the ending says the format") as caught:
        conclusions.export(trials, tmp_path / "trials.txt")
    assert ".parquet, .csv, .root" in caught.value.hint
    with pytest.raises(StorageError, match="No such file"):
        conclusions.export(trials, tmp_path / "nowhere" / "trials.csv")


def test_text_parameters_are_not_for_root(tmp_path):
    trials = trials_at(
        tmp_path, [{"kind": "a"}], lambda _p, rng: {"x": rng.random(3)}, {"x": "<f8"}
    )
    with pytest.raises(UsageError, match="kind is text"):
        conclusions.export(trials, tmp_path / "trials.root")
    assert not (tmp_path / "trials.root").exists()
    conclusions.export(trials, tmp_path / "trials.csv")
    assert (tmp_path / "trials.csv").read_text().startswith("kind,trial,x,failed\na,0,0.")


def test_a_missing_library_is_named_with_what_installs_it(trials, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match="pyarrow is not installed") as caught:
        conclusions.export(trials, tmp_path / "trials.parquet")
    assert "dask-runner[tables]" in caught.value.hint
