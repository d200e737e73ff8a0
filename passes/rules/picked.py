"""One element of each row, by its index: ``take_along_axis(x, labels)`` and its like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpress.capture import Node, Value
from jaxpress.capture.edit import Editor
from jaxpress.passes.rules.known_indices import counted
from jaxpress.passes.rules.scalars import number
from jaxpress.passes.view import View, broadcast_operand

__all__ = ["Picked", "picked_of"]

_OUT_OF_RANGE = {
    lax.GatherScatterMode.FILL_OR_DROP: "nan",
    lax.GatherScatterMode.CLIP: "clip",
    lax.GatherScatterMode.PROMISE_IN_BOUNDS: "promise_in_bounds",
}
_RESHAPES = frozenset({"reshape", "squeeze", "expand_dims"})


@dataclass
class Picked:
    """What is picked from what.

    Attributes:
      x: the array.
      labels: which element of each row, as many as there are rows, in their order; perhaps with
        further axes of size 1, as the value may have one where the rows run. ``None`` for a number.
      axis: along which rows run.
      from_end: whether negative labels count from the end.
      out_of_range: what labels beyond the ends give, as the loss has it.
      nodes: the operations, the last first.
      alike: the axes along which every row has the same labels, which lack them.
      number: the label of every row; ``None`` with a diagonal, which is 0, 1, 2, ...
    """

    x: Value
    labels: Value | None
    axis: int
    from_end: bool
    out_of_range: str
    nodes: tuple[Node, ...]
    alike: tuple[int, ...] = ()
    number: int | None = None

    @property
    def is_diagonal(self) -> bool:
        """Whether it is the diagonal of a square, of whose axes either may be the rows'."""
        return self.labels is None and self.number is None


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
    if node is not None and node.op == "cond":
        found = _diagonal(view, node)
        return found if found is not None and shape == found.x.shape[:1] else "it is no diagonal"
    if node is not None and node.op == "slice":
        return _cut(view, node, shape, nodes)
    if node is None or node.op != "gather":
        return "it picks no elements"
    nodes.append(node)
    x = view.inputs(node)[0]
    params = node.params
    mode = _OUT_OF_RANGE.get(lax.GatherScatterMode.from_any(params["mode"]))
    if mode is None:
        return "it picks in another mode"
    fill = params.get("fill_value")
    if mode == "nan" and not (fill is None or np.isnan(fill)):
        return f"it fills in {fill}"
    if not jnp.issubdtype(x.dtype, jnp.floating) or x.ndim == 0:
        return "it picks no numbers"
    found = _labels(view, node)
    if isinstance(found, str):
        return found
    column, axis, more, alike = found
    rows = (*x.shape[:axis], *x.shape[axis + 1 :])
    if shape not in (rows, (*x.shape[:axis], 1, *x.shape[axis + 1 :])):
        return "it does not pick one element of each row"
    labels, from_end, wrapped = _unwrapped(view, column, x.shape[axis])
    own = [n for a, n in enumerate(x.shape) if a != axis and a not in alike]
    if _longer(labels.shape) != _longer(own):
        return "its indices are shaped otherwise"
    return Picked(x, labels, axis, from_end, mode, (*nodes, *more, *wrapped), alike)


def _cut(view: View, node: Node, shape: Any, nodes: list[Node]) -> Picked | str:
    """``x[..., 3, :]``: the same element of every row."""
    (x,) = view.inputs(node)
    start, strides = node.params["start_indices"], node.params["strides"]
    cut = [a for a in range(x.ndim) if x.shape[a] != node.output.shape[a]]
    if len(cut) != 1 or node.output.shape[cut[0]] != 1 or any(n != 1 for n in strides or ()):
        return "it is no element of each row"
    (axis,) = cut
    rows = (*x.shape[:axis], *x.shape[axis + 1 :])
    if shape not in (rows, node.output.shape) or not jnp.issubdtype(x.dtype, jnp.floating):
        return "it does not pick one element of each row"
    number = int(start[axis])
    return Picked(x, None, axis, False, "promise_in_bounds", (*nodes, node), (), number)


