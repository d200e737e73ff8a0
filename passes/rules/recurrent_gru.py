"""Gated recurrent units, recognised by what they compute: reset before or after the product."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxpress.capture import Value
from jaxpress.passes.rules.recurrent_cells import Cell, Finder, Gate, activation_of
from jaxpress.passes.rules.recurrent_polynomial import Unfit, polynomial, ref_of, through
from jaxpress.passes.rules.recurrent_refs import Ref
from jaxpress.passes.rules.recurrent_terms import Bias, Gated, Opaque, Product, Reader, Term
from jaxpress.passes.view import View

__all__ = ["find_gru"]


def find_gru(reader: Reader, new: Value, h: Value | None) -> Cell:
    """``h = (1 - z) * n + z * h``, or with z and 1 - z swapped.

    Args:
        reader: of the graph.
        new: the new state.
        h: the old state; found if None.

    Raises:
        Unfit: it is not.
    """
    view = reader.view
    terms, passed, refs = polynomial(view, new, set() if h is None else {h}, alone=h is None)
    n, z, h, sign = _mixed(view, terms, h, refs)
    if not ref_of(refs, h).in_order:
        raise Unfit("the state's axes are in another order")
    finder = Finder(reader, h, {h}, refs)
    activation, n_ref = finder.activation(n)
    gate_activation, z_ref = finder.activation(z)
    if sign < 0 and gate_activation.name != "sigmoid":
        raise Unfit(f"one minus {gate_activation} is no {gate_activation}")
    n_terms = reader.terms(n_ref)
    if n_terms is None:
        raise Unfit("a gate is too large a sum")
    reset_after, r, n_gate = _candidate(finder, n_terms)
    if r.value is z:
        # A minimal gated unit: as a GRU it would compute the one gate twice.
        raise Unfit("one gate both resets and updates")
    r_activation, r_ref = finder.activation(r.value, r)
    if r_activation != gate_activation:
        raise Unfit("its gates have different activations")
    gates = (
        finder.gate(reader.terms(r_ref)),
        finder.gate(reader.terms(z_ref), sign),
        n_gate,
    )
    finder.inside += passed
    types = {ref.value.dtype for ref in (r_ref, z_ref, n_ref)}
    if len(types) != 1:
        raise Unfit("its gates have different dtypes")
    return finder.cell(
        "gru",
        gates,
        None,
        *types,
        activation=activation,
        gate_activation=gate_activation,
        reset_after=reset_after,
    )


def _mixed(
    view: View, terms: Any, h: Value | None, refs: Mapping[Value, Ref]
) -> tuple[Value, Value, Value, int]:
    """The parts of ``a - z * a + z * b``: n, z, h, and the sign of z."""
    single = [m for m, k in terms.items() if len(m) == 1 and k == 1]
    minus = [m for m, k in terms.items() if len(m) == 2 and k == -1]
    plus = [m for m, k in terms.items() if len(m) == 2 and k == 1]
    if len(terms) != 3 or not len(single) == len(minus) == len(plus) == 1:
        raise Unfit("the state is not (1 - z) * n + z * h")
    (a,) = single[0]
    if a not in minus[0]:
        raise Unfit("the state is not (1 - z) * n + z * h")
    (z,) = minus[0] - {a}
    if z not in plus[0]:
        raise Unfit("the state is not (1 - z) * n + z * h")
    (b,) = plus[0] - {z}
    if h is not None:
        if (a is h) == (b is h):
            raise Unfit("the state is not (1 - z) * n + z * h")
    else:
        gates = [v.ndim > 0 and activation_of(view, ref_of(refs, v)) is not None for v in (a, b)]
        # The old state may itself be a gate's value, but n must be.
        if gates[0] and not gates[1]:
            h = b
        elif gates[1] and not gates[0]:
            h = a
        else:
            raise Unfit("it is not clear which part is the old state")
    assert h is not None
    return (b, z, h, -1) if a is h else (a, z, h, 1)


def _candidate(finder: Finder, terms: list[Term]) -> tuple[bool, Ref, Gate]:
    """How the reset gate enters n: whether after the product, its value, and the gate."""
    reader, view = finder.reader, finder.view
    gated = [t for t in terms if isinstance(t, Gated) and finder.h is not None]
    for term in gated:
        for r, rest in ((term.left, term.right), (term.right, term.left)):
            if activation_of(view, r) is None or not r.axes:
                continue
            inner = finder.gate(reader.terms(rest))
            if not inner.hidden or inner.inputs:
                continue
            if any(isinstance(t, Opaque) for t in inner.rest) or term.sign != 1:
                continue
            outer = finder.gate([t for t in terms if t is not term])
            if outer.hidden:
                raise Unfit("the candidate has the state outside of the reset gate too")
            biases = tuple(t for t in inner.rest if isinstance(t, Bias))
            gate = Gate(inner.hidden, outer.inputs, outer.rest, biases)
            return True, _whole(r), gate
    return _candidate_before(finder, terms)


def _candidate_before(finder: Finder, terms: list[Term]) -> tuple[bool, Ref, Gate]:
    """``n = tanh(x @ w + (r * h) @ u + b)``."""
    view, h = finder.view, finder.h
    assert h is not None
    for term in terms:
        if not isinstance(term, Product):
            continue
        for product in finder.reader.sources(term, {h}) or ():
            node = view.producer(product.source.value)
            if node is None or node.op != "mul" or not product.source.in_order:
                continue
            a, b = (through(view, v) for v in view.inputs(node))
            if (a is h) == (b is h):
                continue
            r = view.inputs(node)[1 if a is h else 0]
            if not r.ndim or activation_of(view, Ref.whole(r)) is None:
                continue
            reset = node.output
            whole = Finder(finder.reader, reset, {h, reset})
            gate = whole.gate(terms)
            finder.types |= whole.types
            finder.precisions |= whole.precisions
            finder.inside += [reset]
            return False, Ref.whole(r), gate
    raise Unfit("no reset gate enters the candidate")


def _whole(ref: Ref) -> Ref:
    if (ref.lo, ref.hi) != (0, ref.value.shape[ref.features]):
        raise Unfit("the reset gate is a part of an array")
    return ref
