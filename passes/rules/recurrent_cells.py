"""LSTM and simple recurrent cells, recognised by what they compute; see recurrent_gru for GRUs.

The new state is expanded as a polynomial in the old state and the values of activations.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jaxpress import nnops
from jaxpress.capture import Node, Value
from jaxpress.passes.rules.recurrent_polynomial import Unfit, polynomial, ref_of, through
from jaxpress.passes.rules.recurrent_refs import Ref, step_back
from jaxpress.passes.rules.recurrent_terms import Bias, Gated, Opaque, Product, Reader, Term
from jaxpress.passes.view import View

__all__ = [
    "Cell",
    "Finder",
    "Gate",
    "activation_of",
    "find_lstm",
    "find_rnn",
]

_GATES = frozenset({"logistic", "tanh"})


@dataclass(frozen=True)
class Gate:
    """One gate before its activation.

    Attributes:
        hidden: products with the state.
        hidden_biases: what is added to them inside of a reset gate.
        inputs: all other products.
        rest: biases, and terms of no such kind.
        sign: -1 where the op's gate is one minus this one.
    """

    hidden: tuple[Product, ...]
    inputs: tuple[Product, ...]
    rest: tuple[Bias | Opaque, ...]
    hidden_biases: tuple[Bias, ...] = ()
    sign: int = 1


@dataclass(frozen=True)
class Cell:
    """A recurrent cell in the graph, its gates in the order of the named op.

    Attributes:
        kind: ``"lstm"``, ``"gru"`` or ``"rnn"``.
        gates: in order.
        h, c: the old state; c is None but for an LSTM.
        params: the named op's static parameters.
        hidden: how many hidden features.
        work, state: the dtypes of gates and states.
        inside: values computed on the way that nobody else may use.
    """

    kind: str
    gates: tuple[Gate, ...]
    h: Value
    c: Value | None
    params: tuple[tuple[str, Any], ...]
    hidden: Any
    work: Any
    state: Any
    inside: tuple[Value, ...]


def activation_of(view: View, ref: Ref) -> tuple[Any, Ref, Node] | None:
    """The activation behind ``ref`` and the columns that it is of, and its node."""
    while True:
        node = view.producer(ref.value)
        if node is None:
            return None
        if node.op in _GATES:
            name = "sigmoid" if node.op == "logistic" else "tanh"
            found = nnops.to_activation(name)
        elif node.op in nnops.activation_entries() and len(view.inputs(node)) == 1:
            if "mapped" in node.params:
                return None
            params = {k: node.params[k] for k in nnops.activation_entries()[node.op].defaults}
            found = nnops.to_activation((node.op, params))
        else:
            before = step_back(view, ref)
            if before is None:
                return None
            ref = before
            continue
        return found, ref.of(view.inputs(node)[0]), node


class Finder:
    """What recognising each kind of cell shares."""

    def __init__(
        self,
        reader: Reader,
        h: Value | None,
        states: Collection[Value],
        refs: Mapping[Value, Ref] | None = None,
    ):
        self.reader = reader
        self.refs = refs or {}
        self.view = reader.view
        self.h = h
        self.states = set(states)
        self.types: set[Any] = set()
        self.precisions: set[Any] = set()
        self.inside: list[Value] = []

    def activation(self, value: Value, ref: Ref | None = None) -> tuple[Any, Ref]:
        """The activation that ``value`` is columns of, and what it is of."""
        if not value.ndim:
            raise Unfit("a scalar is no gate")
        found = activation_of(self.view, ref or ref_of(self.refs, value))
        if found is None:
            raise Unfit(f"{value!r} is no activation")
        activation, ref, node = found
        self.inside += [value, node.output]
        return activation, ref

    def gate(self, terms: list[Term] | None, sign: int = 1) -> Gate:
        """Sorts a sum's terms; a product with a concatenation of x and h is taken apart."""
        if terms is None:
            raise Unfit("a gate is too large a sum")
        hidden: list[Product] = []
        inputs: list[Product] = []
        rest: list[Bias | Opaque] = []
        for term in terms:
            if isinstance(term, Gated):
                term = Opaque(self._whole_of(term), term.sign)
            if isinstance(term, Opaque) and not self.reader.is_plain(term.ref.value):
                raise Unfit(f"{term.ref.value!r} is a part of a gate that is not understood")
            if not isinstance(term, Product):
                rest.append(term)
                continue
            self.types.add(term.weight.dtype)
            self.precisions.add(term.precision)
            for product in self.reader.sources(term, self.states) or ():
                value = product.source.value
                if value is self.h:
                    if not product.source.in_order or product.source.lo != 0:
                        raise Unfit("the state's axes are in another order")
                    hidden.append(product)
                elif value in self.states or not self.reader.is_plain(value):
                    raise Unfit(f"a gate is a product with {value!r}")
                else:
                    inputs.append(product)
        return Gate(tuple(hidden), tuple(inputs), tuple(rest), sign=sign)

    def _whole_of(self, term: Gated) -> Ref:
        users = set(self.view.users(term.left.value)) & set(self.view.users(term.right.value))
        for node in users:
            if node.op == "mul" and self.reader.is_plain(node.output):
                return term.left.of(node.output)
        raise Unfit("a product of two arrays is a part of a gate")

    def cell(
        self, kind: str, gates: tuple[Gate, ...], c: Value | None, work: Any, **params: Any
    ) -> Cell:
        """The cell, where all that every kind asks is fulfilled."""
        h = self.h
        assert h is not None
        if not all(gate.hidden for gate in gates):
            raise Unfit("a gate does not depend on the state")
        state, work = jnp.dtype(h.dtype), jnp.dtype(work)
        if not jnp.issubdtype(work, jnp.floating) or not jnp.issubdtype(state, jnp.floating):
            raise Unfit("it is not of floating-point arrays")
        if c is not None and (c.dtype != h.dtype or c.shape != h.shape):
            raise Unfit("h and c are of different types")
        if jnp.promote_types(work, state) != state:
            raise Unfit(f"gates in {work} are rounded to a state in {state}")
        found = (*self.types, *self.reader.types, *(v.dtype for v in self.inside))
        types = {jnp.dtype(t) for t in found}
        if not types <= {work, state}:
            raise Unfit(f"it is computed in {sorted(map(str, types))}")
        if len(self.precisions) > 1:
            raise Unfit("its products have different precisions")
        (precision,) = self.precisions
        hidden = h.shape[-1]
        for gate in gates:
            for product in gate.hidden:
                if product.columns[1] - product.columns[0] != hidden or product.rows != (
                    product.rows[0],
                    product.rows[0] + hidden,
                ):
                    raise Unfit("a gate has not one column for each hidden feature")
                if product.weight.dtype != work:
                    raise Unfit(f"weights are {product.weight.dtype}, gates {work}")
        given = tuple(sorted({**params, "precision": precision}.items()))
        return Cell(kind, gates, h, c, given, hidden, work, state, tuple(self.inside))


