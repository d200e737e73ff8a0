"""A log-sum-exp less the logarithm of how many there are becomes a ``logmeanexp``."""

from __future__ import annotations

import math
from typing import Any

from jaxpress import nnops
from jaxpress.capture import Node
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule
from jaxpress.passes.rules.arithmetic import same_number
from jaxpress.passes.rules.loss_parts import Above
from jaxpress.passes.rules.scalars import number

__all__ = ["RAISE_LOGMEANEXP"]


class _LogMeanExpPattern:
    """``logsumexp(x) - log(n)``, of which n is how many numbers are added."""

    names = frozenset({"sub", "add"})
    size = 3

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        inputs = view.inputs(node)
        orders = (inputs,) if node.op == "sub" else (inputs, inputs[::-1])
        for value, other in orders:
            lse, taken = view.producer(value), number(view, other)
            if (
                lse is None
                or lse.op != "logsumexp"
                or taken is None
                or value.shape != node.output.shape
            ):
                continue
            taken = taken if node.op == "sub" else -taken
            if len(view.inputs(lse)) != 1 or lse.params.get("mapped"):
                state.fail("some elements count otherwise than others", lse)
                return None
            (x,) = view.inputs(lse)
            axis = lse.params["axis"]
            sizes = [x.shape[a] for a in (axis if isinstance(axis, tuple) else (axis,))]
            if not all(isinstance(n, int) and n > 0 for n in sizes):
                state.fail("nobody knows how many there are", lse)
                return None
            if not same_number(taken, math.log(math.prod(sizes)), node.output.dtype):
                state.fail("what is taken away is not the logarithm of how many there are", node)
                return None
            info = {"axis": axis, "keepdims": lse.params["keepdims"]}
            return Match(view, node, {"x": x}, matched=(lse,), info=info)
        state.fail("nothing is taken from a log-sum-exp", node)
        return None


def _guard(match: Match) -> str | None:
    return "it changes the dtype" if match["x"].dtype != match.root.output.dtype else None


def _raise(x: Any, *, match: Match) -> Any:
    return nnops.logmeanexp(x, **match.info)


# logsumexp(x) - log(n) -> logmeanexp(x)
RAISE_LOGMEANEXP = Rule(
    "raise_logmeanexp",
    Above(_LogMeanExpPattern(), ("logsumexp",)),
    _raise,
    _guard,
    numerics="reassociates",
)
