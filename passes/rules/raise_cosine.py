"""A dot product over two lengths becomes a cosine."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from jaxpress import nnops
from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule
from jaxpress.passes.rules.arithmetic import product_of
from jaxpress.passes.rules.loss_parts import refused_dtypes, signed_sum, square_of
from jaxpress.passes.rules.scalars import number
from jaxpress.passes.view import View

__all__ = ["RAISE_COSINE_BY_LENGTHS"]


class _Length(NamedTuple):
    """The length of vectors, and how it is kept from zero.

    Attributes:
      x: the vectors.
      axis: along which they lie.
      placement: where epsilon stands, as in `l2_normalize`.
      epsilon: a number.
      nodes: the operations.
    """

    x: Value
    axis: int
    placement: str
    epsilon: float
    nodes: tuple[Node, ...]


class _ByLengthsPattern:
    """``sum(a * b) / (norm(a) * norm(b))``."""

    names = frozenset({"div"})
    size = 8

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        product = product_of(view, node)
        if (
            product is None
            or product.coefficient != 1
            or (len(product.over), len(product.under)) != (1, 2)
        ):
            state.fail("it is no quotient by a product of two", node)
            return None
        dot = _dot_of(view, product.over[0])
        if dot is None:
            state.fail("what is divided is no product of vectors", node)
            return None
        (a, b), axis, nodes = dot
        lengths = [_length_of(view, v) for v in product.under]
        first, second = lengths
        if first is None or second is None:
            state.fail("what it is divided by are no two lengths", node)
            return None
        if first.x is b:
            first, second = second, first
        if (first.x, second.x) != (a, b) or a is b or {first.axis, second.axis} != {axis}:
            state.fail("the lengths are of other vectors", node)
            return None
        if (first.placement, first.epsilon) != (second.placement, second.epsilon):
            state.fail("the lengths are kept from zero in different ways", node)
            return None
        info = {"axis": axis - a.ndim, "placement": first.placement, "epsilon": first.epsilon}
        matched = (*product.nodes, *nodes, *first.nodes, *second.nodes)
        return Match(view, node, {"predictions": a, "targets": b}, matched=matched, info=info)


def _dot_of(view: View, value: Value) -> tuple[tuple[Value, ...], int, tuple[Node, ...]] | None:
    """The vectors of a dot product, the axis along which they lie, and the operations."""
    node = view.producer(value)
    if node is None:
        return None
    if node.op == "dot_general":
        inputs = view.inputs(node)
        (left, right), batch = node.params["dimension_numbers"]
        rows = tuple(range(inputs[0].ndim - 1))
        last = (len(rows),)
        alike = inputs[0].dtype == inputs[1].dtype == node.output.dtype
        if (tuple(left), tuple(right)) != (last, last) or not alike:
            return None
        return (inputs, last[0], (node,)) if tuple(map(tuple, batch)) == (rows, rows) else None
    found = signed_sum(view, node)
    if isinstance(found, str) or not found.positive or len(found.axes) != 1:
        return None
    return found.factors, found.axes[0], found.nodes


def _length_of(view: View, value: Value) -> _Length | None:
    node = view.producer(value)
    if node is None:
        return None
    value, bound, nodes = _with_number(view, node)
    root = view.producer(value)
    if root is None or root.op != "sqrt" or root.params.get("accuracy") is not None:
        return None
    inner = view.producer(view.inputs(root)[0])
    if inner is None:
        return None
    total, within, more = _with_number(view, inner)
    squares = _squares_of(view, total)
    if squares is None or (bound and within):
        return None
    x, axis, adding = squares
    placement, epsilon = "root", 0.0
    if bound:
        placement, epsilon = ("norm" if nodes[0].op == "max" else "sum"), bound
    elif within:
        is_bound = more[0].op == "max"
        placement, epsilon = ("max", math.sqrt(within)) if is_bound else ("root", within)
    return _Length(x, axis, placement, epsilon, (*nodes, root, *more, *adding))


def _squares_of(view: View, value: Value) -> tuple[Value, int, tuple[Node, ...]] | None:
    """``x`` of ``sum(x * x)``, the axis, and the operations."""
    node = view.producer(value)
    if node is not None and node.op == "reduce_sum" and len(node.params["axes"]) == 1:
        square = square_of(view, view.inputs(node)[0])
        return square and (square[0], int(node.params["axes"][0]), (node, square[1]))
    if node is None or node.op != "dot_general":
        return None
    dot = _dot_of(view, value)
    return None if dot is None or dot[0][0] is not dot[0][1] else (dot[0][0], *dot[1:])


def _with_number(view: View, node: Node) -> tuple[Value, float, tuple[Node, ...]]:
    """``x`` and the positive number of ``x + number`` or ``max(x, number)``, 0 where neither is."""
    if node.op in ("add", "max"):
        a, b = view.inputs(node)
        for x, other in ((a, b), (b, a)):
            c = number(view, other)
            if c is not None and 0 < c < math.inf and x.shape == node.output.shape:
                return x, float(c), (node,)
    return node.output, 0.0, ()


def _guard(match: Match) -> str | None:
    if match["predictions"].shape != match["targets"].shape:
        return "one of them is broadcast"
    return refused_dtypes(match, ("predictions", "targets"))


def _raise_cosine(predictions: Any, targets: Any, *, match: Match) -> Any:
    return nnops.cosine_similarity(predictions, targets, dot_first=True, **match.info)


# sum(a * b) / (norm(a) * norm(b)) -> cosine_similarity(a, b, dot_first=True)
RAISE_COSINE_BY_LENGTHS = Rule(
    "raise_cosine_by_lengths",
    _ByLengthsPattern(),
    _raise_cosine,
    _guard,
    numerics="reassociates",
)
