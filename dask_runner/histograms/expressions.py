"""Expressions over branches: parsed with Python's grammar, evaluated by our own rules only.

Owns what may be said in one; everything else is refused when it is parsed. No attribute, no
subscript, no call of anything but the functions below: text from a file cannot run code, and
cannot ask for more than time and memory in proportion to the chunk.
"""

import ast
import re
from collections.abc import Mapping

import numpy as np

from dask_runner.errors import UsageError
from dask_runner.histograms.operators import (
    BINARY,
    BITWISE,
    COMPARISONS,
    CONSTANTS,
    FUNCTIONS,
    LARGEST,
    OPERATORS,
    UNARY,
    Operand,
    arity,
    combined,
    folded,
    negated,
)
from dask_runner.histograms.reductions import REDUCTIONS, nth
from dask_runner.histograms.values import CountsDifferError, Value

_QUOTED = re.compile(r"`([^`]*)`")
_LONGEST = 2000
_DEEPEST = 200
# Of nth(): no event has so many objects.
_FARTHEST = 2**31


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
                bits = isinstance(operand, ast.BinOp) and isinstance(operand.op, BITWISE)
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
            case ast.BinOp(op=op) if type(op) in OPERATORS:
                return [node.left, node.right]
            case ast.BinOp(op=ast.BitXor()):
                raise self.error("^ is not allowed: elsewhere it is a power", "write ** for powers")
            case ast.UnaryOp():
                return [node.operand]
            case ast.BoolOp():
                return node.values
            case ast.Compare(ops=ops) if all(type(op) in COMPARISONS for op in ops):
                return [node.left, *node.comparators]
            case ast.Call():
                return self._arguments(node)
            case ast.Name() | ast.Constant():
                return []
        hint = _HINT
        if isinstance(node, ast.Attribute):
            hint = f"a branch whose name has a dot stands in backticks: `{ast.unparse(node)}`"
        raise self.error(_what_is(node) + " is not allowed in an expression", hint)

    def _check_number(self, value: object) -> None:
        if not isinstance(value, int | float):
            raise self.error(f"{value!r} is not a number")
        if isinstance(value, int) and abs(value) >= LARGEST:
            raise self.error("an integer beyond 64 bits", "write it as 1e20")

    def _arguments(self, node: ast.Call) -> list[ast.expr]:
        name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
        if name not in FUNCTIONS or name in self._quoted:
            raise self.error(
                f"there is no function {name}", f"the functions are {', '.join(FUNCTIONS)}"
            )
        wanted = arity(name)
        if node.keywords or len(node.args) != wanted:
            raise self.error(f"{name} takes {wanted} argument{'s' if wanted > 1 else ''}")
        if name == "nth" and _integer(node.args[1]) is None:
            raise self.error("nth(x, k): k is a whole number: 0 the first, -1 the last")
        return node.args[:1] if name == "nth" else node.args

    def _evaluate(self, node: ast.expr, columns: Mapping[str, Value]) -> Operand:
        match node:
            case ast.Constant():
                found = node.value
            case ast.Name():
                found = self._named(node.id, columns)
            case ast.BinOp():
                left, right = (self._evaluate(n, columns) for n in (node.left, node.right))
                found = combined(OPERATORS[type(node.op)], left, right)
            case ast.UnaryOp():
                found = negated(node.op, self._evaluate(node.operand, columns))
            case ast.BoolOp():
                how = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
                found = folded(how, [self._evaluate(n, columns) for n in node.values])
            case ast.Compare():
                found = self._compared(node, columns)
            case ast.Call(func=ast.Name(id=name)):
                found = self._called(name, node.args, columns)
            case _:
                raise AssertionError(ast.dump(node))
        return found

    def _named(self, name: str, columns: Mapping[str, Value]) -> Operand:
        if name not in self._quoted and name in CONSTANTS:
            return CONSTANTS[name]
        branch = self._quoted.get(name, name)
        if branch not in columns:
            raise self.error(
                f"{branch!r} has lists of lists", "a function (--function) may take them apart"
            )
        return columns[branch]

    def _compared(self, node: ast.Compare, columns: Mapping[str, Value]) -> Operand:
        values = [self._evaluate(n, columns) for n in (node.left, *node.comparators)]
        pairs = [
            combined(COMPARISONS[type(op)], one, other)
            for op, one, other in zip(node.ops, values, values[1:], strict=False)
        ]
        return folded(np.logical_and, pairs)

    def _called(self, name: str, nodes: list[ast.expr], columns: Mapping[str, Value]) -> Operand:
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
            return combined(np.where, *values)
        return combined(UNARY.get(name) or BINARY[name], *values)


_HINT = "branches, numbers, + - * / // % **, comparisons, and or not & | ~, functions"


def _integer(node: ast.expr) -> int | None:
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        sign, node = -1, node.operand
    if isinstance(node, ast.Constant) and type(node.value) is int and node.value < _FARTHEST:
        return sign * node.value
    return None


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
