"""A number that is added to one part of what a linear op makes goes into that part of its bias.

So ``x * (1 + scale) + shift`` has it, where one dense op makes scales and shifts of a condition.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from jax import lax

from jaxpress.capture import Node
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.factors import features_of
from jaxpress.passes.rules.fold import is_foldable
from jaxpress.passes.rules.steps import (
    MOVES,
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
    work_dtype,
)
from jaxpress.passes.view import View, scalar_value

__all__ = ["FOLD_PART"]

# A number that is added stays the same number where elements are moved, or repeated.
_STEPS = MOVES | {"broadcast_in_dim"}


class _ShiftOfPart:
    """A part of a split linear op, plus or minus a number that is written in the program."""

    names = frozenset({"add", "sub"})
    size = 3

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        value, other = view.inputs(node)
        number = scalar_value(view, other)
        if number is None and node.op == "add":
            value, number = other, scalar_value(view, value)
        if number is None or not np.isfinite(number) or value.shape != node.output.shape:
            state.fail("nothing is added that is a number, or it broadcasts", node)
            return None
        steps, part, user = steps_back(view, value, node, _STEPS)
        split = view.producer(part)
        if split is None or split.op != "split":
            state.fail("it is added to no part of something", node)
            return None
        if view.use_count(part) != 1 or view.inputs(user).count(part) != 1:
            state.fail("the part is used elsewhere as well", split)
            return None
        found = linear_maker(state, view.inputs(split)[0], split, _STEPS)
        if found is None or not is_foldable(state, found[0], {}):
            return None
        linear, before = found
        operands = operands_of(view, linear)
        axis = _axis_after(view, linear, before)
        if "residual" in operands or axis != int(split.params["axis"]):
            state.fail("it adds a residual before, or is split along another axis", linear)
            return None
        if bias_shape(linear) != (sum(split.params["sizes"]),):
            state.fail("its one feature is repeated", linear)
            return None
        place = next(i for i, v in enumerate(split.outputs) if v is part)
        return Match(
            view,
            node,
            dict(operands),
            {
                "linear": linear,
                "split": split,
                **step_nodes(reversed(steps)),
                **{f"before_{name}": one for name, one in step_nodes(before).items()},
            },
            (*steps, split, *before, linear),
            {"place": place, "number": float(-number if node.op == "sub" else number)},
            # The part itself has no other user than what is replaced.
            outputs=(node.output, *split.outputs),
            like=linear,
        )


def _axis_after(view: View, linear: Node, steps: Iterable[Node]) -> int | None:
    """Where the features come out of steps; ``None`` if they are split or joined."""
    features = features_of(view, linear, steps)
    if len(features.own) != 1 or not features.own[0] or features.own[0] not in features.result:
        return None
    return features.result.index(features.own[0])


def _shift_part(*, match: Match, **operands: Any) -> Any:
    linear, split = match.nodes["linear"], match.nodes["split"]
    sizes, place = split.params["sizes"], match.info["place"]
    dtype, (features,) = work_dtype(linear), bias_shape(linear)
    start = sum(sizes[:place])
    shift = np.zeros(features, dtype)
    shift[start : start + sizes[place]] = match.info["number"]
    b = operands.get("b")
    b = shift if b is None else lax.add(as_type(b, dtype), shift)
    operands["b"] = as_type(b, linear.output.dtype)
    before = {k.removeprefix("before_"): v for k, v in match.nodes.items() if "before_" in k}
    y = replay(before, rebind(linear, operands))
    parts = lax.split(y, sizes, axis=split.params["axis"])
    return [replay(match.nodes, parts[place]), *parts]


# split(dense(x, w, b)) + n -> split(dense(x, w, b + n)), in one part of the features
FOLD_PART = RuleSet(
    (Rule("fold_part", _ShiftOfPart(), _shift_part, numerics="reassociates"),),
)
