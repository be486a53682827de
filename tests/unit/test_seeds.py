"""The arithmetic of random streams: nothing is shared, nothing depends on grouping."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_runner import seeds
from dask_runner.chain.hidden_valley import TABLE
from dask_runner.errors import UsageError

RUN_SEEDS = st.integers(0, 1099)


def _block(run_seed: int, run_number: int) -> tuple[int, int]:
    last = seeds.last_event(run_seed)
    return seeds.pythia_seed(run_seed, run_number, 0), seeds.pythia_seed(run_seed, run_number, last)


def test_blocks_of_the_table_are_disjoint_and_within_pythias_limit():
    blocks = sorted(
        _block(seed, run) for seed in (*range(12), 42, 99, 100, 101, 1099) for run in TABLE
    )
    assert blocks[0][0] >= 1
    assert blocks[-1][1] <= 900_000_000
    assert all(a[1] < b[0] for a, b in itertools.pairwise(blocks))


def test_every_run_number_of_the_table_has_a_block_of_its_own():
    assert all(seeds.own_block(run) for run in TABLE)
    assert not seeds.own_block(123456)


@given(RUN_SEEDS, RUN_SEEDS, st.integers(0, 2**31), st.integers(0, 2**31))
def test_blocks_of_any_two_samples_are_equal_or_disjoint(seed_a, seed_b, run_a, run_b):
    a, b = _block(seed_a, run_a), _block(seed_b, run_b)
    same = seed_a == seed_b and (
        run_a == run_b
        or (run_a not in TABLE and run_b not in TABLE and (run_a - run_b) % seeds.OTHER_SLOTS == 0)
    )
    assert (a == b) == same
    assert same or a[1] < b[0] or b[1] < a[0]


@given(RUN_SEEDS, st.integers(0, 999), st.integers(0, 999))
def test_events_of_a_sample_have_different_seeds(seed, first, second):
    a, b = (seeds.pythia_seed(seed, 304795, event) for event in (first, second))
    assert (a == b) == (first == second)


@pytest.mark.parametrize(("seed", "event"), [(1, 1_000_000), (10, 100_000), (100, 1000), (1, -1)])
def test_an_event_without_a_seed_is_refused(seed, event):
    with pytest.raises(UsageError, match="has no random seed"):
        seeds.pythia_seed(seed, 304795, event)


@pytest.mark.parametrize("seed", [-1, 1100])
def test_a_run_seed_without_a_block_is_refused(seed):
    with pytest.raises(UsageError, match="outside 0 to 1099"):
        seeds.pythia_seed(seed, 304795, 0)


@given(
    RUN_SEEDS,
    st.tuples(st.integers(0, 10**7), st.integers(0, seeds.PURPOSES - 1)),
    st.tuples(st.integers(0, 10**7), st.integers(0, seeds.PURPOSES - 1)),
)
def test_no_two_programs_of_a_run_share_a_seed(run_seed, a, b):
    first, second = seeds.batch_seed(run_seed, *a), seeds.batch_seed(run_seed, *b)
    assert (first == second) == (a == b)
    assert 1 <= first <= 900_000_000


def test_a_program_too_many_is_refused():
    with pytest.raises(UsageError, match="at most"):
        seeds.batch_seed(1, 0, seeds.PURPOSES)
    with pytest.raises(UsageError, match="no random seed"):
        seeds.batch_seed(1, 10**8)


def test_a_stream_is_philox_with_the_documented_key_and_counter():
    expected = np.random.Generator(np.random.Philox(key=[304795, 3], counter=[0, 0, 17, 2]))
    assert (seeds.step_rng(304795, 3, 17, 2).random(9) == expected.random(9)).all()


def test_a_stream_does_not_depend_on_those_before_it():
    streams = seeds.StepStreams(run_number=304795, seed=3, step=2)
    for event in (1, 2, 16):
        streams.at(event).integers(5, size=3, dtype=np.int32)
    expected = seeds.step_rng(304795, 3, 17, 2)
    assert (streams.at(17).standard_normal(9) == expected.standard_normal(9)).all()
