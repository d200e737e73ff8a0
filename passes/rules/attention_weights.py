"""What is done to attention's weights between the softmax and the product with the values.

Those of masked keys are set to 0, and then some are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxpress.capture import Node, Value
from jaxpress.passes.rules.attention_bands import Leaf, take_apart
from jaxpress.passes.rules.attention_logits import Softmax, softmax_behind
from jaxpress.passes.rules.axis_parts import Labels, regrouped, through
from jaxpress.passes.rules.axis_tracking import REARRANGING, constant, spread
from jaxpress.passes.view import View

__all__ = ["Dropped", "Weights", "Zeroed", "masks_of", "product_ahead", "weights_behind"]

_MAX_STEPS = 8
_ON_THE_WAY = ("convert_element_type", "select_n", "dropout")


class Zeroed(NamedTuple):
    """Weights are set to 0 under a condition.

    Attributes:
      condition: of the weights' rank.
      negated: they are where it holds; otherwise where it does not.
      axes: for each axis of the condition, that of the softmax, or the part of it.
    """

    condition: Value
    negated: bool
    axes: Labels


class Dropped(NamedTuple):
    """Weights are dropped.

    Attributes:
      node: the ``dropout``.
      axes: for each axis of its operand, that of the softmax, or the part of it.
    """

    node: Node
    axes: Labels


class Weights(NamedTuple):
    """Attention's weights.

    Attributes:
      softmax: what they come from.
      axes: for each of their axes in the product with the values, that of the softmax, or the
        part of it.
      zeroed: where they are set to 0.
      dropped: how they are dropped after that, if they are.
      nodes: the operations in between, the last one first.
    """

    softmax: Softmax
    axes: Labels
    zeroed: tuple[Zeroed, ...]
    dropped: Dropped | None
    nodes: tuple[Node, ...]


def weights_behind(view: View, value: Value) -> Weights | None:
    """The softmax that makes an operand of a product, and what is done to it on the way."""
    nodes: list[Node] = []
    # The operand itself first, then conditions: each with its axes in those of ``value``.
    axes: list[Labels] = [tuple(range(value.ndim))]
    conditions: list[tuple[Value, bool]] = []
    dropout: Node | None = None
    softmax: Softmax | None = None
    for _ in range(_MAX_STEPS):
        behind = spread(view, value, broadcasts=False, also=_conversion(view))
        nodes += behind.nodes
        value = behind.source
        node = view.producer(value)
        rearranged: list[Labels | None] = [through(one, behind.axes) for one in axes]
        cut = None if node is None else _regrouping(view, node)
        if node is not None and cut is not None:
            rearranged = [None if one is None else through(one, cut) for one in rearranged]
            nodes.append(node)
            value = view.inputs(node)[0]
        axes = [one for one in rearranged if one is not None]
        if len(axes) < len(rearranged):
            return None
        if cut is not None:
            continue
        softmax = softmax_behind(view, value)
        if softmax is not None or node is None:
            break
        if node.op == "dropout" and not conditions and dropout is None:
            if node.params["operands"] != ("x", "key") or "mapped" in node.params:
                return None
            dropout = node
            nodes.append(node)
            axes.append(tuple(range(value.ndim)))
            value = view.inputs(node)[0]
            continue
        found = _zeroing(view, node)
        if found is None:
            break
        data, condition, negated = found
        nodes.append(node)
        conditions.append((condition, negated))
        axes.append(tuple(range(value.ndim)))
        value = data
    if softmax is None:
        return None
    own, *rest = axes
    dropped = None if dropout is None else Dropped(dropout, rest.pop(0))
    zeroed = [Zeroed(*c, one) for c, one in zip(conditions, rest, strict=True)]
    return Weights(softmax, own, tuple(zeroed), dropped, tuple(nodes))


def _conversion(view: View) -> Any:
    return lambda n: view.inputs(n)[0] if n.op == "convert_element_type" else None


def _regrouping(view: View, node: Node) -> Labels | None:
    """For each axis of a reshape's result, that of its operand, or the part of it."""
    if node.op != "reshape" or node.params.get("dimensions") is not None:
        return None
    before = view.inputs(node)[0]
    return regrouped(tuple(range(before.ndim)), before.shape, node.output.shape)


def _zeroing(view: View, node: Node) -> tuple[Value, Value, bool] | None:
    """``where(condition, data, 0)``: data, condition, and whether 0 is where it holds."""
    if node.op != "select_n" or len(view.inputs(node)) != 3:
        return None
    condition, if_false, if_true = view.inputs(node)
    if condition.shape != node.output.shape or condition.dtype != np.bool_:
        return None
    for data, zero, negated in ((if_true, if_false, False), (if_false, if_true, True)):
        number = constant(view, zero)
        if number is not None and float(number) == 0 and not np.signbit(float(number)):
            return data, condition, negated
    return None


def product_ahead(view: View, node: Node) -> Node | None:
    """The product that alone uses a softmax, whatever is done to weights before."""
    for _ in range(_MAX_STEPS):
        users = view.users(node.output)
        if len(users) != 1 or view.is_output(node.output):
            return None
        (node,) = users
        if node.op == "dot_general":
            return node
        if node.op not in REARRANGING and node.op not in _ON_THE_WAY:
            return None
    return None


def masks_of(
    view: View, weights: Weights, axes: Labels, leaves: Sequence[Leaf], keys: tuple[int, ...]
) -> list[Leaf] | str | None:
    """The masks that leave keys out entirely; ``None`` where there are none.

    Args:
      view: the graph.
      weights: the weights.
      axes: for each axis of the softmax, the axis of the product of queries and keys, or those
        joined in it.
      leaves: the masks of the logits, which hold before the softmax.
      keys: the axes of that product along which keys run.

    Returns:
      What the masks are, if the weights are 0 just where the logits are masked; a reason if not.
    """
    found: list[list[Leaf]] = []
    for z in weights.zeroed:
        labels = through(z.axes, axes)
        if labels is None:
            return "weights whose axes are mixed are set to 0"
        found.append(take_apart(view, z.condition, labels, z.negated, keys))
    where = weights.softmax.where
    if where is not None:
        if where.ndim != len(axes):
            return "the softmax leaves out what has another rank"
        alone = take_apart(view, where, axes, False, keys)
        if leaves and not _same(alone, leaves):
            return "the softmax leaves out other keys than the mask does"
        leaves = alone
    if any(not _same(one, leaves) for one in found):
        return "weights are 0 where logits are not masked, or the other way round"
    return list(leaves) if leaves and (found or where is not None) else None


def _same(a: Sequence[Leaf], b: Sequence[Leaf]) -> bool:
    return {leaf.meaning for leaf in a} == {leaf.meaning for leaf in b}
