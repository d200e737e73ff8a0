"""Errors that are squared, or taken without their sign, become losses of numbers.

``(x - mean(x)) ** 2`` is a part of a variance, and ``(g - m) ** 2`` one of an optimiser: only the
difference of two arrays of their own, of which a mean or a sum is made or which is a result, is
taken for a loss.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxpress import nnops
from jaxpress.capture import Literal, Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.arithmetic import polynomial_in, product_of, same_number
from jaxpress.passes.rules.kept_pieces import only_with_gradient
from jaxpress.passes.rules.loss_parts import half_square, refused_dtypes, square_of
from jaxpress.passes.rules.scalars import number
from jaxpress.passes.view import View, broadcast_operand

__all__ = ["ERROR_LOSS_RULES"]

_MOVES = frozenset({"reshape", "squeeze", "expand_dims", "transpose", "copy"})
_KEEPS = _MOVES | {"mul", "div", "neg", "select_n", "convert_element_type"}
# What makes one number of many, of which the operands of an error must not be made.
_MANY_TO_ONE = frozenset({"reduce_sum", "reduce_max", "reduce_min", "global_avg_pool", "avg_pool"})
_DEEP = 8


def _error(view: View, value: Value) -> tuple[Value, Value, Node] | None:
    """``a`` and ``b`` of ``a - b``, two arrays of one shape, and the operation."""
    node = view.producer(value)
    if node is None or node.op != "sub":
        return None
    a, b = view.inputs(node)
    alike = a.shape == b.shape == value.shape and a.dtype == b.dtype
    literal = isinstance(a, Literal) or isinstance(b, Literal)
    return (a, b, node) if alike and not literal and a is not b else None


def _is_summary(view: View, value: Value, of: Value) -> bool:
    """Whether a value repeats its elements, or is made of sums of ``of``, such as its mean."""
    for _ in range(_DEEP):
        if value is of:
            return False
        found = broadcast_operand(view, value)
        if found is not None and found[0].aval.size != value.aval.size:
            return True
        node = view.producer(value)
        if node is None:
            return False
        inputs = view.inputs(node)
        if node.op in _MANY_TO_ONE:
            return _is_made_of(view, inputs[0], of)
        if node.op not in (*_KEEPS, "broadcast_in_dim", "sqrt", "rsqrt", "add", "sub"):
            return False
        value = inputs[0]
    return False


def _is_made_of(view: View, value: Value, of: Value) -> bool:
    for _ in range(_DEEP):
        node = view.producer(value)
        if value is of or node is None or len(node.inputs) == 0:
            return value is of
        value = view.inputs(node)[0]
    return False


def _whole(view: View, value: Value) -> Value:
    """What a value is a part of, or is moved from."""
    for _ in range(_DEEP):
        node = view.producer(value)
        if node is None or node.op not in (*_MOVES, "slice", "rev", "concatenate"):
            break
        value = view.inputs(node)[0]
    return value


def _is_loss(view: View, value: Value, depth: int = 0) -> bool:
    """Whether an array of losses is a result, or becomes sums."""
    if view.is_output(value):
        return True
    users = view.users(value)
    if not users or depth == _DEEP or len(users) > _DEEP:
        return False
    return all(
        user.op in _MANY_TO_ONE or (user.op in _KEEPS and _is_loss(view, user.output, depth + 1))
        for user in users
    )


class _ErrorPattern:
    """``(a - b) ** 2`` or ``abs(a - b)``."""

    size = 2

    def __init__(self, names: frozenset[str]):
        self.names = names

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        if node.op == "abs":
            value = view.inputs(node)[0]
        else:
            square = square_of(view, node.output)
            if square is None:
                state.fail("it is no square", node)
                return None
            value = square[0]
        found = _error(view, value)
        if found is None:
            state.fail("it is of no difference of two arrays of one shape", node)
            return None
        a, b, sub = found
        return Match(view, node, {"predictions": a, "targets": b}, matched=(sub,))


def _error_guard(match: Match) -> str | None:
    view, a, b = match.view, match["predictions"], match["targets"]
    if _is_summary(view, a, b) or _is_summary(view, b, a):
        return "one of them repeats its elements, or is made of sums of the other"
    if _whole(view, a) is _whole(view, b):
        return "they are parts of one array, as in a total variation"
    if not _is_loss(view, match.root.output):
        return "it is neither a result nor summed"
    return only_with_gradient(match) or refused_dtypes(match, ("predictions", "targets"))


# (a - b) ** 2 -> mean_squared_error(a, b)
RAISE_SQUARED_ERROR = Rule(
    "raise_squared_error",
    _ErrorPattern(frozenset({"square", "integer_pow", "pow", "mul"})),
    nnops.mean_squared_error,
    _error_guard,
    numerics="reassociates",
    shared=True,
)

# abs(a - b) -> mean_absolute_error(a, b)
RAISE_ABSOLUTE_ERROR = Rule(
    "raise_absolute_error",
    _ErrorPattern(frozenset({"abs"})),
    nnops.mean_absolute_error,
    _error_guard,
    numerics="reassociates",
    shared=True,
)


class _HuberPattern:
    """Half of a square where an error is small, and a line beyond, in either of two ways.

    ``m * m / 2 + delta * (a - m)`` with ``m = min(a, delta)``, ``a`` the error's size; and
    ``where(a <= delta, e * e / 2, delta * a - delta * delta / 2)``, or a multiple of that.
    """

    names = frozenset({"min", "select_n"})
    size = 6

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        root = node if node.op == "select_n" else _sum_above(view, node)
        if root is None:
            state.fail("what is clipped is not what a sum is made of", node)
            return None
        node = root
        found = _clipped(view, node) if node.op == "add" else _chosen(view, node)
        if isinstance(found, str):
            state.fail(found, node)
            return None
        size, delta, nodes, scale = found
        maker = view.producer(size)
        error = None if maker is None or maker.op != "abs" else view.inputs(maker)[0]
        operands = None if error is None else _error(view, error)
        if maker is None or operands is None or not delta > 0:
            state.fail("it is of no difference of two arrays of one shape", node)
            return None
        predictions, targets, sub = operands
        info = {
            "delta": delta,
            "slope_at_infinity": "delta" if node.op == "add" else "nan",
            "scale": scale,
        }
        values = {"predictions": predictions, "targets": targets}
        return Match(view, node, values, matched=(*nodes, maker, sub), info=info)


def _scaled(view: View, value: Value) -> tuple[Value, float, tuple[Node, ...]] | None:
    """``x`` and the number of ``number * x``; 1 where there is none."""
    node = view.producer(value)
    product = None if node is None or node.op not in ("mul", "div") else product_of(view, node)
    if product is None:
        return value, 1.0, ()
    if product.under or len(product.over) != 1:
        return None
    return product.over[0], float(product.coefficient), tuple(product.nodes)


# The error's size, where the line begins, the operations, and what the loss is multiplied by.
Found = tuple[Value, float, tuple[Node, ...], float]


def _sum_above(view: View, low: Node) -> Node | None:
    """The sum of two terms of which one is a difference that a ``min`` is taken from."""
    for node in view.users(low.output)[:_DEEP]:
        while node.op in ("sub", "mul"):
            users = view.users(node.output)
            if len(users) != 1:
                break
            (node,) = users
        if node.op == "add":
            return node
    return None


def _clipped(view: View, node: Node) -> Found | str:
    for near, far in (view.inputs(node), view.inputs(node)[::-1]):
        square, line = half_square(view, near), _scaled(view, far)
        if square is None or line is None:
            continue
        low, rest = view.producer(square[0]), view.producer(line[0])
        if low is None or rest is None or low.op != "min" or rest.op != "sub":
            continue
        size, inner = view.inputs(rest)
        if inner is not square[0] or size not in view.inputs(low):
            continue
        delta = next((number(view, v) for v in view.inputs(low) if v is not size), None)
        if delta is None or not same_number(line[1], delta, node.output.dtype):
            return "the line has another slope than the parabola where they meet"
        return size, delta, (*square[1], *line[2], low, rest), 1.0
    return "it is no half of a square and a line"


def _chosen(view: View, node: Node) -> Found | str:
    inputs = view.inputs(node)
    compare = view.producer(inputs[0]) if len(inputs) == 3 else None
    if compare is None or compare.op not in ("le", "lt", "ge", "gt"):
        return "it does not choose by a comparison"
    size, limit = view.inputs(compare)
    delta = number(view, limit)
    if delta is None:
        return "what it compares with is no number"
    near, far = (inputs[2], inputs[1]) if compare.op in ("le", "lt") else inputs[1:]
    square, maker = _scaled_square(view, near), view.producer(size)
    nodes: list[Node] = []
    line = _line(view, far, size, nodes)
    if square is None or line is None or set(line) != {0, 1}:
        return "its cases are no multiple of a square and a line"
    if maker is None or square[0] not in (size, *view.inputs(maker)[:1]):
        return "the square is of something else"
    c, dtype = square[1], node.output.dtype
    if not (
        c > 0
        and same_number(line[1], 2 * c * delta, dtype)
        and same_number(-line[0], c * delta**2, dtype)
    ):
        return "the line does not go on where the parabola ends"
    return size, delta, (compare, *square[2], *nodes), 2 * c


def _line(view: View, value: Value, x: Value, nodes: list[Node]) -> dict[int, float] | None:
    """``value`` as a polynomial of ``x``, also where the program computes what is taken away."""
    node = view.producer(value)
    taken = None if node is None or node.op != "sub" else number(view, view.inputs(node)[1])
    if node is None or taken is None:
        return polynomial_in(view, value, x, nodes)
    nodes.append(node)
    line = polynomial_in(view, view.inputs(node)[0], x, nodes)
    return None if line is None else {**line, 0: line.get(0, 0.0) - taken}


def _scaled_square(view: View, value: Value) -> tuple[Value, float, tuple[Node, ...]] | None:
    """``x`` and the number of ``number * x * x``, and the operations."""
    square = square_of(view, value)
    if square is not None:
        return square[0], 1.0, (square[1],)
    node = view.producer(value)
    product = None if node is None or node.op not in ("mul", "div") else product_of(view, node)
    if product is None or product.under:
        return None
    c, nodes = float(product.coefficient), tuple(product.nodes)
    if len(product.over) == 2 and product.over[0] is product.over[1]:
        return product.over[0], c, nodes
    square = square_of(view, product.over[0]) if len(product.over) == 1 else None
    return None if square is None else (square[0], c, (*nodes, square[1]))


def _huber_guard(match: Match) -> str | None:
    return only_with_gradient(match) or refused_dtypes(match, ("predictions", "targets"))


def _raise_huber(predictions: Any, targets: Any, *, match: Match) -> Any:
    info = dict(match.info)
    scale = info.pop("scale")
    loss = nnops.huber(predictions, targets, **info)
    return loss if scale == 1 else loss * jnp.asarray(scale, loss.dtype)


# m * m / 2 + delta * (a - m), m = min(a, delta), a = abs(x - y) -> huber(x, y, delta)
RAISE_HUBER = Rule(
    "raise_huber",
    _HuberPattern(),
    _raise_huber,
    _huber_guard,
    numerics="reassociates",
    shared=True,
)

ERROR_LOSS_RULES = RuleSet((RAISE_HUBER, RAISE_SQUARED_ERROR, RAISE_ABSOLUTE_ERROR))
