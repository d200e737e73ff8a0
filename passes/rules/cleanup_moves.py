"""Operations that move elements, in a row, or one undoing another. Every rule here is exact."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from jax import lax

from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import State, any_value, op
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.axis_tracking import arrange, spread
from jaxpress.passes.view import View, broadcast_operand, scalar_value

__all__ = [
    "JOINED_SLICES",
    "MOVE_RULES",
    "SLICE_CHAIN",
    "bounds_within",
    "is_plain",
    "slice_bounds",
]


def _ints(values: Any) -> list[int]:
    return [int(v) for v in values]


def is_plain(*values: Value) -> bool:
    """Whether all sizes are numbers, and nobody says how arrays are sharded."""
    meshes = [getattr(getattr(v.aval, "sharding", None), "mesh", None) for v in values]
    if any(m is not None and not m.empty and not m.are_all_axes_auto for m in meshes):
        return False
    return all(isinstance(n, int) for v in values for n in v.shape)


def slice_bounds(node: Node, x: Value) -> list[tuple[int, int, int]]:
    """Start, limit and stride of a slice, for each axis."""
    params = node.params
    strides = params["strides"] or [1] * x.ndim
    found = zip(
        _ints(params["start_indices"]), _ints(params["limit_indices"]), strides, strict=True
    )
    return [(a, b, int(s)) for a, b, s in found]


def bounds_within(
    below: Sequence[tuple[int, int, int]], above: Sequence[tuple[int, int, int]]
) -> tuple[tuple[int, int, int], ...]:
    """The bounds of a piece of a piece, which has the bounds ``below``."""
    return tuple(
        (a + s * start, a + s * (limit - 1) + 1, s * t) if limit > start else (0, 0, 1)
        for (a, _, s), (start, limit, t) in zip(below, above, strict=True)
    )


class _SliceChain:
    """A slice of everything, of a slice, or of one part of a concatenation."""

    names = frozenset({"slice"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        x = view.inputs(node)[0]
        if not is_plain(x, node.output):
            state.fail("its sizes are not known, or it is sharded", node)
            return None
        bounds = slice_bounds(node, x)
        if all(bound == (0, n, 1) for bound, n in zip(bounds, x.shape, strict=True)):
            return Match(view, node, {"x": x}, info={"bounds": None})
        inner = view.producer(x)
        if inner is not None and inner.op == "slice":
            source = view.inputs(inner)[0]
            both = bounds_within(slice_bounds(inner, source), bounds)
            return Match(view, node, {"x": source}, matched=(inner,), info={"bounds": both})
        if inner is not None and inner.op == "concatenate":
            axis = int(inner.params["dimension"])
            start, limit, stride = bounds[axis]
            for part in view.inputs(inner):
                n = part.shape[axis]
                if start < n or (start == limit and start <= n):
                    if limit > n:
                        break
                    bounds[axis] = (start, limit, stride)
                    return Match(
                        view, node, {"x": part}, matched=(inner,), info={"bounds": tuple(bounds)}
                    )
                start, limit = start - n, limit - n
        state.fail("it is no slice of everything, of a slice, or of one part that was joined", node)
        return None


def _slice(x: Any, *, match: Match) -> Any:
    bounds = match.info["bounds"]
    whole = [(0, n, 1) for n in x.shape]
    return (
        x if bounds is None or list(bounds) == whole else lax.slice(x, *zip(*bounds, strict=True))
    )


# slice(slice(x)) -> slice(x);  slice(concatenate(x, y)) -> slice(x), where y is not reached
SLICE_CHAIN = Rule("slice_chain", _SliceChain(), _slice, shared=True)


class _JoinedSlices:
    """A concatenation of neighbouring slices of one array, or of all its parts."""

    names = frozenset({"concatenate"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view, axis = state.view, int(node.params["dimension"])
        inputs = view.inputs(node)
        if len(inputs) == 1:
            return Match(view, node, {"x": inputs[0]}, info={"bounds": None})
        makers = [view.producer(v) for v in inputs]
        first = makers[0]
        if first is None or any(m is None or m.op != first.op for m in makers):
            state.fail("what it joins are not slices of one array", node)
            return None
        source = view.inputs(first)[0]
        if first.op == "split":
            parts = list(first.outputs)
            is_whole = int(first.params["axis"]) == axis and len(parts) == len(inputs)
            if is_whole and all(a is b for a, b in zip(parts, inputs, strict=True)):
                return Match(view, node, {"x": source}, matched=(first,), info={"bounds": None})
        if first.op != "slice" or not is_plain(source, *inputs):
            state.fail("what it joins are not slices", node)
            return None
        nodes = [m for m in makers if m is not None]
        bounds = [slice_bounds(m, source) for m in nodes if view.inputs(m)[0] is source]
        if len(bounds) < len(nodes) or any(b[axis][2] != 1 for b in bounds):
            state.fail("what it joins are slices of several arrays, or leave out elements", node)
            return None
        for a, b in itertools.pairwise(bounds):
            if a[axis][1] != b[axis][0] or a[:axis] + a[axis + 1 :] != b[:axis] + b[axis + 1 :]:
                state.fail("the slices are not neighbours", node)
                return None
        bounds[0][axis] = (bounds[0][axis][0], bounds[-1][axis][1], 1)
        info = {"bounds": tuple(bounds[0])}
        return Match(view, node, {"x": source}, matched=tuple(nodes), info=info)


# concatenate(x[:n], x[n:]) -> x
JOINED_SLICES = Rule("joined_slices", _JoinedSlices(), _slice, shared=True)


class _SplitOfJoined:
    """``split(concatenate(...))`` at the very seams."""

    names = frozenset({"split"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view, axis = state.view, int(node.params["axis"])
        inner = view.producer(view.inputs(node)[0])
        if inner is None or inner.op != "concatenate" or int(inner.params["dimension"]) != axis:
            state.fail("it splits nothing that was joined along that axis", node)
            return None
        parts = view.inputs(inner)
        sizes = [v.shape[axis] for v in node.outputs]
        if [v.shape[axis] for v in parts] != sizes:
            state.fail("it splits elsewhere", node)
            return None
        return Match(view, node, {f"x{i}": v for i, v in enumerate(parts)}, matched=(inner,))


# split(concatenate(x, y)) -> x, y
SPLIT_OF_JOINED = Rule(
    "split_of_joined", _SplitOfJoined(), lambda **parts: list(parts.values()), shared=True
)


def _pads_nothing(view: View, node: Node) -> bool:
    return all(tuple(edge) == (0, 0, 0) for edge in node.params["padding_config"])


# pad(x) -> x, by nothing
DROP_PAD = Rule(
    "drop_pad", op("pad", any_value("x"), any_value(), where=_pads_nothing), lambda x: x
)


class _PadTwice:
    names = frozenset({"pad"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        value, number = view.inputs(node)
        inner = view.producer(value)
        if inner is None or inner.op != "pad":
            state.fail("what it pads was not padded before", node)
            return None
        a, b = (scalar_value(view, v) for v in (number, view.inputs(inner)[1]))
        if a is None or b is None or a.tobytes() != b.tobytes():
            state.fail("the two pad with other values", node)
            return None
        edges = [_ints(e) for n in (inner, node) for e in n.params["padding_config"]]
        if any(low < 0 or high < 0 or between for low, high, between in edges):
            state.fail("one cuts off or pads inside", node)
            return None
        pairs = zip(edges[: value.ndim], edges[value.ndim :], strict=True)
        config = tuple((a[0] + b[0], a[1] + b[1], 0) for a, b in pairs)
        values = {"x": view.inputs(inner)[0], "number": number}
        return Match(view, node, values, matched=(inner,), info={"config": config})


def _pad(x: Any, number: Any, *, match: Match) -> Any:
    return lax.pad(x, lax.convert_element_type(number, x.dtype), match.info["config"])


# pad(pad(x)) -> pad(x), with one value
PAD_TWICE = Rule("pad_twice", _PadTwice(), _pad)


class _ReverseTwice:
    names = frozenset({"rev"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        behind = spread(view, view.inputs(node)[0], broadcasts=False)
        inner = view.producer(behind.source)
        if inner is None or inner.op != "rev":
            state.fail("it reverses nothing that is reversed", node)
            return None
        turned = {behind.axes[a] for a in _ints(node.params["dimensions"])}
        if turned != set(_ints(inner.params["dimensions"])):
            state.fail("the two turn other axes round", node)
            return None
        matched = (*behind.nodes, inner)
        info = {"axes": behind.axes}
        return Match(view, node, {"x": view.inputs(inner)[0]}, matched=matched, info=info)


# rev(rev(x)) -> x; rev(transpose(rev(x))) -> transpose(x)
REVERSE_TWICE = Rule(
    "reverse_twice",
    _ReverseTwice(),
    lambda x, *, match: arrange(x, match.info["axes"]),
    shared=True,
)


class _BroadcastTwice:
    names = frozenset({"broadcast_in_dim"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        outer = broadcast_operand(view, node.output)
        inner = None if outer is None else broadcast_operand(view, outer[0])
        if outer is None or inner is None or not is_plain(node.output, outer[0], inner[0]):
            state.fail("what it broadcasts is no broadcast, or sharded", node)
            return None
        dims = tuple(outer[1][d] for d in inner[1])
        maker = view.producer(outer[0])
        assert maker is not None
        return Match(view, node, {"x": inner[0]}, matched=(maker,), info={"dims": dims})


# broadcast(broadcast(x)) -> broadcast(x)
BROADCAST_TWICE = Rule(
    "broadcast_twice",
    _BroadcastTwice(),
    lambda x, *, match: lax.broadcast_in_dim(x, match.root.output.shape, match.info["dims"]),
    shared=True,
)


def _writes_all(view: View, node: Node) -> bool:
    """Whether a scatter has no index, and so writes everything once."""
    numbers, out = node.params["dimension_numbers"], node.output
    x, indices, updates = view.inputs(node)
    whole = tuple(numbers.update_window_dims) == tuple(range(out.ndim)) and indices.ndim == 1
    whole = whole and not numbers.scatter_dims_to_operand_dims and updates.shape == out.shape
    return whole and is_plain(x, updates, out)


# x.at[...].set(y) -> y
DROP_SCATTER = Rule(
    "drop_scatter",
    op("scatter", any_value(), any_value(), any_value("y"), where=_writes_all),
    lambda y: y,
)

MOVE_RULES = RuleSet(
    (
        DROP_SCATTER,
        SLICE_CHAIN,
        JOINED_SLICES,
        SPLIT_OF_JOINED,
        DROP_PAD,
        PAD_TWICE,
        REVERSE_TWICE,
        BROADCAST_TWICE,
    )
)
