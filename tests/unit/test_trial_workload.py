"""The workload of trials: exact ranges, names that nobody shares, sizes by time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from dask_runner.batch import RETURNED_MAX
from dask_runner.errors import BadInputError, UsageError
from dask_runner.trials.models import ModelSpec
from dask_runner.trials.pilot import PilotResult, PointCost
from dask_runner.trials.points import Demand, parse_grid
from dask_runner.trials.sizing import batch_sizes
from dask_runner.trials.tables import joined, table_type
from dask_runner.workloads.interface import PREPARE_SECONDS
from dask_runner.workloads.trials import Trials, wanted_ranges

FIELDS = {"ts": "<f8"}


def workload(points, trials, size):
    demands = tuple(Demand(point=point, trials=trials) for point in points)
    return Trials(
        model=ModelSpec(name="m:f"),
        seed=1,
        demands=demands,
        sizes=(size,) * len(demands),
        fields=FIELDS,
    )


def ranges(batches):
    return sorted((b.parameters["first"], b.parameters["first"] + b.count) for b in batches)


def exact(batches, end):
    at = 0
    for first, last in ranges(batches):
        assert first == at
        at = last
    assert at == end


@given(st.integers(1, 2000), st.integers(1, 300))
def test_ranges_are_exact_and_nearly_equal(trials, size):
    batches = workload([{"a": 1}], trials, size).plan().batches
    exact(batches, trials)
    counts = [batch.count for batch in batches]
    assert max(counts) <= size
    assert max(counts) - min(counts) <= 1


@given(st.integers(2, 500), st.integers(1, 100), st.integers(1, 50))
def test_parts_of_a_batch_are_exact(trials, size, part):
    work = workload([{"a": 1}], trials, size)
    batches = work.plan().batches
    parts = work.divide(batches[-1], part, first_index=len(batches))
    exact([*batches[:-1], *parts], trials)
    assert [p.index for p in parts] == list(range(len(batches), len(batches) + len(parts)))
    assert parts[0].parameters["point"] == {"a": 1}


def test_names_are_files_that_no_other_batch_has():
    grid = ["a=1,1.5,-0.5,alpha,al/pha,al_pha", "b=1e-300,1e300"]
    batches = workload(parse_grid(grid), 10, 4).plan().batches
    names = [output.name for batch in batches for output in batch.outputs]
    assert len(set(names)) == len(names)
    assert not any("/" in name or len(name) > 200 for name in names)
    assert batches[0].outputs[0].name == "a=1,b=1e-300.000000000-000000002.npy"
    long = [{"name": "x" * 300 + end} for end in "ab"]
    assert len({b.outputs[0].name for b in workload(long, 1, 1).plan().batches}) == 2


def test_only_what_is_missing_is_wanted():
    there = workload([{"a": 1}, {"a": 2}], 10, 4).plan().batches
    demands = [Demand(point={"a": 2.0}, trials=15), Demand(point={"a": 3}, trials=5)]
    assert wanted_ranges(there, demands, [4, 4]) == [({"a": 2}, 10, 15, 4), ({"a": 3}, 0, 5, 4)]
    with pytest.raises(UsageError, match="has 10 trials already"):
        wanted_ranges(there, [Demand(point={"a": 1}, trials=9)], [4])


def test_names_that_a_table_would_have_twice_are_refused():
    for name in ("ts", "trial", "seed", "failed"):
        with pytest.raises(BadInputError, match=f"'{name}'"):
            workload([{"a": 1}, {name: 1}], 1, 1).plan()


def test_a_batch_tells_what_its_preparation_took(tmp_path):
    work = structs.replace(
        workload([{"b": 3}], 10, 10),
        model=ModelSpec(name="counting"),
        fields={"n": "<i4", "ts": "<f8", "limit": "<f8"},
    )
    assert "dask_runner.trials.models.counting" in work.preload
    (batch,) = work.plan().batches
    counters = work.run(batch, tmp_path).counters
    assert counters["trials"] == 10
    assert 0 < counters[PREPARE_SECONDS] < 30


def table(*values):
    return np.array([(value, False) for value in values], table_type(FIELDS))


def test_columns_of_parameters_have_one_type():
    points = [{"kind": "signal"}, {"kind": 1, "mass": 2}, {"mass": 0.5}]
    pieces = [(table(k), point, 10 * k) for k, point in enumerate(points)]
    found = joined(pieces, ["kind", "mass"])
    assert found["kind"].tolist() == ["signal", "1", ""]
    assert found["mass"].tolist()[1:] == [2, 0.5]
    assert np.isnan(found["mass"][0])
    assert found["trial"].tolist() == [0, 10, 20]
    assert found["ts"].tolist() == [0, 1, 2]


def pilot(*seconds, fields=FIELDS, prepare=0.0):
    costs = tuple(
        PointCost(point={"a": k}, seconds=one, prepare=prepare, tried=3)
        for k, one in enumerate(seconds)
    )
    return PilotResult(fields=fields, costs=costs, places=tuple(range(len(seconds))))


def demands(*trials):
    return [Demand(point={"a": k}, trials=one) for k, one in enumerate(trials)]


def test_points_of_different_cost_get_batches_of_the_same_time():
    sizes = batch_sizes(demands(100_000, 100_000), pilot(0.001, 0.1), slots=4)
    assert sizes[0] == pytest.approx(30 / 0.001, rel=0.2)
    assert sizes[1] == pytest.approx(30 / 0.1, rel=0.2)


def test_a_short_run_is_spread_over_the_slots():
    (size,) = batch_sizes(demands(1000), pilot(0.01), slots=4)
    assert 1000 / size >= 12
    assert batch_sizes(demands(1000), pilot(1e-6), slots=4) == (1000,)


def test_trials_of_a_batch_take_no_less_than_their_preparation():
    (size,) = batch_sizes(demands(10**7), pilot(0.001, prepare=10.0), slots=4)
    assert size == pytest.approx(20 / 0.001, rel=0.01)
    (size,) = batch_sizes(demands(10**7), pilot(0.001, prepare=100.0), slots=4)
    assert size == pytest.approx(100 / 0.001, rel=0.01)
    assert batch_sizes(demands(1000), pilot(0.001, prepare=5.0), slots=4) == (1000,)


def test_a_batch_never_returns_more_than_it_may():
    fields = {f"f{k}": "<f8" for k in range(4)}
    (size,) = batch_sizes(demands(10**9), pilot(1e-9, fields=fields), slots=1)
    assert size * 33 <= RETURNED_MAX
    assert size > 400_000


def test_the_user_may_say_how_many():
    assert batch_sizes(demands(100, 7), pilot(1.0, 1.0), slots=1, fixed=25) == (25, 25)


def test_points_that_were_not_tried_are_like_the_nearest():
    costs = pilot(0.1, 0.2).costs
    result = PilotResult(fields=FIELDS, costs=costs, places=(0, 10))
    assert [result.seconds(place) for place in (0, 4, 6, 30)] == [0.1, 0.1, 0.2, 0.2]
