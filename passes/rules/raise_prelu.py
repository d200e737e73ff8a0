"""Leaky relus whose slopes are arrays, or whose derivative at zero is another, become ``prelu``."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray

from jaxpress import nnops
from jaxpress.capture import Literal, Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.raise_product import call_of
from jaxpress.passes.view import View, is_parameter_like, scalar_value

__all__ = ["PRELU_RULES"]


class _Slope(NamedTuple):
    """A number or a parameter, and the shape in which it stands beside x."""

    value: Value
    shape: tuple[Any, ...]
    negative: bool
    nodes: tuple[Node, ...]


class _WherePattern:
    """``where(x >= 0, x, slope * x)``, with any of the four comparisons."""

    names = frozenset({"select_n"})
    size = 2  # after leaky_relu, whose slope is a number and whose derivative at 0 is 1

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        inputs = view.inputs(node)
        compare = view.producer(inputs[0]) if len(inputs) == 3 else None
        if compare is None or compare.op not in ("ge", "gt", "lt", "le"):
            state.fail("it selects by no comparison", node)
            return None
        x, zero = view.inputs(compare)
        # select_n takes the case for False first.
        right, left = (inputs[2], inputs[1]) if compare.op in ("ge", "gt") else inputs[1:]
        if scalar_value(view, zero) != 0 or right is not x:
            state.fail("it does not select x itself where x is above 0", node)
            return None
        mul = view.producer(left)
        if mul is None or mul.op != "mul":
            state.fail("below 0 it is no product", node)
            return None
        for a, b in (view.inputs(mul), view.inputs(mul)[::-1]):
            slope = _slope_of(view, b, x) if a is x else None
            if slope is not None and not slope.negative:
                # At 0 the derivative is that of the side to which the comparison gives it.
                at_zero = 1.0 if compare.op in ("ge", "lt") else "slope"
                return _match(view, node, x, slope, at_zero, (compare, mul))
        state.fail("below 0 it is not x times a number or a parameter", node)
        return None


class _DifferencePattern:
    """``relu(x) - slope * relu(-x)``, as Keras has it, also as a sum."""

    names = frozenset({"add", "sub"})
    size = 4

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        a, b = view.inputs(node)
        for positive, scaled in ((a, b), (b, a)) if node.op == "add" else ((a, b),):
            found = call_of(view, positive)
            mul = view.producer(scaled)
            if found is None or found[0] != "relu" or mul is None or mul.op != "mul":
                continue
            x = found[1]
            for gate, factor in (view.inputs(mul), view.inputs(mul)[::-1]):
                other = call_of(view, gate)
                minus = view.producer(other[1]) if other and other[0] == "relu" else None
                if minus is None or minus.op != "neg" or view.inputs(minus)[0] is not x:
                    continue
                slope = _slope_of(view, factor, x)
                if slope is None or slope.negative != (node.op == "add"):
                    state.fail("its slope is no parameter, or has the other sign", node)
                    continue
                assert other is not None
                return _match(view, node, x, slope, 0.0, (found[2], mul, other[2], minus))
        state.fail("it is not relu(x) and a slope times relu(-x)", node)
        return None


def _slope_of(view: View, value: Value, x: Value) -> _Slope | None:
    """A number, or a parameter that is broadcast to ``x``, perhaps negated."""
    number = scalar_value(view, value)
    if number is not None:
        aval = ShapedArray((), number.dtype)
        return _Slope(Literal(abs(number), aval), (), bool(np.signbit(number)), ())
    if value.ndim not in (0, x.ndim) or value.dtype != x.dtype:
        return None
    # The shape in which it stands beside x, ones where it is spread out; then how it came to that.
    shape = list(value.shape)
    axes: list[int] | None = list(range(value.ndim))
    nodes: list[Node] = []
    negative = False
    node = view.producer(value)
    while node is not None and len(node.inputs) == 1:
        if node.op == "neg":
            negative = not negative
        elif node.op == "broadcast_in_dim" and axes is not None:
            axes = [axes[int(d)] for d in node.params["broadcast_dimensions"]]
            inner = view.inputs(node)[0].shape
            shape = [inner[axes.index(i)] if i in axes else 1 for i in range(len(shape))]
        elif node.op == "reshape":
            axes = None  # what is before only gives its elements, in order
        else:
            break
        nodes.append(node)
        value = view.inputs(node)[0]
        node = view.producer(value)
    if (axes is not None and axes != sorted(axes)) or not is_parameter_like(view, value):
        return None
    return _Slope(value, tuple(shape), negative, tuple(nodes))


def _match(
    view: View, node: Node, x: Value, slope: _Slope, at_zero: Any, nodes: tuple[Node, ...]
) -> Match | None:
    values = {"x": x, "slope": slope.value}
    info = {"at_zero": at_zero, "shape": slope.shape}
    return Match(view, node, values, matched=(*nodes, *slope.nodes), info=info)


def _guard(match: Match) -> str | None:
    x, y = match["x"], match.root.output
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return f"x is {x.dtype}"
    if x.shape != y.shape or x.dtype != y.dtype:
        return "it changes the shape or dtype"
    return None


def _raise(x: Any, slope: Any, *, match: Match) -> Any:
    slope = jnp.asarray(slope, x.dtype)
    slope = lax.reshape(slope, match.info["shape"])
    return nnops.prelu(x, slope, derivative_at_zero=match.info["at_zero"])


# where(x >= 0, x, slope * x) -> prelu(x, slope)
RAISE_PRELU = Rule("raise_prelu", _WherePattern(), _raise, _guard)

# relu(x) - slope * relu(-x) -> prelu(x, slope)
RAISE_RELU_DIFFERENCE = Rule("raise_relu_difference", _DifferencePattern(), _raise, _guard)

PRELU_RULES = RuleSet((RAISE_PRELU, RAISE_RELU_DIFFERENCE))
