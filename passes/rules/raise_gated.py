"""Gates: a product with a sigmoid, a silu or a gelu becomes ``glu``, ``swiglu`` or ``geglu``."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxpress import nnops
from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.view import View, scalar_value

__all__ = ["GATED_RULES"]

_GATES = {"silu": "swiglu", "gelu": "geglu"}


class _GatedPattern:
    """A product of two arrays of one shape, of which one went through silu or gelu."""

    names = frozenset({"mul"})
    size = 1

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        a, b = view.inputs(node)
        if a is b or a.shape != b.shape or a.dtype != b.dtype:
            state.fail("its factors are one, or have other shapes or dtypes", node)
            return None
        for gate, up in ((a, b), (b, a)):
            core = view.producer(gate)
            if core is None or core.op not in _GATES or view.use_count(gate) != 1:
                continue
            if scalar_value(view, up) is not None or view.inputs(core)[0] is up:
                continue
            other = view.producer(up)
            if other is not None and other.op in ("sigmoid", "logistic"):
                continue  # a gate of another kind, as in squeeze and excitation
            values = {"gate": view.inputs(core)[0], "up": up}
            return Match(view, node, values, {"core": core}, (core,))
        state.fail("no factor is a silu or gelu that is used here alone", node)
        return None


def _raise_gated(gate: Any, up: Any, *, match: Match) -> Any:
    core = match.nodes["core"]
    if core.op == "silu":
        return nnops.swiglu(gate, up)
    return nnops.geglu(gate, up, approximate=core.params["approximate"])


# silu(a) * b -> swiglu(a, b);  gelu(a) * b -> geglu(a, b)
RAISE_GATED = Rule("raise_gated", _GatedPattern(), _raise_gated)


class _GluPattern:
    """The first half of an array, times the sigmoid of its second half."""

    names = frozenset({"mul"})
    size = 3

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        for a, gate in (view.inputs(node), view.inputs(node)[::-1]):
            sigmoid = view.producer(gate)
            if sigmoid is None or sigmoid.op not in ("logistic", "sigmoid"):
                continue
            if sigmoid.params.get("accuracy") is not None:
                continue
            halves = [_half(view, a), _half(view, view.inputs(sigmoid)[0])]
            first, second = halves
            if first is None or second is None:
                state.fail("its operands are no halves of an array", node)
                continue
            if first[:2] != second[:2] or (first[2], second[2]) != (0, 1):
                state.fail("they are not the first and the second half of one array", node)
                continue
            x, axis = first[:2]
            nodes = (sigmoid, first[3], second[3])
            return Match(view, node, {"x": x}, matched=nodes, info={"axis": axis - x.ndim})
        state.fail("neither factor is a sigmoid", node)
        return None


def _half(view: View, value: Value) -> tuple[Value, int, int, Node] | None:
    """The array and axis that ``value`` is half of, and which half: 0 or 1."""
    node = view.producer(value)
    if node is None or node.op not in ("split", "slice"):
        return None
    x = view.inputs(node)[0]
    if node.op == "split":
        sizes = tuple(node.params["sizes"])
        if len(sizes) != 2 or sizes[0] != sizes[1]:
            return None
        return x, int(node.params["axis"]), node.outputs.index(value), node
    start, stop = node.params["start_indices"], node.params["limit_indices"]
    strides = node.params["strides"]
    if strides is not None and any(s != 1 for s in strides):
        return None
    cut = [i for i, n in enumerate(x.shape) if (start[i], stop[i]) != (0, n)]
    if len(cut) != 1:
        return None
    (axis,) = cut
    half, odd = divmod(x.shape[axis], 2)
    if odd or (start[axis], stop[axis]) not in ((0, half), (half, 2 * half)):
        return None
    return x, axis, int(start[axis] != 0), node


def _glu_guard(match: Match) -> str | None:
    if not jnp.issubdtype(match["x"].dtype, jnp.floating):
        return f"x is {match['x'].dtype}"
    return None


# a * sigmoid(b), the halves of x -> glu(x)
RAISE_GLU = Rule(
    "raise_glu",
    _GluPattern(),
    lambda x, *, match: nnops.glu(x, axis=match.info["axis"]),
    _glu_guard,
)

GATED_RULES = RuleSet((RAISE_GATED, RAISE_GLU))
