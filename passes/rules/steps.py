"""What may stand between a linear op and what is folded or fused into it.

A step only moves elements (reshape, transpose) or repeats them, or treats all of them alike (pad,
average pooling), so a scale along the features can be applied before it as well as after. An
extreme of a window is such a step for scales above zero, and for shifts: what is padded around it
is infinite.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxpress.capture import Node, Value, compat
from jaxpress.passes.pattern import State
from jaxpress.passes.rules.weights import LINEAR_OPS
from jaxpress.passes.view import View, scalar_value

__all__ = [
    "AVERAGE",
    "EXTREMES",
    "MOVES",
    "PAD",
    "REPEAT",
    "SLICE",
    "keeps_sums",
    "kept_by_pooling",
    "leaves_axis",
    "linear_maker",
    "replay",
    "step_nodes",
    "steps_back",
]

MOVES = frozenset({"reshape", "squeeze", "expand_dims", "transpose", "copy"})
REPEAT = frozenset({"broadcast_in_dim"})
AVERAGE = frozenset({"avg_pool", "global_avg_pool"})
EXTREMES = frozenset({"max_pool", "min_pool", "global_max_pool"})
PAD = frozenset({"pad"})
SLICE = frozenset({"slice"})

MAX_STEPS = 4


def linear_maker(
    state: State,
    value: Value,
    user: Node,
    through: frozenset[str] = frozenset(),
    ops: frozenset[str] = LINEAR_OPS,
    shared: bool = False,
) -> tuple[Node, tuple[Node, ...]] | None:
    """The linear op that makes ``value`` for ``user`` alone, with no activation yet.

    Args:
      state: the attempt to match.
      value: what ``user`` takes.
      user: a node.
      through: the steps that may stand between.
      ops: which ops are meant.
      shared: others may take what the op makes as well; the caller sees to them.

    Returns:
      The op and the steps behind it, in the order in which they run; ``None`` if there is none.
    """
    view = state.view
    steps, value, user = steps_back(view, value, user, through)
    node = view.producer(value)
    if node is None or node.op not in ops:
        state.fail(lambda: f"{value!r} is not made by a conv or dense", user)
        return None
    if node.params.get("mapped"):
        state.fail(f"{node.op} is mapped over several weights", node)
        return None
    if node.params["activation"] is not None:
        state.fail(f"{node.op} has an activation already", node)
        return None
    if not shared and not _is_private(view, value, user):
        state.fail(
            lambda: f"{value!r} is used elsewhere as well{_by_whom(view, value, user)}", node
        )
        return None
    return node, tuple(reversed(steps))


def _by_whom(view: View, value: Value, user: Node) -> str:
    """Which other node keeps a value, and on which line of the user's, for a message."""
    other = next((node for node in view.users(value) if node is not user), None)
    if other is None:
        return ", as a result" if view.is_output(value) else ""
    return f", by {other.op} ({other.source or 'no source line'})"


def steps_back(
    view: View, value: Value, user: Node, through: frozenset[str]
) -> tuple[list[Node], Value, Node]:
    """The steps before ``value``, last first, then what the first takes and who takes it."""
    steps: list[Node] = []
    while len(steps) < MAX_STEPS:
        node = view.producer(value)
        if node is None or node.op not in through or node.params.get("mapped"):
            break
        if not _is_private(view, value, user) or not _is_step(view, node):
            break
        steps.append(node)
        value, user = view.inputs(node)[0], node
    return steps, value, user


def _is_private(view: View, value: Value, user: Node) -> bool:
    return view.use_count(value) == 1 and view.inputs(user).count(value) == 1


def _is_step(view: View, node: Node) -> bool:
    inputs = view.inputs(node)
    if node.op == "pad":
        number = scalar_value(view, inputs[1])
        return number is not None and number == 0
    return len(inputs) == 1  # a reshape to a symbolic shape takes the sizes as well


def step_nodes(steps: Iterable[Node]) -> dict[str, Node]:
    """Steps by name, for a match to hold."""
    return {f"step{i}": node for i, node in enumerate(steps)}


def replay(nodes: dict[str, Node], x: Any) -> Any:
    """``x`` through the steps of a match."""
    for i in range(MAX_STEPS):
        node = nodes.get(f"step{i}")
        if node is None:
            break
        operands = [x, np.zeros((), x.dtype)] if node.op == "pad" else [x]
        (x,) = compat.bind(node.primitive, operands, node.params)
    return x


def keeps_sums(node: Node) -> bool:
    """Whether a constant comes out of a step as it went in."""
    if node.op == "pad":
        # One that only takes elements away.
        config = [tuple(row) for row in node.params["padding_config"]]
        whole = all(isinstance(n, int) for row in config for n in row)
        return whole and all(low <= 0 and high <= 0 and n == 0 for low, high, n in config)
    if node.op == "global_avg_pool":
        # The mean of nothing is no number, whatever is added to it.
        shape = node.inputs[0].shape
        sizes = [shape[a % len(shape)] for a in node.params["axis"]]
        return all(isinstance(n, int) and n > 0 for n in sizes)
    if node.op == "avg_pool":
        padded = any(tuple(pair) != (0, 0) for pair in node.params["padding"])
        return not (padded and node.params["count_include_pad"])
    return True


def kept_by_pooling(node: Node) -> list[int]:
    """The axes that global pooling leaves, where it does not keep the others as ones."""
    ndim = node.inputs[0].ndim
    gone = {a % ndim for a in node.params["axis"]}
    return [a for a in range(ndim) if a not in gone]


def leaves_axis(node: Node, axis: int) -> bool:
    """Whether a pad, slice or pooling step does nothing along ``axis``."""
    params = node.params
    if node.op == "pad":
        return tuple(params["padding_config"][axis]) == (0, 0, 0)
    if node.op == "slice":
        shape, out, strides = node.inputs[0].shape, node.output.shape, params["strides"]
        return shape[axis] == out[axis] and (strides is None or strides[axis] == 1)
    if node.op in ("global_avg_pool", "global_max_pool"):
        return axis not in {a % node.inputs[0].ndim for a in params["axis"]}
    alone = params["window_shape"][axis] == 1 and params["strides"][axis] == 1
    return alone and tuple(params["padding"][axis]) == (0, 0)
