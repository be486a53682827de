"""Lists of events: columns, units, and errors that say where."""

import json

import numpy as np
import pytest
from coincidence_inputs import events

from dask_runner.errors import BadInputError
from dask_runner.sky import lists

HEAD = "time,ra,dec,sigma,energy\n"


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.CSV"])
def test_what_is_written_is_read(tmp_path, name):
    there = events(20)
    lists.write_list(tmp_path / name, there)
    found = lists.read_list(tmp_path / name)
    for column in lists.COLUMNS:
        assert getattr(found, column) == pytest.approx(getattr(there, column), rel=1e-14)
    assert found.span == pytest.approx(0.19 * 86400)


def test_names_of_others_and_columns_that_do_not_count(tmp_path):
    path = tmp_path / "a.json"
    row = {"mjd": 58000.5, "ra": 90, "dec": -45, "sigma": 1, "energy": 1e3, "type": "observation"}
    path.write_text(json.dumps({"triggers": [row]}))
    found = lists.read_list(path)
    assert found.time == [58000.5]
    assert found.ra == pytest.approx(np.pi / 2)
    assert found.dec == pytest.approx(-np.pi / 4)
    csv = tmp_path / "a.csv"
    csv.write_text("\ufeffRun, Energy,MJD,RA,Dec,Ang_Err\n7,1000,58000.5,90,-45,1\n\n")
    again = lists.read_list(csv)
    assert again.sigma == pytest.approx(np.radians(1))
    assert again.time == [58000.5]


def test_a_list_may_be_empty(tmp_path):
    (tmp_path / "a.csv").write_text(HEAD)
    (tmp_path / "a.json").write_text("[]")
    for name in ("a.csv", "a.json"):
        found = lists.read_list(tmp_path / name)
        assert (len(found), found.span) == (0, 0)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "line 1: there is no column time"),
        ("a.csv", "time,ra,dec,energy\n", "line 1: there is no column sigma"),
        ("a.csv", HEAD + "1,2,3,1,5\n1,2,3\n", "line 3: 3 values, not 5"),
        ("a.csv", HEAD + "1,2,x,1,5\n", "line 2: dec 'x' is not a number"),
        ("a.csv", HEAD + "1,2,nan,1,5\n", "line 2: dec 'nan' is not a finite number"),
        ("a.csv", HEAD + "1,2,91,1,5\n", "line 2: dec 91 is not within 90 degrees"),
        ("a.csv", HEAD + "1,400,3,1,5\n", "line 2: ra 400"),
        ("a.csv", HEAD + "1,2,3,0,5\n", "line 2: sigma 0 is not an angular error"),
        ("a.csv", HEAD + "1,2,3,1,-5\n", "line 2: energy -5 is not above 0"),
        ("a.json", '{"events": [{"time": 1}]}', "event 0: there is no ra"),
        ("a.json", '{"events": [3]}', "event 0: not an object"),
        ("a.json", '{"events": {}}', "no list of events"),
        ("a.json", '[\n{"time": }]', "line 2: "),
        (
            "a.json",
            '[{"time": 1, "ra": true, "dec": 1, "sigma": 1, "energy": 1}]',
            "event 0: ra True is not a number",
        ),
        ("a.txt", "", "not a list of events"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInputError, match=f"{name}.*{message}"):
        lists.read_list(tmp_path / name)


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(BadInputError, match="nothing.csv: No such file"):
        lists.read_list(tmp_path / "nothing.csv")
    (tmp_path / "a.csv").write_bytes(b"time\xff,ra\n")
    with pytest.raises(BadInputError, match="a.csv: not UTF-8"):
        lists.read_list(tmp_path / "a.csv")


def test_both_readers_of_csv_agree(tmp_path, monkeypatch):
    lists.write_list(tmp_path / "a.csv", events(200))
    fast = lists.read_list(tmp_path / "a.csv")
    monkeypatch.setattr(lists, "_columns", lambda path: None)
    slow = lists.read_list(tmp_path / "a.csv")
    for column in lists.COLUMNS:
        assert getattr(fast, column).tobytes() == getattr(slow, column).tobytes()
