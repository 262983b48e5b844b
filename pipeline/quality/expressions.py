"""Rules in one line: what must hold of a document's attributes, as an expression.

    letter_characters >= 0.4 and (words > 100 or language in ("de", "fr"))

Names are attributes. There are numbers, texts, ``+ - * /``, comparisons, ``in``, ``and``, ``or``, ``not``, and nothing else: an
expression is read as a syntax tree, of which only these nodes are known, and computed by Arrow column by column. It is never run
as Python. What rests on an undefined attribute is undefined; a division by zero is too.
"""

import ast
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

LONGEST = 1000
Value = Any
"""A column, or a scalar of Arrow."""

_ARITHMETIC: Mapping[type, Callable[[Value, Value], Value]] = {
    ast.Add: pc.add,
    ast.Sub: pc.subtract,
    ast.Mult: pc.multiply,
    ast.Div: pc.divide,
}
_COMPARISONS: Mapping[type, Callable[[Value, Value], Value]] = {
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
}
_LOGIC: Mapping[type, Callable[[Value, Value], Value]] = {ast.And: pc.and_kleene, ast.Or: pc.or_kleene}


def parsed(text: str) -> ast.expr:
    """The expression's tree. Raises ValueError with a sentence where it holds anything that is not known here."""
    if len(text) > LONGEST:
        raise ValueError(f"the expression is longer than {LONGEST} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text!r} is no expression: {getattr(error, 'msg', 'nested too deep')}") from None
    if not _is_truth(tree):
        raise ValueError(f"{text!r} says nothing that holds or does not: compare something, as in words >= 50")
    return tree


def names_in(tree: ast.expr) -> tuple[str, ...]:
    """The attributes it looks at, in the order of the text."""
    return tuple(dict.fromkeys(node.id for node in ast.walk(tree) if isinstance(node, ast.Name)))


def bound_in(tree: ast.expr) -> float | None:
    """The number that one attribute is compared with, where it says no more than that."""
    if isinstance(tree, ast.Compare) and len(tree.ops) == 1 and isinstance(tree.left, ast.Name):
        value = _number(tree.comparators[0])
        return None if value is None else float(value)
    return None


def holds(tree: ast.expr, attributes: pa.RecordBatch | pa.Table) -> pa.Array | pa.ChunkedArray:
    """For each document whether it holds; null where that is undefined."""
    return _computed(tree, attributes)


def _is_truth(node: ast.expr) -> bool:
    """Whether it is a statement, built of what is known. Raises ValueError for what is not."""
    if isinstance(node, ast.BoolOp):
        return all(_is_truth(value) for value in node.values)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return _is_truth(node.operand)
    if isinstance(node, ast.Compare):
        _check_value(node.left)
        for operator, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(operator, (ast.In, ast.NotIn)):
                if not isinstance(right, (ast.Tuple, ast.List)) or not all(
                    isinstance(x, ast.Constant) for x in right.elts
                ):
                    raise ValueError(f"{ast.unparse(node)}: in takes a list, as in language in ('en', 'de')")
                if len(node.ops) > 1:
                    raise ValueError(f"{ast.unparse(node)}: join comparisons by and")
            elif type(operator) in _COMPARISONS:
                _check_value(right)
            else:
                raise _unknown(node)
        return True
    _check_value(node)
    return False


def _check_value(node: ast.expr) -> None:
    if isinstance(node, ast.Name) or (isinstance(node, ast.Constant) and type(node.value) in (int, float, str)):
        return
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        _check_value(node.operand)
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        _check_value(node.left)
        _check_value(node.right)
    else:
        raise _unknown(node)


def _unknown(node: ast.expr) -> ValueError:
    return ValueError(
        f"{ast.unparse(node)!r} is not known in an expression: there are attributes, numbers, texts, + - * /, comparisons, "
        "in, and, or, not"
    )


def _number(node: ast.expr) -> int | float | None:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _number(node.operand)
        return None if inner is None else -inner
    return node.value if isinstance(node, ast.Constant) and type(node.value) in (int, float) else None  # type: ignore[return-value]


def _computed(node: ast.expr, attributes: pa.RecordBatch | pa.Table) -> Value:
    if isinstance(node, ast.BoolOp):
        return reduce(_LOGIC[type(node.op)], [_computed(value, attributes) for value in node.values])
    if isinstance(node, ast.UnaryOp):
        inner = _computed(node.operand, attributes)
        return pc.invert(inner) if isinstance(node.op, ast.Not) else pc.negate(inner)
    if isinstance(node, ast.Compare):
        return _compared(node, attributes)
    if isinstance(node, ast.BinOp):
        return _defined(_ARITHMETIC[type(node.op)](_computed(node.left, attributes), _computed(node.right, attributes)))
    if isinstance(node, ast.Name):
        column = attributes.column(node.id)
        return column if pa.types.is_string(column.type) else column.cast(pa.float64())
    assert isinstance(node, ast.Constant)
    return pa.scalar(node.value if isinstance(node.value, str) else float(node.value))  # type: ignore[arg-type]


def _compared(node: ast.Compare, attributes: pa.RecordBatch | pa.Table) -> Value:
    left, parts = _computed(node.left, attributes), []
    for operator, right_node in zip(node.ops, node.comparators, strict=True):
        if isinstance(operator, (ast.In, ast.NotIn)):
            listed = [element.value for element in right_node.elts]  # type: ignore[attr-defined]
            among = pc.is_in(left, pa.array([*listed], left.type))
            said = pc.invert(among) if isinstance(operator, ast.NotIn) else among
            parts.append(pc.if_else(pc.is_null(left), pa.scalar(None, pa.bool_()), said))
            continue
        right = _computed(right_node, attributes)
        parts.append(_COMPARISONS[type(operator)](left, right))
        left = right
    return reduce(pc.and_kleene, parts)


def _defined(value: Value) -> Value:
    """Without infinities and what is not a number."""
    return pc.if_else(pc.is_finite(value), value, pa.scalar(None, pa.float64()))
