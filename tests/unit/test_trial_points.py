"""Grids: what is written is what is meant, to the last digit."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_runner.errors import BadInputError, UsageError
from dask_runner.trials.points import parse_counts, parse_grid, parse_values, point_label


def values(text):
    return parse_values(text, "--grid x")


def test_ranges_hold_both_ends():
    assert values("2000:7000:500") == [
        2000,
        2500,
        3000,
        3500,
        4000,
        4500,
        5000,
        5500,
        6000,
        6500,
        7000,
    ]
    assert values("0:3:0.25")[-2:] == [2.75, 3]
    assert values("0:1:0.1") == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]
    assert values("3:1:-1") == [3, 2, 1]
    assert values("0:3") == [0, 1, 2, 3]
    assert values("5:5:2") == [5]
    assert values("0:1:0.5,2:10:4,20") == [0, 0.5, 1, 2, 6, 10, 20]


@given(st.decimals(-100, 100, places=3), st.integers(0, 40), st.decimals("0.001", 5, places=3))
def test_steps_are_decimal(first, number, step):
    last = first + number * step
    expected = [float(first + k * step) for k in range(number + 1)]
    assert values(f"{first}:{last}:{step}") == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0:1:0.3", "miss its end"),
        ("0:1:0", "never gets"),
        ("0:1:-1", "never gets"),
        ("a:b", "no range"),
        ("1:2:3:4", "no range"),
        ("1,,2", "missing"),
        ("nan", "finite"),
        ("inf", "finite"),
        ("0:1e9", "more than"),
        ("1e999:2e999", "cannot be counted"),
        ("1e400:1e400", "cannot be kept"),
        ("9007199254740993", "would become 9007199254740992.0"),
        ("1e400", "would become inf"),
        ("1e-400", "would become 0.0"),
    ],
)
def test_what_is_no_list_of_values(text, words):
    with pytest.raises(UsageError, match=words):
        values(text)


def test_values_are_kept_losslessly():
    assert values("-0.5,1e-300,0.1,alpha") == [-0.5, 1e-300, 0.1, "alpha"]
    assert [type(v) for v in values("1,1.0,1.5")] == [int, int, float]
    assert values("1e23,9007199254740994,0e5") == [1e23, 9007199254740994, 0]


def test_products_zips_and_constants():
    points = parse_grid(["a=1,2", "b=3;c=4"], ["d=x"])
    assert points == [{"d": "x", "a": 1, "b": 3, "c": 4}, {"d": "x", "a": 2, "b": 3, "c": 4}]
    assert parse_grid(["a=1,2;b=3,4"]) == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]
    assert parse_grid([]) == [{}]
    with pytest.raises(UsageError, match="equal lengths"):
        parse_grid(["a=1,2;b=3"])
    with pytest.raises(UsageError, match="given twice"):
        parse_grid(["a=1", "a=2"])
    with pytest.raises(UsageError, match="twice"):
        parse_grid(["a=1,1.0"])
    with pytest.raises(UsageError, match="one value"):
        parse_grid([], ["a=1,2"])
    with pytest.raises(UsageError, match="name=VALUES"):
        parse_grid(["1=2"])


def test_points_of_a_csv_file(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("mass,width\n2000,0.1\n\n3000,0.25\n")
    assert parse_grid([f"@{path}"]) == [
        {"mass": 2000, "width": 0.1},
        {"mass": 3000, "width": 0.25},
    ]
    path.write_text("mass,width\n2000\n")
    with pytest.raises(BadInputError, match="line 2: 1 values for 2"):
        parse_grid([f"@{path}"])
    path.write_text("mass,mass\n1,2\n")
    with pytest.raises(BadInputError, match="line 1"):
        parse_grid([f"@{path}"])
    with pytest.raises(BadInputError, match="No such file"):
        parse_grid(["@/nowhere.csv"])


def test_numbers_of_trials_may_differ_by_point():
    points = parse_grid(["n_sig=0,1,2"])
    demands = parse_counts(["1000", "n_sig=0:1e5"], points)
    assert [demand.trials for demand in demands] == [100000, 1000, 1000]
    with pytest.raises(UsageError, match="no point"):
        parse_counts(["1000", "n_sig=7:10"], points)
    with pytest.raises(UsageError, match="no number"):
        parse_counts(["n_sig=0:10"], points)
    for wrong in ("0", "-5", "1.5", "many", "n_sig=0:", "1e", "e5", "²", "1e400"):
        with pytest.raises(UsageError, match="-n"):
            parse_counts([wrong], points)


@given(st.dictionaries(st.sampled_from("abc"), st.decimals(-9, 9, places=2), max_size=3))
def test_labels_are_file_names(point):
    label = point_label({name: float(Decimal(value)) for name, value in point.items()})
    assert "/" not in label
    assert len(label) <= 120
