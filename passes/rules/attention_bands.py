"""Masks of attention taken apart: what position comparisons say, and what is left."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxpress.capture import Value
from jaxpress.passes.rules.axis_parts import Label, Labels, inverse
from jaxpress.passes.rules.axis_tracking import axes_before, constant, spread
from jaxpress.passes.view import View

__all__ = ["Band", "Leaf", "positions_of", "take_apart"]

_MAX_PARTS = 24
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")
}


class Band(NamedTuple):
    """``query - key <= left``, or ``key - query <= right``; ``query`` is an axis of the product."""

    query: int
    left: int | None
    right: int | None


class Leaf(NamedTuple):
    """A part of a mask.

    Attributes:
      value: the condition.
      negated: a position takes part where it is false.
      axes: for each axis of ``value``, the axis of the product along which it runs, the part of
        it, or several joined.
      bands: what it says of positions, and that is all it says; empty where it says other things.
    """

    value: Value
    negated: bool
    axes: Labels
    bands: tuple[Band, ...] = ()

    @property
    def meaning(self) -> Any:
        """Equal for leaves that say the same."""
        return self.bands or (id(self.value), self.negated, self.axes)


def take_apart(
    view: View, value: Value, axes: Labels, negated: bool, keys: tuple[int, ...]
) -> list[Leaf]:
    """A condition as conditions that hold together.

    Args:
      view: the graph.
      value: the condition.
      axes: for each axis of ``value``, the axis of the product, the part of it, or several joined.
      negated: whether it is to be false instead.
      keys: the axes of the product along which keys run.
    """
    # Of keys along several axes, no comparison of positions is one of a query and a key.
    key_axis = keys[0] if len(keys) == 1 else -1
    leaves: list[Leaf] = []
    waiting = [(value, axes, negated)]
    for _ in range(_MAX_PARTS):
        if not waiting:
            break
        value, axes, negated = waiting.pop()
        behind = spread(view, value)
        value = behind.source
        axes = inverse(behind.axes, axes, value.shape)
        parts = _parts(view, value, negated)
        if parts is not None:
            waiting.extend((v, axes if v.ndim else (), inverted) for v, inverted in parts)
            continue
        bands = _bands(view, value, axes, negated, key_axis)
        leaves.append(Leaf(value, negated, axes, tuple(bands)))
    leaves.extend(Leaf(v, n, a) for v, a, n in waiting)
    return leaves


def _parts(view: View, value: Value, negated: bool) -> list[tuple[Value, bool]] | None:
    """Conditions that together are ``value``; ``None`` if it is to be taken as it is."""
    number = constant(view, value)
    if number is not None:
        return [] if bool(number) != negated else None
    node = view.producer(value)
    if node is None:
        return None
    inputs = view.inputs(node)
    op = node.op
    if op == "not" and value.dtype == np.bool_:
        return [(inputs[0], not negated)]
    if op == ("or" if negated else "and") and value.dtype == np.bool_:
        return [(v, negated) for v in inputs] if _same_rank(inputs) else None
    if op == "mul" and not negated and _is_flag(view, value):
        # A product of zeros and ones.
        return [(v, False) for v in inputs] if _same_rank(inputs) else None
    if op == "convert_element_type" and _is_flag(view, inputs[0]):
        return [(inputs[0], negated)]
    if op in _COMPARISONS:
        for flag, other, compare in (
            (inputs[0], inputs[1], _COMPARISONS[op]),
            (inputs[1], inputs[0], lambda x, c: _COMPARISONS[op](c, x)),
        ):
            against = constant(view, other)
            if against is not None and _is_flag(view, flag):
                low, high = (bool(compare(x, float(against))) for x in (0.0, 1.0))
                return [(flag, negated ^ low)] if low != high else None
    if op == "select_n" and len(inputs) == 3 and inputs[0].dtype == np.bool_:
        return _selection(view, inputs, negated)
    return None


def _selection(view: View, inputs: Any, negated: bool) -> list[tuple[Value, bool]] | None:
    """``where(c, x, 0)`` is ``c and x``, as ``jnp.tril`` writes it."""
    condition, if_false, if_true = inputs
    if not all(_fit(condition, v) for v in (if_false, if_true)):
        return None
    low, high = constant(view, if_false), constant(view, if_true)
    if low is not None and high is not None:
        if {float(low), float(high)} == {0.0, 1.0}:
            return [(condition, negated ^ (float(high) == 0.0))]
        return None
    if not negated and low is not None and float(low) == 0.0 and _is_flag(view, if_true):
        return [(condition, False), (if_true, False)]
    if not negated and high is not None and float(high) == 0.0 and _is_flag(view, if_false):
        return [(condition, True), (if_false, False)]
    return None


def _same_rank(inputs: Any) -> bool:
    # Dimensions of 1 stretch, and so do literals.
    return len(inputs) == 2 and _fit(*inputs)


def _fit(a: Value, b: Value) -> bool:
    return a.ndim == b.ndim or 0 in (a.ndim, b.ndim)


def _is_flag(view: View, value: Value, depth: int = 6) -> bool:
    """Whether ``value`` is nothing but zeros and ones."""
    if value.dtype == np.bool_:
        return True
    number = constant(view, value)
    if number is not None:
        return float(number) in (0.0, 1.0)
    node = view.producer(value)
    if node is None or depth == 0:
        return False
    inputs = view.inputs(node)
    if axes_before(view, node) is not None or node.op == "convert_element_type":
        return _is_flag(view, inputs[0], depth - 1)
    if node.op == "mul":
        return all(_is_flag(view, v, depth - 1) for v in inputs)
    if node.op == "select_n":
        return all(_is_flag(view, v, depth - 1) for v in inputs[1:])
    return False


class Positions(NamedTuple):
    """An integer array that is a sum of indices along axes, times a factor each, and a number."""

    factors: dict[int, int]
    offset: int


def _bands(view: View, value: Value, axes: Labels, negated: bool, key_axis: int) -> list[Band]:
    """What a comparison of positions allows; empty if it is not one of query and key."""
    node = view.producer(value)
    if node is None or node.op not in ("ge", "gt", "le", "lt", "eq"):
        return []
    a, b = view.inputs(node)
    if not _fit(a, b):
        return []
    op = node.op
    if negated:
        op = {"ge": "lt", "gt": "le", "le": "gt", "lt": "ge"}.get(op, "")
    if op in ("le", "lt"):
        op, a, b = {"le": "ge", "lt": "gt"}[op], b, a
    if op not in ("ge", "gt", "eq"):
        return []
    pairs = _differences(view, a, b)
    if pairs is None or (op == "eq" and len(pairs) > 1):
        return []
    bands: list[Band] = []
    for factors, offset in pairs:
        # sum(factor * index) + offset >= 0
        by_axis: dict[Label, int] = {}
        for axis, factor in factors.items():
            by_axis[axes[axis]] = by_axis.get(axes[axis], 0) + factor
        by_axis = {k: f for k, f in by_axis.items() if f}
        others = [k for k in by_axis if k != key_axis]
        if len(others) != 1 or not isinstance(others[0], int) or key_axis not in by_axis:
            return []
        if set(by_axis.values()) != {1, -1}:
            return []
        query = others[0]
        slack = offset - (op == "gt")
        if by_axis[query] == 1:
            bands.append(Band(query, None, slack))
        else:
            bands.append(Band(query, slack, None))
        if op == "eq":
            bands.append(
                Band(query, -slack, None) if by_axis[query] == 1 else Band(query, None, -slack)
            )
    return bands


def _differences(view: View, a: Value, b: Value) -> list[tuple[dict[int, int], int]] | None:
    """``a - b`` as sums of indices; two where ``b`` is an absolute value, both to be positive."""
    left = positions_of(view, a)
    node = view.producer(b)
    if node is not None and node.op == "abs" and left is not None:
        inner = positions_of(view, view.inputs(node)[0])
        return None if inner is None else [_minus(left, inner), _minus(left, _negative(inner))]
    right = positions_of(view, b)
    if left is None or right is None:
        return None
    return [_minus(left, right)]


def _negative(x: Positions) -> Positions:
    return Positions({k: -f for k, f in x.factors.items()}, -x.offset)


def _minus(a: Positions, b: Positions) -> tuple[dict[int, int], int]:
    factors = dict(a.factors)
    for axis, factor in b.factors.items():
        factors[axis] = factors.get(axis, 0) - factor
    return factors, a.offset - b.offset


def positions_of(view: View, value: Value, depth: int = 8) -> Positions | None:
    """``value`` as a sum of indices along its axes, and a whole number."""
    number = constant(view, value)
    if number is not None:
        whole = float(number)
        return Positions({}, int(whole)) if whole.is_integer() else None
    node = view.producer(value)
    if node is None or depth == 0 or not np.issubdtype(value.dtype, np.signedinteger):
        return None
    inputs = view.inputs(node)
    if node.op == "iota":
        axis = int(node.params["dimension"])
        return Positions({axis: 1} if value.shape[axis] != 1 else {}, 0)
    if node.op == "cumsum" and not node.params["reverse"]:
        axis = int(node.params["axis"])
        if constant(view, inputs[0]) != 1:
            return None
        return Positions({axis: 1} if value.shape[axis] != 1 else {}, 1)
    if node.op == "convert_element_type":
        # A narrower type could wrap around.
        wider = np.issubdtype(inputs[0].dtype, np.integer) and (
            np.dtype(inputs[0].dtype).itemsize <= np.dtype(value.dtype).itemsize
        )
        return positions_of(view, inputs[0], depth - 1) if wider else None
    before = axes_before(view, node)
    if before is not None:
        inner = positions_of(view, inputs[0], depth - 1)
        if inner is None:
            return None
        places = {a: i for i, a in enumerate(before) if a is not None}
        lost = [a for a in inner.factors if a not in places]
        if any(inputs[0].shape[a] != 1 for a in lost):
            return None
        kept = {places[a]: f for a, f in inner.factors.items() if a in places}
        return Positions(kept, inner.offset)
    if node.op in ("add", "sub"):
        a, b = (positions_of(view, v, depth - 1) for v in inputs)
        if a is None or b is None:
            return None
        factors, offset = _minus(a, b if node.op == "sub" else _negative(b))
        return Positions(factors, offset)
    return None
