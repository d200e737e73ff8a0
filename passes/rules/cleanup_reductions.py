"""Reductions that reduce nothing."""

from __future__ import annotations

from jaxpress.passes.pattern import any_value, op
from jaxpress.passes.rule import Rule

__all__ = ["DROP_REDUCTION"]

# sum(x) over no axes -> x;  likewise the other reductions
DROP_REDUCTION = Rule(
    "drop_reduction",
    op(
        ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"),
        any_value("x"),
        params={"axes": lambda axes: len(axes) == 0},
    ),
    lambda x: x,
)
