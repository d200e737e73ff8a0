"""Scales and shifts that are known before the data move into the weights of ``conv`` and ``dense``.

Every rule reassociates: ``(x @ w) * s`` and ``x @ (w * s)`` are equal, and rounded differently.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpress import nnops
from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.fuse import linear_maker
from jaxpress.passes.rules.weights import (
    as_vector,
    channel_vector,
    features,
    features_axis,
    operands_of,
    rebind,
    scale_features,
)

__all__ = ["FOLD_RULES"]


def _foldable(state: State, maker: Node, known: dict[str, Value]) -> bool:
    """Whether the weights may take in a scale: known, floating, and no residual behind them."""
    view = state.view
    operands = operands_of(view, maker)
    if "residual" in operands:
        return state.fail(f"{maker.op} adds a residual before", maker)
    if not jnp.issubdtype(maker.output.dtype, jnp.floating):
        return state.fail(f"{maker.op} is of {maker.output.dtype}", maker)
    for name, v in {**operands, **known}.items():
        if name != "x" and not view.is_known(v):
            return state.fail(f"{name} is {v!r}, which is not known before the data", maker)
    return True


class _BatchNormAfterLinear:
    """``batch_norm(linear)`` along the features, everything but ``x`` known."""

    names = frozenset({"batch_norm"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        norm = nnops.registry()["batch_norm"].operands(view.inputs(node), node.params)
        if node.params.get("mapped"):
            state.fail("it is mapped over several statistics", node)
            return None
        maker = linear_maker(state, norm["x"], node)
        if maker is None:
            state.fail(f"{norm['x']!r} is not made by a conv or dense for it alone", node)
            return None
        if node.params["axis"] % node.output.ndim != features_axis(maker):
            state.fail(f"it norms axis {node.params['axis']}, not the features", node)
            return None
        statistics = {f"norm_{k}": v for k, v in norm.items() if k != "x"}
        if not _foldable(state, maker, statistics):
            return None
        values = {**operands_of(view, maker), **statistics}
        return Match(view, node, values, {"linear": maker}, (maker,))


# Weights are computed with lax alone: jax.numpy's operators are jitted one by one, and traced for
# each new shape, which would take longer than all the rest of a rewrite.


def _as(x: Any, dtype: Any) -> Any:
    return lax.convert_element_type(x, dtype)


def _fold_batch_norm(*, match: Match, **operands: Any) -> Any:
    linear = match.nodes["linear"]
    norm = {k: operands.pop(f"norm_{k}", None) for k in ("mean", "var", "scale", "bias")}
    dtype = jnp.promote_types(linear.output.dtype, jnp.float32)
    wide = {k: _as(v, dtype) for k, v in norm.items() if v is not None}
    scale = lax.rsqrt(lax.add(wide["var"], np.asarray(match.root.params["epsilon"], dtype)))
    if "scale" in wide:
        scale = lax.mul(scale, wide["scale"])
    b = operands.get("b")
    shift = lax.neg(wide["mean"]) if b is None else lax.sub(_as(b, dtype), wide["mean"])
    shift = lax.mul(shift, scale)
    if "bias" in wide:
        shift = lax.add(shift, wide["bias"])
    operands["w"] = scale_features(linear, operands["w"], scale)
    operands["b"] = _as(shift, linear.output.dtype)
    return rebind(linear, operands)


# batch_norm(conv(x, w, b), mean, var, g, h) -> conv(x, w * s, (b - mean) * s + h),
#   s = g / sqrt(var + eps)
FOLD_BATCH_NORM = Rule(
    "fold_batch_norm", _BatchNormAfterLinear(), _fold_batch_norm, numerics="reassociates"
)


class _AffineAfterLinear:
    """``linear`` times, divided by, plus or minus something known along the features."""

    size = 2

    def __init__(self, *names: str):
        self.names = frozenset(names)

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        inputs = view.inputs(node)
        for i, value in enumerate(inputs):
            maker = linear_maker(state, value, node)
            if maker is None or (node.op == "div" and i == 1):
                continue
            other = inputs[1 - i]
            vector = channel_vector(view, other, maker)
            if vector is None or other.dtype != value.dtype:
                state.fail(f"{other!r} does not run along the features alone", node)
                continue
            if node.output.aval.shape != value.aval.shape:
                state.fail("it broadcasts the result", node)
                continue
            if not _foldable(state, maker, {"other": other}):
                continue
            values = {**operands_of(view, maker), "vector": vector}
            return Match(view, node, values, {"linear": maker}, (maker,), {"first": i == 0})
        return None


def _fold_scale(vector: Any, *, match: Match, **operands: Any) -> Any:
    linear = match.nodes["linear"]
    dtype = jnp.promote_types(linear.output.dtype, jnp.float32)
    scale = as_vector(vector, features(linear), dtype)
    if match.root.op == "div":
        scale = lax.div(lax.full_like(scale, 1), scale)
    operands["w"] = scale_features(linear, operands["w"], scale)
    if operands.get("b") is not None:
        b = lax.mul(_as(operands["b"], dtype), scale)
        operands["b"] = _as(b, linear.output.dtype)
    return rebind(linear, operands)


def _fold_shift(vector: Any, *, match: Match, **operands: Any) -> Any:
    linear, first = match.nodes["linear"], match.info["first"]
    dtype = jnp.promote_types(linear.output.dtype, jnp.float32)
    shift = as_vector(vector, features(linear), dtype)
    b = operands.get("b")
    b = lax.full_like(shift, 0) if b is None else _as(b, dtype)
    if match.root.op == "sub" and not first:  # shift - linear
        operands["w"] = lax.neg(operands["w"])
        b = lax.sub(shift, b)
    else:
        b = lax.sub(b, shift) if match.root.op == "sub" else lax.add(b, shift)
    operands["b"] = _as(b, linear.output.dtype)
    return rebind(linear, operands)


# conv(x, w, b) * s -> conv(x, w * s, b * s)
FOLD_SCALE = Rule(
    "fold_scale", _AffineAfterLinear("mul", "div"), _fold_scale, numerics="reassociates"
)

# conv(x, w, b) + t -> conv(x, w, b + t);  conv(x, w, b) - t;  t - conv(x, w, b)
FOLD_SHIFT = Rule(
    "fold_shift", _AffineAfterLinear("add", "sub"), _fold_shift, numerics="reassociates"
)

FOLD_RULES = RuleSet((FOLD_BATCH_NORM, FOLD_SCALE, FOLD_SHIFT))
