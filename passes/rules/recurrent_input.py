"""A recurrent cell's input projection, taken in from where it was hoisted out of the loop.

Keras's GRU and hand-written loops project all steps at once ahead of the ``scan``; the named op
does the same by itself, and its weights are then seen.
"""

from __future__ import annotations

from dataclasses import replace

from jaxpress.capture import Node, Value
from jaxpress.passes.rules.recurrent_cells import Cell, Gate
from jaxpress.passes.rules.recurrent_loop import Loop
from jaxpress.passes.rules.recurrent_operands import data_of
from jaxpress.passes.rules.recurrent_refs import Ref
from jaxpress.passes.rules.recurrent_terms import Bias, Opaque, Product, Reader, Term, is_stored
from jaxpress.passes.view import View, scalar_value

__all__ = ["with_projection"]


def with_projection(view: View, node: Node, loop: Loop, cell: Cell) -> Cell | None:
    """The cell with the products outside of the loop as its own; None if there are none such.

    Args:
        view: the graph that the ``scan`` is in.
        node: the ``scan``.
        loop: its parts.
        cell: the cell in its body, whose gates take columns of one scanned array.
    """
    refs = data_of(cell)
    scanned = {ref.value for ref in refs}
    if len(scanned) != 1 or any(gate.inputs for gate in cell.gates):
        return None
    (inner,) = scanned
    if inner not in loop.xs:
        return None
    at = len(loop.consts) + len(loop.carry) + loop.xs.index(inner)
    outer = view.inputs(node)[at]
    if view.inputs(node).count(outer) != 1 or view.use_count(outer) != 1:
        return None

    def is_weight(v: Value) -> bool:
        return scalar_value(view, v) is None and is_stored(view, v)

    reader = Reader(view, is_weight, lambda v: True)
    gates = []
    for gate in cell.gates:
        new = _with_terms(reader, gate, outer, cell)
        if new is None:
            return None
        gates.append(new)
    return replace(cell, gates=tuple(gates))


def _with_terms(reader: Reader, gate: Gate, outer: Value, cell: Cell) -> Gate | None:
    inputs: list[Product] = []
    rest: list[Bias | Opaque] = [t for t in gate.rest if isinstance(t, Bias)]
    for term in gate.rest:
        if isinstance(term, Bias):
            continue
        inside = term.ref
        axes = (*(a + 1 for a in inside.axes[:-1]), 0, inside.features + 1)
        terms = reader.terms(Ref(outer, axes, inside.lo, inside.hi))
        if terms is None or not any(isinstance(t, Product) for t in terms):
            return None
        for t in terms:
            if not _fits(reader.view, t, cell):
                return None
            signed = replace(t, sign=t.sign * term.sign)  # type: ignore[arg-type]
            if isinstance(signed, Product):
                inputs.append(signed)
            elif isinstance(signed, Bias):
                rest.append(signed)
    return replace(gate, inputs=tuple(inputs), rest=tuple(rest))


def _fits(view: View, term: Term, cell: Cell) -> bool:
    """Whether a term can be the op's own: a product of nobody else's, or a bias."""
    if isinstance(term, Bias):
        return term.hi - term.lo in (1, cell.hidden)
    if not isinstance(term, Product) or view.use_count(term.ref.value) != 1:
        return False
    precision = dict(cell.params)["precision"]
    return term.weight.dtype == cell.work and term.precision == precision
