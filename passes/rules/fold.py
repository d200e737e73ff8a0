"""Scales and shifts that are known before the data move into the weights of what comes before.

Every rule reassociates: ``(x @ w) * s`` and ``x @ (w * s)`` are equal, and rounded differently.
Average pooling, zero padding, slices, repetitions, reshapes and transposes may stand between, and
the maximum of windows where scales are known to be above zero.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.factors import Features, features_of
from jaxpress.passes.rules.numbers import keeps_digits, keeps_range, numbers_of
from jaxpress.passes.rules.steps import (
    AVERAGE,
    EXTREMES,
    MOVES,
    PAD,
    REPEAT,
    SLICE,
    keeps_sums,
    linear_maker,
    replay,
    step_nodes,
)
from jaxpress.passes.rules.weights import (
    as_type,
    operands_of,
    rebind,
    scale_outputs,
    spread_of,
    work_dtype,
)
from jaxpress.passes.view import View

__all__ = [
    "FOLD_RULES",
    "batch_norm_scale",
    "batch_norm_terms",
    "foldable_maker",
    "is_foldable",
    "loses_mean",
    "match_norm",
    "narrowed_norm",
    "norm_affine",
    "norm_of",
    "norm_scale",
    "scale_of",
]


def is_foldable(state: State, linear: Node, known: dict[str, Value]) -> bool:
    """Whether weights may take in what is known: floating, and known themselves."""
    view = state.view
    if not jnp.issubdtype(linear.output.dtype, jnp.floating):
        return state.fail(lambda: f"{linear.op} is of {linear.output.dtype}", linear)
    for name, v in {**operands_of(view, linear), **known}.items():
        if name not in ("x", "residual") and not view.is_known(v):
            return state.fail(
                lambda name=name, v=v: f"{name} is {v!r}, which is not known before the data",
                linear,
            )
    return True


def foldable_maker(
    state: State, value: Value, user: Node, shifts: bool, rises: bool = False
) -> tuple[Node, tuple[Node, ...], Features] | None:
    """The linear op behind ``value``, the steps between, and where its features come out.

    ``rises`` says that what is to be folded keeps the larger of two numbers the larger.
    """
    through = MOVES | REPEAT | AVERAGE | PAD | SLICE | (EXTREMES if rises else frozenset())
    found = linear_maker(state, value, user, through)
    if found is None:
        return None
    maker, steps = found
    if "residual" in operands_of(state.view, maker):
        state.fail(lambda: f"{maker.op} adds a residual before", maker)
        return None
    if shifts and not all(map(keeps_sums, steps)):
        state.fail("padding, or means over it, change a shift", user)
        return None
    return maker, steps, features_of(state.view, maker, steps)


def norm_of(state: State, node: Node) -> dict[str, Value] | None:
    """The operands of a ``batch_norm`` whose statistics are not mapped."""
    if node.params.get("mapped"):
        state.fail("it is mapped over several statistics", node)
        return None
    return operands_of(state.view, node)


def norm_scale(view: View, node: Node, norm: dict[str, Value]) -> Any:
    """``1 / sqrt(var + epsilon)`` and that times the scale, where the numbers are known."""
    var = numbers_of(view, norm["var"])
    if var is None:
        return None, None
    with np.errstate(all="ignore"):
        root = 1 / np.sqrt(np.maximum(var, 0) + node.params["epsilon"])
        if "scale" not in norm:
            return root, root
        gain = numbers_of(view, norm["scale"])
        return root, None if gain is None else root * gain


def norm_affine(
    view: View, node: Node, norm: dict[str, Value]
) -> tuple[Value, tuple[int, ...], dict[str, Value], Any]:
    """A batch norm as something known that scales and shifts data.

    Returns:
      The data; the axis along which what is known runs; that, by names that begin with ``norm_``;
      and what it multiplies by, where the numbers are known.
    """
    known = {f"norm_{k}": v for k, v in norm.items() if k != "x"}
    axis = node.params["axis"] % node.output.ndim
    return norm["x"], (axis,), known, norm_scale(view, node, norm)[1]


def loses_mean(view: View, node: Node, norm: dict[str, Value]) -> str | None:
    """Why a batch norm must take the mean away first, if the numbers say so."""
    root, _ = norm_scale(view, node, norm)
    mean = numbers_of(view, norm["mean"])
    shift = None if root is None or mean is None else mean * root
    return keeps_digits(node.output.dtype, shift)


def scale_of(view: View, node: Node, other: Value) -> Any:
    """What ``mul`` or ``div`` by ``other`` multiplies with, where the numbers are known."""
    numbers = numbers_of(view, other)
    if numbers is None or node.op != "div":
        return numbers
    with np.errstate(all="ignore"):
        return 1 / numbers


def _rises(scale: Any) -> bool:
    """Whether scales are known, and above zero."""
    return scale is not None and bool(np.all(scale > 0))


class _BatchNormAfterLinear:
    """``batch_norm(linear)`` along the features or a part of them, everything but ``x`` known.

    Also where a norm in the wider dtype of its statistics is converted back at once. What enters it
    may have been converted to that dtype for it alone.
    """

    names = frozenset({"batch_norm", "convert_element_type"})
    size = 2

    def find(self, state: State, root: Node) -> Match | None:
        view = state.view
        narrowed = narrowed_norm(state, root)
        if narrowed is None:
            return None
        node, norm, user, widening = narrowed
        narrow = norm["x"]
        scale = norm_scale(view, node, norm)[1]
        found = foldable_maker(state, narrow, user, shifts=True, rises=_rises(scale))
        if found is None:
            return None
        if narrow.dtype != root.output.dtype:
            state.fail(lambda: f"it makes {root.output.dtype} of {narrow.dtype}", root)
            return None
        return match_norm(state, root, (node, norm), found, (node, *widening))


def match_norm(
    state: State,
    root: Node,
    normed: tuple[Node, dict[str, Value]],
    found: tuple[Node, tuple[Node, ...], Features],
    outer: tuple[Node, ...] = (),
) -> Match | None:
    """The match of a batch norm with the linear op that takes in its scale.

    Args:
      state: the attempt to match.
      root: the norm, or what converts it.
      normed: the norm, and its operands.
      found: what ``foldable_maker`` found.
      outer: what is matched besides the steps and the linear op.
    """
    view, (node, norm), (maker, steps, features) = state.view, normed, found
    _, (axis,), statistics, scale = norm_affine(view, node, norm)
    if not features.hold((axis,)):
        state.fail(f"it norms axis {node.params['axis']}, not the features", node)
        return None
    if not is_foldable(state, maker, statistics):
        return None
    reason = keeps_range(view, operands_of(view, maker)["w"], scale)
    if reason:
        state.fail(reason, node)
        return None
    values = {**operands_of(view, maker), **statistics}
    nodes = {"linear": maker, "norm": node, **step_nodes(steps)}
    info = {"axis": axis, "features": features}
    return Match(view, root, values, nodes, (*outer, *steps, maker), info, like=maker)


def narrowed_norm(
    state: State, root: Node
) -> tuple[Node, dict[str, Value], Node, tuple[Node, ...]] | None:
    """A ``batch_norm``, or one that is converted back from the dtype of its statistics at once.

    Args:
      state: the attempt to match.
      root: the norm, or the conversion.

    Returns:
      The norm; its operands, ``x`` as it was before it was converted for the norm alone; who takes
      that; and the conversion, if there is one. ``None`` where there is no norm.
    """
    view, node = state.view, root
    if root.op == "convert_element_type":
        value = view.inputs(root)[0]
        inner = view.producer(value)
        if inner is None or inner.op != "batch_norm" or view.use_count(value) != 1:
            state.fail("it converts no batch_norm for itself alone", root)
            return None
        node = inner
    norm = norm_of(state, node)
    if norm is None:
        return None
    narrow, user, widening = _unwidened(view, norm["x"], node, root.output.dtype)
    return node, norm | {"x": narrow}, user, widening


def _unwidened(
    view: View, x: Value, user: Node, dtype: Any
) -> tuple[Value, Node, tuple[Node, ...]]:
    """What ``x`` was of ``dtype``, who takes it, and the conversion between, for ``user`` alone."""
    node = view.producer(x)
    if node is None or node.op != "convert_element_type" or view.use_count(x) != 1:
        return x, user, ()
    narrow = view.inputs(node)[0]
    if narrow.dtype != dtype or jnp.promote_types(dtype, x.dtype) != x.dtype:
        return x, user, ()
    return narrow, node, (node,)


def batch_norm_scale(norm: dict[str, Any], epsilon: float, dtype: Any) -> Any:
    """What a ``batch_norm`` with these operands, None for those left out, multiplies by."""
    root = lax.rsqrt(lax.add(as_type(norm["var"], dtype), np.asarray(epsilon, dtype)))
    return root if norm["scale"] is None else lax.mul(root, as_type(norm["scale"], dtype))


def batch_norm_terms(match: Match, operands: dict[str, Any], b: Any, dtype: Any) -> Any:
    """``(scale, shift)`` such that a matched ``batch_norm`` makes ``x * scale + shift`` of x + b.

    Its operands but x are taken out of ``operands``.
    """
    norm = {k: operands.pop(f"norm_{k}", None) for k in ("mean", "var", "scale", "bias")}
    wide = {k: as_type(v, dtype) for k, v in norm.items() if v is not None}
    scale = batch_norm_scale(norm, match.nodes["norm"].params["epsilon"], dtype)
    # A bias and the mean that it leads to are close: their difference comes first.
    shift = lax.neg(wide["mean"]) if b is None else lax.sub(as_type(b, dtype), wide["mean"])
    shift = lax.mul(shift, scale)
    return scale, lax.add(shift, wide["bias"]) if "bias" in wide else shift


def _fold_batch_norm(*, match: Match, **operands: Any) -> Any:
    linear, features = match.nodes["linear"], match.info["features"]
    for name in ("norm_mean", "norm_var", "norm_scale", "norm_bias"):
        if operands.get(name) is not None:
            v = operands[name]
            operands[name] = features.vector(v, (match.info["axis"],), v.dtype)
    scale, shift = batch_norm_terms(match, operands, operands.get("b"), work_dtype(linear))
    operands["w"] = scale_outputs(linear, operands["w"], scale)
    operands["b"] = as_type(shift, linear.output.dtype)
    return replay(match.nodes, rebind(linear, operands))


# batch_norm(conv(x, w, b), mean, var, g, h) -> conv(x, w * s, (b - mean) * s + h),
#   s = g / sqrt(var + eps)
FOLD_BATCH_NORM = Rule(
    "fold_batch_norm", _BatchNormAfterLinear(), _fold_batch_norm, numerics="reassociates"
)


class _AffineAfterLinear:
    """``linear`` times, divided by, plus or minus something known along the features."""

    size = 2

    def __init__(self, *names: str):
        self.names = frozenset(names)

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        if view.is_known(node.output):
            state.fail("it is of weights alone", node)
            return None
        inputs = view.inputs(node)
        for i, value in enumerate(inputs):
            other = inputs[1 - i]
            if not view.is_known(other) or (node.op == "div" and i == 1):
                state.fail(lambda other=other: f"{other!r} is not known before the data", node)
                continue
            scale = scale_of(view, node, other) if node.op in ("mul", "div") else None
            # What is taken from something falls where that rises.
            shifts = node.op in ("add", "sub")
            rises = (node.op == "add" or i == 0) if shifts else _rises(scale)
            found = foldable_maker(state, value, node, shifts, rises)
            if found is None:
                continue
            maker, steps, features = found
            base, varies = spread_of(view, other)
            if other.ndim not in (0, node.output.ndim) or not features.hold(varies):
                state.fail(
                    lambda other=other: f"{other!r} does not run along the features alone", node
                )
                continue
            if node.output.shape != value.shape or other.dtype != value.dtype:
                state.fail("it broadcasts the result", node)
                continue
            if not is_foldable(state, maker, {"other": other}):
                continue
            reason = keeps_range(view, operands_of(view, maker)["w"], scale)
            if reason:
                state.fail(reason, node)
                continue
            values = {**operands_of(view, maker), "vector": base}
            nodes = {"linear": maker, **step_nodes(steps)}
            info = {"first": i == 0, "varies": varies, "features": features}
            return Match(view, node, values, nodes, (*steps, maker), info, like=maker)
        return None


def _vector(match: Match, base: Any) -> Any:
    dtype = work_dtype(match.nodes["linear"])
    return match.info["features"].vector(base, match.info["varies"], dtype)


def scaled(linear: Node, operands: dict[str, Any], scale: Any) -> dict[str, Any]:
    """A linear op's operands so that its result comes times ``scale``, of its bias's shape."""
    out = {**operands, "w": scale_outputs(linear, operands["w"], scale)}
    if operands.get("b") is not None:
        b = lax.mul(as_type(operands["b"], work_dtype(linear)), scale)
        out["b"] = as_type(b, linear.output.dtype)
    return out


def _fold_scale(vector: Any, *, match: Match, **operands: Any) -> Any:
    linear = match.nodes["linear"]
    scale = _vector(match, vector)
    if match.root.op == "div":
        scale = lax.div(lax.full_like(scale, 1), scale)
    return replay(match.nodes, rebind(linear, scaled(linear, operands, scale)))


def _fold_shift(vector: Any, *, match: Match, **operands: Any) -> Any:
    linear, first = match.nodes["linear"], match.info["first"]
    dtype = work_dtype(linear)
    shift = _vector(match, vector)
    b = operands.get("b")
    b = lax.full_like(shift, 0) if b is None else as_type(b, dtype)
    if match.root.op == "sub" and not first:  # shift - linear
        operands["w"] = lax.neg(operands["w"])
        b = lax.sub(shift, b)
    else:
        b = lax.sub(b, shift) if match.root.op == "sub" else lax.add(b, shift)
    operands["b"] = as_type(b, linear.output.dtype)
    return replay(match.nodes, rebind(linear, operands))


# conv(x, w, b) * s -> conv(x, w * s, b * s)
FOLD_SCALE = Rule(
    "fold_scale", _AffineAfterLinear("mul", "div"), _fold_scale, numerics="reassociates"
)

# conv(x, w, b) + t -> conv(x, w, b + t);  conv(x, w, b) - t;  t - conv(x, w, b)
FOLD_SHIFT = Rule(
    "fold_shift", _AffineAfterLinear("add", "sub"), _fold_shift, numerics="reassociates"
)


class _NegatedLinear:
    """``-linear``, or ``r - linear`` with data r."""

    names = frozenset({"neg", "sub"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        *before, value = view.inputs(node)
        found = foldable_maker(state, value, node, shifts=False)
        if found is None:
            return None
        maker, steps, _ = found
        if node.output.shape != value.shape or not is_foldable(state, maker, {}):
            state.fail("it broadcasts the result", node)
            return None
        if before and (view.is_known(before[0]) or before[0].shape != value.shape):
            state.fail("what it is taken from is known, or broadcast", node)
            return None
        values = operands_of(view, maker) | ({"before": before[0]} if before else {})
        nodes = {"linear": maker, **step_nodes(steps)}
        return Match(view, node, values, nodes, (*steps, maker), like=maker)


def _fold_negation(before: Any = None, *, match: Match, **operands: Any) -> Any:
    for name in {"w", "b"} & set(operands):
        operands[name] = lax.neg(operands[name])
    y = replay(match.nodes, rebind(match.nodes["linear"], operands))
    return y if before is None else lax.add(before, y)


# -conv(x, w, b) -> conv(x, -w, -b);  r - conv(x, w, b) -> r + conv(x, -w, -b)
FOLD_NEGATION = Rule("fold_negation", _NegatedLinear(), _fold_negation, numerics="reassociates")

FOLD_RULES = RuleSet((FOLD_BATCH_NORM, FOLD_SCALE, FOLD_SHIFT, FOLD_NEGATION))
