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
from jaxpress.passes.rules.rotary_parts import (
    Part,
    are_pairs,
    is_wider,
    joined_of,
    part_of,
    same_array,
)
from jaxpress.passes.view import View

__all__ = ["RAISE_ROTARY", "RAISE_ROTARY_HALVES", "ROTARY_RULES"]


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
                widened = ()
                if maker is not None and maker.op == "convert_element_type":
                    if not is_wider(view.inputs(maker)[0], rotated):
                        continue
                    widened, maker = (maker,), view.producer(view.inputs(maker)[0])
                joined = None if maker is None else joined_of(view, maker)
                if joined is None or joined.wide:
                    continue
                for other, x, cos in _products(view, straight):
                    match = self._try(state, node, joined, x, cos, sin)
                    if match is not None:
                        match.matched = (node, mul, other, *widened, *joined.nodes)
                        if node.op == "sub":
                            match.info["sign"] = -match.info["sign"]
                        return match
        state.fail("no factor of its terms is the other's pairs turned", node)
        return None

    def _try(
        self, state: State, node: Node, joined: Any, x: Value, cos: Value, sin: Value
    ) -> Match | None:
        view = state.view
        by_turns = joined.by_turns
        a, b = part_of(view, joined.first), part_of(view, joined.second)
        whole = part_of(view, x)
        # (-x2, x1), or (x2, -x1) for the other direction.
        neighbours = are_pairs(view, b, a, joined.first.shape[-1])
        if neighbours is None or neighbours != by_turns or a.sign == b.sign:
            return None
        same = (whole.axes, whole.start) == (b.axes, b.start) and same_array(view, whole, b)
        if not same or whole.stride != 1 or whole.sign != 1:
            return None
        sign = b.sign
        tables = _table(view, cos), _table(view, sin)
        if tables[0] is None or tables[1] is None:
            return None
        info = {"interleaved": by_turns, "sign": sign, "features": node.output.shape[-1]}
        return _match(view, node, whole, tables, info)


class _HalvesPattern:
    """``concatenate(x1 * cos - x2 * sin, x2 * cos + x1 * sin)``, or the same by turns."""

    names = frozenset({"concatenate", "reshape", "stack"})
    size = 9

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        joined = joined_of(view, node)
        if joined is None:
            state.fail("it joins no two arrays along the last axis", node)
            return None
        by_turns, nodes = joined.by_turns, joined.nodes
        u, w = view.producer(joined.first), view.producer(joined.second)
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
            a, b = part_of(view, one), part_of(view, two)
            if a.sign != 1 or b.sign != 1:
                continue
            neighbours = are_pairs(view, a, b, one.shape[-1])
            if neighbours is None or neighbours != by_turns:
                continue
            info = _halves(one, by_turns, 1 if u.op == "sub" else -1)
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
    state: State, node: Node, real: Node, imag: Node, by_turns: bool, nodes: tuple[Node, ...]
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
        a, b = part_of(view, one), part_of(view, two)
        neighbours = are_pairs(view, a, b, one.shape[-1])
        if neighbours is None or neighbours != by_turns or a.sign != 1 or b.sign != 1:
            continue
        info = {**_halves(one, by_turns, 1), "complex": True}
        match = _match(view, node, a._replace(stride=1), (table, table), info)
        match.matched = tuple(dict.fromkeys((*nodes, real, imag, mul_node, maker)))
        return match
    state.fail("no factor is made of pairs", node)
    return None


def _halves(one: Value, by_turns: bool, sign: int) -> dict[str, Any]:
    """What the replacement has to know of pairs, of which ``one`` has the first ones."""
    features = 2 * one.shape[-1]
    return {"interleaved": by_turns, "sign": sign, "halves": True, "features": features}


def _match(view: View, node: Node, part: Part, tables: Any, info: dict[str, Any]) -> Match:
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
        "shape": None if part.shape == tuple(part.source.shape) else part.shape,
        **order,
        **info,
    }
    return Match(view, node, {"x": part.source, "cos": cos.source, "sin": sin.source}, info=info)


def _raise_rotary(x: Any, cos: Any, sin: Any, *, match: Match) -> Any:
    info = match.info
    if info["complex"]:
        cos, sin = jnp.real(cos), jnp.imag(sin)
    if info["shape"] is not None:
        x = lax.reshape(x, info["shape"])
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
    # Pairs may have been left on axes of their own.
    return lax.reshape(arrange(y, info["axes"]), match.root.output.shape)


def _doubled(table: Any, by_turns: bool) -> Any:
    """Each angle twice, where its pair is."""
    if by_turns:
        return jnp.stack([table, table], -1).reshape(*table.shape[:-1], 2 * table.shape[-1])
    return jnp.concatenate([table, table], -1)


def _guard(match: Match) -> str | None:
    x, y = match["x"], match.root.output
    if not jnp.issubdtype(y.dtype, jnp.floating) or not is_wider(x, y):
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
