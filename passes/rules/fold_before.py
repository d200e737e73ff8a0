"""Scales and shifts that are known before the data move into the weights of what comes after.

A scale of the channels goes through zero padding, a shift does not: where a convolution pads, its
zeros stay zeros, and what the result gains depends on the position. Every rule reassociates.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.factors import Row, carry, is_carried, track
from jaxpress.passes.rules.fold import (
    FOLD_RULES,
    batch_norm_terms,
    is_foldable,
    loses_mean,
    norm_of,
    norm_scale,
    scale_of,
)
from jaxpress.passes.rules.fold_split import FOLD_SPLIT_RULES
from jaxpress.passes.rules.numbers import keeps_digits, keeps_gain, keeps_range, numbers_of
from jaxpress.passes.rules.steps import (
    AVERAGE,
    MOVES,
    PAD,
    REPEAT,
    keeps_sums,
    replay,
    step_nodes,
    steps_back,
)
from jaxpress.passes.rules.uneven_shift import has_full_windows, uneven_shift, why_not_cheaper
from jaxpress.passes.rules.weights import (
    LINEAR_OPS,
    as_type,
    bias_shape,
    input_axes,
    operands_of,
    rebind,
    scale_inputs,
    shift_through,
    spread_of,
    work_dtype,
)
from jaxpress.passes.view import View

__all__ = ["FOLD_BEFORE_RULES", "folds_before", "takers_of"]

_STEPS = MOVES | REPEAT | AVERAGE | PAD
_BEFORE = FOLD_RULES + FOLD_SPLIT_RULES

# More users than this of one value are not looked at: a rule does bounded work at a node.
MAX_USERS = 16

_SHIFTS = frozenset({"add", "sub"})
_AFFINE = frozenset({"mul", "div", "batch_norm"}) | _SHIFTS
_NORMS = ("layer_norm", "rms_norm")


class _Path(NamedTuple):
    """How a linear op comes by its input.

    Attributes:
      source: what enters the first step.
      user: who takes it: the first step, or the linear op itself.
      steps: the steps, in the order in which they run.
      rows: the factors of the axes of ``source``.
      targets: those of the axes that the weights see.
    """

    source: Value
    user: Node
    steps: tuple[Node, ...]
    rows: tuple[Row, ...]
    targets: tuple[Row, ...]


def _path(state: State, linear: Node) -> _Path | None:
    view = state.view
    if linear.params.get("mapped"):
        state.fail(lambda: f"{linear.op} is mapped over several weights", linear)
        return None
    x = operands_of(view, linear)["x"]
    if view.inputs(linear).count(x) != 1:
        state.fail(lambda: f"{x!r} is another operand too", linear)
        return None
    back, source, user = steps_back(view, x, linear, _STEPS)
    steps = tuple(reversed(back))
    tracked = track(view, steps, source.shape)
    targets = tuple([tracked.after[a] for a in input_axes(linear, x)])
    return _Path(source, user, steps, tracked.before, targets)


def _takes(state: State, linear: Node, path: _Path, varies: tuple[int, ...], shifts: bool) -> bool:
    """Whether weights can take in what runs along the axes ``varies`` of ``path.source``."""
    if not is_carried([path.rows[a] for a in varies], path.targets):
        return state.fail("it does not run along the channels alone", linear)
    if shifts and not all(map(keeps_sums, path.steps)):
        return state.fail("padding is zero before and after a shift", linear)
    if shifts and not has_full_windows(linear):
        removes = _operations(state.view, state.view.producer(path.source))
        reason = why_not_cheaper(state.view, linear, path.steps, path.source, removes)
        if reason:
            return state.fail(reason, linear)
    return is_foldable(state, linear, {})


def _operations(view: View, made: Node | None) -> int:
    """How many operations what shifts takes for each element, where it is told what it leaves."""
    if made is None:
        return 0
    if made.op == "batch_norm":
        return 2 + ("bias" in made.params["operands"])
    if made.op in _NORMS:
        return int("scale" in made.params["operands"])
    data = [view.producer(v) for v in view.inputs(made) if not view.is_known(v)]
    return int(len(data) == 1 and data[0] is not None and data[0].op in ("mul", "div"))


def takers_of(
    state: State, value: Value, varies: tuple[int, ...], shifts: bool
) -> list[Node] | None:
    """The users of ``value``, if all are linear ops that can take in what made it."""
    view = state.view
    users = view.users(value)
    if view.is_output(value) or not users or len(users) > MAX_USERS:
        state.fail(lambda: f"{value!r} is an output, or has many users")
        return None
    takers = []
    for user in users:
        linear = _next_linear(view, value, user)
        path = None if linear is None else _path(state, linear)
        if linear is None or path is None or path.source is not value:
            state.fail(lambda: f"{value!r} is used elsewhere as well", user)
            return None
        if not _takes(state, linear, path, varies, shifts):
            return None
        takers.append(linear)
    return takers


def _next_linear(view: View, value: Value, user: Node) -> Node | None:
    """The linear op at the end of the steps that begin with ``user``."""
    for _ in range(8):
        if user.op in LINEAR_OPS:
            return user
        if user.op not in _STEPS or view.use_count(user.output) != 1:
            return None
        following = view.users(user.output)
        if not following:  # the one use is an output
            return None
        user = following[0]
    return None


def folds_before(state: State, made: Node) -> bool:
    """Whether what scales or shifts folds into what comes before it instead."""
    for rule in _BEFORE.at(made.op):
        pattern: Any = rule.pattern
        if pattern.find(State(state.view), made) is not None:
            state.fail("it folds into what comes before it", made)
            return True
    return False


class _AffineBeforeLinear:
    """A linear op of something that was scaled or shifted along its channels."""

    names = LINEAR_OPS
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        path = _path(state, node)
        if path is None:
            return None
        made = view.producer(path.source)
        if made is None or made.op not in _AFFINE or view.is_known(path.source):
            state.fail(lambda: f"its input {path.source!r} is not scaled or shifted", node)
            return None
        if not jnp.issubdtype(path.source.dtype, jnp.floating):
            state.fail(lambda: f"its input is {path.source.dtype}", node)
            return None
        if folds_before(state, made):
            return None
        if made.op == "batch_norm":
            found = self._batch_norm(state, made)
        else:
            found = self._affine(state, made)
        if found is None:
            return None
        values, varies, shifts, info = found
        reason = self._loses(view, node, made, values)
        if reason:
            state.fail(reason, made)
            return None
        if takers_of(state, path.source, varies, shifts) is None:
            return None
        operands = {**operands_of(view, node), **values}
        nodes = {"affine": made, "norm": made, **step_nodes(path.steps)}
        info = {**info, "rows": tuple([path.rows[a] for a in varies]), "targets": path.targets}
        return Match(view, node, operands, nodes, (*path.steps, made), info)

    def _loses(self, view: View, linear: Node, made: Node, values: dict[str, Value]) -> str | None:
        """Why folding by these numbers would lose some of the result, if it would."""
        w, dtype = operands_of(view, linear)["w"], made.output.dtype
        if made.op == "batch_norm":
            norm = {k[5:]: v for k, v in values.items() if k != "x"}
            scale = norm_scale(view, made, norm)[1]
            return keeps_range(view, w, scale) or loses_mean(view, made, norm)
        inner = view.producer(values["x"])
        number = numbers_of(view, values["vector"])
        if made.op in _SHIFTS:
            scaled = inner is not None and inner.op in ("mul", "div")
            return keeps_digits(dtype, number, scaled)
        scale = scale_of(view, made, values["vector"])
        shifted = inner is not None and inner.op in _SHIFTS and has_full_windows(linear)
        if inner is None or not shifted or scale is None:
            return keeps_range(view, w, scale)
        # The shift would follow: both stay, since it could not be told any more what it leaves.
        shifts = [numbers_of(view, v) for v in view.inputs(inner) if view.is_known(v)]
        largest = max((np.max(np.abs(v), initial=0.0) for v in shifts if v is not None), default=0)
        left = np.max(np.abs(scale), initial=0.0)
        return keeps_range(view, w, scale) or keeps_digits(dtype, np.asarray(largest * left))

    def _batch_norm(self, state: State, made: Node) -> Any:
        norm = norm_of(state, made)
        if norm is None:
            return None
        if made.output.dtype != norm["x"].dtype:
            state.fail(lambda: f"it makes {made.output.dtype} of {norm['x'].dtype}", made)
            return None
        values = {"x": norm["x"], **{f"norm_{k}": v for k, v in norm.items() if k != "x"}}
        if not all(state.view.is_known(v) for k, v in values.items() if k != "x"):
            state.fail("its statistics depend on the data", made)
            return None
        return values, (made.params["axis"] % made.output.ndim,), True, {}

    def _affine(self, state: State, made: Node) -> Any:
        view = state.view
        for i, data in enumerate(view.inputs(made)):
            other = view.inputs(made)[1 - i]
            if not view.is_known(other) or (made.op == "div" and i == 1):
                continue
            if data.shape != made.output.shape or other.ndim not in (0, data.ndim):
                state.fail("it broadcasts", made)
                return None
            producer = view.producer(data)
            if producer is not None and producer.op == "reduce_sum":
                state.fail("it divides a sum into a mean", made)
                return None
            base, varies = spread_of(view, other)
            values = {"x": data, "vector": base}
            return values, varies, made.op in _SHIFTS, {"first": i == 0}
        state.fail("neither operand is known before the data", made)
        return None


def _fold(vector: Any = None, *, match: Match, **operands: Any) -> Any:
    linear, made, info = match.root, match.nodes["affine"], match.info
    dtype = work_dtype(linear)
    rows, targets = info["rows"], info["targets"]
    if made.op == "batch_norm":
        terms = batch_norm_terms(match, operands, None, dtype)
        scale, shift = (carry(v, rows, targets, dtype) for v in terms)
    else:
        scale, shift = _terms(made.op, info["first"], carry(vector, rows, targets, dtype))
    operands["x"] = replay(match.nodes, operands["x"])
    if shift is not None:
        operands |= _shifted(linear, operands, shift)
    if scale is not None:
        operands["w"] = scale_inputs(linear, operands["w"], scale)
    return rebind(linear, operands)


def _shifted(linear: Node, operands: dict[str, Any], shift: Any) -> dict[str, Any]:
    """The bias, or the residual, with what a linear op makes of a shift."""
    if not has_full_windows(linear):
        gained = uneven_shift(linear, operands["x"], operands["w"], shift)
        r = operands.get("residual")
        return {"residual": gained if r is None else lax.add(r, gained)}
    gained = shift_through(linear, operands["w"], shift)
    b = operands.get("b")
    b = gained if b is None else lax.add(as_type(b, shift.dtype), gained)
    return {"b": as_type(b, linear.output.dtype)}


def _terms(op: str, first: bool, v: Any) -> tuple[Any, Any]:
    """``(scale, shift)`` of ``x op v``, or of ``v op x``."""
    if op == "mul":
        return v, None
    if op == "div":
        return lax.div(lax.full_like(v, 1), v), None
    if op == "add":
        return None, v
    return (None, lax.neg(v)) if first else (lax.full_like(v, -1), v)


# conv(x * s, w, b) -> conv(x, s * w, b), also where it pads
# conv(x + t, w, b) -> conv(x, w, b + sum(t * w)), where it does not
# conv(x + t, w, b) -> conv(x, w, b, residual=conv(t, w)), where it does, if that is cheaper
# conv(batch_norm(x), w, b) likewise
FOLD_BEFORE = Rule(
    "fold_before", _AffineBeforeLinear(), _fold, numerics="reassociates", shared=True
)


class _NormBeforeLinear:
    """``layer_norm`` or ``rms_norm`` whose scale and bias every user can take in."""

    names = frozenset(_NORMS)
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        if node.params.get("mapped"):
            state.fail("it is mapped over several scales", node)
            return None
        operands = operands_of(view, node)
        given = {k: v for k, v in operands.items() if k != "x"}
        if not given:
            state.fail("it has no scale and no bias", node)
            return None
        if not all(map(view.is_known, given.values())):
            state.fail("its scale or bias is not known before the data", node)
            return None
        if operands["x"].dtype != node.output.dtype and "dtype" not in node.params:
            state.fail("its operands are of several dtypes", node)
            return None
        axes = _norm_axes(node)
        if axes is None or any(
            v.shape != tuple(node.output.shape[a] for a in axes) for v in given.values()
        ):
            state.fail("its scale does not run along the axes that it norms", node)
            return None
        takers = takers_of(state, node.output, axes, "bias" in given)
        if takers is None:
            return None
        numbers = {k: numbers_of(view, v) for k, v in given.items()}
        for linear in takers:
            w = operands_of(view, linear)["w"]
            reason = keeps_range(view, w, numbers.get("scale"))
            reason = reason or keeps_gain(view, w, bias_shape(linear), numbers.get("bias"))
            if reason:
                state.fail(reason, linear)
                return None
        return Match(view, node, operands, info={"axes": axes})


def _norm_axes(node: Node) -> tuple[int, ...] | None:
    """The axes of a scale; ``None`` where they do not rise, which its shape would not show."""
    axis = node.params["axis"]
    axes = tuple(a % node.output.ndim for a in ((axis,) if isinstance(axis, int) else axis))
    return axes if list(axes) == sorted(axes) else None


def _split_norm(*, match: Match, **operands: Any) -> Any:
    node, axes, x = match.root, match.info["axes"], operands["x"]
    dtype = node.output.dtype
    y = rebind(node, {"x": x}, **({} if x.dtype == dtype else {"dtype": dtype}))
    for name, apply in (("scale", lax.mul), ("bias", lax.add)):
        if operands.get(name) is not None:
            y = apply(y, lax.broadcast_in_dim(as_type(operands[name], dtype), y.shape, axes))
    return y


# layer_norm(x, s, t) -> layer_norm(x) * s + t, where dense ops take both in
FOLD_NORM = Rule("fold_norm", _NormBeforeLinear(), _split_norm, numerics="reassociates")

FOLD_BEFORE_RULES = RuleSet((FOLD_BEFORE, FOLD_NORM))
