"""What losses are made of: products that are summed, logarithms of probabilities, squares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match
from jaxpress.passes.rules.arithmetic import number_of, product_of
from jaxpress.passes.view import View

__all__ = [
    "Above",
    "Summed",
    "becomes_negative",
    "half_square",
    "one_minus",
    "plain_loss",
    "reduced_loss",
    "refused_dtypes",
    "signed_sum",
    "square_of",
]

_WIDE = np.dtype("float32")
# How many operations there may be between a part of a loss and its root.
_FAR = 8
# What makes a mean of losses, before or after their sign is changed.
_TO_A_MEAN = frozenset({"reduce_sum", "mul", "div", "reshape", "squeeze", "convert_element_type"})


class Above:
    """A pattern that is looked for where something that it is made of gets its name.

    What is named last stands far below the root, which the engine would not look at again.

    Args:
      pattern: what is looked for, at the root.
      starts: the operations at which to begin.
      through: what may stand between them and the root.
      roots: whether it is looked for at its root as well.
    """

    def __init__(
        self,
        pattern: Any,
        starts: Iterable[str],
        through: Iterable[str] = (),
        *,
        roots: bool = False,
    ):
        self.pattern = pattern
        self.starts = frozenset(starts)
        self.names = self.starts | pattern.names if roots else self.starts
        self.through = frozenset(through) | pattern.names
        self.size = pattern.size

    def find(self, state: State, node: Node) -> Match | None:
        if node.op not in self.starts:
            return self.pattern.find(state, node)
        view = state.view
        chain: list[Node] = []
        value = node.outputs[0]
        while len(chain) < _FAR and not view.is_output(value):
            # What else there is may be a gradient, which the rule's guard knows.
            users = [user for user in view.users(value) if user.op in self.through]
            if len(users) != 1 or len(users[0].outputs) != 1:
                break
            (user,) = users
            chain.append(user)
            value = user.output
        for root in reversed(chain):
            if root.op in self.pattern.names:
                match = self.pattern.find(state, root)
                if match is not None:
                    return match
        if not chain:
            state.fail("it is used by something else, or by several", node)
        return None


class Summed(NamedTuple):
    """``sign * sum(a * b)``, as ``jnp.sum`` writes it.

    Attributes:
      factors: what is multiplied, without numbers.
      positive: whether the sign is one.
      axes: what is summed over.
      ndim: how many axes the product has.
      nodes: the operations.
    """

    factors: tuple[Value, ...]
    positive: bool
    axes: tuple[int, ...]
    ndim: int
    nodes: tuple[Node, ...]


def signed_sum(view: View, root: Node, count: int = 2, *, repeats: bool = False) -> Summed | str:
    """The sum of a product of ``count`` arrays that a node makes; or why it is none.

    Under a negation that is used by nothing else the sum has a sign. With ``repeats`` factors may
    have axes of size 1 where the product is longer.
    """
    nodes: list[Node] = []
    node: Node | None = root
    positive = True
    while node is not None and node.op == "neg":
        nodes.append(node)
        positive = not positive
        node = view.producer(view.inputs(node)[0])
    narrow = None
    if node is not None and node.op == "convert_element_type":
        # jnp.sum adds up in float32, at least.
        narrow = node
        nodes.append(node)
        node = view.producer(view.inputs(node)[0])
    if node is None or node.op != "reduce_sum":
        return "it is no sum"
    nodes.append(node)
    product = view.producer(view.inputs(node)[0])
    if narrow is not None:
        widen = product
        if widen is None or widen.op != "convert_element_type" or widen.output.dtype != _WIDE:
            return "it is a sum in another precision than jnp.sum computes it in"
        nodes.append(widen)
        product = view.producer(view.inputs(widen)[0])
        if product is None or product.output.dtype != narrow.output.dtype:
            return "it is a sum in another precision than jnp.sum computes it in"
    if product is None or product.op not in ("mul", "neg"):
        return "what is summed is no product"
    found = product_of(view, product, repeats=repeats)
    if found is None or found.under or len(found.over) != count:
        return f"what is summed is no product of {count} arrays"
    if abs(found.coefficient) != 1:
        return f"the product has the factor {found.coefficient:g}"
    axes = tuple(sorted(int(a) for a in node.params["axes"]))
    positive = positive == (found.coefficient > 0)
    nodes += found.nodes
    factors = tuple(reversed(found.over))  # as they are written
    return Summed(factors, positive, axes, product.output.ndim, tuple(nodes))


def reduced_loss(loss: Any, match: Match, *operands: Any, axis: int, **params: Any) -> Any:
    """A loss along one axis, summed over the others that ``match.info["axes"]`` has too."""
    axes, ndim = match.info["axes"], match.info["ndim"]
    at = axis % ndim
    rest = tuple(a - (a > at) for a in axes if a != at)
    reduction = "sum" if rest and len(rest) == ndim - 1 else "none"
    out = loss(*operands, axis=axis, reduction=reduction, **params)
    if rest and reduction == "none":
        out = out.sum(rest)
    return -out if match.info["negated"] else out


def plain_loss(view: View, node: Node, reductions: tuple[str, ...] = ("none",)) -> bool:
    """Whether every element of a loss counts alike, and is not reduced but as said."""
    if node.params.get("mapped") or node.params.get("keeps"):
        return False
    present = node.params.get("operands", ())
    counted = "where" in present or "weights" in present
    ignores = node.params.get("out_of_range") == "ignore"
    return node.params["reduction"] in reductions and not counted and not ignores


def refused_dtypes(match: Match, names: Sequence[str]) -> str | None:
    """Why operands and result have not one floating-point type in which nothing overflows."""
    dtype = match.root.output.dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        return f"it is {dtype}"
    if dtype == np.float16:
        return "the op computes in float32, where float16 overflows"
    for name in names:
        if match[name].dtype != dtype:
            return f"{name} is {match[name].dtype}, and the result {dtype}"
    return None


def becomes_negative(view: View, value: Value) -> bool:
    """Whether something is made of a value by sums and numbers, and then negated or taken away."""
    while view.use_count(value) == 1 and not view.is_output(value):
        (user,) = view.users(value)
        if user.op == "neg" or (user.op == "sub" and view.inputs(user)[1] is value):
            return True
        numbers = [n for v in view.inputs(user) if (n := number_of(view, v)) is not None]
        if user.op == "mul" and any(n < 0 for n in numbers):
            return True
        if user.op not in _TO_A_MEAN or (user.op in ("mul", "div") and not numbers):
            return False
        value = user.output
    return False


def one_minus(view: View, value: Value) -> tuple[Value, Node] | None:
    """``x`` of ``1 - x``."""
    node = view.producer(value)
    if node is None or node.op != "sub":
        return None
    one, x = view.inputs(node)
    return (x, node) if x.shape == value.shape and number_of(view, one) == 1 else None


def half_square(view: View, value: Value) -> tuple[Value, tuple[Node, ...]] | None:
    """``x`` of ``x * x / 2``, and the operations."""
    node = view.producer(value)
    product = None if node is None or node.op not in ("mul", "div") else product_of(view, node)
    if product is None or product.under or product.coefficient != 0.5:
        return None
    if len(product.over) == 2 and product.over[0] is product.over[1]:
        return product.over[0], tuple(product.nodes)
    square = square_of(view, product.over[0]) if len(product.over) == 1 else None
    return None if square is None else (square[0], (*product.nodes, square[1]))


def square_of(view: View, value: Value) -> tuple[Value, Node] | None:
    """``x`` of ``x * x``, and the operation."""
    node = view.producer(value)
    if node is None:
        return None
    inputs = view.inputs(node)
    squares = node.op == "square" or (node.op == "integer_pow" and node.params["y"] == 2)
    squares |= node.op == "pow" and number_of(view, inputs[1]) == 2
    if squares or (node.op == "mul" and inputs[0] is inputs[1]):
        return inputs[0], node
    return None
