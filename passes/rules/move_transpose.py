"""A transpose in front of a norm or a rotary embedding goes behind it, where it meets another one.

Queries and keys that are normalised or turned with the heads in front are put back for attention;
moved together, the two transposes are none.
"""

from __future__ import annotations

from typing import Any

from jax import lax

from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule
from jaxpress.passes.rules.cleanup_moves import is_plain
from jaxpress.passes.rules.weights import operands_of, rebind
from jaxpress.passes.view import View

__all__ = ["MOVE_TRANSPOSE"]

_NORMS = frozenset({"rms_norm", "layer_norm", "l2_normalize"})
_MOVED = _NORMS | {"rotary_embedding", "convert_element_type"}
_MAX_STEPS = 4


class _BetweenTransposes:
    names = _MOVED
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        value = view.inputs(node)[0]
        before = view.producer(value)
        if before is None or before.op != "transpose" or "mapped" in node.params:
            state.fail("its input is not made by transpose, or it is mapped", node)
            return None
        if not is_plain(value, node.output):
            state.fail("its sizes are not known, or it is sharded", node)
            return None
        if not _ends_in_transpose(view, node.output):
            state.fail("what is made of it is not transposed again", node)
            return None
        order = tuple(int(p) for p in before.params["permutation"])
        info: dict[str, Any] = {"order": order}
        if node.op in _NORMS:
            axis = node.params["axis"]
            if not isinstance(axis, int):
                state.fail("it runs along several axes", node)
                return None
            info["axis"] = order[axis] - len(order)
        elif node.op == "rotary_embedding" and order[-1] != len(order) - 1:
            state.fail("its features are not the last axis before the transpose", node)
            return None
        named = node.op != "convert_element_type"
        operands = operands_of(view, node) if named else {"x": value}
        operands["x"] = view.inputs(before)[0]
        return Match(view, node, operands, {"op": node}, (before,), info)


def _ends_in_transpose(view: View, value: Value) -> bool:
    for _ in range(_MAX_STEPS):
        users = view.users(value)
        if len(users) != 1 or view.is_output(value):
            return False
        (user,) = users
        if user.op == "transpose":
            return True
        if user.op not in _MOVED or view.inputs(user)[0] is not value:
            return False
        value = user.output
    return False


def _moved(*, match: Match, **operands: Any) -> Any:
    node, order = match.nodes["op"], match.info["order"]
    if node.op == "convert_element_type":
        y = lax.convert_element_type(operands["x"], node.params["new_dtype"])
    elif node.op == "rotary_embedding":
        back = [order.index(a) for a in range(len(order))]
        tables = {k: lax.transpose(operands[k], back) for k in ("cos", "sin")}
        y = rebind(node, {**operands, **tables})
    else:
        y = rebind(node, operands, axis=match.info["axis"])
    return lax.transpose(y, order)


# transpose(rms_norm(transpose(x))) -> transpose(transpose(rms_norm(x)))
MOVE_TRANSPOSE = Rule("move_transpose", _BetweenTransposes(), _moved, numerics="reassociates")
