"""Rotary position embedding, however its pairs are taken apart, becomes ``rotary_embedding``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxpress import nnops
from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.axis_tracking import Axes, arrange, constant, spread
from jaxpress.passes.view import View

__all__ = ["RAISE_ROTARY", "RAISE_ROTARY_HALVES", "ROTARY_RULES"]

_MAX_STEPS = 10


class _Part(NamedTuple):
    """``value[..., i] = sign * source[..., start + stride * i]``, with axes in another order.

    Attributes:
      source: the array that it is a part of.
      axes: for each axis of the value, that of ``source``; the last one is that of the features.
      start, stride, sign: see above.
    """

    source: Value
    axes: tuple[int, ...]
    start: int = 0
    stride: int = 1
    sign: int = 1


def _part(view: View, value: Value) -> _Part:
    """What ``value`` is a part of, as far back as slices along its last axis go."""
    part = _Part(value, tuple(range(value.ndim)))
    for _ in range(_MAX_STEPS):
        node = view.producer(part.source)
        before = None if node is None or not part.axes else _before(view, node, part)
        if before is None:
            break
        part = before
    return part


def _before(view: View, node: Node, part: _Part) -> _Part | None:
    """``part`` in terms of the node's operand; ``None`` if it takes no part of that."""
    source = view.inputs(node)[0]
    axis = part.axes[-1]
    params = node.params
    match node.op:
        case "transpose":
            axes = tuple(int(params["permutation"][a]) for a in part.axes)
            return part._replace(source=source, axes=axes)
        case "neg":
            return part._replace(source=source, sign=-part.sign)
        case "slice":
            strides = params["strides"] or (1,) * source.ndim
            for i, d in enumerate(source.shape):
                whole = (params["start_indices"][i], params["limit_indices"][i], strides[i])
                if i != axis and whole != (0, d, 1):
                    return None
            first, step = int(params["start_indices"][axis]), int(strides[axis])
            return part._replace(
                source=source, start=first + step * part.start, stride=step * part.stride
            )
        case "split":
            if int(params["axis"]) != axis:
                return None
            at = node.outputs.index(part.source)
            return part._replace(
                source=source, start=part.start + sum(map(int, params["sizes"][:at]))
            )
        case "squeeze":
            return _before_squeeze(view, node, part)
    return None


def _before_squeeze(view: View, node: Node, part: _Part) -> _Part | None:
    """A column or row of features that were reshaped to (..., a, b)."""
    sliced = view.producer(view.inputs(node)[0])
    if sliced is None or sliced.op != "slice" or len(node.params["dimensions"]) != 1:
        return None
    gone = int(node.params["dimensions"][0])
    wide = view.inputs(sliced)[0]
    reshape = view.producer(wide)
    if reshape is None or reshape.op != "reshape":
        return None
    starts, limits = sliced.params["start_indices"], sliced.params["limit_indices"]
    for i, d in enumerate(wide.shape):
        if i != gone and (starts[i], limits[i]) != (0, d):
            return None
    source = view.inputs(reshape)[0]
    # In the reshaped array the axis of features, and the one that is gone, are neighbours.
    own = part.axes[-1] + (part.axes[-1] >= gone)
    at = min(own, gone)
    pair = wide.shape[at : at + 2]
    if abs(own - gone) != 1 or source.ndim != wide.ndim - 1 or source.ndim != len(part.axes):
        return None
    if (*wide.shape[:at], *wide.shape[at + 2 :]) != (*source.shape[:at], *source.shape[at + 1 :]):
        return None
    if not all(isinstance(d, int) for d in pair):
        return None
    # Squeezed, the rest of the axes are where they are in the source.
    axes = tuple(part.axes)
    index, columns = int(starts[gone]), int(pair[1])
    if gone > own:
        start, stride = part.start * columns + index, part.stride * columns
    else:
        start, stride = index * columns + part.start, part.stride
    return part._replace(source=source, axes=axes, start=start, stride=stride)


def _are_pairs(first: _Part, second: _Part, half: Any) -> bool | None:
    """Whether two parts are pairs that are neighbours; false: half apart; ``None``: neither."""
    if first.source is not second.source or first.axes != second.axes:
        return None
    if first.stride == second.stride == 1 and second.start == first.start + half:
        return False
    if first.stride == second.stride == 2 and second.start == first.start + 1:
        return True
    return None


def _joined(view: View, node: Node) -> tuple[Value, Value, bool, list[Node]] | None:
    """Two arrays joined along the last axis: one after the other, or by turns (true)."""
    inputs, nodes = view.inputs(node), [node]
    if node.op == "concatenate":
        last = int(node.params["dimension"]) == node.output.ndim - 1
        if len(inputs) != 2 or not last or inputs[0].shape != inputs[1].shape:
            return None
        return inputs[0], inputs[1], False, nodes
    if node.op != "reshape" or len(inputs) != 1:
        return None
    wide, y = inputs[0], node.output
    maker = view.producer(wide)
    if maker is None or wide.ndim != y.ndim + 1 or wide.shape[:-2] != y.shape[:-1]:
        return None
    nodes.append(maker)
    parts = view.inputs(maker)
    if len(parts) != 2:
        return None
    if maker.op == "stack" and int(maker.params["axis"]) % wide.ndim == wide.ndim - 1:
        return parts[0], parts[1], True, nodes
    if maker.op == "concatenate" and int(maker.params["dimension"]) == wide.ndim - 1:
        behind = [spread(view, p) for p in parts]
        if all(b.axes == (*range(y.ndim), None) and b.source.ndim == y.ndim for b in behind):
            return behind[0].source, behind[1].source, True, nodes
    return None


