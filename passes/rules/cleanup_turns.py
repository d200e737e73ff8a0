"""Choices between arrays that are all transposed alike, as ``vmap`` leaves them. Exact.

``vmap`` moves the axis that it runs over to the front of whatever is chosen from, since the scalars
beside it have none. Undone, an activation that is a choice reads as if it were not mapped.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxpress.capture import Literal, Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.cleanup_moves import is_plain
from jaxpress.passes.view import View, broadcast_operand

__all__ = ["TURN_RULES"]

# What may follow a choice in an activation: of each entry by itself, whatever the axes are.
# fmt: off
_FOLLOWS = frozenset({
    "add", "div", "exp", "expm1", "integer_pow", "log", "log1p", "logistic", "max", "min", "mul",
    "neg", "square", "sub", "tanh",
})
# fmt: on
_MAX_STEPS = 4


def _sources(view: View, node: Node) -> tuple[list[tuple[str, Value]], tuple[int, ...], int] | None:
    """A node's operands before they are transposed, all alike, or spread from one number.

    Returns:
      What each operand is (``"array"``, ``"spread"`` or ``"scalar"``) and of what; the
      permutation; how many operands are transposed. ``None`` where an operand is neither.
    """
    found: list[tuple[str, Value]] = []
    order: tuple[int, ...] | None = None
    count = 0
    for value in view.inputs(node):
        if value.ndim == 0:
            found.append(("scalar", value))
            continue
        maker = None if isinstance(value, Literal) else view.producer(value)
        if maker is None:
            return None
        spread = broadcast_operand(view, value)
        if spread is not None and spread[0].ndim == 0:
            found.append(("spread", spread[0]))
            continue
        if maker.op != "transpose":
            return None
        turned = tuple(int(i) for i in maker.params["permutation"])
        if order not in (None, turned):
            return None
        order = turned
        count += 1
        found.append(("array", view.inputs(maker)[0]))
    return None if order is None else (found, order, count)


class _TurnedSelect:
    names = frozenset({"select_n"})
    size = 3

    def find(self, state: State, node: Node) -> Match | None:
        found = _sources(state.view, node)
        if found is None or found[2] < 2:
            state.fail("what it chooses between is not transposed alike", node)
            return None
        return _match(state, node, found)


class _AfterTurnedSelect:
    """An operation on one array, which is a transposed choice, or what such operations make of it.

    Not on any transposed array: others are better off where they are, beside a product of matrices
    for instance, which takes them in.
    """

    names = _FOLLOWS
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        found = _sources(view, node)
        if found is None or found[2] != 1 or not _is_choice(view, node):
            state.fail("it is of no transposed choice and numbers", node)
            return None
        return _match(state, node, found)


def _is_choice(view: View, node: Node) -> bool:
    (turned,) = [v for v in view.inputs(node) if v.ndim and broadcast_operand(view, v) is None]
    for _ in range(_MAX_STEPS):
        if view.use_count(turned) != 1:
            return False
        maker = view.producer(turned)
        if maker is None or maker.op == "select_n":
            return maker is not None
        arrays = [v for v in view.inputs(maker) if v.ndim and broadcast_operand(view, v) is None]
        if len(arrays) != 1 or (maker.op != "transpose" and maker.op not in _FOLLOWS):
            return False
        turned = arrays[0]
    return False


def _match(state: State, node: Node, found: Any) -> Match | None:
    parts, order, _ = found
    if not is_plain(node.output, *(v for _, v in parts)):
        state.fail("its sizes are not known, or it is sharded", node)
        return None
    values = {f"x{i}": v for i, (_, v) in enumerate(parts)}
    info = {"kinds": tuple([kind for kind, _ in parts]), "order": order}
    return Match(state.view, node, values, info=info)


def _turned_after(*, match: Match, **values: Any) -> Any:
    root, order = match.root, match.info["order"]
    shape = [root.output.shape[order.index(i)] for i in range(len(order))]
    operands = []
    for i, kind in enumerate(match.info["kinds"]):
        name = f"x{i}"
        x = values[name]
        if kind != "array":
            x = jnp.asarray(x, match[name].dtype)
        operands.append(lax.broadcast(x, shape) if kind == "spread" else x)
    return lax.transpose(root.primitive.bind(*operands, **root.params), order)


TURN_RULES = RuleSet(
    (
        # select(transpose(p), transpose(x), 0) -> transpose(select(p, x, 0))
        Rule("turned_select", _TurnedSelect(), _turned_after),
        # expm1(transpose(select(p, x, 0))) -> transpose(expm1(select(p, x, 0)))
        Rule("after_turned_select", _AfterTurnedSelect(), _turned_after),
    )
)
