"""Roots, powers, and sums over one element or from zero: fewer operations, or cheaper ones.

These come after raising, which knows people's spellings as they are.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpress.capture import Literal, Node, Value
from jaxpress.passes.pattern import State, any_value, op
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.view import View, scalar_value

__all__ = ["ALGEBRA_RULES", "is_not_negative"]

# How far back to look for what shows that a value is not negative.
MAX_DEPTH = 6

_POSITIVE = frozenset({"exp", "exp2", "logistic", "sigmoid"})
_KEEPS_SIGN = frozenset(
    """
    reshape squeeze expand_dims broadcast_in_dim transpose convert_element_type copy slice
    reduce_sum reduce_max reduce_min reduce_prod cumsum sqrt rsqrt add mul div
    """.split()  # noqa: SIM905
)


def is_not_negative(view: View, value: Value, depth: int = MAX_DEPTH) -> bool:
    """Whether no element can be below zero, or minus zero; NaN may be among them."""
    if isinstance(value, Literal):
        number = np.asarray(value.val)
        return bool(number.dtype != bool and number >= 0 and not np.signbit(np.float64(number)))
    node = view.producer(value)
    if node is None or depth == 0:
        return False
    inputs = view.inputs(node)
    if node.op in _POSITIVE or node.op in ("abs", "square"):
        return jnp.issubdtype(inputs[0].dtype, jnp.floating)
    if node.op == "integer_pow":
        return node.params["y"] % 2 == 0 and jnp.issubdtype(value.dtype, jnp.floating)
    if node.op == "mul" and inputs[0] is inputs[1]:
        return jnp.issubdtype(value.dtype, jnp.floating)
    return node.op in _KEEPS_SIGN and all(is_not_negative(view, v, depth - 1) for v in inputs)


def _floats(match: Match) -> str | None:
    dtype = match.root.output.dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        return f"it is of {dtype}"
    if any(node.params.get("accuracy") is not None for node in (match.root, *match.nodes.values())):
        return "it asks for an accuracy of its own"
    return None


# 1 / sqrt(x) -> rsqrt(x)
RECIPROCAL_ROOT = Rule(
    "reciprocal_root",
    op("div", 1.0, op("sqrt", any_value("x"), name="root")),
    lambda x: lax.rsqrt(x),
    lambda m: _floats(m) or (None if m["x"].shape == m.root.output.shape else "it broadcasts"),
    numerics="reassociates",
)

# y / sqrt(x) -> y * rsqrt(x)
DIVIDE_BY_ROOT = Rule(
    "divide_by_root",
    op("div", any_value("y"), op("sqrt", any_value("x"), name="root")),
    lambda y, x: lax.mul(y, lax.rsqrt(x)),
    lambda m: _floats(m) or (None if m["x"].ndim == m["y"].ndim else "a number is rooted"),
    numerics="reassociates",
)


class _Power:
    """``pow`` with an exponent that is written in the program."""

    names = frozenset({"pow"})
    size = 1

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        x, y = view.inputs(node)
        power = scalar_value(view, y)
        if power is None or not jnp.issubdtype(node.output.dtype, jnp.floating):
            state.fail("its exponent is data, or it is of no floats", node)
            return None
        if x.dtype != node.output.dtype or x.shape != node.output.shape:
            state.fail("it broadcasts", node)
            return None
        power = float(power)
        if power in (0.5, -0.5):
            if not is_not_negative(view, x):
                state.fail("a root of minus infinity, or of minus zero, is another number", node)
                return None
        elif not (power.is_integer() and 1 <= abs(power) <= 3):
            state.fail(f"no operation does what the power {power} does", node)
            return None
        return Match(view, node, {"x": x}, info={"power": power})


def _power(x: Any, *, match: Match) -> Any:
    power = match.info["power"]
    if not power.is_integer():
        return lax.sqrt(x) if power > 0 else lax.rsqrt(x)
    return x if power == 1 else lax.integer_pow(x, int(power))


# pow(x, 2) -> integer_pow(x, 2);  pow(x, 0.5) -> sqrt(x), where x is not negative
POWER = Rule("power", _Power(), _power, numerics="reassociates")


def _of_one_element(view: View, node: Node) -> bool:
    shape = view.inputs(node)[0].shape
    return all(isinstance(n, int) for n in shape) and all(
        shape[axis] == 1 for axis in node.params["axes"]
    )


# max(x, axis) -> reshape(x), where the axis has one element;  likewise min, and, or, prod
REDUCE_ONE = Rule(
    "reduce_one",
    op(
        ("reduce_max", "reduce_min", "reduce_and", "reduce_or", "reduce_prod"),
        any_value("x"),
        where=_of_one_element,
    ),
    lambda x, *, match: lax.reshape(x, match.root.output.shape),
    lambda m: "it says how its result is sharded" if m.root.params.get("out_sharding") else None,
)

# sum(x, axis) -> reshape(x), where the axis has one element: minus zero stays minus zero
SUM_OF_ONE = Rule(
    "sum_of_one",
    op("reduce_sum", any_value("x"), where=_of_one_element),
    lambda x, *, match: lax.reshape(x, match.root.output.shape),
    lambda m: "it says how its result is sharded" if m.root.params.get("out_sharding") else None,
    numerics="reassociates",
)


def _one_shape(match: Match) -> str | None:
    same = match["x"].shape == match.nodes["start"].output.shape
    return _floats(match) or (None if same else "it broadcasts")


# (0 + x) + y -> x + y, as sum([x, y]) has it: minus zero twice stays minus zero
SUM_FROM_ZERO = Rule(
    "sum_from_zero",
    op("add", op("add", 0, any_value("x"), name="start"), any_value("y")),
    lambda x, y: lax.add(x, y),
    _one_shape,
    numerics="reassociates",
)

ALGEBRA_RULES = RuleSet(
    (RECIPROCAL_ROOT, DIVIDE_BY_ROOT, POWER, REDUCE_ONE, SUM_OF_ONE, SUM_FROM_ZERO)
)
