"""Parallel linear ops whose results are joined or stacked become one, with concatenated weights.

Unlike `fuse_parallel` nothing is cut in pieces, and the concatenation goes; what follows it sees
one linear op, and can move into it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxpress import nnops
from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.cleanup_moves import is_plain
from jaxpress.passes.rules.fold import is_foldable
from jaxpress.passes.rules.fuse_parallel import (
    feature_labels,
    joined_weights,
    result_axis,
    weight_axis,
)
from jaxpress.passes.rules.loss_parts import Above
from jaxpress.passes.rules.steps import linear_maker
from jaxpress.passes.rules.weights import LINEAR_OPS, bias_shape, operands_of, rebind
from jaxpress.passes.view import View

__all__ = ["FOLD_JOINED"]

# Of each entry by itself, so that they may as well come after the concatenation.
_ACTIVATIONS = frozenset(nnops.activation_entries())


class _Part(NamedTuple):
    """What is joined: a linear op, and the activation behind it that is not fused yet.

    Attributes:
      node: the linear op.
      activation: the activation, if there is one.
      operands: the linear op's, by name.
      kind: what parts must agree in to become one.
    """

    node: Node
    activation: Node | None
    operands: dict[str, Value]
    kind: Any


def _part(state: State, value: Value, user: Node, axis: int) -> _Part | None:
    view = state.view
    maker, activation = view.producer(value), None
    if maker is not None and maker.op in _ACTIVATIONS and len(maker.inputs) == 1:
        if view.use_count(value) != 1:
            state.fail("an activation is used elsewhere as well", maker)
            return None
        activation, user = maker, maker
        (value,) = view.inputs(maker)
    found = linear_maker(state, value, user)
    if found is None:
        return None
    node, _ = found
    operands = operands_of(view, node)
    x = operands["x"]
    if "residual" in operands or node.params.get("groups", 1) != 1 or node.params.get("transposed"):
        state.fail("it adds a residual, or is a grouped or transposed convolution", node)
        return None
    # What is known is computed beforehand anyway, each for itself.
    if view.is_known(x) or not is_foldable(state, node, {}):
        state.fail("its input is known", node)
        return None
    labels = [c for c in feature_labels(node) if result_axis(node, c) == axis]
    if not labels or not is_plain(x, *operands.values(), node.output):
        state.fail("it is joined along no axis of its features, or sharded", node)
        return None
    shape = list(operands["w"].shape)
    del shape[weight_axis(node, labels[0])]
    after = None if activation is None else (activation.op, _params(activation), activation.ctx)
    weights = (tuple(shape), operands["w"].dtype)
    kind = (node.op, _params(node), node.output.dtype, node.ctx, x, weights, after)
    return _Part(node, activation, operands, kind)


def _params(node: Node) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((k, v) for k, v in node.params.items() if k != "operands"))


class _JoinedParts:
    """A concatenation along the features of neighbours that are linear in one value, or a stack."""

    names = frozenset({"concatenate", "stack"})
    size = 3

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        if view.is_known(node.output) or not is_plain(node.output):
            state.fail("it is of weights alone, or sharded", node)
            return None
        inputs = view.inputs(node)
        axis = _stacked_along(state, node) if node.op == "stack" else int(node.params["dimension"])
        if axis is None:
            return None
        parts = [_part(state, v, node, axis) for v in inputs]
        start = 0
        for kind, same in itertools.groupby(parts, lambda p: None if p is None else p.kind):
            run = list(same)
            if (
                kind is not None
                and len(run) > 1
                and (node.op == "concatenate" or len(run) == len(inputs))
            ):
                return _match(view, node, axis, start, run)
            start += len(run)
        state.fail("no neighbours are linear ops on one input, alike but for their weights", node)
        return None


def _stacked_along(state: State, node: Node) -> int | None:
    """The axis of the features along which what is stacked can be made by one op."""
    view = state.view
    maker = view.producer(view.inputs(node)[0])
    if maker is not None and maker.op in _ACTIVATIONS:
        maker = view.producer(view.inputs(maker)[0])
    if maker is None or maker.op not in LINEAR_OPS:
        state.fail("what it stacks is not made by linear ops", node)
        return None
    axes = [result_axis(maker, label) for label in feature_labels(maker)]
    # The new axis is in front of the features' own, if it can be: then nothing is turned.
    place = int(node.params["axis"])
    return place if place in axes else axes[0] if axes else None


def _match(view: View, node: Node, axis: int, start: int, run: list[Any]) -> Match:
    inputs, stop = view.inputs(node), start + len(run)
    first: _Part = run[0]
    values = {"x": first.operands["x"]}
    for i, part in enumerate(run):
        values |= {f"{k}{i}": v for k, v in part.operands.items() if k != "x"}
    values |= {f"before{i}": v for i, v in enumerate(inputs[:start])}
    values |= {f"after{i}": v for i, v in enumerate(inputs[stop:])}
    nodes = {"linear": first.node}
    if first.activation is not None:
        nodes["activation"] = first.activation
    matched = _nodes(run)
    info = {
        "axis": axis,
        "count": len(run),
        "around": (start, len(inputs) - stop),
        "label": next(c for c in feature_labels(first.node) if result_axis(first.node, c) == axis),
        "shapes": tuple(bias_shape(part.node) for part in run),
    }
    return Match(view, node, values, nodes, matched, info, like=first.node)


def _nodes(run: Iterable[_Part]) -> tuple[Node, ...]:
    return tuple(n for part in run for n in (part.node, part.activation) if n is not None)


def _join(*, match: Match, **values: Any) -> Any:
    linear, info = match.nodes["linear"], match.info
    label, count = info["label"], info["count"]
    axis = info["axis"]
    operands = joined_weights(
        linear,
        label,
        [values[f"w{i}"] for i in range(count)],
        [values.get(f"b{i}") for i in range(count)],
        info["shapes"],
    )
    y = rebind(linear, {"x": values["x"], **operands})
    activation = match.nodes.get("activation")
    if activation is not None:
        y = activation.primitive.bind(y, **activation.params)
    if match.root.op == "stack":
        size = y.shape[axis] // count
        y = lax.reshape(y, (*y.shape[:axis], count, size, *y.shape[axis + 1 :]))
        return jnp.moveaxis(y, axis, match.root.params["axis"])
    before, after = info["around"]
    parts = [
        *(values[f"before{i}"] for i in range(before)),
        y,
        *(values[f"after{i}"] for i in range(after)),
    ]
    return parts[0] if len(parts) == 1 else lax.concatenate(parts, axis)


def _guard(match: Match) -> str | None:
    biases = {v.dtype for k, v in match.values.items() if k[0] == "b" and k[1:].isdigit()}
    if biases - {match.nodes["linear"].output.dtype}:
        return "a bias has another dtype"
    return None


# concatenate(dense(x, v, a), dense(x, w, b)) -> dense(x, concatenate(v, w), concatenate(a, b))
# stack(dense(x, v, a), dense(x, w, b)) -> the same, reshaped
FOLD_JOINED = RuleSet(
    (
        Rule(
            "fold_joined",
            # What is below an activation may be folded after the concatenation was looked at.
            Above(_JoinedParts(), _ACTIVATIONS, roots=True),
            _join,
            _guard,
            numerics="reassociates",
        ),
    )
)
