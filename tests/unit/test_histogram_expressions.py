"""Expressions: what they give, and what is refused."""

import numpy as np
import pytest

from dask_runner.errors import UsageError
from dask_runner.histograms.expressions import Expression
from dask_runner.histograms.values import CountsDifferError, Value

OFFSETS = np.array([0, 2, 2, 5])
COLUMNS = {
    "pt": Value(data=np.array([1.0, 4.0, 2.0, 8.0, 6.0]), offsets=OFFSETS, name="pt"),
    "q": Value(data=np.array([1, -1, 1, 1, -1]), offsets=OFFSETS.copy(), name="q"),
    "mu": Value(data=np.array([1.0, 2.0, 3.0]), offsets=np.array([0, 1, 2, 3]), name="mu"),
    "met": Value(data=np.array([10.0, 20.0, 30.0], "f4"), name="met"),
    "n": Value(data=np.array([1, 2, 3]), name="n"),
    "jet.pt": Value(data=np.array([7.0, 8.0, 9.0]), name="jet.pt"),
    "flag": Value(data=np.array([True, False, True]), name="flag"),
    "big": Value(data=np.array([2**63, 3, 0], np.uint64), name="big"),
    "bigs": Value(data=np.array([2**63, 5, 2, 1, 0], np.uint64), offsets=OFFSETS, name="bigs"),
    "f": Value(data=np.array([0.1, 0.1, 3e38], "f4"), name="f"),
    "pi": Value(data=np.array([0.0, 0.0, 0.0]), name="pi"),
}


