"""The running mean and variance that a batch norm in training keeps."""

from __future__ import annotations

from dataclasses import dataclass

from jaxpress.capture import Node, Value
from jaxpress.passes.rules.axes import MOVES
from jaxpress.passes.rules.moment_atoms import is_close
from jaxpress.passes.rules.scalars import number
from jaxpress.passes.view import View

__all__ = ["Running", "running_of"]


@dataclass
class Running:
    """``new = momentum * old + (1 - momentum) * batch``.

    Attributes:
      new: the result.
      old: what it was.
      momentum: how much of it stays.
      nodes: those that compute it from the batch's statistic, the last first.
    """

    new: Value
    old: Value
    momentum: float
    nodes: list[Node]


def running_of(view: View, batch: Value, inside: set[Node]) -> Running | None:
    """What is kept of a batch's statistic, if nothing else outside ``inside`` uses it."""
    value, nodes = batch, []
    while True:
        users = [user for user in view.users(value) if user not in inside]
        if len(users) != 1 or view.is_output(value):
            return None
        (node,) = users
        nodes.insert(0, node)
        if node.op == "mul":
            break
        if node.op not in MOVES or node.op == "broadcast_in_dim":
            return None
        value = node.output
    share = _factor(view, node, value)
    users = view.users(node.output)
    if share is None or len(users) != 1 or users[0].op != "add" or view.is_output(node.output):
        return None
    total = users[0]
    a, b = view.inputs(total)
    kept = view.producer(b if a is node.output else a)
    if kept is None or kept.op != "mul" or a is b or len(view.users(kept.output)) != 1:
        return None
    for old in view.inputs(kept):
        momentum = _factor(view, kept, old)
        if momentum is not None and is_close(momentum + share, 1) and momentum >= 0:
            sizes = [[n for n in v.shape if n != 1] for v in (old, batch, total.output)]
            if sizes[0] == sizes[1] == sizes[2] and not view.is_output(kept.output):
                return Running(total.output, old, momentum, [total, kept, *nodes])
    return None


def _factor(view: View, node: Node, value: Value) -> float | None:
    """The number that a product multiplies ``value`` with."""
    a, b = view.inputs(node)
    if (a is value) == (b is value):
        return None
    return number(view, b if a is value else a)
