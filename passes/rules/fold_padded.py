"""Of a batch norm after a pad, or a mean over padding, the scale goes through, the shift stays.

The rule reassociates.
"""

from __future__ import annotations

from typing import Any

from jax import lax

from jaxpress.capture import Node
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule
from jaxpress.passes.rules.fold import (
    batch_norm_terms,
    foldable_maker,
    is_foldable,
    norm_of,
    norm_scale,
    scaled,
)
from jaxpress.passes.rules.numbers import keeps_range
from jaxpress.passes.rules.steps import keeps_sums, replay, step_nodes
from jaxpress.passes.rules.weights import as_type, operands_of, rebind, work_dtype

__all__ = ["FOLD_PADDED_NORM"]


class _NormAfterPadding:
    """``batch_norm(pad(linear))``: the padded zeros are scaled and shifted like all else."""

    names = frozenset({"batch_norm"})
    size = 3

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        norm = norm_of(state, node)
        found = None if norm is None else foldable_maker(state, norm["x"], node, shifts=False)
        if norm is None or found is None:
            return None
        maker, steps, features = found
        if all(map(keeps_sums, steps)):
            state.fail("it folds as a whole", node)
            return None
        axis = node.params["axis"] % node.output.ndim
        if not features.hold((axis,)):
            state.fail(f"it norms axis {node.params['axis']}, not the features", node)
            return None
        if norm["x"].dtype != node.output.dtype:
            state.fail(f"it makes {node.output.dtype} of {norm['x'].dtype}", node)
            return None
        statistics = {f"norm_{k}": v for k, v in norm.items() if k != "x"}
        if not is_foldable(state, maker, statistics):
            return None
        reason = keeps_range(view, operands_of(view, maker)["w"], norm_scale(view, node, norm)[1])
        if reason:
            state.fail(reason, node)
            return None
        values = {**operands_of(view, maker), **statistics}
        nodes = {"linear": maker, "norm": node, **step_nodes(steps)}
        info = {"axis": axis, "features": features}
        return Match(view, node, values, nodes, (*steps, maker), info, like=maker)


def _scale_through_padding(*, match: Match, **operands: Any) -> Any:
    linear = match.nodes["linear"]
    dtype, out = work_dtype(linear), match.root.output
    scale, shift = batch_norm_terms(match, operands, None, dtype)
    axis = (match.info["axis"],)
    scale = match.info["features"].vector(scale, axis, dtype)
    y = replay(match.nodes, rebind(linear, scaled(linear, operands, scale)))
    return lax.add(y, lax.broadcast_in_dim(as_type(shift, out.dtype), y.shape, axis))


# batch_norm(pad(conv(x, w, b)), mean, var, g, h) -> pad(conv(x, w * s, b * s)) + (h - mean * s)
FOLD_PADDED_NORM = Rule(
    "fold_padded_norm", _NormAfterPadding(), _scale_through_padding, numerics="reassociates"
)
