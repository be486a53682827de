"""Exact sums: equal to rational arithmetic, in any order and grouping, and through bytes."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_runner.errors import BadInputError
from dask_runner.histograms import sums
from dask_runner.histograms.accumulate import ExactSum
from dask_runner.histograms.spec import Axis, HistogramSpec
from dask_runner.histograms.sums import CutSum, HistogramSum, Sums

FINITE = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e150, max_value=1e150)
AXES = (Axis(bins=2, start=0, stop=1), Axis(kind="category", categories=("a", "b")))


def exactly(values):
    total = sum(map(Fraction, values), Fraction(0))
    return total.numerator / total.denominator


def summed(values, places, cells=3):
    total = ExactSum(cells)
    total.add_at(np.asarray(places, np.int64), np.asarray(values, float))
    return total


def same(one, other):
    one.carry()
    other.carry()
    return one.digits.keys() == other.digits.keys() and all(
        (one.digits[level] == other.digits[level]).all() for level in one.digits
    )


@given(st.lists(st.tuples(FINITE, st.integers(0, 2)), max_size=60), st.randoms())
def test_sums_are_exact_and_have_one_form(items, random):
    values, places = [v for v, _ in items], [p for _, p in items]
    whole = summed(values, places)
    for cell in range(3):
        assert whole.value()[cell] == exactly([v for v, p in items if p == cell])
    random.shuffle(items)
    cut = random.randint(0, len(items))
    parts = [
        summed([v for v, _ in part], [p for _, p in part]) for part in (items[:cut], items[cut:])
    ]
    parts[1].carry()
    parts[0].merge(parts[1])
    assert same(whole, parts[0])


@pytest.mark.parametrize("scale", [1e-300, 5e-324, 1e-30, 1.0, 1e149])
def test_many_weights_of_any_size(scale):
    rng = np.random.default_rng(1)
    weights = rng.normal(size=20_000) * scale * 10.0 ** rng.integers(-8, 1, 20_000)
    places = rng.integers(0, 3, len(weights))
    total = summed(weights, places)
    assert [exactly(weights[places == k].tolist()) for k in range(3)] == total.value().tolist()


def test_plain_sums_would_differ():
    weights = np.random.default_rng(1).normal(1, 0.3, 10_000)
    halves = weights[:3333].sum() + weights[3333:].sum()
    assert halves != weights.sum() or math.fsum(weights) != weights.sum()


def test_beyond_doubles_is_infinite():
    total = ExactSum(1)
    for _ in range(3):
        total.add(np.array([1.7e308]))
    assert total.value()[0] == math.inf
    total.add(np.array([-1.7e308]))
    total.add(np.array([-1.7e308]))
    assert total.value()[0] == 1.7e308


def some_sums(seed, weighted=True):
    rng = np.random.default_rng(seed)
    one = HistogramSum(AXES, weighted=weighted)
    places = rng.integers(0, one.cells, 500)
    one.counts += np.bincount(places, minlength=one.cells)
    one.nan = 3
    cut = CutSum("all", "event", weighted=weighted)
    cut.count = 500
    if weighted:
        weights = rng.normal(1, 0.3, 500)
        one.weights.add_at(places, weights)
        one.squares.add_at(places, weights**2)
        cut.weights.add(np.array([weights.sum()]))
    found = Sums([one], [cut])
    found.events = 500
    return found


@pytest.mark.parametrize("weighted", [True, False])
def test_through_bytes_and_merged_in_any_order(weighted):
    made = [sums.encode(some_sums(seed, weighted)) for seed in range(4)]
    totals = []
    for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
        total = sums.decode(made[order[0]], "part")
        for k in order[1:]:
            total.merge(sums.decode(made[k], "part"))
        totals.append(sums.encode(total))
    assert totals[0] == totals[1]
    found = sums.decode(totals[0], "part")
    assert (found.events, found.histograms[0].nan, found.cuts[0].count) == (2000, 12, 2000)
    assert found.histograms[0].counts.sum() == 2000


def test_bytes_that_are_no_sums_are_refused():
    data = sums.encode(some_sums(1))
    for broken in (data[:-5], b"", b"x" + data, data[:20] + b"\0\0\0" + data[23:]):
        with pytest.raises(BadInputError, match=r"a\.hist: not the histograms"):
            sums.decode(broken, "a.hist")


def test_shapes_have_flow_for_numbers_only():
    spec = HistogramSpec(name="h", fill=("x",), axes=AXES)
    assert spec.shape == (4, 2)
    assert [axis.inner for axis in spec.axes] == [slice(1, -1), slice(None)]
    assert AXES[0].all_edges.tolist() == [0, 0.5, 1]
