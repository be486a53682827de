"""The streams of trials: the same numbers however trials are grouped, and nothing shared."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_runner import seeds
from dask_runner.errors import UsageError

POINT = {"mass": 3000, "width": 0.1}
NAMES = st.text("abcxyz_", min_size=1, max_size=6)
VALUES = st.one_of(
    st.integers(-(2**60), 2**60), st.floats(allow_nan=False, allow_infinity=False), st.text()
)


def streams(seed=1, model="m", point=None):
    return seeds.TrialStreams(seed=seed, model=model, point=POINT if point is None else point)


def draw(where, trial, purpose="generate"):
    return tuple(where.at(trial).rng(purpose).random(5))


def test_philox_is_the_one_that_was_measured():
    # statistics of the first words: the bit generator is the same in every version of NumPy.
    found = np.random.Generator(np.random.Philox(key=[3000, 0])).random(3)
    expected = [0.0031924297789591716, 0.13678397360700523, 0.022559091681071175]
    assert found.tolist() == expected


def test_what_a_stream_depends_on():
    first = draw(streams(), 7)
    assert draw(streams(), 7) == first
    others = [
        draw(streams(seed=2), 7),
        draw(streams(model="n"), 7),
        draw(streams(point={"mass": 3000, "width": 0.2}), 7),
        draw(streams(point={"mass": 3000}), 7),
        draw(streams(), 8),
        draw(streams(), 7, "smear"),
    ]
    assert len({first, *others}) == 7


def test_a_known_stream_never_changes():
    """Recorded when the streams were laid down: a change would make old runs unrepeatable."""
    assert draw(streams(seed=7, model="counting", point={"b": 3}), 0)[:2] == pytest.approx(
        FIRST_NUMBERS, abs=0
    )


FIRST_NUMBERS = (0.3839801161788208, 0.835298651503426)


@given(st.permutations(range(12)))
def test_the_order_of_trials_does_not_matter(order):
    where = streams()
    found = {trial: draw(where, trial) for trial in order}
    assert found == {trial: draw(streams(), trial) for trial in range(12)}


def test_a_purpose_goes_on_within_a_trial_and_begins_anew_with_the_next():
    where = streams().at(3)
    together = [*where.rng().random(2), *where.rng("smear").random(2), *where.rng().random(2)]
    generate = streams().at(3).rng().random(4)
    assert [*together[:2], *together[4:]] == generate.tolist()
    assert draw(where, 4) == draw(streams(), 4)
    assert draw(where, 3) == draw(streams(), 3)


def test_what_a_generator_keeps_does_not_leak_into_the_next_trial():
    """32-bit draws leave half a word behind."""
    where = streams()
    where.at(0).rng().integers(0, 2**31, dtype=np.uint32)
    assert draw(where, 1) == draw(streams(), 1)


@given(st.integers(0, 50), st.integers(1, 40), st.integers(1, 7))
@settings(max_examples=60)
def test_blocks_are_pieces_of_one_stream(first, count, words):
    def block(first, count):
        return seeds.trial_uniforms(
            seed=3, model="m", point=POINT, first=first, count=count, words=words
        )

    whole = block(0, first + count)
    assert np.array_equal(block(first, count), whole[first:])
    assert whole.shape == (first + count, words)


def test_a_block_shares_nothing_with_single_trials():
    block = seeds.trial_uniforms(seed=1, model="m", point=POINT, first=0, count=1000, words=4)
    single = {number for trial in range(50) for number in draw(streams(), trial)}
    assert not single & set(block.ravel().tolist())


@given(st.dictionaries(NAMES, VALUES, max_size=3), st.dictionaries(NAMES, VALUES, max_size=3))
def test_points_are_equal_when_their_parameters_are(first, second):
    same = first == second
    assert (seeds.canonical_point(first) == seeds.canonical_point(second)) == same


def test_how_a_value_is_written_does_not_matter():
    form = seeds.canonical_point
    assert form({"m": 2000}) == form({"m": 2000.0})
    assert form({"m": 0.0}) == form({"m": -0.0})
    assert form({"m": 2**53 + 2}) == form({"m": float(2**53 + 2)})
    assert form({"m": 2**53 + 1}) != form({"m": float(2**53)})
    assert form({"m": 10**400}) != form({"m": 10**400 + 1})
    assert form({"a": 1, "b": 2}) == form({"b": 2, "a": 1})
    assert form({"m": 1}) != form({"m": "1"})
    assert form({"m": -0.5}) != form({"m": 0.5})
    assert form({"ab": "c"}) != form({"a": "bc"})


def test_seeds_beyond_64_bits_are_refused():
    with pytest.raises(UsageError, match="outside"):
        streams(seed=2**64)
