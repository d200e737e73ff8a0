"""Padding before a ``conv`` or a pooling op becomes a part of it, which reads the same values."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxpress.capture import Node
from jaxpress.nnops.conv_geometry import specs
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.weights import LINEAR_OPS, operands_of, rebind
from jaxpress.passes.view import View, scalar_value

__all__ = ["FUSE_PAD_RULES"]

# Never below zero, and without a derivative where they are zero.
_NOT_NEGATIVE = frozenset({"relu", "relu6"})

# More users than this of one padded array are not looked at.
MAX_USERS = 16

Edges = list[tuple[int, int]]


def _pad_before(state: State, node: Node) -> tuple[Node, Any, Edges] | None:
    """The ``pad`` that makes ``node``'s first operand, its value, and the edges of each axis."""
    view = state.view
    if node.params.get("mapped"):
        state.fail(f"{node.op} is mapped over several operands", node)
        return None
    pad = view.producer(view.inputs(node)[0])
    if pad is None or pad.op != "pad":
        state.fail("its input is not made by pad", node)
        return None
    number = scalar_value(view, view.inputs(pad)[1])
    config = [tuple(int(n) for n in axis) for axis in pad.params["padding_config"]]
    if number is None or any(interior or low < 0 or high < 0 for low, high, interior in config):
        state.fail("it pads with an array, inside, or cuts off", pad)
        return None
    return pad, number, [(low, high) for low, high, _ in config]


def _sum(pairs: Any, extra: Any) -> tuple[tuple[Any, Any], ...]:
    return tuple((a + c, b + d) for (a, b), (c, d) in zip(pairs, extra, strict=True))


class _PadBeforeConv:
    """``conv(pad(x, 0))``, padded at the ends of spatial axes alone."""

    names = frozenset({"conv"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        found = _pad_before(state, node)
        if found is None:
            return None
        pad, number, edges = found
        if node.params["transposed"]:
            state.fail("padding means something else to a transposed conv", node)
            return None
        if number != 0:
            state.fail("it does not pad with zero", pad)
            return None
        spatial = specs(node.params["dimension_numbers"]).lhs_spec[2:]
        if any(pair != (0, 0) and axis not in spatial for axis, pair in enumerate(edges)):
            state.fail("it pads another axis", pad)
            return None
        if not _only_for_convs(state.view, pad):
            state.fail("what it pads is used elsewhere as well", pad)
            return None
        padding = _sum(node.params["padding"], [edges[axis] for axis in spatial])
        operands = {**operands_of(state.view, node), "x": state.view.inputs(pad)[0]}
        return Match(state.view, node, operands, matched=(pad,), info={"padding": padding})


def _only_for_convs(view: View, pad: Node) -> bool:
    """Whether every user pads for itself then, so that the padded array is needed no more."""
    value = pad.output
    users = view.users(value)
    return view.use_count(value) == 1 or (
        not view.is_output(value)
        and len(users) <= MAX_USERS
        and all(
            user.op == "conv"
            and view.inputs(user)[0] is value
            and view.inputs(user).count(value) == 1
            and not user.params["transposed"]
            and not user.params.get("mapped")
            for user in users
        )
    )


def _fuse(*, match: Match, **operands: Any) -> Any:
    changes = {k: v for k, v in match.info.items() if k in match.root.params}
    return rebind(match.root, operands, **changes)


# conv(pad(x), padding=p) -> conv(x, padding=p + the pad's)
FUSE_PAD = Rule("fuse_pad", _PadBeforeConv(), _fuse, shared=True)


class _PadBeforePool:
    """``avg_pool(pad(x, 0))``; ``max_pool`` of what was padded with minus infinity.

    Or with zero, where x is never negative and every window holds some of it: then no zero wins
    that x does not have as well.
    """

    names = frozenset({"avg_pool", "max_pool"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        found = _pad_before(state, node)
        if found is None:
            return None
        pad, number, edges = found
        info: dict[str, Any] = {"padding": _sum(node.params["padding"], edges)}
        x = state.view.inputs(pad)[0]
        if node.op == "avg_pool":
            padded = any(pair != (0, 0) for pair in node.params["padding"])
            if number != 0 or (padded and not node.params["count_include_pad"]):
                state.fail("what it pads with does not count as a zero", pad)
                return None
            info["count_include_pad"] = True
        elif not _loses(number) and not (
            number == 0
            and _is_not_negative(state.view, x)
            and _every_window_holds_some(node, x.shape, info["padding"])
        ):
            state.fail(f"it pads with {number}, which may be the largest", pad)
            return None
        return Match(state.view, node, {"x": x}, matched=(pad,), info=info)


def _loses(number: Any) -> bool:
    """Whether a number is the least of its dtype, as max_pool pads."""
    dtype = np.asarray(number).dtype
    if np.issubdtype(dtype, np.integer):
        return number == np.iinfo(dtype).min
    return bool(np.isneginf(np.asarray(number, np.float64)))


def _is_not_negative(view: View, value: Any) -> bool:
    node = view.producer(value)
    if node is None:
        return False
    if node.op in _NOT_NEGATIVE:
        return True
    activation = node.params["activation"] if node.op in LINEAR_OPS else None
    return activation is not None and activation.name in _NOT_NEGATIVE


def _every_window_holds_some(node: Node, shape: Any, padding: Any) -> bool:
    params = node.params
    if not all(isinstance(n, int) and n > 0 for n in shape):
        return False
    for n, window, stride, dilation, (low, high) in zip(
        shape, params["window_shape"], params["strides"], params["dilation"], padding, strict=True
    ):
        last = (low + n + high - window) // stride * stride
        if (low or high) and (dilation != 1 or low >= window or last >= low + n):
            return False
    return True


# avg_pool(pad(x), padding=p) -> avg_pool(x, padding=p + the pad's);  max_pool likewise
FUSE_PAD_POOL = Rule("fuse_pad_pool", _PadBeforePool(), _fuse)

FUSE_PAD_RULES = RuleSet((FUSE_PAD, FUSE_PAD_POOL))