def _diagonal(view: View, node: Node) -> Picked | None:
    """``jnp.diagonal(x)`` of a square, which has a branch of its own in Pallas kernels."""
    chooser = view.producer(view.inputs(node)[0])
    if chooser is None or chooser.op != "platform_index" or len(node.outputs) != 1:
        return None
    usual = [i for i, one in enumerate(chooser.params["platforms"]) if one is None]
    others = [one for one in chooser.params["platforms"] if one is not None]
    if len(usual) != 1 or any(tuple(one) != ("mosaic",) for one in others):
        return None
    branch = node.subgraphs[usual[0]]
    inner = Editor(branch)
    gather = inner.producer(branch.outputs[0])
    if gather is None or gather.op != "gather":
        return None
    inside, starts = inner.inputs(gather)
    if inside not in branch.inputs or not _along_the_diagonal(inner, gather, starts):
        return None
    x = view.inputs(node)[1 + branch.inputs.index(inside)]
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return None
    return Picked(x, None, 1, False, "promise_in_bounds", (node,))


def _along_the_diagonal(view: View, gather: Node, starts: Value) -> bool:
    """Whether it picks the elements (0, 0), (1, 1), ... of a square."""
    x, numbers = view.inputs(gather)[0], gather.params["dimension_numbers"]
    if x.ndim != 2 or x.shape[0] != x.shape[1] or gather.output.shape != x.shape[:1]:
        return False
    index_map = tuple(int(a) for a in numbers.start_index_map)
    if sorted(index_map) != [0, 1] or tuple(gather.params["slice_sizes"]) != (1, 1):
        return False
    at = counted(view, starts)
    return at is not None and bool((at == np.arange(x.shape[0])[:, None]).all())


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


def _labels(view: View, node: Node) -> tuple[Value, int, tuple[Node, ...], tuple[int, ...]] | str:
    """The column of indices along the one axis that is picked from, and that axis.

    Then the operations, and the axes that are taken whole.
    """
    x, starts = view.inputs(node)
    numbers = node.params["dimension_numbers"]
    index_map = tuple(int(a) for a in numbers.start_index_map)
    batching = tuple(int(a) for a in numbers.operand_batching_dims)
    where = tuple(int(a) for a in numbers.start_indices_batching_dims)
    last = starts.ndim - 1
    if len(index_map) == 1 and starts.shape[last] == 1:
        (axis,) = index_map
        alike = _taken_whole(node, x, axis)
        rest = tuple(a for a in range(x.ndim) if a != axis and a not in alike)
        if batching != rest or list(where) != sorted(where) or not _in_order(node, x, rest):
            return "some axes are neither picked from nor gone along with"
        if any(starts.shape[w] != x.shape[b] for b, w in zip(batching, where, strict=True)):
            return "its indices are of other rows"
        return starts, axis, (), alike
    if any(n != 1 for n in node.params["slice_sizes"]):
        return "it picks rows"
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
    *others, labels = columns
    for axis, column in enumerate(others):
        counting = _counts(view, column, axis, x)
        if counting is None:
            return "its indices do not count along every other axis"
        nodes.extend(counting)
    return labels, x.ndim - 1, tuple(nodes), ()


def _taken_whole(node: Node, x: Value, axis: int) -> tuple[int, ...]:
    """The axes of ``x`` that a gather along ``axis`` leaves as they are."""
    sizes = node.params["slice_sizes"]
    return tuple(a for a in _offset_axes(node, x) if a != axis and sizes[a] == x.shape[a])


def _offset_axes(node: Node, x: Value) -> list[int]:
    """The axes of ``x`` that a gather's result has of its own, in order."""
    numbers = node.params["dimension_numbers"]
    gone = {*map(int, numbers.collapsed_slice_dims), *map(int, numbers.operand_batching_dims)}
    return [a for a in range(x.ndim) if a not in gone]


def _in_order(node: Node, x: Value, rest: tuple[int, ...]) -> bool:
    """Whether the axes that are taken whole stand in the result where they stand in the array."""
    offsets = map(int, node.params["dimension_numbers"].offset_dims)
    whole = dict(zip(offsets, _offset_axes(node, x), strict=True))
    indexed = iter([a for a in rest if x.shape[a] != 1])
    order = []
    for at, n in enumerate(node.output.shape):
        axis = whole[at] if at in whole else next(indexed, None) if n != 1 else None
        if axis is not None and n != 1:
            order.append(axis)
    return order == sorted(order)


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
