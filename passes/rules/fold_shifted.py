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
from jaxpress.passes.rule import Match, Rule
from jaxpress.passes.rules.fold_before import takers_of
from jaxpress.passes.rules.numbers import keeps_range, numbers_of
from jaxpress.passes.rules.weights import along, as_type, operands_of, spread_of

__all__ = ["FOLD_SHIFTED"]


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
        takers = takers_of(state, node.output, axes, shifts=False)
        if takers is None:
            return None
        if takers_of(State(view), node.output, axes, shifts=True) is not None:
            state.fail("the shift can be taken in as well", node)
            return None
        reason = self._loses(state, scaled, s, t, [operands_of(view, n)["w"] for n in takers])
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

    def _loses(self, state: State, scaled: Node, s: Value, t: Value, ws: list[Value]) -> str | None:
        """Why ``t / s`` or the weights would lose some of the result, if they would."""
        scale, shift = (numbers_of(state.view, v) for v in (s, t))
        if scale is None or shift is None or not np.all(scale):
            return "a scale is zero, or not known to be none"
        with np.errstate(all="ignore"):
            scale = 1 / scale if scaled.op == "div" else scale
            far = float(np.max(np.abs(shift / scale), initial=0.0))
        if not far < float(jnp.finfo(s.dtype).max) / 4:
            return f"it would shift by {far:.1e}"
        reasons = (keeps_range(state.view, w, scale) for w in ws)
        return next((reason for reason in reasons if reason), None)


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


# conv(x * s + t) -> conv((x + t / s) * s), where conv pads and takes the scale in, not the shift
FOLD_SHIFTED = Rule("fold_shifted", _ShiftAfterScale(), _shift_first, numerics="reassociates")
