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
    match_norm,
    norm_of,
    scaled,
)
from jaxpress.passes.rules.steps import keeps_sums, replay
from jaxpress.passes.rules.weights import as_type, rebind, work_dtype

__all__ = ["FOLD_PADDED_NORM"]


class _NormAfterPadding:
    """``batch_norm(pad(linear))``: the padded zeros are scaled and shifted like all else."""

    names = frozenset({"batch_norm"})
    size = 3

    def find(self, state: State, node: Node) -> Match | None:
        norm = norm_of(state, node)
        found = None if norm is None else foldable_maker(state, norm["x"], node, shifts=False)
        if norm is None or found is None:
            return None
        if all(map(keeps_sums, found[1])):
            state.fail("it folds as a whole", node)
            return None
        if norm["x"].dtype != node.output.dtype:
            state.fail(f"it makes {node.output.dtype} of {norm['x'].dtype}", node)
            return None
        return match_norm(state, node, (node, norm), found)


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
