"""A ``while`` that only counts is a ``scan``: the number of its rounds is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpress.capture import Graph, Literal, Node
from jaxpress.capture.evaluate import evaluate
from jaxpress.passes.match import MadeOnce
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule
from jaxpress.passes.rules.counted_rows import step_of
from jaxpress.passes.rules.known_indices import counted
from jaxpress.passes.view import GraphView, View

__all__ = ["COUNTED_WHILE"]

_COMPARED = {"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal}


class _CountedWhile:
    """``while`` that only counts: the number of its rounds is written in the program."""

    names = frozenset({"while"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        condition, body = node.subgraphs
        conds, consts = node.params["cond_nconsts"], node.params["body_nconsts"]
        if node.effects or any(n.effects for n in (*condition.nodes, *body.nodes)):
            state.fail("it has effects", node)
            return None
        length = _length(view, node, condition, body, conds, consts)
        if length is None:
            state.fail("what it asks is not how far it has counted", node)
            return None
        values = {f"x{i}": v for i, v in enumerate(view.inputs(node)[conds:])}
        return Match(view, node, values, info={"length": length, "plan": _Counted(body)})


@dataclass(eq=False)
class _Counted(MadeOnce):
    """A loop's body, kept beside."""

    body: Graph


def _length(
    view: View, node: Node, condition: Graph, body: Graph, conds: int, consts: int
) -> int | None:
    if len(condition.nodes) != 1 or condition.nodes[0].op not in _COMPARED:
        return None
    (test,) = condition.nodes
    if not all(np.issubdtype(v.dtype, np.signedinteger) and not v.shape for v in test.inputs):
        return None
    if condition.outputs[0] is not test.output:
        return None
    sides: list[Any] = []
    for v in test.inputs:
        at = -1 if isinstance(v, Literal) else condition.inputs.index(v)
        if isinstance(v, Literal):
            sides.append((np.int64(v.val), 0))
            continue
        given = counted(view, view.inputs(node)[at if at < conds else at + consts])
        step = 0
        if at >= conds:
            slot = at - conds
            old, new = body.inputs[consts + slot], body.outputs[slot]
            found = 0 if old is new else step_of(GraphView(body), old, new)
            if found is None:
                return None
            step = found
        if given is None:
            return None
        sides.append((np.int64(given), step))
    (a, by_a), (b, by_b) = sides
    if (by_a == 0) == (by_b == 0):
        return None
    holds = _COMPARED[test.op]
    if not holds(a, b):
        return 0
    # a + n by_a against b + n by_b: the first n at which it does not hold.
    gap, closing = (int(b - a), by_a - by_b) if test.op in ("lt", "le") else (
        int(a - b), by_b - by_a
    )  # fmt: skip
    if closing <= 0:
        return None
    rounds = -(-gap // closing) if test.op in ("lt", "gt") else gap // closing + 1
    limit = min(np.iinfo(v.dtype).max for v in test.inputs)
    ends = [abs(int(x)) + abs(by) * rounds for x, by in sides]
    return rounds if max(ends) <= limit else None


def _in_rounds(*, match: Match, **given: Any) -> Any:
    body, length = match.info["plan"].body, match.info["length"]
    consts = match.root.params["body_nconsts"]
    arrays = [jnp.asarray(given[f"x{i}"], v.dtype) for i, v in enumerate(body.inputs)]
    fixed, first = arrays[:consts], arrays[consts:]
    if not length:
        return first

    def step(carried: Any, _: Any) -> Any:
        return evaluate(body, [*fixed, *carried]), None

    return lax.scan(step, first, None, length=length)[0]


# while_loop(lambda i, x: i < 12, lambda i, x: (i + 1, f(i, x)), (0, x)) -> scan of 12 rounds
COUNTED_WHILE = Rule("counted_while", _CountedWhile(), _in_rounds)