def value(text):
    return Expression(text, "--fill")(COLUMNS, 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("met / 10", [1, 2, 3]),
        ("n // 2 + n % 2 - n ** 2", [0, -3, -7]),
        ("`jet.pt` - 1", [6, 7, 8]),
        ("pt / 2", [0.5, 2, 1, 4, 3]),
        ("pt + met", [11, 14, 32, 38, 36]),
        ("pt * q", [1, -4, 2, 8, -6]),
        ("1 < pt <= 6", [0, 1, 1, 0, 1]),
        ("pt > 1 and q > 0", [0, 0, 1, 1, 0]),
        ("pt > 1 && q > 0 || n == 1", [1, 1, 1, 1, 0]),
        ("(pt > 1) & (q > 0) | ~(pt < 6)", [0, 0, 1, 1, 1]),
        ("not q > 0", [0, 1, 0, 0, 1]),
        ("n & 2", [0, 2, 2]),
        ("sum(pt)", [5, 0, 16]),
        ("count(pt)", [2, 0, 3]),
        ("count(pt > 3)", [1, 0, 2]),
        ("any(pt > 5)", [0, 0, 1]),
        ("all(pt > 1)", [0, 1, 1]),
        ("max(pt)", [4, np.nan, 8]),
        ("min(q)", [-1, np.nan, -1]),
        ("mean(pt)", [2.5, np.nan, 16 / 3]),
        ("first(pt)", [1, np.nan, 2]),
        ("nth(pt, 1)", [4, np.nan, 8]),
        ("nth(pt, -1)", [4, np.nan, 6]),
        ("pt - max(pt)", [-3, 0, -6, 0, -2]),
        ("where(pt > 3, pt, 0)", [0, 4, 0, 8, 6]),
        ("hypot(n, 0) + abs(-n) + minimum(n, 2)", [3, 6, 8]),
        ("log10(10) + 2 * 3 - 7 / 2 + 0 * n", [3.5, 3.5, 3.5]),
        ("cos(pi) + n", [0, 1, 2]),
        ("`pi` + n", [1, 2, 3]),
        ("2", [2, 2, 2]),
        ("flag + flag", [2, 0, 2]),
        ("-flag - flag", [-2, 0, -2]),
        ("(pt > 1) + (q > 0)", [1, 1, 2, 2, 1]),
        ("sqrt(flag) + flag / 2 + flag ** 2", [2.5, 0, 2.5]),
        ("~flag", [0, 1, 0]),
        ("~True or flag", [1, 0, 1]),
        ("1 - big", [-(2.0**63), -2, 1]),
        ("-big", [-(2.0**63), -3, 0]),
        ("big % 2 + big // 3", [2.0**63 // 3, 2, 0]),
        ("sum(bigs)", [2.0**63 + 5, 0, 3]),
        ("big > -1", [1, 1, 1]),
        ("n ** 70", [1, 2.0**70, 3.0**70]),
        ("n ** -1", [1, 0.5, 1 / 3]),
        ("double(f) > 0.1", [1, 1, 1]),
        ("f > 0.1", [0, 0, 1]),
        ("double(f) * 10", [1, 1, 3e39]),
        ("inf > n", [1, 1, 1]),
        ("1 / (n - 1)", [np.inf, 1, 0.5]),
    ],
)
def test_what_they_give(text, expected):
    np.testing.assert_allclose(value(text).data.astype(float), expected)


def test_branches_are_named_once_and_in_order():
    found = Expression("sqrt(pt) + `jet.pt` * pt + pi + met", "--fill").branches
    assert found == ("pt", "jet.pt", "met")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("pt +", "not an expression"),
        ("!flag", "not an expression"),
        ("__import__('os').system('true')", "there is no function"),
        ("pt.data", "a dot is not allowed"),
        ("pt[0]", "a subscript is not allowed"),
        ("(lambda: 1)()", "there is no function"),
        ("lambda: 1", "a lambda is not allowed"),
        ("[x for x in pt]", "ListComp is not allowed"),
        ("(a := 3)", "NamedExpr is not allowed"),
        ("1 if n else 2", "if ... else is not allowed"),
        ("pt in n", "Compare is not allowed"),
        ("pt is n", "Compare is not allowed"),
        ("n @ n", "BinOp is not allowed"),
        ("n ^ 2", "^ is not allowed"),
        ("n << 60", "BinOp is not allowed"),
        ("'text'", "is not a number"),
        ("None", "is not a number"),
        ("f'{n}'", "not allowed"),
        ("open(n)", "there is no function open"),
        ("eval(n)", "there is no function eval"),
        ("sqrt(n, n)", "sqrt takes 1 argument"),
        ("sqrt(x=n)", "sqrt takes 1 argument"),
        ("sqrt(*n)", "not allowed"),
        ("nth(pt, 99999999999)", "k is a whole number"),
        ("nth(pt, n)", "k is a whole number"),
        ("99999999999999999999", "beyond 64 bits"),
        ("pt > 1 & q > 0", "bind more tightly"),
        ("-" * 300 + "n", "nested too deeply"),
        ("(" * 150 + "n" + ")" * 150 + "+" * 3000, "more than 2000 characters"),
    ],
)
def test_what_is_refused(text, said):
    with pytest.raises(UsageError) as raised:
        Expression(text, "jets.toml:3: where")
    assert said in raised.value.message
    assert raised.value.message.startswith("jets.toml:3: where")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sum(met)", "there is one value only"),
        ("first(3)", "there is one value only"),
        ("nested + 1", "has lists of lists"),
        ("met & 1", "of conditions and whole numbers"),
        ("~met", "of conditions and whole numbers"),
    ],
)
def test_what_cannot_be_evaluated_is_said(text, said):
    with pytest.raises(UsageError, match=said):
        value(text)


def test_a_dotted_name_is_told_how_it_is_written():
    with pytest.raises(UsageError) as raised:
        Expression("jet.pt / 3", "--fill")
    assert "backticks: `jet.pt`" in raised.value.hint


def test_no_time_or_memory_for_large_powers():
    assert (value("9 ** 9 ** 9 ** 9 + n").data == np.inf).all()
    assert value("2 ** 62 * 4 + 0 * met").data.dtype.kind == "f"


def test_objects_of_different_numbers_do_not_combine():
    with pytest.raises(CountsDifferError) as raised:
        value("pt + mu")
    assert raised.value.names == ("pt", "mu")
    assert (raised.value.event, raised.value.counts) == (0, (2, 1))
    assert value("pt > max(mu)").data.tolist() == [False, True, False, True, True]
