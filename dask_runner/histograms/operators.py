"""The operators and functions of expressions: what they do with numbers and values of a chunk.

Owns that arithmetic gives what one expects of numbers: conditions are 0 and 1, whole numbers do not
wrap around. What is not in these tables cannot be said in an expression.
"""

import ast
from collections.abc import Callable
from typing import Any

import numpy as np

from dask_runner.histograms.reductions import REDUCTIONS
from dask_runner.histograms.values import Value, common_offsets, spread

# One number, or a value of the chunk.
Operand = Any
# Of whole numbers.
LARGEST = 2**63


def _double(data: Any) -> Any:
    return np.asarray(data, np.float64)


UNARY: dict[str, Any] = {
    "double": _double,
    "abs": np.abs, "sqrt": np.sqrt, "exp": np.exp, "log": np.log, "log10": np.log10,
    "log2": np.log2, "sin": np.sin, "cos": np.cos, "tan": np.tan, "sinh": np.sinh,
    "cosh": np.cosh, "tanh": np.tanh, "arcsin": np.arcsin, "arccos": np.arccos,
    "arctan": np.arctan, "arcsinh": np.arcsinh, "floor": np.floor, "ceil": np.ceil,
    "round": np.round, "sign": np.sign, "isfinite": np.isfinite, "isnan": np.isnan,
}  # fmt: skip
BINARY: dict[str, Any] = {
    "arctan2": np.arctan2, "hypot": np.hypot, "minimum": np.minimum, "maximum": np.maximum,
    "fmod": np.fmod,
}  # fmt: skip
FUNCTIONS = (*UNARY, *BINARY, "where", *REDUCTIONS, "nth")
CONSTANTS = {"pi": np.pi, "inf": np.inf, "nan": np.nan, "True": True, "False": False}

OPERATORS: dict[type, Any] = {
    ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Div: np.true_divide,
    ast.FloorDiv: np.floor_divide, ast.Mod: np.mod, ast.Pow: np.power,
    ast.BitAnd: np.bitwise_and, ast.BitOr: np.bitwise_or,
}  # fmt: skip
COMPARISONS: dict[type, Any] = {
    ast.Lt: np.less, ast.LtE: np.less_equal, ast.Gt: np.greater, ast.GtE: np.greater_equal,
    ast.Eq: np.equal, ast.NotEq: np.not_equal,
}  # fmt: skip
BITWISE = (ast.BitAnd, ast.BitOr)
_BITS = {np.bitwise_and, np.bitwise_or, np.invert}
# What takes conditions as the numbers 0 and 1. All else leaves them as they are.
_NUMERIC = {
    *(how for kind, how in OPERATORS.items() if kind not in BITWISE),
    *(how for name, how in UNARY.items() if name not in {"isfinite", "isnan"}),
    *BINARY.values(),
    np.negative,
}
# What would wrap around: differences of unsigned numbers, powers of whole ones.
_UNSIGNED_WRAPS = {np.add, np.subtract, np.multiply, np.power, np.negative}


def arity(name: str) -> int:
    if name == "where":
        return 3
    return 2 if name in BINARY or name == "nth" else 1


def combined(how: Callable[..., Any], *operands: Operand) -> Operand:
    values = [one for one in operands if isinstance(one, Value)]
    if not values:
        return _number(how, operands)
    offsets = common_offsets(values)
    data = how(
        *(
            _prepared(how, spread(one, offsets)) if isinstance(one, Value) else one
            for one in operands
        )
    )
    named = next((one for one in values if one.offsets is not None), values[0])
    return Value(data=data, offsets=offsets, name=named.name)


def _prepared(how: Callable[..., Any], data: Any) -> Any:
    """The data in a type in which the operator does what one expects of numbers."""
    kind = data.dtype.kind
    if kind == "b" and how in _NUMERIC:
        data, kind = data.astype(np.int64), "i"
    if (kind == "u" and how in _UNSIGNED_WRAPS) or (kind == "i" and how is np.power):
        return data.astype(np.float64)
    return data


def _number(how: Callable[..., Any], operands: tuple[Operand, ...]) -> Operand:
    """Of numbers alone: in double precision where integers would wrap or not divide."""
    exact = all(isinstance(one, int) for one in operands)
    if exact and how in {np.add, np.subtract, np.multiply, *_BITS}:
        plain = how(*(np.array(one, dtype=object) for one in operands))
        value = int(plain)
        return value if abs(value) < LARGEST else float(value)
    result = how(*(float(one) if type(one) is int else one for one in operands))
    return result.item() if hasattr(result, "item") else result


def folded(how: Callable[..., Any], values: list[Operand]) -> Operand:
    result = values[0]
    for value in values[1:]:
        result = combined(how, result, value)
    return result


def negated(op: ast.unaryop, value: Operand) -> Operand:
    if isinstance(op, ast.USub):
        return combined(np.negative, value) if isinstance(value, Value) else -value
    if isinstance(op, ast.Not):
        return combined(np.logical_not, value)
    if isinstance(op, ast.Invert):
        how = np.logical_not if isinstance(value, bool) else np.invert
        return combined(how, value)
    return value
