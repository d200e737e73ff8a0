"""Which axes of the data a value runs along, whatever reshapes and broadcasts lie between.

A value's *place* says for each of its dimensions which axes it is made of, outermost first. An
axis that a reshape takes apart is split, for everybody who has it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp

from jaxpress.capture import Literal, Node, Value
from jaxpress.passes.view import View

__all__ = [
    "MOVES",
    "Axis",
    "Place",
    "align",
    "leaves",
    "place_below",
    "place_in_part",
    "place_of",
    "place_of_slice",
    "sizes",
    "strip",
]

# What only moves, repeats or rounds elements.
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


class Axis:
    """One axis, or several once it is split; told apart by identity."""

    __slots__ = ("parts", "size")

    def __init__(self, size: Any):
        self.size = size
        self.parts: tuple[Axis, ...] | None = None


class _Fixed(Axis):
    """An axis of which one position is meant."""

    __slots__ = ("index",)

    def __init__(self, size: Any, index: int):
        super().__init__(size)
        self.index = index


Place = tuple[tuple[Axis, ...], ...]


def place_of(shape: Iterable[Any]) -> Place:
    """A place for an array of this shape, of new axes; a dimension of size 1 has none."""
    return tuple(() if _is_one(n) else (Axis(n),) for n in shape)


def leaves(axes: Iterable[Axis]) -> list[Axis]:
    """The axes that are left when all that are split are taken apart."""
    out: list[Axis] = []
    stack = list(axes)[::-1]
    while stack:
        axis = stack.pop()
        if axis.parts is None:
            out.append(axis)
        else:
            stack.extend(axis.parts[::-1])
    return out


def sizes(axes: Iterable[Axis]) -> list[Any]:
    """The sizes of axes."""
    return [axis.size for axis in axes]


def align(a: Sequence[Axis], b: Sequence[Axis]) -> bool:
    """Split both rows of axes until they have the same sizes in the same order.

    False where that cannot be, with some axes split in vain, which changes no meaning.
    """
    left, right = leaves(a)[::-1], leaves(b)[::-1]
    while left and right:
        x, y = left.pop(), right.pop()
        if x is y or _equal(x.size, y.size):
            continue
        if _split(x, y.size):
            left.append(leaves([x])[1])
        elif _split(y, x.size):
            right.append(leaves([y])[1])
        else:
            return False
    return not left and not right


def _split(axis: Axis, outer: Any) -> bool:
    if isinstance(axis, _Fixed):
        return False
    try:
        inner, rest = divmod(axis.size, outer)
        fits = bool(rest == 0) and not _equal(inner, 0)
    except Exception:  # nothing is divided by zero; and of symbolic sizes nobody may know
        return False
    if fits:
        axis.parts = Axis(outer), Axis(inner)
    return fits


def place_below(view: View, node: Node, place: Place) -> Place | None:
    """Where the operand of a node in ``MOVES`` stands, if its result stands at ``place``."""
    inputs = view.inputs(node)
    if len(inputs) != 1:
        return None
    operand: Value = inputs[0]
    match node.op:
        case "convert_element_type" | "copy":
            return place
        case "broadcast_in_dim":
            dims = node.params["broadcast_dimensions"]
            return tuple(
                () if _is_one(n) else place[int(d)]
                for n, d in zip(operand.shape, dims, strict=True)
            )
        case "transpose":
            out: list[tuple[Axis, ...]] = [()] * operand.ndim
            for i, d in enumerate(node.params["permutation"]):
                out[int(d)] = place[i]
            return tuple(out)
        case "reshape" if node.params.get("dimensions") is not None:
            return None
        case _:
            return _reshaped(operand.shape, place)


def place_of_slice(view: View, node: Node, place: Place) -> Place | None:
    """Where the operand of a ``slice`` stands that takes one position of some axes and all else."""
    x = view.inputs(node)[0]
    if any(s != 1 for s in node.params["strides"] or ()):
        return None
    out = list(place)
    limits = zip(node.params["start_indices"], node.params["limit_indices"], strict=True)
    for i, (start, limit) in enumerate(limits):
        if limit - start == 1 and x.shape[i] != 1:
            out[i] = (_Fixed(x.shape[i], int(start)),)
        elif limit - start != x.shape[i]:
            return None
    return tuple(out)


def place_in_part(view: View, node: Node, place: Place) -> tuple[Value, Place] | None:
    """The operand of a ``stack`` or ``concatenate`` that one position means, and its place."""
    name = "axis" if node.op == "stack" else "dimension"
    axis = int(node.params[name])
    at = place[axis][0] if len(place[axis]) == 1 else None
    if not isinstance(at, _Fixed):
        return None
    inputs = view.inputs(node)
    if node.op == "concatenate" and any(v.shape[axis] != 1 for v in inputs):
        return None
    own = () if node.op == "stack" else ((),)
    return inputs[at.index], (*place[:axis], *own, *place[axis + 1 :])


def _reshaped(shape: Sequence[Any], place: Place) -> Place | None:
    """The place of the same elements, in the same order, in another shape."""
    wide = [dims for dims in place if dims]
    kept = [n for n in shape if not _is_one(n)]
    if len(wide) == len(kept) and all(
        _equal(_product(dims), n) for dims, n in zip(wide, kept, strict=True)
    ):
        rest = iter(wide)
        return tuple(() if _is_one(n) else next(rest) for n in shape)
    row = [axis for dims in place for axis in dims]
    new = place_of(shape)
    if not align(row, [axis for dims in new for axis in dims]):
        return None
    flat = iter(leaves(row))
    return tuple(tuple(next(flat) for _ in leaves(dims)) for dims in new)


def _product(axes: Iterable[Axis]) -> Any:
    return math.prod(sizes(axes))


def _is_one(n: Any) -> bool:
    return isinstance(n, int) and n == 1


def _equal(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except Exception:  # symbolic sizes of which nobody can say
        return False


def strip(view: View, value: Value) -> Value:
    """What ``value`` is a rearrangement or an exact widening of."""
    while True:
        node = view.producer(value)
        if node is None or node.op not in MOVES or node.op == "broadcast_in_dim":
            return value
        below = view.inputs(node)[0]
        if node.op == "convert_element_type" and not _widens(below, value):
            return value
        if isinstance(below, Literal):
            return value
        value = below


def _widens(narrow: Value, wide: Value) -> bool:
    floating = jnp.issubdtype(narrow.dtype, jnp.floating)
    return floating and jnp.promote_types(narrow.dtype, wide.dtype) == wide.dtype
