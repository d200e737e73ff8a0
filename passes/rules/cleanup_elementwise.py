"""Elementwise operations that do nothing, or undo each other. Every rule here is exact.

Not x + 0, which turns minus zero into zero; but x + -0.0 and x - 0.0 keep every bit.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpress.capture import Node
from jaxpress.passes.pattern import State, any_value, op, scalar
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.view import scalar_value

__all__ = ["ELEMENTWISE_RULES"]


def _not_broadcast(match: Match) -> str | None:
    return None if match["x"].shape == match.root.output.shape else "x is broadcast"


def _integers(match: Match) -> str | None:
    if not jnp.issubdtype(match["x"].dtype, jnp.integer):
        return f"x is {match['x'].dtype}"
    return _not_broadcast(match)


def _booleans(match: Match) -> str | None:
    if match["x"].dtype != jnp.bool_:
        return f"x is {match['x'].dtype}"
    return _not_broadcast(match)


def _real(match: Match) -> str | None:
    return None if match["x"].dtype == match.root.output.dtype else "x is complex"


# double negation of truth: not(not(x)) -> x
DOUBLE_NOT = Rule("double_not", op("not", op("not", any_value("x"))), lambda x: x)

# abs(abs(x)) -> abs(x).  Not abs(neg(x)): JAX gives abs the derivative 1 at zero, where it has -1
ABS_TWICE = Rule("abs_twice", op("abs", op("abs", any_value("x"))), lax.abs, _real)

# x - 0 -> x;  x + -0.0 -> x
SUBTRACT_ZERO = Rule(
    "subtract_zero",
    op("sub", any_value("x"), 0.0),
    lambda x: x,
    _not_broadcast,
)
ADD_MINUS_ZERO = Rule(
    "add_minus_zero",
    op("add", any_value("x"), scalar(-0.0)),
    lambda x: x,
    lambda m: (
        _not_broadcast(m) if jnp.issubdtype(m["x"].dtype, jnp.floating) else f"x is {m['x'].dtype}"
    ),
)

# n + 0 -> n, for whole numbers
ADD_ZERO = Rule("add_zero", op("add", any_value("x"), 0), lambda x: x, _integers)

# x and True -> x;  x or False -> x
AND_TRUE = Rule("and_true", op("and", any_value("x"), True), lambda x: x, _booleans)
OR_FALSE = Rule("or_false", op("or", any_value("x"), False), lambda x: x, _booleans)

# max(x, x) -> x;  likewise min, and, or
SAME_TWICE = Rule(
    "same_twice", op(("max", "min", "and", "or"), any_value("x"), any_value("x")), lambda x: x
)

# x ** 1 -> x
FIRST_POWER = Rule("first_power", op("integer_pow", any_value("x"), params={"y": 1}), lambda x: x)


def _two_bounds(match: Match) -> str | None:
    values: list[Any] = [match[name] for name in ("a", "b")]  # both literals
    a, b = (np.asarray(v.val) for v in values)
    if any(np.isnan(v.astype(np.float64)) for v in (a, b)):
        return "a bound is not a number"
    if a == b:
        return "at equal bounds the derivative is another one"
    return _not_broadcast(match)


# max(max(x, a), b) -> max(x, max(a, b)), for numbers that differ;  likewise min
TWO_MAXIMA = Rule(
    "two_maxima",
    op("max", op("max", any_value("x"), scalar(name="a")), scalar(name="b")),
    lambda x, a, b: lax.max(x, lax.full_like(x, max(a, b))),
    _two_bounds,
)
TWO_MINIMA = Rule(
    "two_minima",
    op("min", op("min", any_value("x"), scalar(name="a")), scalar(name="b")),
    lambda x, a, b: lax.min(x, lax.full_like(x, min(a, b))),
    _two_bounds,
)


class _Select:
    """A choice that is made, or between one thing and the same."""

    names = frozenset({"select_n"})
    size = 1

    def find(self, state: State, node: Node) -> Match | None:
        which, *cases = state.view.inputs(node)
        if all(case is cases[0] for case in cases):
            return Match(state.view, node, {"x": cases[0]})
        number = scalar_value(state.view, which)
        if number is None:
            state.fail("it chooses by data", node)
            return None
        return Match(state.view, node, {"x": cases[int(number)]})


# select(True, a, b) -> b;  select(p, a, a) -> a
SELECT = Rule("select", _Select(), lambda x: x)

# select(not p, a, b) -> select(p, b, a)
SELECT_NOT = Rule(
    "select_not",
    op("select_n", op("not", any_value("p")), any_value("a"), any_value("b")),
    lambda p, a, b: lax.select_n(p, b, a),
    lambda m: None if m["p"].dtype == jnp.bool_ else "it chooses by a number",
    shared=True,
)


def _kind(dtype: Any) -> Any:
    """``(signed, bits below the point, least exponent, largest exponent)``; None if unknown."""
    if dtype == jnp.bool_:
        return False, 1, 0, 0
    if jnp.issubdtype(dtype, jnp.integer):
        info = jnp.iinfo(dtype)
        signed = info.min < 0
        return signed, info.bits - signed, 0, info.bits - signed
    if dtype in (jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64):
        info = jnp.finfo(dtype)
        return True, int(info.nmant) + 1, int(info.minexp) - int(info.nmant), int(info.maxexp)
    return None


def _holds_all(wide: Any, narrow: Any) -> bool:
    """Whether every number of one dtype is one of another's."""
    a, b = _kind(wide), _kind(narrow)
    if a is None or b is None:
        return False
    if jnp.issubdtype(narrow, jnp.floating) and not jnp.issubdtype(wide, jnp.floating):
        return False
    return a[0] >= b[0] and a[1] >= b[1] and a[2] <= b[2] and a[3] >= b[3]


def _lossless(match: Match) -> str | None:
    narrow, wide = match["x"].dtype, match.nodes["inner"].output.dtype
    # A truth value is 0 or 1 in every dtype, but whatever is not 0 is true.
    if not _holds_all(wide, narrow) or wide == jnp.bool_:
        return f"{wide} does not hold all that {narrow} does"
    if any(n.params.get("sharding") is not None for n in (match.root, match.nodes["inner"])):
        return "it says how its result is sharded"
    return None


# convert(convert(x)) -> convert(x), where the inner type holds all of x;  or x itself
CONVERT_CHAIN = Rule(
    "convert_chain",
    op("convert_element_type", op("convert_element_type", any_value("x"), name="inner")),
    lambda x, *, match: (
        x
        if x.dtype == match.root.output.dtype
        else lax.convert_element_type(x, match.root.output.dtype)
    ),
    _lossless,
    shared=True,
)

ELEMENTWISE_RULES = RuleSet(
    (
        DOUBLE_NOT,
        ABS_TWICE,
        SUBTRACT_ZERO,
        ADD_MINUS_ZERO,
        ADD_ZERO,
        AND_TRUE,
        OR_FALSE,
        SAME_TWICE,
        FIRST_POWER,
        TWO_MAXIMA,
        TWO_MINIMA,
        SELECT,
        SELECT_NOT,
        CONVERT_CHAIN,
    )
)
