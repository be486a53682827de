"""Expressions over branches: parsed with Python's grammar, evaluated by our own rules only.

Owns what may be said in one; everything else is refused when it is parsed. No attribute, no
subscript, no call of anything but the functions below: text from a file cannot run code, and
cannot ask for more than time and memory in proportion to the chunk.
"""

import ast
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dask_runner.errors import UsageError
from dask_runner.histograms.reductions import REDUCTIONS, nth
from dask_runner.histograms.values import CountsDifferError, Value, common_offsets, spread


def _double(data: Any) -> Any:
    return np.asarray(data, np.float64)


_UNARY: dict[str, Any] = {
    "double": _double,
    "abs": np.abs, "sqrt": np.sqrt, "exp": np.exp, "log": np.log, "log10": np.log10,
    "log2": np.log2, "sin": np.sin, "cos": np.cos, "tan": np.tan, "sinh": np.sinh,
    "cosh": np.cosh, "tanh": np.tanh, "arcsin": np.arcsin, "arccos": np.arccos,
    "arctan": np.arctan, "arcsinh": np.arcsinh, "floor": np.floor, "ceil": np.ceil,
    "round": np.round, "sign": np.sign, "isfinite": np.isfinite, "isnan": np.isnan,
}  # fmt: skip
_BINARY: dict[str, Any] = {
    "arctan2": np.arctan2, "hypot": np.hypot, "minimum": np.minimum, "maximum": np.maximum,
    "fmod": np.fmod,
}  # fmt: skip
FUNCTIONS = (*_UNARY, *_BINARY, "where", *REDUCTIONS, "nth")
CONSTANTS = {"pi": np.pi, "inf": np.inf, "nan": np.nan, "True": True, "False": False}

_OPERATORS: dict[type, Any] = {
    ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Div: np.true_divide,
    ast.FloorDiv: np.floor_divide, ast.Mod: np.mod, ast.Pow: np.power,
    ast.BitAnd: np.bitwise_and, ast.BitOr: np.bitwise_or,
}  # fmt: skip
_COMPARISONS: dict[type, Any] = {
    ast.Lt: np.less, ast.LtE: np.less_equal, ast.Gt: np.greater, ast.GtE: np.greater_equal,
    ast.Eq: np.equal, ast.NotEq: np.not_equal,
}  # fmt: skip
_BITWISE = (ast.BitAnd, ast.BitOr)
_BITS = {np.bitwise_and, np.bitwise_or, np.invert}
# What takes conditions as the numbers 0 and 1. All else leaves them as they are.
_NUMERIC = {
    *(how for kind, how in _OPERATORS.items() if kind not in _BITWISE),
    *(how for name, how in _UNARY.items() if name not in {"isfinite", "isnan"}),
    *_BINARY.values(),
    np.negative,
}
# What would wrap around: differences of unsigned numbers, powers of whole ones.
_UNSIGNED_WRAPS = {np.add, np.subtract, np.multiply, np.power, np.negative}

_QUOTED = re.compile(r"`([^`]*)`")
_LONGEST = 2000
_DEEPEST = 200
_LARGEST = 2**63

# One number, or a value of the chunk.
_Operand = Any


