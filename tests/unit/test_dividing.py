"""Batches are divided when they would take too long, or when slots would stand idle; never else."""

import pytest
from manifest_runs import create, good
from msgspec import Struct, structs

from dask_runner.batch import Batch
from dask_runner.dividing import Dividing
from dask_runner.manifest import Verdict, read_state
from dask_runner.workloads.interface import PREPARE_SECONDS

EVENTS = 10


class Divisible(Struct):
    def cost_key(self, batch):
        return "all"

    def divide(self, batch, size, *, first_index):
        (whole,) = batch.inputs
        firsts = range(whole.first, whole.first + batch.count, size)
        last = whole.first + batch.count
        return [
            Batch(
                index=first_index + k,
                workload="demo",
                count=min(size, last - first),
                inputs=(structs.replace(whole, first=first, count=min(size, last - first)),),
            )
            for k, first in enumerate(firsts)
        ]


@pytest.fixture
def manifest(tmp_path):
    with create(tmp_path, 6) as found:
        yield found


def dividing(manifest, seconds=None, target=4.0, workload=None, prepare=0.0):
    """With one batch done that took so many seconds, `prepare` of them before its events."""
    found = Dividing(manifest, workload or Divisible(), target=target)
    if seconds is not None:
        counters = {PREPARE_SECONDS: prepare}
        found.learn(structs.replace(good(0), wall=seconds, counters=counters))
    return found


def test_what_takes_about_as_long_as_wanted_is_left(manifest):
    assert dividing(manifest, 7.9).cut([1, 2], idle=0, waiting=5) == [1, 2]


def test_what_takes_much_longer_is_divided_into_wanted_pieces(manifest):
    parts = dividing(manifest, 20.0).cut([1], idle=0, waiting=5)
    assert parts == [6, 7, 8, 9, 10]
    state = read_state(manifest.folder.path)
    assert state.verdict(1) is Verdict.SUPERSEDED
    assert [state.batches[index].count for index in parts] == [2] * 5
    assert state.total.events == 6 * EVENTS


def test_the_last_batches_are_divided_for_idle_slots(manifest):
    assert len(dividing(manifest, 7.0).cut([5], idle=3, waiting=1)) == 3
    # But not into pieces that cost more than they gain.
    assert dividing(manifest, 1.9).cut([4], idle=8, waiting=1) == [4]


def test_no_part_works_for_less_than_its_preparation_takes(manifest):
    # Parts would take as long as the whole.
    assert dividing(manifest, 10.0, prepare=9.0).cut([1], idle=0, waiting=5) == [1]
    assert dividing(manifest, 10.0, prepare=9.0).cut([1], idle=9, waiting=1) == [1]
    # 12 s of work after 3 of preparation: no more than 4 parts, though one may take 4 s.
    assert len(dividing(manifest, 15.0, prepare=3.0).cut([1], idle=0, waiting=5)) == 4
    assert len(dividing(manifest, 15.0, prepare=1.0).cut([2], idle=0, waiting=5)) == 5


def test_nothing_is_divided_before_its_cost_is_known(manifest):
    assert dividing(manifest).cut([1], idle=9, waiting=1) == [1]


def test_other_workloads_and_no_target_divide_nothing(manifest):
    assert dividing(manifest, 99.0, workload=object()).cut([1], idle=9, waiting=1) == [1]
    assert dividing(manifest, 99.0, target=0).cut([1], idle=9, waiting=1) == [1]


def test_a_single_event_cannot_be_divided(manifest):
    found = dividing(manifest, 400.0, target=0.01)
    parts = found.cut([1], idle=0, waiting=5)
    assert len(parts) == EVENTS
    assert found.cut(parts[:1], idle=0, waiting=5) == parts[:1]
