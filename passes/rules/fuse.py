"""Bias, residual and activation move into ``conv`` and ``dense``. Every rule here is exact.

A fused op computes ``activation(op(x, w) + b + residual)`` in just that order, so nothing is
rounded differently.
"""

from __future__ import annotations

from typing import Any

from jaxpress import nnops
from jaxpress.capture import Literal, Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.weights import (
    LINEAR_OPS,
    as_vector,
    channel_vector,
    features,
    operands_of,
    rebind,
)
from jaxpress.passes.view import View

__all__ = ["FUSE_RULES", "linear_maker"]

_FUSABLE_PRIMITIVES = frozenset({"tanh"})


def linear_maker(state: State, value: Value, user: Node) -> Node | None:
    """The ``conv`` or ``dense`` that makes ``value`` for ``user`` alone, with no activation yet."""
    view = state.view
    node = view.producer(value)
    if node is None or node.op not in LINEAR_OPS:
        return None
    if node.params.get("mapped"):
        state.fail(f"{node.op} is mapped over several weights", node)
        return None
    if node.params["activation"] is not None:
        state.fail(f"{node.op} has an activation already", node)
        return None
    if view.use_count(value) != 1 or view.inputs(user).count(value) != 1:
        state.fail(f"{value!r} is used elsewhere as well", node)
        return None
    return node


class _AddPattern:
    """``add(linear, other)`` in either order."""

    names = frozenset({"add", "add_any"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        inputs = view.inputs(node)
        # Of two candidates the one that is computed later takes the other as its residual.
        for value, other in (inputs, inputs[::-1]):
            maker = linear_maker(state, value, node)
            if maker is None:
                continue
            if other.dtype != value.dtype or node.output.aval.shape != value.aval.shape:
                state.fail("the sum has another dtype or shape", node)
                continue
            match = self.accept(state, node, maker, value, other)
            if match is not None:
                return match
        return None

    def accept(
        self, state: State, node: Node, maker: Node, value: Value, other: Value
    ) -> Match | None:
        raise NotImplementedError


def _match(view: View, node: Node, maker: Node, **more: Value) -> Match:
    values = {**operands_of(view, maker), **more}
    return Match(view, node, values, {"linear": maker}, (maker,))


class _BiasPattern(_AddPattern):
    def accept(
        self, state: State, node: Node, maker: Node, value: Value, other: Value
    ) -> Match | None:
        present = operands_of(state.view, maker)
        vector = channel_vector(state.view, other, maker)
        if vector is None:
            state.fail(f"{other!r} does not run along the features alone", node)
            return None
        if "b" in present or "residual" in present:
            state.fail(f"{maker.op} has a bias or a residual already", maker)
            return None
        return _match(state.view, node, maker, vector=vector)


def _add_bias(vector: Any, *, match: Match, **operands: Any) -> Any:
    linear = match.nodes["linear"]
    operands["b"] = as_vector(vector, features(linear), linear.output.dtype)
    return rebind(linear, operands)


# conv(x, w) + b -> conv(x, w, b)
FUSE_BIAS = Rule("fuse_bias", _BiasPattern(), _add_bias)


class _ResidualPattern(_AddPattern):
    def accept(
        self, state: State, node: Node, maker: Node, value: Value, other: Value
    ) -> Match | None:
        if "residual" in operands_of(state.view, maker):
            state.fail(f"{maker.op} has a residual already", maker)
            return None
        if isinstance(other, Literal) or other.aval.shape != value.aval.shape:
            state.fail(f"{other!r} is broadcast", node)
            return None
        if channel_vector(state.view, other, maker) is not None and state.view.is_known(other):
            state.fail(f"{other!r} is a bias", node)
            return None
        if getattr(other.aval, "sharding", None) != getattr(value.aval, "sharding", None):
            state.fail("the two are sharded differently", node)
            return None
        return _match(state.view, node, maker, other=other)


def _add_residual(other: Any, *, match: Match, **operands: Any) -> Any:
    return rebind(match.nodes["linear"], {**operands, "residual": other})


# conv(x, w, b) + r -> conv(x, w, b, r)
FUSE_RESIDUAL = Rule("fuse_residual", _ResidualPattern(), _add_residual)


class _ActivationPattern:
    """``activation(linear)``."""

    names = frozenset(nnops.activation_entries()) | _FUSABLE_PRIMITIVES
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        inputs = view.inputs(node)
        if len(inputs) != 1:
            return None
        maker = linear_maker(state, inputs[0], node)
        if maker is None:
            state.fail(f"{inputs[0]!r} is not made by a conv or dense for {node.op} alone", node)
            return None
        if inputs[0].dtype != node.output.dtype:
            state.fail(f"{node.op} changes the dtype", node)
            return None
        if node.op in _FUSABLE_PRIMITIVES and node.params.get("accuracy") is not None:
            state.fail(f"{node.op} asks for an accuracy of its own", node)
            return None
        return _match(view, node, maker)


def _add_activation(*, match: Match, **operands: Any) -> Any:
    root = match.root
    params = {} if root.op in _FUSABLE_PRIMITIVES else dict(root.params)
    return rebind(match.nodes["linear"], operands, activation=(root.op, params))


# relu(conv(x, w, b, r)) -> conv(x, w, b, r, activation=relu)
FUSE_ACTIVATION = Rule("fuse_activation", _ActivationPattern(), _add_activation)

FUSE_RULES = RuleSet((FUSE_BIAS, FUSE_RESIDUAL, FUSE_ACTIVATION))
