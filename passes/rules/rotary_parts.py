"""How rotary embeddings take pairs of features apart, and put them together again."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxpress.capture import Node, Value
from jaxpress.passes.rules.axis_tracking import spread
from jaxpress.passes.view import View

__all__ = ["Joined", "Part", "are_pairs", "is_wider", "joined_of", "part_of", "same_array"]

_MAX_STEPS = 10


class Part(NamedTuple):
    """``value[..., i] = sign * whole[..., start + stride * i]``, with axes in another order.

    Attributes:
      source: the array that it is a part of.
      shape: ``whole`` is ``source`` in this shape; its own, or with the two axes of pairs as one.
      axes: for each axis of the value, that of ``whole``; the last one is that of the features.
      start, stride, sign: see above.
    """

    source: Value
    shape: tuple[Any, ...]
    axes: tuple[int, ...]
    start: int = 0
    stride: int = 1
    sign: int = 1


def part_of(view: View, value: Value) -> Part:
    """What ``value`` is a part of, as far back as slices along its last axis go."""
    part = Part(value, tuple(value.shape), tuple(range(value.ndim)))
    for _ in range(_MAX_STEPS):
        node = view.producer(part.source)
        if node is None or not part.axes or part.shape != tuple(part.source.shape):
            break
        before = _before(view, node, part)
        if before is None:
            break
        part = before
    return part


def _before(view: View, node: Node, part: Part) -> Part | None:
    """``part`` in terms of the node's operand; ``None`` if it takes no part of that."""
    source = view.inputs(node)[0]
    axis = part.axes[-1]
    params = node.params
    match node.op:
        case "transpose":
            axes = tuple(int(params["permutation"][a]) for a in part.axes)
            return part._replace(source=source, shape=tuple(source.shape), axes=axes)
        case "neg":
            return part._replace(source=source, sign=-part.sign)
        case "convert_element_type":
            # To a wider type, which may as well come before.
            return part._replace(source=source) if is_wider(source, node.output) else None
        case "slice":
            strides = params["strides"] or (1,) * source.ndim
            for i, d in enumerate(source.shape):
                whole = (params["start_indices"][i], params["limit_indices"][i], strides[i])
                if i != axis and whole != (0, d, 1):
                    return None
            first, step = int(params["start_indices"][axis]), int(strides[axis])
            return part._replace(
                source=source,
                shape=tuple(source.shape),
                start=first + step * part.start,
                stride=step * part.stride,
            )
        case "split":
            if int(params["axis"]) != axis:
                return None
            at = node.outputs.index(part.source)
            return part._replace(
                source=source,
                shape=tuple(source.shape),
                start=part.start + sum(map(int, params["sizes"][:at])),
            )
        case "squeeze":
            return _before_squeeze(view, node, part)
    return None


def is_wider(narrow: Value, wide: Value) -> bool:
    """Whether one floating-point type holds all numbers of another."""
    floats = all(jnp.issubdtype(v.dtype, jnp.floating) for v in (narrow, wide))
    return floats and jnp.promote_types(narrow.dtype, wide.dtype) == wide.dtype


def _before_squeeze(view: View, node: Node, part: Part) -> Part | None:
    """A column or row of features in the form (..., a, b)."""
    taken = view.producer(view.inputs(node)[0])
    if taken is None or len(node.params["dimensions"]) != 1:
        return None
    gone = int(node.params["dimensions"][0])
    index = _index(view, taken, view.inputs(node)[0], gone)
    if index is None:
        return None
    wide = view.inputs(taken)[0]
    # In the wide array the axis of features, and the one that is gone, are neighbours.
    own = part.axes[-1] + (part.axes[-1] >= gone)
    at = min(own, gone)
    pair = wide.shape[at : at + 2]
    if abs(own - gone) != 1 or not all(isinstance(d, int) for d in pair):
        return None
    columns = int(pair[1])
    if gone > own:
        start, stride = part.start * columns + index, part.stride * columns
    else:
        start, stride = index * columns + part.start, part.stride
    # Squeezed, the rest of the axes are where they are in the array with both as one.
    shape = (*wide.shape[:at], int(pair[0]) * columns, *wide.shape[at + 2 :])
    source = wide
    reshape = view.producer(wide)
    if reshape is not None and reshape.op == "reshape":
        before = view.inputs(reshape)[0]
        source = before if tuple(before.shape) == shape else wide
    return part._replace(source=source, shape=shape, start=start, stride=stride)


