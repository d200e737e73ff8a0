"""What reshapes, broadcasts and transposes do to an array's elements, whatever their order.

``x[:, None]`` is a reshape for one library and a broadcast for another; a row of such operations
is known by where the elements end up, as NumPy knows a view: by shape and strides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxpress.capture import Literal, Node, Value
from jaxpress.passes.view import View

__all__ = ["MOVES", "Moved", "moved_from"]

# Operations of one operand that move its elements about, repeat them, or change their type.
MOVES = frozenset(
    {
        "broadcast_in_dim",
        "convert_element_type",
        "copy",
        "expand_dims",
        "reshape",
        "squeeze",
        "transpose",
    }
)


class Moved(NamedTuple):
    """A value as a view of another.

    Attributes:
      base: the value that it is made from.
      layout: where each element comes from, comparable: shape and strides, or the steps
        themselves where no strides can say it.
      dtypes: the types that it goes through, the base's first.
      nodes: the operations on the way, the last first.
    """

    base: Value
    layout: Any
    dtypes: tuple[Any, ...]
    nodes: tuple[Node, ...]


def moved_from(view: View, value: Value, stop: Callable[[Value], bool]) -> Moved:
    """``value`` as a view of what it is made from: the first value where ``stop`` is true.

    Args:
      view: the graph.
      value: what to look behind.
      stop: values not to look behind.
    """
    nodes: list[Node] = []
    base = value
    while not isinstance(base, Literal) and not stop(base):
        node = view.producer(base)
        if node is None or node.op not in MOVES or len(view.inputs(node)) != 1:
            break
        nodes.append(node)
        base = view.inputs(node)[0]
    return Moved(base, _layout(base, nodes), _dtypes(base, nodes), tuple(nodes))


def _dtypes(base: Value, nodes: list[Node]) -> tuple[Any, ...]:
    found = [base.dtype]
    for node in reversed(nodes):
        if node.output.dtype != found[-1]:
            found.append(node.output.dtype)
    return tuple(found)


def _layout(base: Value, nodes: list[Node]) -> Any:
    shape: tuple[Any, ...] | None = base.shape
    strides: tuple[Any, ...] | None = _row_major(base.shape)
    for node in reversed(nodes):
        if strides is None or shape is None:
            break
        shape, strides = _after(node, shape, strides)
    if strides is not None and shape is not None:
        # Along an axis of one element there is no stride, and nowhere if there are no elements.
        empty = 0 in shape
        idle = (empty or d == 1 for d in shape)
        return shape, tuple(0 if i else s for i, s in zip(idle, strides, strict=True))
    return tuple(
        (node.op, node.output.shape, _numbers(node))
        for node in reversed(nodes)
        if node.op not in ("convert_element_type", "copy")
    )


def _numbers(node: Node) -> Any:
    keys = ("broadcast_dimensions", "permutation", "dimensions")
    return tuple(tuple(map(int, node.params[k])) for k in keys if node.params.get(k) is not None)


def _row_major(shape: tuple[Any, ...]) -> tuple[int, ...] | None:
    if not all(isinstance(d, int) for d in shape):
        return None  # a symbolic size
    strides, step = [], 1
    for d in reversed(shape):
        strides.append(step)
        step *= max(d, 1)
    return tuple(reversed(strides))


def _after(
    node: Node, shape: tuple[int, ...], strides: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Shape and strides after one more operation; no strides where there are none."""
    new = node.output.shape
    if node.op in ("convert_element_type", "copy"):
        return shape, strides
    if node.op == "transpose":
        order = [int(i) for i in node.params["permutation"]]
        return tuple(shape[i] for i in order), tuple(strides[i] for i in order)
    if not all(isinstance(d, int) for d in new):
        return new, None
    if node.op == "broadcast_in_dim":
        out = [0] * len(new)
        for i, axis in enumerate(node.params["broadcast_dimensions"]):
            out[int(axis)] = strides[i] if shape[i] == new[int(axis)] else 0
        return new, tuple(out)
    if node.op == "reshape" and node.params.get("dimensions") is not None:
        return new, None
    return new, _reshaped(shape, strides, new)


def _reshaped(
    shape: tuple[int, ...], strides: tuple[int, ...], new: tuple[int, ...]
) -> tuple[int, ...] | None:
    """The strides of a view of another shape, in the same order of elements; ``None`` if none."""
    if 0 in new:
        return (0,) * len(new)
    old = [(d, s) for d, s in zip(shape, strides, strict=True) if d != 1]
    out: list[int] = []
    i = j = 0
    while j < len(new):
        if new[j] == 1:
            out.append(0)
            j += 1
            continue
        # Axes of the old shape, from i, that hold as many elements as axes of the new, from j.
        ni, nj = i + 1, j + 1
        have, want = old[i][0], new[j]
        while have != want:
            if have < want:
                have *= old[ni][0]
                ni += 1
            else:
                want *= new[nj]
                nj += 1
        for k in range(i, ni - 1):
            if old[k][1] != old[k + 1][1] * old[k + 1][0]:
                return None
        step = old[ni - 1][1]
        group = []
        for d in reversed(new[j:nj]):
            group.append(step if d != 1 else 0)
            step *= d
        out.extend(reversed(group))
        i, j = ni, nj
    return tuple(out)
