"""Operations that do nothing, or undo each other. Every rule here is exact."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpress.capture import Node
from jaxpress.passes.pattern import State, any_value, op, scalar
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.cleanup_branches import BRANCH_RULES
from jaxpress.passes.rules.cleanup_devices import DEVICE_RULES
from jaxpress.passes.rules.cleanup_elementwise import ELEMENTWISE_RULES
from jaxpress.passes.rules.cleanup_moves import MOVE_RULES, is_plain
from jaxpress.passes.rules.cleanup_products import PRODUCT_OF_PAIRS
from jaxpress.passes.rules.cleanup_reductions import DROP_REDUCTION
from jaxpress.passes.rules.cleanup_scalars import FOLD_SCALARS
from jaxpress.passes.rules.cleanup_turns import TURN_RULES
from jaxpress.passes.rules.counted_loops import COUNTED_LOOP_RULES
from jaxpress.passes.view import View, broadcast_operand

__all__ = ["CLEANUP_RULES"]


def _same_type(view: View, node: Node) -> bool:
    a, b = view.inputs(node)[0].aval, node.output.aval
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and getattr(a, "weak_type", False) == getattr(b, "weak_type", False)
        and getattr(a, "sharding", None) == getattr(b, "sharding", None)
    )


def _is_identity_reshape(view: View, node: Node) -> bool:
    return len(view.inputs(node)) == 1 and _same_type(view, node)


def _is_identity_transpose(view: View, node: Node) -> bool:
    permutation = tuple(node.params["permutation"])
    return permutation == tuple(range(len(permutation)))


# convert(x) -> x, to the type that x has
DROP_CONVERT = Rule(
    "drop_convert",
    op("convert_element_type", any_value("x"), where=_same_type),
    lambda x: x,
)

# convert(2) -> 2.0, a scalar that is written in the program
CONVERT_SCALAR = Rule(
    "convert_scalar",
    op("convert_element_type", scalar(name="c")),
    lambda c, *, match: np.asarray(c).astype(match.root.output.dtype),
    lambda m: None if m.root.output.ndim == 0 else "it is no scalar",
)


# copy(x) -> x
DROP_COPY = Rule("drop_copy", op("copy", any_value("x")), lambda x: x)

# reshape(x) -> x, to the shape that x has; likewise broadcasts and slices that change nothing
DROP_RESHAPE = Rule(
    "drop_reshape",
    op(
        ("reshape", "broadcast_in_dim", "squeeze", "expand_dims"),
        any_value("x"),
        where=_is_identity_reshape,
    ),
    lambda x: x,
)

# transpose(x) -> x, in the order that x has
DROP_TRANSPOSE = Rule(
    "drop_transpose", op("transpose", any_value("x"), where=_is_identity_transpose), lambda x: x
)

# neg(neg(x)) -> x
DOUBLE_NEGATION = Rule("double_negation", op("neg", op("neg", any_value("x"))), lambda x: x)


def _is_real_and_whole(match: Match) -> str | None:
    if jnp.issubdtype(match["x"].dtype, jnp.complexfloating):
        return "of complex numbers, infinity times one has a part that is NaN"
    return None if match["x"].shape == match.root.output.shape else "x is broadcast"


# x * 1 -> x;  x / 1 -> x. Not x + 0, which turns minus zero into zero.
MULTIPLY_BY_ONE = Rule(
    "multiply_by_one",
    op("mul", any_value("x"), 1.0),
    lambda x: x,
    _is_real_and_whole,
)
DIVIDE_BY_ONE = Rule(
    "divide_by_one",
    op("div", any_value("x"), 1.0),
    lambda x: x,
    _is_real_and_whole,
)


def _transpose_twice(x: Any, *, match: Match) -> Any:
    inner = match.nodes["inner"].params["permutation"]
    outer = match.root.params["permutation"]
    return lax.transpose(x, [inner[i] for i in outer])


# transpose(transpose(x, p), q) -> transpose(x, p[q])
TRANSPOSE_TWICE = Rule(
    "transpose_twice",
    op("transpose", op("transpose", any_value("x"), name="inner")),
    _transpose_twice,
    shared=True,
)


class _ReshapeChain:
    """Two or more operations in a row that keep all elements in order."""

    names = frozenset({"reshape", "squeeze", "expand_dims", "broadcast_in_dim"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        inner = view.producer(view.inputs(node)[0])
        if inner is None or not _keeps_order(view, inner):
            state.fail("what it reshapes is not a reshape itself", node)
            return None
        if not _keeps_order(view, node):
            state.fail("it changes the order or number of elements", node)
            return None
        return Match(view, node, {"x": view.inputs(inner)[0]}, {"inner": inner}, (inner,))


def _keeps_order(view: View, node: Node) -> bool:
    """Whether a node is a reshape in effect; sharded axes are left to what JAX made of them."""
    if node.op not in _ReshapeChain.names or len(view.inputs(node)) != 1:
        return False
    x = view.inputs(node)[0]
    if not is_plain(x, node.output):
        return False
    if node.op == "reshape":
        return node.params.get("dimensions") is None
    if node.op == "broadcast_in_dim":
        operand = broadcast_operand(view, node.output)
        dims = operand[1] if operand is not None else ()
        kept = [node.output.shape[d] for d in dims]
        rest = [n for i, n in enumerate(node.output.shape) if i not in dims]
        return list(dims) == sorted(dims) and kept == list(x.shape) and all(n == 1 for n in rest)
    return True


# reshape(reshape(x)) -> reshape(x), or x
RESHAPE_CHAIN = Rule(
    "reshape_chain",
    _ReshapeChain(),
    lambda x, *, match: jnp.reshape(x, match.root.output.shape),
    shared=True,
)

CLEANUP_RULES = RuleSet(
    (
        DROP_CONVERT,
        CONVERT_SCALAR,
        FOLD_SCALARS,
        DROP_COPY,
        *DEVICE_RULES,
        DROP_REDUCTION,
        PRODUCT_OF_PAIRS,
        DROP_RESHAPE,
        DROP_TRANSPOSE,
        DOUBLE_NEGATION,
        MULTIPLY_BY_ONE,
        DIVIDE_BY_ONE,
        TRANSPOSE_TWICE,
        RESHAPE_CHAIN,
        *ELEMENTWISE_RULES,
        *MOVE_RULES,
        *TURN_RULES,
        *BRANCH_RULES,
        *COUNTED_LOOP_RULES,
    )
)