def _index(view: View, taken: Node, value: Value, axis: int) -> int | None:
    """Which entry along ``axis``, and of all others everything, was taken; ``None`` for others."""
    shape = view.inputs(taken)[0].shape
    if taken.op == "split":
        sizes = [int(n) for n in taken.params["sizes"]]
        at = taken.outputs.index(value)
        return sum(sizes[:at]) if int(taken.params["axis"]) == axis else None
    if taken.op != "slice":
        return None
    starts, limits = taken.params["start_indices"], taken.params["limit_indices"]
    strides = taken.params["strides"] or (1,) * len(shape)
    for i, d in enumerate(shape):
        if i != axis and (starts[i], limits[i], strides[i]) != (0, d, 1):
            return None
    return int(starts[axis])


def same_array(view: View, a: Part, b: Part) -> bool:
    """Whether two parts are of one array, also where each has reshaped it for itself."""
    return a.shape == b.shape and (
        a.source is b.source or _elements(view, a.source) is _elements(view, b.source)
    )


def _elements(view: View, value: Value) -> Value:
    """The array whose elements ``value`` has, in their order."""
    for _ in range(_MAX_STEPS):
        node = view.producer(value)
        if node is None or node.op != "reshape" or node.params.get("dimensions") is not None:
            break
        value = view.inputs(node)[0]
    return value


def are_pairs(view: View, first: Part, second: Part, half: Any) -> bool | None:
    """Whether two parts are pairs that are neighbours; false: half apart; ``None``: neither."""
    if first.axes != second.axes or not same_array(view, first, second):
        return None
    if first.stride == second.stride == 1 and second.start == first.start + half:
        return False
    if first.stride == second.stride == 2 and second.start == first.start + 1:
        return True
    return None


class Joined(NamedTuple):
    """Two arrays joined along the last axis.

    Attributes:
      first, second: the arrays.
      by_turns: they take turns; otherwise one comes after the other.
      nodes: the operations that join them.
      wide: the result has the axes of pairs apart, as (..., n, 2) or (..., 2, n).
    """

    first: Value
    second: Value
    by_turns: bool
    nodes: tuple[Node, ...]
    wide: bool = False


def joined_of(view: View, node: Node) -> Joined | None:
    """What ``node`` joins; ``None`` if it joins no two arrays along the last axis."""
    inputs = view.inputs(node)
    if (
        node.op == "concatenate"
        and int(node.params["dimension"]) == node.output.ndim - 1
        and len(inputs) == 2
        and inputs[0].shape == inputs[1].shape
    ):
        return Joined(inputs[0], inputs[1], False, (node,))
    if node.op in ("stack", "concatenate"):
        return _stacked(view, node)
    if node.op != "reshape" or len(inputs) != 1:
        return None
    maker = view.producer(inputs[0])
    found = None if maker is None else _stacked(view, maker)
    shape = node.output.shape
    if found is None or shape[:-1] != found.first.shape[:-1] or len(shape) != found.first.ndim:
        return None
    return found._replace(nodes=(node, *found.nodes), wide=False)


def _stacked(view: View, node: Node) -> Joined | None:
    """Two arrays beside each other along a new axis, the last one or that before it."""
    parts, ndim = view.inputs(node), node.output.ndim
    if len(parts) != 2 or ndim < 2:
        return None
    if node.op == "stack":
        axis, (first, second) = int(node.params["axis"]) % ndim, parts
    elif node.op == "concatenate":
        axis = int(node.params["dimension"])
        if parts[0].shape[axis] != 1 or parts[1].shape[axis] != 1:
            return None
        kept = tuple(a for a in range(ndim) if a != axis)
        behind = [spread(view, p) for p in parts]
        for b in behind:
            places = [b.axes[a] for a in kept]
            if b.source.ndim != ndim - 1 or places != list(range(ndim - 1)):
                return None
        first, second = (b.source for b in behind)
    else:
        return None
    if axis < ndim - 2 or first.shape != second.shape:
        return None
    return Joined(first, second, axis == ndim - 1, (node,), wide=True)