def find_rnn(reader: Reader, new: Value, h: Value) -> Cell:
    """``h = activation(x @ w + h @ u + b)``.

    Raises:
        Unfit: it is not.
    """
    finder = Finder(reader, h, {h})
    activation, ref = finder.activation(through(reader.view, new))
    gate = finder.gate(reader.terms(ref))
    return finder.cell("rnn", (gate,), None, ref.value.dtype, activation=activation)


def find_lstm(reader: Reader, new_h: Value, new_c: Value, h: Value | None, c: Value | None) -> Cell:
    """``c = f * c + i * g`` and ``h = o * tanh(c)``.

    Args:
        reader: of the graph.
        new_h, new_c: the new state.
        h, c: the old state; found if None.

    Raises:
        Unfit: it is not.
    """
    view = reader.view
    target = through(view, new_c)
    terms, passed, refs = polynomial(view, new_c, set() if c is None else {c}, alone=c is None)
    if len(terms) != 2 or any(len(m) != 2 or k != 1 for m, k in terms.items()):
        raise Unfit("the cell state is not f * c + i * g")
    out, more, others = polynomial(view, new_h, set())
    if len(out) != 1 or any(len(m) != 2 or k != 1 for m, k in out.items()):
        raise Unfit("the output is not o * activation(c)")
    (factors,) = out
    finder = Finder(reader, h, {v for v in (h, c) if v is not None}, {**others, **refs})
    last = [v for v in factors if _is_of(finder, v, target)]
    if len(last) != 1:
        raise Unfit("the output is not o * activation(c)")
    (o,) = factors - {last[0]}
    activation, _ = finder.activation(last[0])
    forget = _forgetting(finder, terms, c)
    c, f = forget
    if not ref_of(refs, c).in_order:
        raise Unfit("the state's axes are in another order")
    (other,) = [m for m in terms if m != frozenset(forget)]
    found = {name: finder.activation(v) for name, v in (("f", f), ("o", o))}
    gate_activation = found["f"][0]
    a, b = other
    found_a, found_b = finder.activation(a), finder.activation(b)
    if found_a[0] == gate_activation and found_b[0] == activation:
        found["i"], found["g"] = found_a, found_b
    else:
        found["i"], found["g"] = found_b, found_a
    if found["i"][0] != gate_activation or found["o"][0] != gate_activation:
        raise Unfit("its gates have different activations")
    if found["g"][0] != activation:
        raise Unfit("the cell's input and output have different activations")
    refs = [found[name][1] for name in "ifgo"]
    sums = [reader.terms(ref) for ref in refs]
    if finder.h is None:
        finder.h = _state_among(finder, sums, c)
    finder.states |= {finder.h, c}
    gates = tuple(finder.gate(terms) for terms in sums)
    finder.inside += [*passed, *more]
    types = {ref.value.dtype for ref in refs}
    if len(types) != 1:
        raise Unfit("its gates have different dtypes")
    return finder.cell(
        "lstm", gates, c, *types, activation=activation, gate_activation=gate_activation
    )