class Expression:
    """A parsed expression. `text` is as the user wrote it, `place` where (an option, or a file with
    its key), `branches` the names that it reads, in order.
    """

    def __init__(self, text: str, place: str) -> None:
        """Raises UsageError for what is no expression, or is not allowed in one."""
        self.text = text.strip()
        self.place = place
        self._quoted: dict[str, str] = {}
        self._tree = self._parsed()
        branches: dict[str, None] = {}
        self._check(self._tree, branches, 0)
        self.branches = tuple(branches)

    def __call__(self, columns: Mapping[str, Value], events: int) -> Value:
        """The value for a chunk of so many events with these columns. Raises CountsDifferError for
        objects that do not fit together, UsageError for numbers that an operator cannot take.
        """
        try:
            with np.errstate(all="ignore"):
                found = self._evaluate(self._tree, columns)
        except CountsDifferError:
            raise
        except (TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
            said = str(error)
            if "bitwise" in said or "invert" in said:
                said = "& | ~ are of conditions and whole numbers"
            raise self.error(said) from error
        if isinstance(found, Value):
            return Value(data=found.data, offsets=found.offsets, name=self.text)
        return Value(data=np.full(events, found), name=self.text)

    @property
    def constant(self) -> bool:
        """True if it names no branch."""
        return not self.branches

    def error(self, what: str, hint: str = "") -> UsageError:
        """An error about this expression."""
        return UsageError(f"{self.place}: {self.text!r}: {what}", hint=hint)

    def _parsed(self) -> ast.expr:
        if not self.text:
            raise UsageError(f"{self.place}: empty expression")
        if len(self.text) > _LONGEST:
            raise UsageError(f"{self.place}: an expression of more than {_LONGEST} characters")

        def stand_in(match: re.Match[str]) -> str:
            name = f"branch_{len(self._quoted)}__"
            self._quoted[name] = match[1]
            return name

        text = _QUOTED.sub(stand_in, self.text)
        # As in TTree::Draw, with the precedence that is meant.
        text = text.replace("&&", " and ").replace("||", " or ")
        try:
            tree = ast.parse(text, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            said = error.msg if isinstance(error, SyntaxError) else str(error)
            raise self.error(f"not an expression: {said}", _syntax_hint(self.text)) from error
        self._refuse_loose_bits(tree, text)
        return tree

    def _refuse_loose_bits(self, tree: ast.expr, text: str) -> None:
        """`a > 1 & b < 2` is `a > (1 & b) < 2`, which nobody means."""
        for node in ast.walk(tree):
            if not isinstance(node, ast.Compare):
                continue
            for operand in (node.left, *node.comparators):
                bits = isinstance(operand, ast.BinOp) and isinstance(operand.op, _BITWISE)
                before = text.encode()[: operand.col_offset].rstrip()
                if bits and not before.endswith(b"("):
                    raise self.error(
                        "& and | bind more tightly than comparisons",
                        "write `and`, `or`, or put each comparison in parentheses",
                    )

    def _check(self, node: ast.expr, branches: dict[str, None], depth: int) -> None:
        if depth > _DEEPEST:
            raise self.error("nested too deeply")
        if isinstance(node, ast.Name):
            if node.id in self._quoted or node.id not in CONSTANTS:
                branches[self._quoted.get(node.id, node.id)] = None
        elif isinstance(node, ast.Constant):
            self._check_number(node.value)
        for part in self._parts(node):
            self._check(part, branches, depth + 1)

    def _parts(self, node: ast.expr) -> list[ast.expr]:
        """What an allowed node is made of."""
        match node:
            case ast.BinOp(op=op) if type(op) in _OPERATORS:
                return [node.left, node.right]
            case ast.BinOp(op=ast.BitXor()):
                raise self.error("^ is not allowed: elsewhere it is a power", "write ** for powers")
            case ast.UnaryOp():
                return [node.operand]
            case ast.BoolOp():
                return node.values
            case ast.Compare(ops=ops) if all(type(op) in _COMPARISONS for op in ops):
                return [node.left, *node.comparators]
            case ast.Call():
                return self._arguments(node)
            case ast.Name() | ast.Constant():
                return []
        raise self.error(_what_is(node) + " is not allowed in an expression", _HINT)

    def _check_number(self, value: object) -> None:
        if not isinstance(value, int | float):
            raise self.error(f"{value!r} is not a number")
        if isinstance(value, int) and abs(value) >= _LARGEST:
            raise self.error("an integer beyond 64 bits", "write it as 1e20")

    def _arguments(self, node: ast.Call) -> list[ast.expr]:
        name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
        if name not in FUNCTIONS or name in self._quoted:
            raise self.error(
                f"there is no function {name}", f"the functions are {', '.join(FUNCTIONS)}"
            )
        wanted = _arity(name)
        if node.keywords or len(node.args) != wanted:
            raise self.error(f"{name} takes {wanted} argument{'s' if wanted > 1 else ''}")
        if name == "nth" and _integer(node.args[1]) is None:
            raise self.error("nth(x, k): k is a whole number: 0 the first, -1 the last")
        return node.args[:1] if name == "nth" else node.args

    def _evaluate(self, node: ast.expr, columns: Mapping[str, Value]) -> _Operand:
        match node:
            case ast.Constant():
                found = node.value
            case ast.Name():
                found = self._named(node.id, columns)
            case ast.BinOp():
                left, right = (self._evaluate(n, columns) for n in (node.left, node.right))
                found = _combined(_OPERATORS[type(node.op)], left, right)
            case ast.UnaryOp():
                found = _unary(node.op, self._evaluate(node.operand, columns))
            case ast.BoolOp():
                how = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
                found = _folded(how, [self._evaluate(n, columns) for n in node.values])
            case ast.Compare():
                found = self._compared(node, columns)
            case ast.Call(func=ast.Name(id=name)):
                found = self._called(name, node.args, columns)
            case _:
                raise AssertionError(ast.dump(node))
        return found

    def _named(self, name: str, columns: Mapping[str, Value]) -> _Operand:
        if name not in self._quoted and name in CONSTANTS:
            return CONSTANTS[name]
        branch = self._quoted.get(name, name)
        if branch not in columns:
            raise self.error(
                f"{branch!r} has lists of lists", "a function (--function) may take them apart"
            )
        return columns[branch]

    def _compared(self, node: ast.Compare, columns: Mapping[str, Value]) -> _Operand:
        values = [self._evaluate(n, columns) for n in (node.left, *node.comparators)]
        pairs = [
            _combined(_COMPARISONS[type(op)], one, other)
            for op, one, other in zip(node.ops, values, values[1:], strict=False)
        ]
        return _folded(np.logical_and, pairs)

    def _called(self, name: str, nodes: list[ast.expr], columns: Mapping[str, Value]) -> _Operand:
        if name in REDUCTIONS or name == "nth":
            value = self._evaluate(nodes[0], columns)
            if not isinstance(value, Value) or value.offsets is None:
                raise self.error(f"{name} is of the objects of an event; there is one value only")
            data = (
                nth(value.data, value.offsets, _integer(nodes[1]) or 0)
                if name == "nth"
                else REDUCTIONS[name](value.data, value.offsets)
            )
            return Value(data=data, name=self.text)
        values = [self._evaluate(n, columns) for n in nodes]
        if name == "where":
            return _combined(np.where, *values)
        return _combined(_UNARY.get(name) or _BINARY[name], *values)


_HINT = "branches, numbers, + - * / // % **, comparisons, and or not & | ~, functions"


def _arity(name: str) -> int:
    if name == "where":
        return 3
    return 2 if name in _BINARY or name == "nth" else 1


def _integer(node: ast.expr) -> int | None:
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        sign, node = -1, node.operand
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return sign * node.value
    return None


def _combined(how: Callable[..., Any], *operands: _Operand) -> _Operand:
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


def _number(how: Callable[..., Any], operands: tuple[_Operand, ...]) -> _Operand:
    """Of numbers alone: in double precision where integers would wrap or not divide."""
    exact = all(isinstance(one, int) for one in operands)
    if exact and how in {np.add, np.subtract, np.multiply, *_BITS}:
        plain = how(*(np.array(one, dtype=object) for one in operands))
        value = int(plain)
        return value if abs(value) < _LARGEST else float(value)
    result = how(*(float(one) if type(one) is int else one for one in operands))
    return result.item() if hasattr(result, "item") else result


def _folded(how: Callable[..., Any], values: list[_Operand]) -> _Operand:
    result = values[0]
    for value in values[1:]:
        result = _combined(how, result, value)
    return result


def _unary(op: ast.unaryop, value: _Operand) -> _Operand:
    if isinstance(op, ast.USub):
        return _combined(np.negative, value) if isinstance(value, Value) else -value
    if isinstance(op, ast.Not):
        return _combined(np.logical_not, value)
    if isinstance(op, ast.Invert):
        how = np.logical_not if isinstance(value, bool) else np.invert
        return _combined(how, value)
    return value


def _what_is(node: ast.AST) -> str:
    names = {
        ast.Attribute: "a dot",
        ast.Subscript: "a subscript",
        ast.Lambda: "a lambda",
        ast.IfExp: "if ... else",
    }
    for kind, name in names.items():
        if isinstance(node, kind):
            return name
    return type(node).__name__


def _syntax_hint(text: str) -> str:
    if "!" in text.replace("!=", ""):
        return "`not` in place of `!`"
    return "a branch whose name is no Python name stands in backticks: `jet.pt`"
