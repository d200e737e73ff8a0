"""Zeros around the input of a ``conv`` become part of its padding, which reads the same zeros."""

from __future__ import annotations

from typing import Any

from jaxpress.capture import Node
from jaxpress.nnops.conv_geometry import specs
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule
from jaxpress.passes.rules.weights import operands_of, rebind
from jaxpress.passes.view import scalar_value

__all__ = ["FUSE_PAD"]


class _PadBeforeConv:
    """``conv(pad(x, 0))``, padded at the ends of spatial axes alone."""

    names = frozenset({"conv"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        operands = operands_of(view, node)
        pad = view.producer(operands["x"])
        if pad is None or pad.op != "pad":
            state.fail("its input is not made by pad", node)
            return None
        if node.params["transposed"] or node.params.get("mapped"):
            state.fail("padding means something else to a transposed or mapped conv", node)
            return None
        x, value = view.inputs(pad)
        number = scalar_value(view, value)
        if number is None or number != 0:
            state.fail("it does not pad with zero", pad)
            return None
        config = [tuple(int(n) for n in axis) for axis in pad.params["padding_config"]]
        spatial = specs(node.params["dimension_numbers"]).lhs_spec[2:]
        for axis, (low, high, interior) in enumerate(config):
            if interior or low < 0 or high < 0 or ((low or high) and axis not in spatial):
                state.fail("it pads inside, cuts off, or pads another axis", pad)
                return None
        extra = tuple(config[axis][:2] for axis in spatial)
        return Match(view, node, {**operands, "x": x}, matched=(pad,), info={"extra": extra})


def _fuse_pad(*, match: Match, **operands: Any) -> Any:
    pairs = zip(match.root.params["padding"], match.info["extra"], strict=True)
    padding = tuple((low + more, high + beyond) for (low, high), (more, beyond) in pairs)
    return rebind(match.root, operands, padding=padding)


# conv(pad(x), padding=p) -> conv(x, padding=p + the pad's)
FUSE_PAD = Rule("fuse_pad", _PadBeforeConv(), _fuse_pad)
