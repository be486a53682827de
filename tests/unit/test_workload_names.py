"""Output names: unique, free of hostile characters, in event order."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dask_runner.batch import InputFile, InputRange
from dask_runner.errors import UsageError
from dask_runner.workloads.names import check_format, natural_key, output_name, stems
from dask_runner.workloads.reconstruct import split

_FILE_NAMES = st.binary(min_size=1, max_size=255).filter(
    lambda name: not set(name) & {0, ord("/")} and name not in {b".", b".."}
)
_PATHS = st.lists(_FILE_NAMES.map(lambda name: Path(os.fsdecode(name))), unique=True, max_size=30)


def test_natural_order_sorts_numbers_by_value():
    names = ["a.10.root", "a.9.root", "a.09.root", "b.1.root", "a.1.root"]
    assert sorted(names, key=natural_key) == [
        "a.1.root", "a.09.root", "a.9.root", "a.10.root", "b.1.root"
    ]  # fmt: skip


@given(_PATHS)
def test_natural_order_is_total(paths):
    assert len({natural_key(path) for path in paths}) == len(paths)
    sorted(paths, key=natural_key)


@given(_PATHS)
@example([Path("x/a.EVNT.root"), Path("y/a.EVNT.root"), Path("a.evnt.pool.root")])
@example([Path("a b.EVNT.root"), Path("a_b.EVNT.root"), Path("a'b.EVNT.root")])
@example([Path("$(rm -rf x).EVNT.root"), Path("\n.EVNT.root"), Path("-rf.EVNT.root")])
def test_stems_are_unique_and_harmless(paths):
    found = stems(paths)
    assert len(set(found)) == len(paths)
    assert all(re.fullmatch(r"[A-Za-z0-9_+=@][A-Za-z0-9._+=@-]*", stem) for stem in found)
    assert all(len(stem) <= 200 for stem in found)


def test_ordinary_names_stay_as_they_are():
    assert stems([Path("304795.500.0.EVNT.root"), Path("mc16.evnt.pool.root")]) == [
        "304795.500.0", "mc16"
    ]  # fmt: skip


@given(
    st.lists(
        st.tuples(_FILE_NAMES, st.integers(1, 200)), unique_by=lambda item: item[0], max_size=5
    ),
    st.integers(1, 60),
)
def test_no_two_ranges_share_an_output_name(inputs, size):
    """Section 5: all batches of one input wrote the same output name and overwrote each other."""
    paths = [Path(os.fsdecode(name)) for name, _ in inputs]
    names = [
        output_name(stem, part, entries, form)
        for stem, (_, entries) in zip(stems(paths), inputs, strict=True)
        for part in split(_file(entries), size)
        for form in ("AOD", "NTUP")
    ]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 255 for name in names)


@given(st.integers(1, 10_000), st.integers(1, 3000))
def test_ranges_cover_every_event_exactly_once(entries, size):
    parts = list(split(_file(entries), size))
    assert [e for p in parts for e in range(p.first, p.first + p.count)] == list(range(entries))
    assert all(part.count == size for part in parts[:-1])


def test_names_sort_in_event_order():
    names = [output_name("a", part, 1200, "AOD") for part in split(_file(1200), 100)]
    assert names == sorted(names)
    assert names[0] == "a.0000-0099.AOD.root"
    assert output_name("a", InputRange(path="a", first=8, count=2), 10, "AOD") == "a.8-9.AOD.root"


@pytest.mark.parametrize("form", ["", "A.B", "A/B", "A B", "-", "A" * 25])
def test_formats_that_are_no_part_of_a_name_are_refused(form):
    with pytest.raises(UsageError, match="no name for a format"):
        check_format(form)


def _file(entries):
    return InputFile(path="/x", bytes=1, mtime_ns=0, entries=entries, fingerprint="")
