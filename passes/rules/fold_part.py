"""What scales or shifts one part of what a linear op makes goes into that part of its weights.

So ``x * (1 + scale) + shift`` has it, where one dense op makes scales and shifts of a condition,
and a convolution whose features are split before each half is normed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jax import lax

from jaxpress.capture import Node
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.factors import carry, features_of, is_carried, track
from jaxpress.passes.rules.fold import (
    batch_norm_terms,
    is_foldable,
    norm_affine,
    norm_of,
    scale_of,
)
from jaxpress.passes.rules.numbers import keeps_range, numbers_of
from jaxpress.passes.rules.steps import (
    MOVES,
    REPEAT,
    linear_maker,
    replay,
    step_nodes,
    steps_back,
)
from jaxpress.passes.rules.weights import (
    as_type,
    bias_shape,
    operands_of,
    rebind,
    scale_outputs,
    spread_of,
    work_dtype,
)
from jaxpress.passes.view import View

__all__ = ["FOLD_PART"]

# What is alike in all features stays so where elements are moved, or repeated.
_STEPS = MOVES | REPEAT


class _AffineOfPart:
    """A part of a split linear op, scaled or shifted by something known along its features."""

    names = frozenset({"add", "sub", "mul", "div", "batch_norm"})
    size = 3

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        affine = self._norm(state, node) if node.op == "batch_norm" else self._known(state, node)
        if affine is None:
            return None
        value, varies, known, scale = affine
        if value.shape != node.output.shape or value.dtype != node.output.dtype:
            state.fail("it broadcasts, or has another dtype", node)
            return None
        back, part, user = steps_back(view, value, node, _STEPS)
        steps = tuple(reversed(back))
        split = view.producer(part)
        if split is None or split.op != "split":
            state.fail("it is of no part of something", node)
            return None
        if view.use_count(part) != 1 or view.inputs(user).count(part) != 1:
            state.fail("the part is used elsewhere as well", split)
            return None
        found = linear_maker(state, view.inputs(split)[0], split, _STEPS)
        if found is None or not is_foldable(state, found[0], known):
            return None
        linear, before = found
        operands, axis = operands_of(view, linear), int(split.params["axis"])
        if "residual" in operands or _axis_after(view, linear, before) != axis:
            state.fail("it adds a residual before, or is split along another axis", linear)
            return None
        if bias_shape(linear) != (sum(split.params["sizes"]),):
            state.fail("its one feature is repeated", linear)
            return None
        tracked = track(view, steps, part.shape)
        rows = tuple([tracked.after[a] for a in varies])
        if not is_carried(rows, tracked.before[axis : axis + 1]):
            state.fail("it does not run along the features alone", node)
            return None
        reason = keeps_range(view, operands["w"], scale)
        if reason:
            state.fail(reason, node)
            return None
        place = next(i for i, v in enumerate(split.outputs) if v is part)
        return Match(
            view,
            node,
            {**operands, **known},
            {
                "linear": linear,
                "split": split,
                "norm": node,
                **step_nodes(steps),
                **{f"before_{name}": one for name, one in step_nodes(before).items()},
            },
            (*steps, split, *before, linear),
            {"place": place, "rows": rows, "features": tracked.before[axis : axis + 1]},
            # The part itself has no other user than what is replaced.
            outputs=(node.output, *split.outputs),
            like=linear,
        )

    def _norm(self, state: State, node: Node) -> Any:
        norm = norm_of(state, node)
        return None if norm is None else norm_affine(state.view, node, norm)

    def _known(self, state: State, node: Node) -> Any:
        view = state.view
        value, other = view.inputs(node)
        if node.op in ("add", "mul") and view.is_known(value):
            value, other = other, value
        if view.is_known(value) or not view.is_known(other) or other.ndim not in (0, value.ndim):
            state.fail("it is with nothing that is known before the data", node)
            return None
        numbers = numbers_of(view, other)
        if node.op in ("add", "sub") and numbers is not None and not np.all(np.isfinite(numbers)):
            state.fail("what is added is not finite", node)
            return None
        base, varies = spread_of(view, other)
        scale = scale_of(view, node, other) if node.op in ("mul", "div") else None
        return value, varies, {"vector": base}, scale


def _axis_after(view: View, linear: Node, steps: Iterable[Node]) -> int | None:
    """Where the features come out of steps; ``None`` if they are split or joined."""
    features = features_of(view, linear, steps)
    if len(features.own) != 1 or not features.own[0] or features.own[0] not in features.result:
        return None
    return features.result.index(features.own[0])


def _fold_part(vector: Any = None, *, match: Match, **operands: Any) -> Any:
    linear, split = match.nodes["linear"], match.nodes["split"]
    sizes, place = split.params["sizes"], match.info["place"]
    dtype, b = work_dtype(linear), operands.get("b")
    start = int(sum(sizes[:place]))
    stop = start + int(sizes[place])
    own = None if b is None else as_type(lax.slice(b, (start,), (stop,)), dtype)
    rows, features, op = match.info["rows"], match.info["features"], match.root.op
    if op == "batch_norm":
        names = [name for name in operands if name.startswith("norm_")]
        for name in names:
            if operands[name] is not None:
                operands[name] = carry(operands[name], rows, features, operands[name].dtype)
        scale, bias = batch_norm_terms(match, operands, own, dtype)
    else:
        v = carry(vector, rows, features, dtype)
        if op in ("mul", "div"):
            scale = v if op == "mul" else lax.div(lax.full_like(v, 1), v)
            bias = None if own is None else lax.mul(own, scale)
        else:
            scale, zero = None, lax.full_like(v, 0) if own is None else own
            bias = (lax.add if op == "add" else lax.sub)(zero, v)
    if scale is not None:
        operands["w"] = scale_outputs(linear, operands["w"], _within(scale, start, sizes, 1))
    if bias is not None:
        whole = _within(bias, start, sizes, 0)
        if b is not None:
            others = np.ones(sum(sizes), bool)
            others[start:stop] = False
            whole = lax.select(others, as_type(b, dtype), whole)
        operands["b"] = as_type(whole, linear.output.dtype)
    before = {k.removeprefix("before_"): v for k, v in match.nodes.items() if "before_" in k}
    y = replay(before, rebind(linear, operands))
    parts = lax.split(y, sizes, axis=split.params["axis"])
    return [replay(match.nodes, parts[place]), *parts]


def _within(v: Any, start: int, sizes: Sequence[int], rest: int) -> Any:
    """A vector of one part's features among all of them, the others of which are ``rest``."""
    n = int(sum(sizes))
    return lax.pad(v, np.asarray(rest, v.dtype), [(start, n - start - v.shape[0], 0)])


# split(dense(x, w, b)) + n -> split(dense(x, w, b + n)), in one part of the features
# split(dense(x, w, b)) * s -> split(dense(x, w * s, b * s)) likewise, and batch_norm of a part
FOLD_PART = RuleSet(
    (Rule("fold_part", _AffineOfPart(), _fold_part, numerics="reassociates"),),
)
