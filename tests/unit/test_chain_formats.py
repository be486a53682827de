"""The chain's files: what is carried from step to step, and merging."""

import math

import numpy as np
import pytest
from chain_events import evnt

from dask_runner import chain, rootfiles
from dask_runner.chain import formats
from dask_runner.errors import BadInputError
from dask_runner.rootfiles import Table
from dask_runner.settings import Geometry


def ntuple(count: int, first: int = 0) -> formats.EventData:
    data = evnt(count, first=first)
    for step in chain.STEPS:
        data = chain.run_step(step, data, Geometry(), 1)
    return data


def test_a_range_of_a_file_is_that_range_of_the_events(tmp_path):
    path = tmp_path / "a.EVNT.root"
    formats.write(path, evnt(60))
    part = formats.read(path, first=30, count=7)
    expected = evnt(7, first=30)
    assert part.format == "EVNT"
    assert (part.events["event"] == expected.events["event"]).all()
    for name in ("particle", "llp", "parton"):
        for column, values in expected.jagged(name).columns.items():
            assert (part.jagged(name)[column] == values).all()


def test_a_range_of_an_ntuple_has_the_jets_of_its_events(tmp_path):
    path = tmp_path / "a.NTUP.root"
    whole = ntuple(40)
    formats.write(path, whole)
    part = formats.read(path, first=11, count=20)
    inside = (whole.jets["event"] >= 11) & (whole.jets["event"] < 31)
    assert inside.sum() > 5
    assert (part.jets["pt"] == whole.jets["pt"][inside]).all()


def test_normalisation_reaches_the_end_and_survives_any_cut(tmp_path):
    events = evnt(50)
    parts = []
    for first, count in ((0, 13), (13, 30), (43, 7)):
        parts.append(tmp_path / f"{first}.root")
        formats.write(parts[-1], ntuple(count, first))
    formats.merge(parts, tmp_path / "merged.root")
    metadata = rootfiles.read_metadata(tmp_path / "merged.root")
    tries = int(events.events["tries"].sum())
    total = math.fsum(events.events["sigma_sum"].tolist())
    assert metadata["tries"] == tries
    assert metadata["accepted"] == 50
    assert metadata["sum_of_weights"] == 50
    assert metadata["cross_section_pb"] == total / tries
    assert metadata["format"] == "NTUP"
    assert metadata["ms"] == 25.0
    # Of the parts, nothing else remains.
    assert rootfiles.read_metadata(parts[0])["accepted"] == 13


def test_merged_files_are_equal_whatever_they_were_merged_from(tmp_path):
    results = set()
    for size in (1, 7, 25, 40):
        parts = []
        for first in range(0, 40, size):
            parts.append(tmp_path / f"{size}.{first}.root")
            formats.write(parts[-1], ntuple(min(size, 40 - first), first))
        target = tmp_path / f"m{size}.root"
        entries, content = formats.merge(parts, target, {"note": "x"})
        assert entries == 40
        results.add((content, target.read_bytes()))
    assert len(results) == 1


def test_an_event_that_is_there_twice_is_refused(tmp_path):
    parts = [tmp_path / "a.root", tmp_path / "b.root"]
    formats.write(parts[0], evnt(10))
    formats.write(parts[1], evnt(10, first=9))
    with pytest.raises(BadInputError, match="1 events are there twice, the first is 9 of run"):
        formats.merge(parts, tmp_path / "c.root")


def test_formats_are_not_mixed(tmp_path):
    parts = [tmp_path / "a.root", tmp_path / "b.root"]
    formats.write(parts[0], evnt(3))
    formats.write(parts[1], chain.run_step("simulate", evnt(3, first=3), Geometry(), 1))
    with pytest.raises(BadInputError, match=r"b\.root"):
        formats.merge(parts, tmp_path / "c.root")


def test_foreign_files_are_not_events_of_ours(tmp_path):
    path = tmp_path / "x.root"
    rootfiles.write(path, {"events": Table(entries=1, columns={"a": np.zeros(1)})}, {})
    with pytest.raises(BadInputError, match="not a file of this chain"):
        formats.read(path)
