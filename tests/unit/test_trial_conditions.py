"""When there are enough trials: looked at at fixed numbers, on the first ones."""

from math import inf, isinf

import numpy as np
import pytest

from dask_runner.errors import UsageError
from dask_runner.trials import conditions
from dask_runner.trials.conditions import looked_at, next_number, parse
from dask_runner.trials.loading import TrialData, TrialFile
from dask_runner.trials.tables import table_type


@pytest.fixture
def trials(tmp_path):
    """Ten thousand normal numbers, and test statistics of two hypotheses."""
    rng = np.random.default_rng(1)
    rows = np.zeros(10_000, table_type({"x": "<f8", "q_sb": "<f8", "q_b": "<f8"}))
    rows["x"] = rng.normal(10, 1, len(rows))
    rows["q_b"] = rng.chisquare(1, len(rows)) + 2
    rows["q_sb"] = rng.chisquare(1, len(rows))
    path = tmp_path / "x.npy"
    np.save(path, rows)
    return TrialData([TrialFile(path=path, point={"mass": 1}, first=0, count=len(rows))])


def value(text, trials):
    return parse(text).value(trials)


def test_errors_of_quantiles(trials):
    # The error of a median of n normal numbers is sqrt(pi / 2 / n) of their width.
    expected = np.sqrt(np.pi / 2 / 1e4)
    assert value("error(x, 0.5) < 1", trials) == pytest.approx(expected, rel=0.1)
    assert value("relative_error(x, 0.5) < 1", trials) == pytest.approx(expected / 10, rel=0.1)
    assert parse("relative_error(x, 0.5) < 0.002").holds(trials)
    assert not parse("relative_error(x, 0.5) < 0.001").holds(trials)
    assert not parse("relative_error(x, 0.5) < 0.002").holds(trials.first_trials(1000))


def test_shares_and_exceedances(trials):
    assert value("p_error(x, 10) < 1", trials) == pytest.approx(0.005, rel=0.01)
    assert isinf(value("p_error(x, 100) < 1", trials))
    assert value("exceedances(x, 12) >= 10", trials) == np.sum(trials.x >= 12)
    assert value("exceedances(x, 3sigma) >= 10", trials) == pytest.approx(13.5, abs=0.01)
    assert parse("exceedances(ts, 5sigma) >= 10").expected_trials() == pytest.approx(
        3.49e7, rel=0.01
    )
    assert parse("error(x, 0.5) < 1").expected_trials() == 0


def test_the_error_of_cls(trials):
    assert 0 < value("cls_error(0) < 1", trials) < 0.05


def test_no_good_trial_is_no_precision(trials):
    none = trials.first_trials(0)
    assert value("error(x, 0.5) < 1", none) == inf
    assert not parse("p_error(x, 10) < 1").holds(none)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense", "not of the form"),
        ("spread(x) < 1", "no quantity 'spread'"),
        ("error(x) < 1", "takes 2 arguments"),
        ("error(x, 0.5) > 1", "true at once"),
        ("exceedances(x, 5) < 1", "true at once"),
        ("error(x, 0.5) < many", "not a number"),
        ("error(x, half) < 1", "not a number"),
        ("error(x, 0.5) < nan", "not a finite number"),
        ("error(x, 0.5) < 1e400", "not a finite number"),
        ("error(x, 0.5) < 0", "not a number above 0"),
        ("error(x, 0.5) < 5sigma", "not a number above 0"),
        ("error(x, 50) < 1", "no share"),
        ("exceedances(x, 50sigma) >= 10", "no share"),
        ("cls_error(0.5) < 1", "-2, -1, 0, 1, 2"),
    ],
)
def test_what_is_no_condition(text, words):
    with pytest.raises(UsageError, match=words):
        parse(text)


def test_unknown_fields_are_named_before_there_are_trials(trials):
    with pytest.raises(UsageError, match="no field 'limit'"):
        parse("error(limit, 0.5) < 1").check(trials.fields)
    with pytest.raises(UsageError, match="no field 'q_sb'"):
        parse("cls_error(0) < 1").check(["x"])
    parse("cls_error(0) < 1").check(trials.fields)
    parse("p_error(x, 10) < 1").check(trials.fields)


def test_numbers_double_up_to_the_most():
    numbers, have = [], 0
    while (number := next_number(have, 10_000)) > have:
        numbers.append(number)
        have = number
    assert numbers == [1000, 2000, 4000, 8000, 10_000]
    assert next_number(0, 300) == 300
    there = (300, 1000, 1999, 4000, 5000)
    assert [looked_at(n, 10_000) for n in there] == [0, 1000, 1000, 4000, 4000]
    assert looked_at(5000, 5000) == 5000
    assert looked_at(300, 300) == 300
    assert conditions.MOST >= 10**7