def _forgetting(finder: Finder, terms: Any, c: Value | None) -> tuple[Value, Value]:
    """The old cell state and the forget gate, of which one term is the product."""
    for m in terms:
        for a in m:
            (b,) = m - {a}
            if a is c:
                return a, b
            if c is None and a.ndim and activation_of(finder.view, ref_of(finder.refs, a)) is None:
                # Of a lone cell: the one factor that is no gate.
                return a, b
    raise Unfit("no term is a gate times the old cell state")


def _is_of(finder: Finder, value: Value, target: Value) -> bool:
    """Whether ``value`` is an activation of ``target``, whole."""
    if not value.ndim:
        return False
    found = activation_of(finder.view, ref_of(finder.refs, value))
    if found is None or not found[1].in_order:
        return False
    ref = found[1]
    return through(finder.view, ref.value) is target and (ref.lo, ref.hi) == (0, target.shape[-1])


def _state_among(finder: Finder, sums: list[Any], c: Value) -> Value:
    """The old output of a lone LSTM cell: the source of a product that has its shape.

    Between x and h of one shape nothing but the order tells, and it makes no difference: the
    output of the cell that made c, then what comes last.
    """
    first = [t for t in sums[0] or () if isinstance(t, Product)]
    products = [p for t in first for p in finder.reader.sources(t, set()) or ()]
    fitting = [p.source.value for p in products if p.source.in_order]
    fitting = [v for v in fitting if v.shape == c.shape]
    if len(products) < 2 or not fitting:
        raise Unfit("its gates are not sums of products with x and with h")
    maker = finder.view.producer(c)
    for v in fitting:
        if maker is not None and finder.view.producer(v) is maker:
            return v
    return fitting[-1]
