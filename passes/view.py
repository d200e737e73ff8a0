"""How rules look at a graph that is being rewritten."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from jaxpress.capture import Graph, Literal, Node, Value

__all__ = [
    "GraphView",
    "View",
    "broadcast_operand",
    "channel_base",
    "is_parameter_like",
    "parameters_of",
    "scalar_under",
    "scalar_value",
]


class View(Protocol):
    """What a rule may ask; ``jaxpress.capture.edit.Editor`` answers it."""

    def inputs(self, node: Node) -> tuple[Value, ...]: ...
    def producer(self, value: Value) -> Node | None: ...
    def users(self, value: Value) -> tuple[Node, ...]: ...
    def is_output(self, value: Value) -> bool: ...
    def use_count(self, value: Value) -> int: ...
    def is_known(self, value: Value) -> bool: ...
    def constant_value(self, value: Value) -> Any: ...


class GraphView:
    """A graph that is not being rewritten, seen as rules see one that is."""

    def __init__(self, graph: Graph):
        self.graph = graph

    def inputs(self, node: Node) -> tuple[Value, ...]:
        """The operands of ``node``."""
        return node.inputs

    def producer(self, value: Value) -> Node | None:
        """The node that makes ``value``, if one does."""
        return self.graph.producer(value)

    def users(self, value: Value) -> tuple[Node, ...]:
        """The nodes that take ``value``, each once."""
        return self.graph.users(value)

    def is_output(self, value: Value) -> bool:
        """Whether the graph returns ``value``."""
        return any(v is value for v in self.graph.outputs)

    def use_count(self, value: Value) -> int:
        """How many nodes and outputs need ``value``."""
        return len(self.users(value)) + self.is_output(value)

    def is_known(self, value: Value) -> bool:
        """Whether ``value`` is a literal or a constant; no more is known of a body."""
        return isinstance(value, Literal) or value in self.graph.constant_values

    def constant_value(self, value: Value) -> Any:
        """The array behind a constant; ``None`` for any other value."""
        return self.graph.constant_values.get(value)


_SAME_ELEMENTS = frozenset({"reshape", "squeeze", "expand_dims", "copy"})
_MOVEMENT = frozenset(
    {"reshape", "squeeze", "expand_dims", "transpose", "convert_element_type", "copy", "slice"}
)


# A number inside shard_map that varies from device to device by its type alone is the number.
_SCALAR_MOVES = frozenset(
    """
    broadcast_in_dim convert_element_type copy expand_dims pvary reshape rev slice squeeze transpose
    """.split()  # noqa: SIM905
)


def scalar_under(view: View, value: Value) -> Literal | None:
    """The literal that ``value`` is, or is broadcast, moved or converted from."""
    while not isinstance(value, Literal):
        node = view.producer(value)
        if node is None or node.op not in _SCALAR_MOVES:
            return None
        value = view.inputs(node)[0]
    return value


def scalar_value(view: View, value: Value) -> Any:
    """The scalar that ``value`` is, or is broadcast from; ``None`` if it is no known scalar.

    Looks through broadcasts, moves and conversions of a literal. Constants that are arrays are
    not looked into: their values are data of the model.
    """
    dtype = value.dtype
    literal = scalar_under(view, value)
    if literal is None or np.shape(literal.val) != () or dtype is None:
        return None
    try:
        # Through every dtype on the way: 1e-8 in float16 is zero.
        return np.asarray(literal.val).astype(literal.dtype).astype(dtype)[()]
    except (TypeError, ValueError):
        return None


def broadcast_operand(view: View, value: Value) -> tuple[Value, tuple[int, ...]] | None:
    """What a ``broadcast_in_dim`` broadcasts, and to which axes; ``None`` for anything else."""
    node = view.producer(value)
    if node is None or node.op != "broadcast_in_dim":
        return None
    inputs = view.inputs(node)
    if len(inputs) != 1:  # dynamic shapes come as further operands
        return None
    return inputs[0], tuple(int(a) for a in node.params["broadcast_dimensions"])


def channel_base(view: View, value: Value) -> tuple[Value, int | None] | None:
    """What ``value`` is a broadcast of, if it varies along at most one axis.

    Returns:
      ``(base, axis)``: ``base`` holds, in order, the elements of ``value`` along ``axis``, and
      ``value`` repeats them along every other axis. ``axis`` is ``None`` for a value that is the
      same everywhere, whose ``base`` has one element. ``None`` if it varies along more axes.
    """
    axes = list(range(value.ndim))
    axis: int | None = None
    while True:
        wide = [i for i, d in enumerate(value.shape) if d != 1]
        if len(wide) > 1:
            found = broadcast_operand(view, value)
            if found is None:
                return None
            operand, dims = found
            axes = [axes[a] for a in dims]
            value = operand
            continue
        if not wide:
            axis = None
        elif axis is None:
            axis = axes[wide[0]]
        # One axis at most is left: look for the barest form of the same elements.
        node = view.producer(value)
        if node is None or node.op not in (*_SAME_ELEMENTS, "broadcast_in_dim"):
            return value, axis
        operand = view.inputs(node)[0]
        if isinstance(operand, Literal):
            return (value, axis) if operand.ndim else (operand, None)
        wide_below = [d for d in operand.shape if d != 1]
        if wide and not wide_below:
            return operand, None
        if len(wide_below) != len(wide):
            return value, axis
        # From here on the axis is known, and reshapes may move it.
        axes = [axis if axis is not None else 0] * operand.ndim
        value = operand


def is_parameter_like(view: View, value: Value) -> bool:
    """Whether ``value`` is known before the data, or is inputs that were at most rearranged."""
    seen: set[Value] = set()
    stack = [value]
    while stack:
        value = stack.pop()
        node = view.producer(value)
        if view.is_known(value) or node is None or value in seen:
            continue
        seen.add(value)
        if node.op not in ("concatenate", "split") and node.op not in _MOVEMENT:
            return False
        inputs = view.inputs(node)
        stack.extend(inputs if node.op == "concatenate" else inputs[:1])
    return True


# What weights are made of parameters by: masks, gains, norms of their own, rounding.
# fmt: off
_MAKES_WEIGHTS = frozenset(
    {
        "abs", "add", "broadcast_in_dim", "clamp", "concatenate", "convert_element_type",
        "copy", "div", "exp", "expand_dims", "integer_pow", "l2_normalize", "log", "max",
        "min", "mul", "neg", "pow", "reduce_max", "reduce_sum", "reshape", "round", "rsqrt",
        "select_n", "sigmoid", "sign", "slice", "softplus", "sqrt", "square", "squeeze",
        "standardize", "stop_gradient", "sub", "tanh", "transpose", "weight_standardize",
    }
)
# fmt: on
_MAX_MAKERS = 24


def parameters_of(view: View, value: Value) -> frozenset[Value] | None:
    """The inputs that ``value`` is made of, by no other operations than weights are made by.

    Returns:
      ``None`` where there are others, or many operations: it is data then, or may be.
    """
    found: set[Value] = set()
    seen: set[Value] = set()
    stack = [value]
    while stack:
        value = stack.pop()
        if value in seen or isinstance(value, Literal) or view.is_known(value):
            continue
        seen.add(value)
        node = view.producer(value)
        if node is None:
            found.add(value)
        elif node.op not in _MAKES_WEIGHTS or len(seen) > _MAX_MAKERS:
            return None
        else:
            stack.extend(view.inputs(node))
    return frozenset(found)
