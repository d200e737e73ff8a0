"""Convolutions and matrix products become the named ops ``conv`` and ``dense``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxpress import nnops
from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import State, any_value, op
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.weights import spread_of
from jaxpress.passes.view import View, is_parameter_like, parameters_of

__all__ = ["LINEAR_RULES", "conv_of", "has_strides_twice"]


def _is_plain_conv(view: View, node: Node) -> bool:
    return node.params["batch_group_count"] == 1 and not has_strides_twice(node.params)


def has_strides_twice(params: Mapping[str, Any]) -> bool:
    """Whether a ``conv_general_dilated`` has strides on both sides at once, as gradients may."""
    return _is_dilated(params) and any(s != 1 for s in params["window_strides"])


def _is_dilated(params: Mapping[str, Any]) -> bool:
    return any(d != 1 for d in params["lhs_dilation"])


def conv_of(x: Any, w: Any, params: Mapping[str, Any]) -> Any:
    """The named op with the parameters of a ``conv_general_dilated`` of one batch group."""
    dilated = _is_dilated(params)
    return nnops.conv(
        x,
        w,
        strides=params["lhs_dilation"] if dilated else params["window_strides"],
        padding=params["padding"],
        dilation=params["rhs_dilation"],
        groups=params["feature_group_count"],
        dimension_numbers=params["dimension_numbers"],
        transposed=dilated,
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )


def _raise_conv(x: Any, w: Any, *, match: Match) -> Any:
    return conv_of(x, w, match.root.params)


def _conv_guard(match: Match) -> str | None:
    x, w = match["x"], match["w"]
    if x.ndim < 3:
        return "a convolution without spatial dimensions is a matrix product"
    if x.dtype != w.dtype:
        return f"operands are {x.dtype} and {w.dtype}"
    return None


# conv_general_dilated(x, w) -> conv(x, w)
RAISE_CONV = Rule(
    "raise_conv",
    op("conv_general_dilated", any_value("x"), any_value("w"), where=_is_plain_conv),
    _raise_conv,
    _conv_guard,
)


class _DensePattern:
    """A ``dot_general`` of any array with a matrix of weights, on either side of it.

    Args:
      turned: the matrix is (out, in), or stands in front; the result is the same but for rounding.
    """

    names = frozenset({"dot_general"})
    size = 1

    def __init__(self, turned: bool):
        self.turned = turned

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        left, right = view.inputs(node)
        ((left_axes, right_axes), (batch, _)) = node.params["dimension_numbers"]
        if len(batch) or len(left_axes) != 1 or len(right_axes) != 1:
            state.fail("it contracts several axes, or has batch axes", node)
            return None
        if left.dtype != right.dtype:
            state.fail(lambda: f"operands are {left.dtype} and {right.dtype}", node)
            return None
        if node.params.get("out_sharding") is not None:
            state.fail("it says how its result is sharded", node)
            return None
        axes = int(left_axes[0]), int(right_axes[0])
        left_ok = _may_be_weights(view, left, axes[0], right, axes[1], False)
        right_ok = _may_be_weights(view, right, axes[1], left, axes[0], True)
        if left_ok and right_ok:
            # Both may be weights. Those that are known win; otherwise it is ``x @ w``, unless the
            # result is turned round as ``w @ x`` under vmap is.
            known = view.is_known(left), view.is_known(right)
            turned = _is_turned(view, node)
            right_ok = known[1] if known[0] != known[1] else not turned
            left_ok = not right_ok
        if not (left_ok or right_ok):
            state.fail("neither operand is a matrix of weights", node)
            return None
        x, w = (left, right) if right_ok else (right, left)
        x_axis, w_axis = (
            (left_axes[0], right_axes[0])
            if right_ok
            else (
                right_axes[0],
                left_axes[0],
            )
        )
        if self.turned != (w_axis == 1 or not right_ok):
            state.fail(f"the weights are{'' if self.turned else ' not'} turned (in, out)", node)
            return None
        info = {"x_axis": int(x_axis), "w_axis": int(w_axis), "weights_first": not right_ok}
        return Match(view, node, {"x": x, "w": w}, info=info)


def _may_be_weights(
    view: View, w: Value, w_axis: int, x: Value, x_axis: int, on_the_right: bool
) -> bool:
    """Whether ``w`` is a matrix of weights, and ``x`` may be what they are applied to."""
    if w.ndim != 2 or x.ndim < 1:
        return False
    if not is_parameter_like(view, w):
        # A product of ``x @ w``'s form, whose w is made of other inputs than x: a masked weight.
        made_of = parameters_of(view, w) if on_the_right and w_axis == 0 else None
        return (
            bool(made_of)
            and x_axis == x.ndim - 1
            and not made_of & (parameters_of(view, x) or frozenset())
        )
    if view.is_known(w) or not view.is_known(x) or x.ndim < 3:
        return True
    # A stack of known weights with a matrix of data, unless these are summed as ``x @ w`` is.
    return x_axis == x.ndim - 1 and w_axis == 0


def _is_turned(view: View, node: Node) -> bool:
    """Whether the one user of a product moves its first axis to the end, or adds a bias there."""
    users = view.users(node.output)
    if len(users) != 1:
        return False
    n = node.output.ndim
    if users[0].op == "add":
        others = [v for v in view.inputs(users[0]) if v is not node.output]
        return len(others) == 1 and n > 1 and spread_of(view, others[0])[1] == (0,)
    if users[0].op != "transpose":
        return False
    return tuple(users[0].params["permutation"]) == (*range(1, n), 0)


def _raise_dense(x: Any, w: Any, *, match: Match) -> Any:
    params, info = match.root.params, match.info
    y = nnops.dense(
        jnp.moveaxis(x, info["x_axis"], -1),
        w if info["w_axis"] == 0 else w.T,
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )
    return jnp.moveaxis(y, -1, 0) if info["weights_first"] else y


# dot_general(x, w) -> dense(x, w)
RAISE_DENSE = Rule("raise_dense", _DensePattern(turned=False), _raise_dense)

# dot_general(x, w, (1, 1)) -> dense(x, transpose(w))
# dot_general(w, x) -> transpose(dense(x, transpose(w)))
RAISE_TURNED_DENSE = Rule(
    "raise_turned_dense", _DensePattern(turned=True), _raise_dense, numerics="reassociates"
)

LINEAR_RULES = RuleSet((RAISE_CONV, RAISE_DENSE, RAISE_TURNED_DENSE))
