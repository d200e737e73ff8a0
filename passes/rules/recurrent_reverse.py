"""A recurrence over a reversed sequence runs backwards over the sequence itself.

As libraries write the second direction of a bidirectional layer.
"""

from __future__ import annotations

from typing import Any

from jax import lax

from jaxpress import nnops
from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule
from jaxpress.passes.rules.axis_tracking import arrange, axes_before, spread
from jaxpress.passes.rules.weights import rebind
from jaxpress.passes.view import View

__all__ = ["TURN_RECURRENCE"]

_MAX_MOVES = 6


class _ReversedPattern:
    """A recurrence whose sequence is reversed, and whose results, if used, are reversed back."""

    names = frozenset({"lstm", "gru", "rnn"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        if node.params.get("mapped") or node.params["residuals"]:
            state.fail("it is mapped over weights, or keeps what its derivative needs", node)
            return None
        operands = nnops.registry()[node.op].operands(view.inputs(node), node.params)
        if "mask" in operands:
            state.fail("it leaves out steps of shorter sequences", node)
            return None
        x = operands["x"]
        time = x.ndim - 2
        behind = spread(view, x, broadcasts=False)
        turned = view.producer(behind.source)
        if turned is None or turned.op != "rev":
            state.fail("its sequence is not reversed", node)
            return None
        if tuple(map(int, turned.params["dimensions"])) != (behind.axes[time],):
            state.fail("its sequence is reversed along another axis than time", node)
            return None
        if not _turned_back(view, node.outputs[0], time, _MAX_MOVES):
            state.fail("its results are used as they come, not reversed back", node)
            return None
        values = {**operands, "x": view.inputs(turned)[0]}
        return Match(view, node, values, info={"axes": behind.axes, "time": time})


def _turned_back(view: View, value: Value, axis: int, depth: int) -> bool:
    """Whether all who use ``value`` reverse it along ``axis`` first."""
    if view.is_output(value) or depth == 0:
        return False
    for user in view.users(value):
        if user.op == "rev":
            if tuple(map(int, user.params["dimensions"])) != (axis,):
                return False
            continue
        before = axes_before(view, user)
        if before is None or axis not in before:
            return False
        if not _turned_back(view, user.output, before.index(axis), depth - 1):
            return False
    return True


def _turn(*, match: Match, **arrays: Any) -> Any:
    x = arrange(arrays["x"], match.info["axes"])
    reverse = not match.root.params["reverse"]
    y, *states = rebind(match.root, {**arrays, "x": x}, reverse=reverse)
    return (lax.rev(y, (match.info["time"],)), *states)


# reverse(lstm(reverse(x))) -> lstm(x, reverse=True); likewise gru and rnn
TURN_RECURRENCE = Rule("turn_recurrence", _ReversedPattern(), _turn)
