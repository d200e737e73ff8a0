"""Casts inside of ``shard_map`` that say no more than the operation after them does."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax import lax

from jaxpress.capture import Node, compat
from jaxpress.capture.varying import OF_SEVERAL_AXES, varying_axes
from jaxpress.passes.pattern import any_value, op, scalar
from jaxpress.passes.rule import Match, Rule
from jaxpress.passes.view import View

__all__ = ["DEVICE_RULES"]


def _is_implied(view: View, node: Node) -> bool:
    """Whether every user has another operand that varies along the same axes.

    Then it gives what it gave: the cast is made when the graph is evaluated.
    """
    value = node.output
    users = view.users(value)
    if view.is_output(value) or not users:
        return False
    return all(
        user.op not in OF_SEVERAL_AXES
        and user._bodies is None
        and any(
            varying_axes(v.aval) >= varying_axes(value.aval)
            for v in view.inputs(user)
            if v is not value
        )
        for user in users
    )


# x + pvary(y) -> x + y, where x varies as well
DROP_PVARY = Rule("drop_pvary", op("pvary", any_value("x"), where=_is_implied), lambda x: x)


def _vary_last(c: Any, *, match: Match) -> Any:
    converted = np.asarray(c).astype(match.root.output.dtype)
    return lax.pcast(converted, tuple(match.nodes["cast"].params["axes"]), to="varying")


# convert(pvary(2)) -> pvary(2.0), a scalar that is written in the program
VARY_LAST = Rule(
    "vary_last",
    op("convert_element_type", op("pvary", scalar(name="c"), name="cast")),
    _vary_last,
    lambda m: None if m.root.output.ndim == 0 else "it is no scalar",
)


def _vary_after_move(x: Any, *, match: Match) -> Any:
    (moved,) = compat.bind(match.root.primitive, [x], match.root.params)
    return lax.pcast(moved, tuple(match.nodes["cast"].params["axes"]), to="varying")


def _moves_only(match: Match) -> str | None:
    """With more elements after, the derivative would add up larger arrays over the devices."""
    if len(match.root.inputs) == 1 and match["x"].aval.size == match.root.output.aval.size:
        return None
    return "it gives more elements than it takes"


# reshape(pvary(x)) -> pvary(reshape(x)); likewise broadcasts that add axes of size 1
VARY_AFTER_MOVE = Rule(
    "vary_after_move",
    op(
        ("broadcast_in_dim", "expand_dims", "reshape", "squeeze", "transpose"),
        op("pvary", any_value("x"), name="cast"),
    ),
    _vary_after_move,
    _moves_only,
)

DEVICE_RULES = (DROP_PVARY, VARY_LAST, VARY_AFTER_MOVE)
