"""A row that is taken or written by its number, in JAX's forms, and what counts these numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

from jaxpress.capture import Literal, Node, Value
from jaxpress.passes.rules.cleanup_moves import is_plain
from jaxpress.passes.view import View

__all__ = ["Row", "read_of", "step_of", "written_by"]

_MOVES = frozenset({"broadcast_in_dim", "reshape", "squeeze", "expand_dims"})


class Row(NamedTuple):
    """One row.

    Attributes:
      row: its value.
      places: for each axis along which not all is taken, where that starts, a scalar, and how
        many entries there are.
      keeps: whether ``row`` has all axes of the array.
    """

    row: Value
    places: dict[int, tuple[Value, int]]
    keeps: bool


def read_of(view: View, node: Node) -> Row | None:
    """What a ``dynamic_slice`` takes, or a ``gather``, if that is one row."""
    array, *rest = view.inputs(node)
    if not is_plain(array, node.output):
        return None
    if node.op == "dynamic_slice":
        sizes = node.params["slice_sizes"]
        short = [a for a, (n, m) in enumerate(zip(array.shape, sizes, strict=True)) if n != m]
        return Row(node.output, {a: (rest[a], sizes[a]) for a in short}, True)
    numbers = node.params["dimension_numbers"]
    taken = tuple(map(int, numbers.start_index_map))
    if len(taken) != 1 or tuple(map(int, numbers.collapsed_slice_dims)) != taken:
        return None
    if _one_axis(array.shape, node.params["slice_sizes"]) != taken[0]:
        return None
    index = _scalar(view, rest[0])
    whole = tuple(numbers.offset_dims) == tuple(range(array.ndim - 1))
    if not whole or index is None:
        return None
    return Row(node.output, {taken[0]: (index, 1)}, False)


def written_by(view: View, node: Node) -> Row | None:
    """What a ``dynamic_update_slice`` or ``scatter`` writes, if it is one row."""
    array = view.inputs(node)[0]
    if not is_plain(array, node.output):
        return None
    if node.op == "dynamic_update_slice":
        _, row, *indices = view.inputs(node)
        axis = _one_axis(array.shape, row.shape)
        return None if axis is None else Row(row, {axis: (indices[axis], 1)}, True)
    _, where, row = view.inputs(node)
    numbers = node.params["dimension_numbers"]
    taken = tuple(map(int, numbers.scatter_dims_to_operand_dims))
    if len(taken) != 1 or tuple(map(int, numbers.inserted_window_dims)) != taken:
        return None
    shape = (*array.shape[: taken[0]], *array.shape[taken[0] + 1 :])
    whole = tuple(numbers.update_window_dims) == tuple(range(array.ndim - 1))
    index = _scalar(view, where)
    if not whole or row.shape != shape or index is None or row.dtype != array.dtype:
        return None
    return Row(row, {taken[0]: (index, 1)}, False)


def _one_axis(shape: Any, sizes: Any) -> int | None:
    """The axis along which one entry is taken, and all along the others."""
    short = [a for a, (n, m) in enumerate(zip(shape, sizes, strict=True)) if n != m]
    if len(short) != 1 or sizes[short[0]] != 1:
        return None
    return short[0]


def _scalar(view: View, value: Value) -> Value | None:
    """The scalar that an array of one element is made of."""
    while value.shape != ():
        node = view.producer(value)
        if node is None or node.op not in _MOVES or any(n != 1 for n in value.shape):
            return None
        value = view.inputs(node)[0]
    return value


def step_of(view: View, old: Value, new: Value) -> int | None:
    """What a carried number goes up by in each round, if it counts."""
    node = view.producer(new)
    if node is None or node.op not in ("add", "sub"):
        return None
    a, b = view.inputs(node)
    if node.op == "add" and b is old:
        a, b = b, a
    if a is not old or not isinstance(b, Literal):
        return None
    return int(b.val) if node.op == "add" else -int(b.val)