class _Table(NamedTuple):
    """Cosines or sines: an array, and the axes along which it runs."""

    source: Value
    axes: Axes


def _table(view: View, value: Value) -> _Table | None:
    behind = spread(view, value)
    if not behind.axes or behind.axes[-1] is None or constant(view, value) is not None:
        return None
    return _Table(behind.source, behind.axes)


def _products(view: View, value: Value) -> Iterator[tuple[Node, Value, Value]]:
    """A product's factors, either one first."""
    node = view.producer(value)
    if node is not None and node.op == "mul":
        a, b = view.inputs(node)
        for data, table in ((a, b), (b, a)):
            if data.shape == value.shape:
                yield node, data, table


class _WholePattern:
    """``x * cos + concatenate(-x2, x1) * sin``."""

    names = frozenset({"add", "sub"})
    size = 8

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        left, right = view.inputs(node)
        if left.ndim == 0 or left.shape != right.shape:
            state.fail("its operands differ in shape", node)
            return None
        orders = [(left, right)] if node.op == "sub" else [(left, right), (right, left)]
        for straight, turned in orders:
            for mul, rotated, sin in _products(view, turned):
                maker = view.producer(rotated)
                joined = None if maker is None else _joined(view, maker)
                if joined is None:
                    continue
                for other, x, cos in _products(view, straight):
                    match = self._try(state, node, joined, x, cos, sin)
                    if match is not None:
                        match.matched = (node, mul, other, *joined[3])
                        if node.op == "sub":
                            match.info["sign"] = -match.info["sign"]
                        return match
        state.fail("no factor of its terms is the other's pairs turned", node)
        return None

    def _try(
        self, state: State, node: Node, joined: Any, x: Value, cos: Value, sin: Value
    ) -> Match | None:
        view = state.view
        first, second, by_turns, _ = joined
        a, b = _part(view, first), _part(view, second)
        whole = _part(view, x)
        # (-x2, x1), or (x2, -x1) for the other direction.
        neighbours = _are_pairs(b, a, first.shape[-1])
        if neighbours is None or neighbours != by_turns or a.sign == b.sign:
            return None
        same = (whole.source, whole.axes, whole.start) == (b.source, b.axes, b.start)
        if not same or whole.stride != 1 or whole.sign != 1:
            return None
        sign = b.sign
        tables = _table(view, cos), _table(view, sin)
        if tables[0] is None or tables[1] is None:
            return None
        return _match(view, node, whole, tables, {"interleaved": by_turns, "sign": sign})


class _HalvesPattern:
    """``concatenate(x1 * cos - x2 * sin, x2 * cos + x1 * sin)``, or the same by turns."""

    names = frozenset({"concatenate", "reshape"})
    size = 9

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        joined = _joined(view, node)
        if joined is None:
            state.fail("it joins no two arrays along the last axis", node)
            return None
        first, second, by_turns, nodes = joined
        u, w = view.producer(first), view.producer(second)
        if u is None or w is None:
            state.fail("what it joins are no sums of products", node)
            return None
        if (u.op, w.op) == ("real", "imag"):
            return _complex(state, node, u, w, by_turns, nodes)
        if (u.op, w.op) not in (("sub", "add"), ("add", "sub")):
            state.fail("what it joins are no sum and difference", node)
            return None
        for found in _four_products(view, u, w):
            one, two, cos, sin, muls = found
            a, b = _part(view, one), _part(view, two)
            if a.sign != 1 or b.sign != 1:
                continue
            neighbours = _are_pairs(a, b, first.shape[-1])
            if neighbours is None or neighbours != by_turns:
                continue
            info = {"interleaved": by_turns, "sign": 1 if u.op == "sub" else -1, "halves": True}
            match = _match(view, node, a._replace(stride=1), (cos, sin), info)
            match.matched = tuple(dict.fromkeys((*nodes, u, w, *muls)))
            return match
        state.fail("its products are not those of pairs with a cosine and a sine", node)
        return None


