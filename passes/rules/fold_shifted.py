"""Where padding keeps a shift from moving into weights, the scale before it moves in alone.

As of an image that is brought to a mean of zero before a convolution that pads. It reassociates.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.fold import (
    batch_norm_scale,
    norm_of,
    norm_scale,
    scale_of,
)
from jaxpress.passes.rules.fold_before import folds_before, takers_of
from jaxpress.passes.rules.numbers import keeps_range, numbers_of
from jaxpress.passes.rules.weights import along, as_type, operands_of, spread_of
from jaxpress.passes.view import View

__all__ = ["FOLD_SHIFTED"]


def _only_scale(state: State, value: Value, axes: tuple[int, ...]) -> list[Value] | None:
    """The weights of all that use ``value``, if they take in a scale, and not all a shift."""
    takers = takers_of(state, value, axes, shifts=False)
    if takers is None:
        return None
    if takers_of(State(state.view), value, axes, shifts=True) is not None:
        state.fail("the shift can be taken in as well", state.view.producer(value))
        return None
    return [operands_of(state.view, n)["w"] for n in takers]


def _loses(view: View, scale: Any, shift: Any, dtype: Any, ws: list[Value]) -> str | None:
    """Why ``shift / scale`` or the weights would lose some of the result, if they would."""
    if scale is None or shift is None or not np.all(scale):
        return "a scale is zero, or not known to be none"
    with np.errstate(all="ignore"):
        far = float(np.max(np.abs(shift / scale), initial=0.0))
    if not far < float(jnp.finfo(dtype).max) / 4:
        return f"it would shift by {far:.1e}"
    reasons = (keeps_range(view, w, scale) for w in ws)
    return next((reason for reason in reasons if reason), None)


class _ShiftAfterScale:
    """``x * s + t`` whose users all take in a scale, and not all of them a shift."""

    names = frozenset({"add", "sub"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        parts = self._split(state, node)
        scaled = None if parts is None else view.producer(parts[0])
        if parts is None or scaled is None or scaled.op not in ("mul", "div"):
            state.fail("it shifts nothing that is scaled", node)
            return None
        if view.use_count(parts[0]) != 1:
            state.fail("what is scaled is used elsewhere", scaled)
            return None
        inner = self._split(state, scaled)
        if inner is None or not jnp.issubdtype(node.output.dtype, jnp.floating):
            state.fail("it scales nothing by something known", scaled)
            return None
        (_, t), (x, s) = parts, inner
        if any(v.shape != node.output.shape for v in (x, parts[0])):
            state.fail("it broadcasts", node)
            return None
        if any(v.ndim not in (0, x.ndim) or v.dtype != x.dtype for v in (s, t)):
            state.fail("it broadcasts, or in another dtype", node)
            return None
        bases = [spread_of(view, v) for v in (s, t)]
        axes = tuple(sorted({a for _, varies in bases for a in varies}))
        ws = _only_scale(state, node.output, axes)
        if ws is None:
            return None
        numbers = scale_of(view, scaled, s)
        reason = _loses(view, numbers, numbers_of(view, t), s.dtype, ws)
        if reason:
            state.fail(reason, node)
            return None
        values = {"x": x, "s": bases[0][0], "t": bases[1][0]}
        info = {"axes": axes, "s": bases[0][1], "t": bases[1][1]}
        return Match(view, node, values, {"scaled": scaled}, (scaled,), info)

    def _split(self, state: State, node: Node) -> tuple[Value, Value] | None:
        """``(data, known)``."""
        view = state.view
        a, b = view.inputs(node)
        if node.op in ("add", "mul") and view.is_known(a):
            a, b = b, a
        if view.is_known(a) or not view.is_known(b):
            state.fail("not one of its operands alone is known before the data", node)
            return None
        return a, b


def _shift_first(x: Any, s: Any, t: Any, *, match: Match) -> Any:
    axes = match.info["axes"]
    shape = tuple(x.shape[a] for a in axes)
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    s, t = (along(v, match.info[k], axes, shape, dtype) for k, v in (("s", s), ("t", t)))
    divides = match.nodes["scaled"].op == "div"
    shift = lax.mul(t, s) if divides else lax.div(t, s)
    shift, s = (lax.broadcast_in_dim(as_type(v, x.dtype), x.shape, axes) for v in (shift, s))
    shifted = (lax.add if match.root.op == "add" else lax.sub)(x, shift)
    return (lax.div if divides else lax.mul)(shifted, s)


class _NormBeforePadding:
    """``batch_norm`` whose users all take in its scale, and not all of them its shift."""

    names = frozenset({"batch_norm"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        norm = norm_of(state, node)
        if norm is None or not all(view.is_known(v) for k, v in norm.items() if k != "x"):
            state.fail("its statistics depend on the data", node)
            return None
        x = norm["x"]
        if x.dtype != node.output.dtype or not jnp.finfo(x.dtype).bits >= 32:
            state.fail("it computes in a wider dtype than that of its result", node)
            return None
        if folds_before(state, node):
            return None
        axis = node.params["axis"] % node.output.ndim
        ws = _only_scale(state, node.output, (axis,))
        if ws is None:
            return None
        scale = norm_scale(view, node, norm)[1]
        if "bias" in norm:
            reason = _loses(view, scale, numbers_of(view, norm["bias"]), x.dtype, ws)
        else:  # nothing is divided by the scale
            reason = next((r for r in (keeps_range(view, w, scale) for w in ws) if r), None)
        if reason:
            state.fail(reason, node)
            return None
        return Match(view, node, norm, info={"axis": axis})


def _center_first(x: Any, *, match: Match, **norm: Any) -> Any:
    node, axis = match.root, match.info["axis"]
    dtype = x.dtype
    norm = {"scale": None, **norm}
    scale = batch_norm_scale(norm, node.params["epsilon"], dtype)
    center = as_type(norm["mean"], dtype)
    if norm.get("bias") is not None:
        center = lax.sub(center, lax.div(as_type(norm["bias"], dtype), scale))
    center, scale = (lax.broadcast_in_dim(v, x.shape, (axis,)) for v in (center, scale))
    return lax.mul(lax.sub(x, center), scale)


# conv(x * s + t) -> conv((x + t / s) * s), where conv pads and takes the scale in, not the shift
# conv(batch_norm(x)) likewise
FOLD_SHIFTED = RuleSet(
    (
        Rule("fold_shifted", _ShiftAfterScale(), _shift_first, numerics="reassociates"),
        Rule("fold_shifted", _NormBeforePadding(), _center_first, numerics="reassociates"),
    )
)
