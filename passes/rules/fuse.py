"""Bias, residual and activation move into ``conv``, ``dense`` and ``einsum_dense``.

A fused op computes ``activation(op(x, w) + b + residual)`` in just that order, so nothing is
rounded differently; only what came after the residual is. Reshapes and transposes may stand
between, and then come after.
"""

from __future__ import annotations

import math
from typing import Any

from jax import lax

from jaxpress import nnops
from jaxpress.capture import Literal, Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.factors import features_of
from jaxpress.passes.rules.steps import MOVES, REPEAT, linear_maker, replay, step_nodes
from jaxpress.passes.rules.weights import (
    FUSED_OPS,
    operands_of,
    rebind,
    spread_of,
)
from jaxpress.passes.view import View, is_parameter_like

__all__ = ["FUSE_RULES"]

_FUSABLE_PRIMITIVES = frozenset({"tanh"})

Steps = tuple[Node, ...]


class _AddPattern:
    """``add(linear, other)`` in either order."""

    names = frozenset({"add", "add_any"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        inputs = view.inputs(node)
        # Of two candidates the one that is computed later takes the other as its residual.
        for value, other in (inputs, inputs[::-1]):
            found = linear_maker(state, value, node, MOVES, FUSED_OPS)
            if found is None:
                continue
            if other.dtype != value.dtype or node.output.aval.shape != value.aval.shape:
                state.fail("the sum has another dtype or shape", node)
                continue
            match = self.accept(state, node, *found, value, other)
            if match is not None:
                return match
        return None

    def accept(
        self, state: State, node: Node, maker: Node, steps: Steps, value: Value, other: Value
    ) -> Match | None:
        raise NotImplementedError


def _match(view: View, node: Node, maker: Node, steps: Steps, info: Any = None, **more: Any) -> Any:
    values = {**operands_of(view, maker), **more}
    nodes = {"linear": maker, **step_nodes(steps)}
    return Match(view, node, values, nodes, (*steps, maker), info, like=maker)


def _bias_of(view: View, maker: Node, steps: Steps, other: Value, ndim: int) -> Any:
    """``(base, the axes that it runs along, where the features are)``, or ``None``."""
    if other.ndim not in (0, ndim):
        return None
    features = features_of(view, maker, steps)
    base, varies = spread_of(view, other)
    return (base, varies, features) if features.hold(varies) else None


class _BiasPattern(_AddPattern):
    """A bias, where the op has a residual already or, by default, where it has none."""

    def __init__(self, after_residual: bool = False):
        self.after_residual = after_residual

    def accept(
        self, state: State, node: Node, maker: Node, steps: Steps, value: Value, other: Value
    ) -> Match | None:
        present = operands_of(state.view, maker)
        found = _bias_of(state.view, maker, steps, other, value.ndim)
        if found is None:
            state.fail(lambda: f"{other!r} does not run along the features alone", node)
            return None
        if "b" in present or ("residual" in present) != self.after_residual:
            state.fail(lambda: f"{maker.op} has operands {sorted(present)}", maker)
            return None
        base, varies, features = found
        # At batch size 1 what other layers compute may have no other axes either.
        as_many = math.prod(base.shape) == math.prod(value.shape)
        if as_many and not is_parameter_like(state.view, base):
            state.fail(lambda: f"{other!r} is computed from data, and no bias", node)
            return None
        info = {"varies": varies, "features": features}
        return _match(state.view, node, maker, steps, info, vector=base)


def _add_bias(vector: Any, *, match: Match, **operands: Any) -> Any:
    linear, features = match.nodes["linear"], match.info["features"]
    operands["b"] = features.vector(vector, match.info["varies"], linear.output.dtype)
    return replay(match.nodes, rebind(linear, operands))


# conv(x, w) + b -> conv(x, w, b)
FUSE_BIAS = Rule("fuse_bias", _BiasPattern(), _add_bias)

# conv(x, w, residual=r) + b -> conv(x, w, b, r)
FUSE_LATE_BIAS = Rule(
    "fuse_late_bias", _BiasPattern(after_residual=True), _add_bias, numerics="reassociates"
)


class _ResidualPattern(_AddPattern):
    """A residual, where the op has one already or, by default, where it has none."""

    def __init__(self, late: bool = False):
        self.late = late

    def accept(
        self, state: State, node: Node, maker: Node, steps: Steps, value: Value, other: Value
    ) -> Match | None:
        if ("residual" in operands_of(state.view, maker)) != self.late:
            has = "no residual yet" if self.late else "a residual already"
            state.fail(lambda: f"{maker.op} has {has}", maker)
            return None
        if any(step.op == "transpose" for step in steps):
            state.fail("the residual would have to be transposed", node)
            return None
        if isinstance(other, Literal) or other.aval.shape != value.aval.shape:
            state.fail(lambda: f"{other!r} is broadcast", node)
            return None
        is_bias = _bias_of(state.view, maker, steps, other, value.ndim) is not None
        if is_bias and state.view.is_known(other):
            state.fail(lambda: f"{other!r} is a bias", node)
            return None
        if getattr(other.aval, "sharding", None) != getattr(value.aval, "sharding", None):
            state.fail("the two are sharded differently", node)
            return None
        return _match(state.view, node, maker, steps, other=other)


def _add_residual(other: Any, *, match: Match, **operands: Any) -> Any:
    linear = match.nodes["linear"]
    if other.shape != linear.output.shape:
        other = lax.reshape(other, linear.output.shape)
    if "residual" in operands:
        other = lax.add(operands["residual"], other)
    return replay(match.nodes, rebind(linear, {**operands, "residual": other}))


# conv(x, w, b) + r -> conv(x, w, b, r)
FUSE_RESIDUAL = Rule("fuse_residual", _ResidualPattern(), _add_residual)

# conv(x, w, b, r) + s -> conv(x, w, b, r + s)
FUSE_LATE_RESIDUAL = Rule(
    "fuse_late_residual", _ResidualPattern(late=True), _add_residual, numerics="reassociates"
)


class _ActivationPattern:
    """``activation(linear)``."""

    names = frozenset(nnops.activation_entries()) | _FUSABLE_PRIMITIVES
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        inputs = view.inputs(node)
        if len(inputs) != 1:
            return None
        found = linear_maker(state, inputs[0], node, MOVES | REPEAT, FUSED_OPS)
        if found is None:
            return None
        if inputs[0].dtype != node.output.dtype:
            state.fail(lambda: f"{node.op} changes the dtype", node)
            return None
        if node.op in _FUSABLE_PRIMITIVES and node.params.get("accuracy") is not None:
            state.fail(lambda: f"{node.op} asks for an accuracy of its own", node)
            return None
        return _match(view, node, *found)


def _add_activation(*, match: Match, **operands: Any) -> Any:
    root = match.root
    params = {} if root.op in _FUSABLE_PRIMITIVES else dict(root.params)
    y = rebind(match.nodes["linear"], operands, activation=(root.op, params))
    return replay(match.nodes, y)


# relu(conv(x, w, b, r)) -> conv(x, w, b, r, activation=relu)
FUSE_ACTIVATION = Rule("fuse_activation", _ActivationPattern(), _add_activation)

FUSE_RULES = RuleSet(
    (FUSE_BIAS, FUSE_LATE_BIAS, FUSE_RESIDUAL, FUSE_LATE_RESIDUAL, FUSE_ACTIVATION)
)