def _four_products(view: View, u: Node, w: Node) -> Iterator[Any]:
    """``x1, x2, cos, sin`` of ``x1 cos - x2 sin`` and ``x2 cos + x1 sin``, in any order."""
    (u1, u2), (w1, w2) = view.inputs(u), view.inputs(w)
    # A difference's second operand is what is taken away.
    first_orders = [(u1, u2)] if u.op == "sub" else [(u1, u2), (u2, u1)]
    second_orders = [(w1, w2)] if w.op == "sub" else [(w1, w2), (w2, w1)]
    for straight, crossed in first_orders:
        for m1, one, cos_value in _products(view, straight):
            for m2, two, sin_value in _products(view, crossed):
                cos, sin = _table(view, cos_value), _table(view, sin_value)
                if cos is None or sin is None:
                    continue
                for other_straight, other_crossed in second_orders:
                    for m3, again_two, c in _products(view, other_straight):
                        for m4, again_one, s in _products(view, other_crossed):
                            if again_one is not one or again_two is not two:
                                continue
                            if _table(view, c) == cos and _table(view, s) == sin:
                                yield one, two, cos, sin, (m1, m2, m3, m4)


def _complex(
    state: State, node: Node, real: Node, imag: Node, by_turns: bool, nodes: list[Node]
) -> Match | None:
    """Pairs as complex numbers, multiplied with others."""
    view = state.view
    product = view.inputs(real)[0]
    mul = view.producer(product)
    if product is not view.inputs(imag)[0] or mul is None or mul.op != "mul":
        state.fail("its parts are not those of one product", node)
        return None
    for mul_node, z, table_value in _products(view, product):
        maker, table = view.producer(z), _table(view, table_value)
        if maker is None or maker.op != "complex" or table is None:
            continue
        one, two = view.inputs(maker)
        a, b = _part(view, one), _part(view, two)
        neighbours = _are_pairs(a, b, one.shape[-1])
        if neighbours is None or neighbours != by_turns or a.sign != 1 or b.sign != 1:
            continue
        info = {"interleaved": by_turns, "sign": 1, "halves": True, "complex": True}
        match = _match(view, node, a._replace(stride=1), (table, table), info)
        match.matched = tuple(dict.fromkeys((*nodes, real, imag, mul_node, maker)))
        return match
    state.fail("no factor is made of pairs", node)
    return None


def _match(view: View, node: Node, part: _Part, tables: Any, info: dict[str, Any]) -> Match:
    """The op works on the source as it is; what comes of it is put in the order that is wanted."""
    cos, sin = tables
    # For each axis of the source, where it is in the result.
    back = [part.axes.index(a) for a in range(len(part.axes))]
    order = {name: tuple(t.axes[i] for i in back) for name, t in (("cos", cos), ("sin", sin))}
    info = {
        "halves": False,
        "complex": False,
        "axes": part.axes,
        "axis": part.axes[-1],
        "start": part.start,
        "features": node.output.shape[-1],
        **order,
        **info,
    }
    return Match(view, node, {"x": part.source, "cos": cos.source, "sin": sin.source}, info=info)


def _raise_rotary(x: Any, cos: Any, sin: Any, *, match: Match) -> Any:
    info = match.info
    if info["complex"]:
        cos, sin = jnp.real(cos), jnp.imag(sin)
    axis, features = info["axis"], info["features"]
    start, last = info["start"], x.ndim - 1
    if start != 0 or x.shape[axis] != features:
        x = lax.slice_in_dim(x, start, start + features, axis=axis)
    cos, sin = (arrange(t, info[name]) for name, t in (("cos", cos), ("sin", sin)))
    if axis != last:
        x, cos, sin = (jnp.moveaxis(v, axis, -1) for v in (x, cos, sin))
    if info["halves"]:
        cos, sin = (_doubled(t, info["interleaved"]) for t in (cos, sin))
    # The op wants one shape of both.
    shape = jnp.broadcast_shapes(cos.shape, sin.shape)
    cos, sin = (jnp.broadcast_to(t, shape) for t in (cos, sin))
    y = nnops.rotary_embedding(
        x, cos, sin if info["sign"] == 1 else -sin, interleaved=info["interleaved"]
    )
    if axis != last:
        y = jnp.moveaxis(y, -1, axis)
    return arrange(y, info["axes"])


def _doubled(table: Any, by_turns: bool) -> Any:
    """Each angle twice, where its pair is."""
    if by_turns:
        return jnp.stack([table, table], -1).reshape(*table.shape[:-1], 2 * table.shape[-1])
    return jnp.concatenate([table, table], -1)


def _guard(match: Match) -> str | None:
    x, y = match["x"], match.root.output
    if not jnp.issubdtype(y.dtype, jnp.floating) or x.dtype != y.dtype:
        return f"it makes {y.dtype} of {x.dtype}"
    if not isinstance(match.info["features"], int) or match.info["features"] % 2:
        return "the features are no pairs"
    return None


# x * cos + concatenate(-x2, x1) * sin -> rotary_embedding(x, cos, sin)
RAISE_ROTARY = Rule("raise_rotary", _WholePattern(), _raise_rotary, _guard, numerics="reassociates")

# concatenate(x1 * cos - x2 * sin, x2 * cos + x1 * sin) -> rotary_embedding(x, cos, sin)
RAISE_ROTARY_HALVES = Rule(
    "raise_rotary_halves", _HalvesPattern(), _raise_rotary, _guard, numerics="reassociates"
)

ROTARY_RULES = RuleSet((RAISE_ROTARY, RAISE_ROTARY_HALVES))
