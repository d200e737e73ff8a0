"""Pieces of one array that are stacked, or cut again. Every rule here is exact."""

from __future__ import annotations

import itertools
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.cleanup_moves import bounds_within, is_plain, slice_bounds
from jaxpress.passes.view import View

__all__ = ["SLICE_TIDYING", "STACKED_SLICES", "piece_of"]

Bounds = list[tuple[int, int, int]]


def piece_of(view: View, value: Value) -> tuple[Value, Bounds, Node] | None:
    """What ``value`` is cut out of: ``(source, bounds of each axis, the node that cuts)``."""
    node = view.producer(value)
    if node is None or node.op not in ("slice", "split"):
        return None
    source = view.inputs(node)[0]
    if not is_plain(source, value):
        return None
    if node.op == "slice":
        return source, slice_bounds(node, source), node
    axis = int(node.params["axis"])
    place = next(i for i, v in enumerate(node.outputs) if v is value)
    bounds = [(0, n, 1) for n in source.shape]
    start = sum(int(n) for n in node.params["sizes"][:place])
    bounds[axis] = (start, start + value.shape[axis], 1)
    return source, bounds, node


class _StackedPieces:
    """A stack of neighbouring pieces of one array, all of one size."""

    names = frozenset({"stack"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        found = [piece_of(view, v) for v in view.inputs(node)]
        pieces = [p for p in found if p is not None]
        if len(pieces) < 2 or len(pieces) < len(found):
            state.fail("what it stacks are not pieces, or it is but one", node)
            return None
        source, first, _ = pieces[0]
        if any(p[0] is not source for p in pieces):
            state.fail("what it stacks are pieces of several arrays", node)
            return None
        axes = [a for a, bound in enumerate(pieces[1][1]) if bound != first[a]]
        if len(axes) != 1:
            state.fail("the pieces do not lie side by side", node)
            return None
        axis = axes[0]
        for (_, a, _), (_, b, _) in itertools.pairwise(pieces):
            beside = a[axis][1] == b[axis][0] and a[axis][2] == b[axis][2] == 1
            if not beside or a[:axis] + a[axis + 1 :] != b[:axis] + b[axis + 1 :]:
                state.fail("the pieces are not neighbours", node)
                return None
        bounds = list(first)
        bounds[axis] = (first[axis][0], pieces[-1][1][axis][1], 1)
        info = {"axis": axis, "bounds": tuple(bounds), "count": len(pieces)}
        matched = tuple(dict.fromkeys(p[2] for p in pieces))
        return Match(view, node, {"x": source}, {}, matched, info)


def _cut(x: Any, bounds: Any) -> Any:
    whole = [(0, n, 1) for n in x.shape]
    return x if list(bounds) == whole else lax.slice(x, *zip(*bounds, strict=True))


def _in_rows(x: Any, *, match: Match) -> Any:
    axis, count = match.info["axis"], match.info["count"]
    x = _cut(x, match.info["bounds"])
    size = x.shape[axis] // count
    x = lax.reshape(x, (*x.shape[:axis], count, size, *x.shape[axis + 1 :]))
    return jnp.moveaxis(x, axis, match.root.params["axis"])


# stack(x[:, :n], x[:, n:]) -> reshape(x)
STACKED_SLICES = Rule("stacked_slices", _StackedPieces(), _in_rows, shared=True)


class _PieceOfPiece:
    """A split of a piece of an array, or a slice of a part that was split off."""

    names = frozenset({"split", "slice"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        x = view.inputs(node)[0]
        inner = piece_of(view, x)
        if inner is None or (node.op, inner[2].op) == ("slice", "slice"):
            state.fail("it cuts no piece of something", node)
            return None
        cuts = [piece_of(view, v) for v in node.outputs]
        if any(cut is None for cut in cuts):
            state.fail("its sizes are not known, or it is sharded", node)
            return None
        source, below, maker = inner
        info = {"cuts": tuple(bounds_within(below, cut[1]) for cut in cuts if cut is not None)}
        return Match(view, node, {"x": source}, {}, (maker,), info)


def _pieces(x: Any, *, match: Match) -> Any:
    return [_cut(x, bounds) for bounds in match.info["cuts"]]


# split(slice(x)) -> slice(x), slice(x);  slice(split(x)) -> slice(x)
PIECE_OF_PIECE = Rule("piece_of_piece", _PieceOfPiece(), _pieces, shared=True)

SLICE_TIDYING = RuleSet((STACKED_SLICES, PIECE_OF_PIECE))
