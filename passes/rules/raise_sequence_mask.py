"""A comparison of positions with lengths becomes ``sequence_mask``."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax import lax

from jaxpress import nnops
from jaxpress.capture import Node
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule
from jaxpress.passes.rules.attention_bands import positions_of
from jaxpress.passes.rules.axis_tracking import arrange, constant, spread

__all__ = ["RAISE_SEQUENCE_MASK"]


class _MaskPattern:
    """``position < lengths``, the positions along an axis that the lengths do not have."""

    names = frozenset({"lt", "gt"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        index, lengths = view.inputs(node)[:: 1 if node.op == "lt" else -1]
        positions = positions_of(view, index)
        if positions is None or positions.offset or list(positions.factors.values()) != [1]:
            state.fail("it compares no positions along one axis", node)
            return None
        (axis,) = positions.factors
        size = index.shape[axis]
        behind = spread(view, lengths)
        varies = [i for i, a in enumerate(behind.axes) if a is not None]
        if axis in varies and lengths.shape[axis] != 1:
            state.fail("the lengths differ from position to position", node)
            return None
        if constant(view, lengths) is not None or positions_of(view, lengths) is not None:
            state.fail("positions are compared with positions, or with a number", node)
            return None
        if isinstance(size, int) and size - 1 > np.iinfo(index.dtype).max:
            state.fail("positions are more than their dtype can count", node)
            return None
        shape = node.output.shape
        kept = [i for i in varies if i != axis]
        info = {
            "order": tuple(behind.axes[i] for i in kept),
            "to": (*kept, axis),
            "shape": tuple(shape),
            "size": size,
        }
        return Match(view, node, {"lengths": behind.source}, info=info)


def _raise_mask(lengths: Any, *, match: Match) -> Any:
    info = match.info
    mask = nnops.sequence_mask(arrange(lengths, info["order"]), info["size"])
    to = info["to"]
    order = sorted(range(len(to)), key=to.__getitem__)
    mask = lax.transpose(mask, order) if order != list(range(len(to))) else mask
    if mask.shape == info["shape"]:
        return mask
    return lax.broadcast_in_dim(mask, info["shape"], sorted(to))


# iota < lengths[:, None] -> sequence_mask(lengths, size)
RAISE_SEQUENCE_MASK = Rule("raise_sequence_mask", _MaskPattern(), _raise_mask)
