"""One-hot encodings as ``jax.nn.one_hot`` writes them: ``ids == 0, 1, 2, ...``, as numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxpress.capture import Node, Value
from jaxpress.passes.view import View, broadcast_operand, channel_base, scalar_value

__all__ = ["OneHot", "one_hot_of"]


class OneHot(NamedTuple):
    """What an encoding is made of.

    Attributes:
      ids: the class indices; where ``squeezed``, with an axis of size 1 where the classes run.
      squeezed: whether they have it.
      axis: the result's, along which the classes run.
      nodes: the operations, the last first.
    """

    ids: Value
    squeezed: bool
    axis: int
    nodes: tuple[Node, ...]


def one_hot_of(view: View, value: Value) -> OneHot | None:
    """The one-hot encoding that ``value`` is, if it is one of integers."""
    convert = view.producer(value)
    if convert is None:
        return None
    if convert.op == "one_hot":
        axis = convert.params["axis"] % value.ndim
        return OneHot(view.inputs(convert)[0], False, axis, (convert,))
    # Numbers of truth values, or a choice of 0 and 1.
    chooses = convert.op == "select_n" and [
        scalar_value(view, v) for v in view.inputs(convert)[1:]
    ] == [0, 1]
    if convert.op != "convert_element_type" and not chooses:
        return None
    compare = view.producer(view.inputs(convert)[0])
    if compare is None or compare.op != "eq" or compare.output.shape != value.shape:
        return None
    for ids, classes in (view.inputs(compare), view.inputs(compare)[::-1]):
        axis = _counts_along(view, classes, value.shape)
        if axis is None or not jnp.issubdtype(ids.dtype, jnp.integer):
            continue
        found = _without_axis(view, ids, value.shape, axis)
        if found is not None:
            return OneHot(*found, axis, (convert, compare))
    return None


def _counts_along(view: View, value: Value, shape: Any) -> int | None:
    """The axis along which ``value`` is 0, 1, 2, ..., the same everywhere else."""
    if value.ndim != len(shape):
        return None
    found = channel_base(view, value)
    if found is None or found[1] is None or value.shape[found[1]] != shape[found[1]]:
        return None
    base, axis = found
    node = view.producer(base)
    while node is not None and node.op == "convert_element_type":
        node = view.producer(view.inputs(node)[0])
    if node is None or node.op != "iota":
        return None
    return axis if node.output.shape[node.params["dimension"]] == shape[axis] else None


def _without_axis(view: View, ids: Value, shape: Any, axis: int) -> tuple[Value, bool] | None:
    """The ids that are the same along ``axis``, and whether that axis is still there."""
    wanted = (*shape[:axis], *shape[axis + 1 :])
    found = broadcast_operand(view, ids)
    if found is not None:
        operand, dims = found
        if dims == tuple(i for i in range(len(shape)) if i != axis) and operand.shape == wanted:
            return operand, False
    if ids.shape == (*shape[:axis], 1, *shape[axis + 1 :]):
        return ids, True
    return None
