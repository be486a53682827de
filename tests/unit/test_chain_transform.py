"""The steps as programs with ATLAS-style options."""

import json

import pytest
from chain_events import evnt

from dask_runner import chain, rootfiles
from dask_runner.chain import formats, transform
from dask_runner.settings import Geometry


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def report(tmp_path) -> dict:
    return json.loads((tmp_path / "jobReport.json").read_text())


def test_the_chain_by_programs_gives_the_same_bits(tmp_path):
    formats.write(tmp_path / "in.root", evnt(30))
    before = "in.root"
    expected = formats.read(tmp_path / "in.root", first=5, count=20)
    for number, (name, step) in enumerate(chain.STEPS.items()):
        options = [f"--input{step.input}File", before, f"--output{step.output}File", f"{name}.root"]
        options += ["--randomSeed", "3", "--jobNumber", "7", "--runNumber", "304795"]
        if number == 0:
            options += ["--skipEvents", "5", "--maxEvents", "20"]
        assert transform.main(name, options) == 0
        assert report(tmp_path)["nentries"] == 20
        expected = chain.run_step(name, expected, Geometry(), 3)
        formats.write(tmp_path / "expected.root", expected)
        assert (tmp_path / f"{name}.root").read_bytes() == (tmp_path / "expected.root").read_bytes()
        before = f"{name}.root"
    assert report(tmp_path)["files"]["output"][0]["subFiles"][0] == {
        "name": "ntuple.root",
        "nentries": 20,
    }


def test_more_events_than_there_are_is_not_an_error(tmp_path):
    formats.write(tmp_path / "in.root", evnt(8))
    options = ["--inputEVNTFile=in.root", "--outputHITSFile=out.root", "--maxEvents=99"]
    assert transform.main("simulate", [*options, "--skipEvents=6"]) == 0
    assert rootfiles.count_entries(tmp_path / "out.root", "events") == 2


def test_the_geometry_may_be_given(tmp_path):
    formats.write(tmp_path / "in.root", evnt(8))
    options = ["--inputEVNTFile=in.root", "--outputHITSFile=out.root"]
    assert transform.main("simulate", [*options, '--geometry={"field": 1.0}']) == 0
    weak = chain.run_step("simulate", evnt(8), Geometry(field=1.0), 1)
    formats.write(tmp_path / "weak.root", weak)
    assert rootfiles.content_hash(tmp_path / "out.root") == rootfiles.content_hash(
        tmp_path / "weak.root"
    )


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--inputEVNTFile=gone.root", "--outputHITSFile=o.root"], 8),
        (["--inputEVNTFile=in.root", "--outputHITSFile=o.root", "--skipEvents=8"], 8),
        (["--inputEVNTFile=in.root", "--outputHITSFile=o.root", "--runNumber=1"], 8),
        (["--inputEVNTFile=in.root"], 5),
        (["--inputEVNTFile=in.root", "--outputHITSFile=o.root", "--maxEvnts=3"], 5),
        (["--inputEVNTFile=in.root", "--outputHITSFile=o.root", "--geometry={}x"], 5),
        (["--inputEVNTFile=in.root", "--outputHITSFile=no/folder/o.root"], 74),
    ],
)
def test_failures_have_their_code_a_report_and_no_output(tmp_path, options, code):
    formats.write(tmp_path / "in.root", evnt(8))
    assert transform.main("simulate", options) == code
    assert report(tmp_path)["exitCode"] == code
    assert report(tmp_path)["exitMsg"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.root", "jobReport.json"]


def test_a_damaged_input_is_code_8(tmp_path):
    formats.write(tmp_path / "in.root", evnt(8))
    data = bytearray((tmp_path / "in.root").read_bytes())
    data[len(data) // 2] ^= 4
    (tmp_path / "in.root").write_bytes(data)
    options = ["--inputEVNTFile=in.root", "--outputHITSFile=o.root"]
    assert transform.main("simulate", options) == 8
    assert "damaged" in report(tmp_path)["exitMsg"]
