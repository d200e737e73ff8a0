"""Softmax, written out as ``jax.nn.softmax`` writes it, becomes ``softmax``."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxpress import nnops
from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule
from jaxpress.passes.view import View, scalar_value

__all__ = ["RAISE_SOFTMAX"]


class _SoftmaxPattern:
    """``exp(x - max(x)) / sum(exp(x - max(x)))`` over one axis."""

    names = frozenset({"div"})
    size = 7

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        e, total = view.inputs(node)
        exp = view.producer(e)
        if exp is None or exp.op != "exp":
            state.fail("the numerator is no exponential", node)
            return None
        summed = _reduced(view, total, "reduce_sum", state)
        source = None if summed is None else _summand(view, summed, node.output.dtype)
        if summed is None or source is None or source[0] is not e:
            state.fail("the denominator is not the sum of the numerator", node)
            return None
        sub = view.producer(view.inputs(exp)[0])
        if sub is None or sub.op != "sub":
            state.fail("the exponent is no difference", exp)
            return None
        x, largest = view.inputs(sub)
        found = _reduced(view, largest, "reduce_max", state)
        if found is None or view.inputs(found[0])[0] is not x:
            state.fail("what is taken away is not the largest of the same array", sub)
            return None
        (total_node, axis, down), (max_node, other, stopped) = summed, found
        if axis != other or not any(n.op == "stop_gradient" for n in stopped):
            state.fail(
                "sum and maximum are over different axes, or the maximum has a gradient", sub
            )
            return None
        matched = (exp, sub, total_node, max_node, *down, *source[1], *stopped)
        return Match(view, node, {"x": x}, matched=matched, info={"axis": axis - x.ndim})


def _summand(view: View, summed: Any, dtype: Any) -> tuple[Value, list[Node]] | None:
    """What is summed, in float32 where ``dtype`` is a narrower one, as ``jnp.sum`` does."""
    total, _, passed = summed
    source = view.inputs(total)[0]
    narrowed = [n for n in passed if n.op == "convert_element_type"]
    if dtype.itemsize >= 4:
        return None if narrowed else (source, [])
    widen = view.producer(source)
    if widen is None or widen.op != "convert_element_type" or len(narrowed) != 1:
        return None
    wide, (narrow,) = np.dtype("float32"), narrowed
    if source.dtype != wide or narrow.output.dtype != dtype:
        return None
    return view.inputs(widen)[0], [widen]


def _reduced(view: View, value: Any, op: str, state: State) -> tuple[Node, int, list[Node]] | None:
    """The reduction over one axis behind ``value``, which is spread out along that axis again."""
    shape = value.shape
    passed: list[Node] = []
    node = view.producer(value)
    while node is not None and node.op != op:
        inputs = view.inputs(node)
        if node.op == "max" and op == "reduce_max":
            # max(-inf, m) is m, and there for an axis of length zero.
            rest = [v for v in inputs if scalar_value(view, v) is None]
            low = [scalar_value(view, v) for v in inputs if scalar_value(view, v) is not None]
            if len(rest) != 1 or not np.isneginf(low[0]):
                return None
            value = rest[0]
        elif (node.op == "convert_element_type" and op == "reduce_sum") or node.op in (
            "stop_gradient",
            "broadcast_in_dim",
            "reshape",
            "expand_dims",
        ):
            value = inputs[0]
        else:
            return None
        passed.append(node)
        node = view.producer(value)
    if node is None or len(node.params["axes"]) != 1:
        return None
    axis = int(node.params["axes"][0])
    kept = list(view.inputs(node)[0].shape)
    kept[axis] = 1
    # Along every other axis the values must stay where they were: shape and order say so.
    if tuple(shape) not in (tuple(kept), view.inputs(node)[0].shape) or not all(
        _keeps_places(view, n, axis) for n in passed
    ):
        return None
    return node, axis, passed


def _keeps_places(view: View, node: Node, axis: int) -> bool:
    """Whether a broadcast puts the reduced axis back where it was."""
    x, y = view.inputs(node)[0], node.output
    if node.op == "broadcast_in_dim":
        dims = tuple(int(d) for d in node.params["broadcast_dimensions"])
        if x.ndim == y.ndim:
            return dims == tuple(range(y.ndim))
        return dims == tuple(d for d in range(y.ndim) if d != axis)
    if node.op in ("reshape", "expand_dims") and x.ndim != y.ndim:
        return x.ndim + 1 == y.ndim and y.shape == (*x.shape[:axis], 1, *x.shape[axis:])
    return x.shape == y.shape or node.op == "max"


def _guard(match: Match) -> str | None:
    x, y = match["x"], match.root.output
    if x.shape != y.shape or x.dtype != y.dtype:
        return "it changes the shape or dtype"
    return None


# exp(x - max(x)) / sum(exp(x - max(x))) -> softmax(x)
RAISE_SOFTMAX = Rule(
    "raise_softmax",
    _SoftmaxPattern(),
    lambda x, *, match: nnops.softmax(x, axis=match.info["axis"]),
    _guard,
)
