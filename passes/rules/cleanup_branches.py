"""Branches that are never taken, and loops that never run. Every rule here is exact."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxpress.capture import Node, Value, compat
from jaxpress.capture.evaluate import evaluate
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.view import View, scalar_value

__all__ = ["BRANCH_RULES"]


class _KnownBranch:
    """``cond`` whose choice is written in the program."""

    names = frozenset({"cond"})
    size = 1

    def find(self, state: State, node: Node) -> Match | None:
        which, *operands = state.view.inputs(node)
        number = _number(state.view, which)
        if number is None:
            state.fail("it chooses by data", node)
            return None
        if node.effects:
            state.fail("a branch has effects", node)
            return None
        # As the operation itself has it: what is out of range is the nearest branch.
        chosen = min(max(int(number), 0), len(node.subgraphs) - 1)
        values = {f"x{i}": v for i, v in enumerate(operands)}
        return Match(state.view, node, values, info={"body": node.subgraphs[chosen]})


def _number(view: View, value: Value) -> Any:
    """A number that is written in the program, perhaps clamped as ``lax.switch`` does."""
    node = view.producer(value)
    if node is None or node.op != "clamp":
        return scalar_value(view, value)
    low, number, high = (scalar_value(view, v) for v in view.inputs(node))
    if low is None or number is None or high is None:
        return None
    return min(max(number, low), high)


def _branch(*, match: Match, **operands: Any) -> Any:
    body = match.info["body"]
    given = [operands[f"x{i}"] for i in range(len(body.inputs))]
    # A number in the program comes as Python's, which is of no dtype yet.
    arrays = [
        x if hasattr(x, "aval") else jnp.asarray(x, v.dtype)
        for v, x in zip(body.inputs, given, strict=True)
    ]
    return evaluate(body, arrays)


# cond(True, f, g, x) -> f(x)
KNOWN_BRANCH = Rule("known_branch", _KnownBranch(), _branch)


class _NoRounds:
    """``scan`` over nothing."""

    names = frozenset({"scan"})
    size = 1

    def find(self, state: State, node: Node) -> Match | None:
        length = node.params["length"]
        if not isinstance(length, int) or length != 0:
            state.fail(f"it has {length} rounds", node)
            return None
        if node.effects:
            state.fail("it has effects", node)
            return None
        consts, carry = compat.scan_counts(node.params)
        inputs = state.view.inputs(node)[consts : consts + carry]
        if any(not hasattr(v.aval, "shape") for v in node.outputs):
            state.fail("it gives something else than arrays", node)
            return None
        return Match(state.view, node, {f"x{i}": v for i, v in enumerate(inputs)})


def _initial(*, match: Match, **carry: Any) -> Any:
    outputs = match.root.outputs
    empty = [jnp.zeros(v.shape, v.dtype) for v in outputs[len(carry) :]]
    kept = [jnp.asarray(x, v.dtype) for x, v in zip(carry.values(), outputs, strict=False)]
    return [*kept, *empty]


# scan(f, x, nothing) -> x
NO_ROUNDS = Rule("no_rounds", _NoRounds(), _initial)

BRANCH_RULES = RuleSet((KNOWN_BRANCH, NO_ROUNDS))
