"""One element of each row, by its index: ``take_along_axis(x, labels)`` and its like."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpress.capture import Node, Value
from jaxpress.passes.rules.scalars import number
from jaxpress.passes.view import View, broadcast_operand

__all__ = ["Picked", "picked_of"]

_OUT_OF_RANGE = {
    lax.GatherScatterMode.FILL_OR_DROP: "nan",
    lax.GatherScatterMode.CLIP: "clip",
    lax.GatherScatterMode.PROMISE_IN_BOUNDS: "promise_in_bounds",
}
_RESHAPES = frozenset({"reshape", "squeeze", "expand_dims"})


class Picked(NamedTuple):
    """What is picked from what.

    Attributes:
      x: the array.
      labels: which element of each row, as many as there are rows, in their order; perhaps with
        further axes of size 1, as the value may have one where the rows run.
      axis: along which rows run.
      from_end: whether negative labels count from the end.
      out_of_range: what labels beyond the ends give, as the loss has it.
      nodes: the operations, the last first.
    """

    x: Value
    labels: Value
    axis: int
    from_end: bool
    out_of_range: str
    nodes: tuple[Node, ...]


def picked_of(view: View, value: Value) -> Picked | str:
    """The elements that a value is, one of each row; or why it is no such choice."""
    shape = value.shape
    nodes: list[Node] = []
    node = view.producer(value)
    while node is not None and (node.op in _RESHAPES or _takes_first(view, node)):
        nodes.append(node)
        value = view.inputs(node)[0]
        if _longer(value.shape) != _longer(shape):
            return "it moves elements"
        node = view.producer(value)
    if node is None or node.op != "gather":
        return "it picks no elements"
    nodes.append(node)
    x = view.inputs(node)[0]
    params = node.params
    mode = _OUT_OF_RANGE.get(lax.GatherScatterMode.from_any(params["mode"]))
    if mode is None or any(n != 1 for n in params["slice_sizes"]):
        return "it picks rows, or in another mode"
    fill = params.get("fill_value")
    if mode == "nan" and not (fill is None or np.isnan(fill)):
        return f"it fills in {fill}"
    if not jnp.issubdtype(x.dtype, jnp.floating) or x.ndim == 0:
        return "it picks no numbers"
    found = _labels(view, node)
    if isinstance(found, str):
        return found
    column, axis, more = found
    rows = (*x.shape[:axis], *x.shape[axis + 1 :])
    if shape not in (rows, (*x.shape[:axis], 1, *x.shape[axis + 1 :])):
        return "it does not pick one element of each row"
    labels, from_end, wrapped = _unwrapped(view, column, x.shape[axis])
    if _longer(labels.shape) != _longer(shape):
        return "its indices are shaped otherwise"
    return Picked(x, labels, axis, from_end, mode, (*nodes, *more, *wrapped))


def _longer(shape: Any) -> list[Any]:
    """The axes that a reshape cannot add or take away."""
    return [n for n in shape if n != 1]


def _takes_first(view: View, node: Node) -> bool:
    """Whether it takes the first and only element along an axis, as ``x.take(0, axis)`` does."""
    if node.op != "gather":
        return False
    x, starts = view.inputs(node)
    numbers = node.params["dimension_numbers"]
    axes = tuple(numbers.start_index_map)
    if len(axes) != 1 or x.shape[axes[0]] != 1 or tuple(node.params["slice_sizes"]) != x.shape:
        return False
    if tuple(numbers.collapsed_slice_dims) != axes or starts.shape != (1,):
        return False
    found = broadcast_operand(view, starts)
    at = number(view, found[0] if found is not None and found[0].ndim == 0 else starts)
    return at == 0


def _labels(view: View, node: Node) -> tuple[Value, int, tuple[Node, ...]] | str:
    """The column of indices along the one axis that is picked from, and that axis."""
    x, starts = view.inputs(node)
    numbers = node.params["dimension_numbers"]
    index_map = tuple(int(a) for a in numbers.start_index_map)
    batching = tuple(int(a) for a in numbers.operand_batching_dims)
    where = tuple(int(a) for a in numbers.start_indices_batching_dims)
    last = starts.ndim - 1
    if len(index_map) == 1 and starts.shape[last] == 1:
        (axis,) = index_map
        rest = tuple(a for a in range(x.ndim) if a != axis)
        if batching != rest or list(where) != sorted(where):
            return "some axes are neither picked from nor gone along with"
        if any(starts.shape[w] != x.shape[b] for b, w in zip(batching, where, strict=True)):
            return "its indices are of other rows"
        return starts, axis, ()
    # x[arange(n), labels]: every other axis is counted along.
    maker = view.producer(starts)
    if batching or maker is None or maker.op != "concatenate":
        return "its indices are not of one axis"
    columns = view.inputs(maker)
    if maker.params["dimension"] != last or index_map != tuple(range(x.ndim)):
        return "its indices are not of one axis"
    if len(columns) != x.ndim:
        return "its indices are joined otherwise"
    nodes: list[Node] = [maker]
    free: list[int] = []
    for axis, column in enumerate(columns):
        counted = _counts(view, column, axis, x)
        if counted is None:
            free.append(axis)
        else:
            nodes.extend(counted)
    if len(free) != 1 or free[0] != x.ndim - 1:
        return "its indices do not count along every other axis"
    return columns[free[0]], free[0], tuple(nodes)


def _counts(view: View, column: Value, axis: int, x: Value) -> list[Node] | None:
    """The operations behind a column that is 0, 1, 2, ... along an axis; ``None`` for another."""
    nodes: list[Node] = []
    at = axis
    node = view.producer(column)
    while node is not None and node.op != "iota":
        inputs = view.inputs(node)
        if node.op == "broadcast_in_dim" and len(inputs) == 1:
            dims = [int(d) for d in node.params["broadcast_dimensions"]]
            if at not in dims or inputs[0].shape[dims.index(at)] != node.output.shape[at]:
                return None
            at = dims.index(at)
            nodes.append(node)
            column = inputs[0]
        elif node.op == "select_n" and len(inputs) == 3:
            # A count is not negative, whatever is done to it if it were.
            plain, _, wrapped = _unwrapped(view, column, x.shape[axis])
            if plain is column:
                return None
            nodes.extend(wrapped)
            column = plain
        else:
            return None
        node = view.producer(column)
    if node is None or node.params["dimension"] != at or node.output.shape[at] != x.shape[axis]:
        return None
    return [*nodes, node]


def _widens(node: Node) -> bool:
    """A conversion that the op makes by itself."""
    if node.op != "convert_element_type" or node.output.dtype != np.int32:
        return False
    narrow = node.inputs[0].dtype
    return jnp.issubdtype(narrow, jnp.integer) and narrow.itemsize < 4


def _unwrapped(view: View, value: Value, size: Any) -> tuple[Value, bool, list[Node]]:
    """``i`` of ``where(i < 0, i + size, i)``, whether it was that, and the operations."""
    nodes: list[Node] = []
    node = view.producer(value)
    while node is not None:
        inputs = view.inputs(node)
        if _widens(node):
            nodes.append(node)
            value = inputs[0]
        elif node.op in _RESHAPES or node.op == "broadcast_in_dim":
            if len(inputs) != 1 or _longer(inputs[0].shape) != _longer(node.output.shape):
                break
            nodes.append(node)
            value = inputs[0]
        elif node.op == "select_n" and len(inputs) == 3:
            less, plus = view.producer(inputs[0]), view.producer(inputs[2])
            plain = inputs[1]
            if (
                size is None
                or less is None
                or plus is None
                or (less.op, plus.op) != ("lt", "add")
                or view.inputs(less)[0] is not plain
                or number(view, view.inputs(less)[1]) != 0
                or plain not in view.inputs(plus)
                or not any(number(view, v) == size for v in view.inputs(plus) if v is not plain)
            ):
                break
            below, _, more = _unwrapped(view, plain, None)
            return below, True, [*nodes, node, less, plus, *more]
        else:
            break
        node = view.producer(value)
    return value, bool(jnp.issubdtype(value.dtype, jnp.unsignedinteger)), nodes
