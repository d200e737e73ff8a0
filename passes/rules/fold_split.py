"""A batch norm of what several linear ops make together becomes one of each, to be folded there."""

from __future__ import annotations

from typing import Any

from jax import lax

from jaxpress import nnops
from jaxpress.capture import Node
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule
from jaxpress.passes.rules.fold import (
    batch_norm_scale,
    foldable_maker,
    is_foldable,
    norm_of,
    norm_scale,
)
from jaxpress.passes.rules.numbers import keeps_range
from jaxpress.passes.rules.weights import as_type, operands_of, work_dtype

__all__ = ["FOLD_SPLIT"]

# More parts than this are not looked at: a rule does bounded work at a node.
MAX_PARTS = 16


class _NormOfParts:
    """``batch_norm(concatenate(linear, linear))``, or of their sum, where each can take it in."""

    names = frozenset({"batch_norm"})
    size = 3

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        norm = norm_of(state, node)
        joined = None if norm is None else view.producer(norm["x"])
        if norm is None or joined is None or joined.op not in ("concatenate", "add"):
            state.fail("it norms no concatenation and no sum", node)
            return None
        if view.use_count(norm["x"]) != 1 or norm["x"].dtype != node.output.dtype:
            state.fail("what it norms is used elsewhere, or has another dtype", node)
            return None
        parts = view.inputs(joined)
        if not 2 <= len(parts) <= MAX_PARTS or len(set(parts)) != len(parts):
            state.fail("a part comes twice, or there are too many", joined)
            return None
        axis = node.params["axis"] % node.output.ndim
        statistics = {f"norm_{k}": v for k, v in norm.items() if k != "x"}
        scale = norm_scale(view, node, norm)[1]
        for part in parts:
            found = foldable_maker(state, part, joined, shifts=True)
            if found is None:
                return None
            maker, _, axes = found
            if axes != (axis,) or not isinstance(part.shape[axis], int):
                state.fail(f"it norms axis {axis}, not the features of every part", node)
                return None
            if joined.op == "add" and part.shape != norm["x"].shape:
                state.fail("the sum broadcasts", joined)
                return None
            if not is_foldable(state, maker, statistics):
                return None
            reason = keeps_range(view, operands_of(view, maker)["w"], scale)
            if reason:
                state.fail(reason, node)
                return None
        values = {**{f"part{i}": v for i, v in enumerate(parts)}, **statistics}
        return Match(view, node, values, {"joined": joined}, (joined,), {"axis": axis})


def _split(*, match: Match, **operands: Any) -> Any:
    joined, axis = match.nodes["joined"], match.info["axis"]
    epsilon = match.root.params["epsilon"]
    parts = [operands[f"part{i}"] for i in range(len(joined.inputs))]
    names = ("mean", "var", "scale", "bias")
    norm = {k: operands.get(f"norm_{k}") for k in names}
    if joined.op == "add":
        first, second = parts
        scale = batch_norm_scale(norm, epsilon, work_dtype(match.root))
        wide = lax.broadcast_in_dim(as_type(scale, second.dtype), second.shape, (axis,))
        y = nnops.batch_norm(first, *norm.values(), axis=axis, epsilon=epsilon)
        return lax.add(y, lax.mul(second, wide))
    out, start, along = [], 0, int(joined.params["dimension"])
    for part in parts:
        stop = start + part.shape[axis]
        own = [
            v if v is None or along != axis else lax.slice_in_dim(v, start, stop)
            for v in norm.values()
        ]
        out.append(nnops.batch_norm(part, *own, axis=axis, epsilon=epsilon))
        start = stop
    return lax.concatenate(out, along)


# batch_norm(concatenate(conv(x), conv(y))) -> concatenate(batch_norm(conv(x)), ...)
# batch_norm(conv(x) + conv(y), mean, var, g, h) -> batch_norm(conv(x)) + conv(y) * s
FOLD_SPLIT = Rule("fold_split", _NormOfParts(), _split, numerics="reassociates")
