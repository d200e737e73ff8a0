"""Recurrent networks, however they were written, become ``lstm``, ``gru`` and ``rnn``.

A ``scan`` with such a cell for a body becomes the op over the whole sequence; what else its body
computes from inputs and results then runs for all steps at once. For cells that stand alone see
raise_recurrent_cell.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jaxpress.capture import Graph, Node, Value
from jaxpress.passes.match import MadeOnce
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.raise_recurrent_cell import RECURRENT_CELL_RULES
from jaxpress.passes.rules.recurrent_cells import Cell
from jaxpress.passes.rules.recurrent_input import with_projection
from jaxpress.passes.rules.recurrent_operands import data_of, weights_of
from jaxpress.passes.rules.recurrent_polynomial import Unfit
from jaxpress.passes.rules.recurrent_reverse import TURN_RECURRENCE
from jaxpress.passes.rules.recurrent_scan import (
    Recurrent,
    find_recurrent,
    run_recurrent,
    unfit_results,
)

__all__ = ["RECURRENT_RULES"]

# What a body is, or why it is nothing: three rules ask, and again when its surroundings change.
_found: weakref.WeakKeyDictionary[Graph, tuple[Any, Recurrent | str]] = weakref.WeakKeyDictionary()


def _recurrent_of(node: Node) -> Recurrent | str:
    (body,) = node.subgraphs
    key = len(node.inputs), len(node.outputs), bool(node.effects)
    known = _found.get(body)
    if known is None or known[0] != key:
        try:
            known = key, find_recurrent(node)
        except Unfit as reason:
            known = key, str(reason)
        _found[body] = known
    return known[1]


class _ScanPattern:
    """A ``scan`` whose body is one kind of cell."""

    names = frozenset({"scan"})
    size = 30

    def __init__(self, kind: str):
        self.kind = kind

    def find(self, state: State, node: Node) -> Match | None:
        found = _recurrent_of(node)
        if isinstance(found, str):
            state.fail(f"its body is no recurrent cell: {found}", node)
            return None
        if found.cell.kind != self.kind:
            state.fail(f"its body is a cell of {found.cell.kind}", node)
            return None
        view = state.view
        used = [i for i, v in enumerate(node.outputs) if view.users(v) or view.is_output(v)]
        if not used:
            state.fail("nobody uses its results", node)
            return None
        problem = unfit_results(found, used)
        if problem:
            state.fail(problem, node, close=True)
            return None
        cell = with_projection(view, node, found.loop, found.cell)
        outside: list[Value] = []
        if cell is not None:
            inside = found.loop.values
            parts = (*weights_of(cell), *(ref.value for ref in data_of(cell)))
            outside = [v for v in dict.fromkeys(parts) if v not in inside]
        values = {f"in{i}": v for i, v in enumerate(view.inputs(node))}
        values.update({f"out{i}": v for i, v in enumerate(outside)})
        info = {
            "plan": _Plan(found, cell or found.cell, tuple(outside), tuple(used)),
        }
        return Match(view, node, values, info=info)


@dataclass(eq=False)
class _Plan(MadeOnce):
    """What the replacement is made from.

    Attributes:
        found: what the scan is.
        cell: its cell.
        outside: values of the cell that are not of the body.
        used: which of the scan's results are used.
    """

    found: Recurrent
    cell: Cell
    outside: tuple[Value, ...]
    used: tuple[int, ...]


def _raise_scan(*, match: Match, **given: Any) -> Any:
    plan: _Plan = match.info["plan"]
    arrays = {name: jnp.asarray(given[name], v.dtype) for name, v in match.values.items()}
    inner = [a for name, a in arrays.items() if name.startswith("in")]
    outer = [a for name, a in arrays.items() if name.startswith("out")]
    outside = dict(zip(plan.outside, outer, strict=True))
    return run_recurrent(match.root, plan.found, plan.cell, inner, outside, list(plan.used))


# scan(cell, (h, c), xs) -> lstm(xs, h, c, w_ih, w_hh, b)
RAISE_LSTM = Rule("raise_lstm", _ScanPattern("lstm"), _raise_scan, numerics="reassociates")

# scan(cell, h, xs) -> gru(xs, h, w_ih, w_hh, b, b_hh)
RAISE_GRU = Rule("raise_gru", _ScanPattern("gru"), _raise_scan, numerics="reassociates")

# scan(cell, h, xs) -> rnn(xs, h, w_ih, w_hh, b)
RAISE_RNN = Rule("raise_rnn", _ScanPattern("rnn"), _raise_scan, numerics="reassociates")

RECURRENT_RULES = RuleSet((RAISE_LSTM, RAISE_GRU, RAISE_RNN, TURN_RECURRENCE))
RECURRENT_RULES += RECURRENT_CELL_RULES
