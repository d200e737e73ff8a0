"""One step of an LSTM or a GRU becomes ``lstm_cell`` or ``gru_cell``.

A cell that is called by itself, in a loop written out, or beside other things in a loop's body. A
simple recurrent cell is not looked for: ``tanh(x @ w + h @ u + b)`` is many other things too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from jax import lax

from jaxpress import nnops
from jaxpress.capture import Literal, Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.recurrent_cells import Cell, activation_of, find_lstm
from jaxpress.passes.rules.recurrent_gru import find_gru
from jaxpress.passes.rules.recurrent_operands import data_of, operands_for, weights_of
from jaxpress.passes.rules.recurrent_polynomial import Unfit, through
from jaxpress.passes.rules.recurrent_refs import Ref
from jaxpress.passes.rules.recurrent_terms import Reader, is_stored
from jaxpress.passes.view import View, scalar_value

__all__ = ["RECURRENT_CELL_RULES"]

_SUMS = ("add", "add_any")
_MAX_NODES = 200


class _Plan:
    """A cell, and the values that the replacement is given in its order.

    Two are equal if they say the same of values that stand at the same places.
    """

    def __init__(self, cell: Cell, values: tuple[Value, ...]):
        self.cell = cell
        self.values = values
        places = {v: i for i, v in enumerate(values)}
        self.key = _frozen(dataclasses.replace(cell, inside=()), places)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Plan) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def _frozen(what: Any, places: dict[Value, int]) -> Any:
    """A cell's description with places instead of values."""
    if isinstance(what, Literal):
        return "literal", str(what.dtype), repr(what.val)
    if isinstance(what, Value):
        return "value", places.get(what)  # None for one in between, which nothing is made from
    if dataclasses.is_dataclass(what) and not isinstance(what, nnops.Activation):
        fields = (getattr(what, f.name) for f in dataclasses.fields(what))
        return type(what).__name__, *(_frozen(v, places) for v in fields)
    if isinstance(what, tuple):
        return tuple(_frozen(v, places) for v in what)
    return what


def _reader(view: View) -> Reader:
    def is_weight(v: Value) -> bool:
        return scalar_value(view, v) is None and is_stored(view, v)

    return Reader(view, is_weight, lambda v: True, loose=True)


def _match(view: View, node: Node, cell: Cell, outputs: tuple[Value, ...]) -> Match:
    states = [v for v in (cell.h, cell.c) if v is not None]
    parts = (*states, *weights_of(cell), *(ref.value for ref in data_of(cell)))
    values = tuple(dict.fromkeys(parts))
    named = {f"v{i}": v for i, v in enumerate(values)}
    matched = _between(view, outputs, values)
    return Match(
        view, node, named, matched=matched, info={"plan": _Plan(cell, values)}, outputs=outputs
    )


def _between(view: View, outputs: Iterable[Value], stops: Iterable[Value]) -> list[Node]:
    """The nodes that make ``outputs`` from ``stops``; what others use of weights is left to them.

    Raises:
        Unfit: they are too many.
    """
    seen: dict[Node, None] = {}
    stop = set(stops)
    waiting = list(outputs)
    while waiting:
        value = waiting.pop()
        node = view.producer(value)
        if value in stop or node is None or node in seen or view.is_known(value):
            continue
        # A bias that is spread out once serves every step.
        if view.use_count(value) > 1 and is_stored(view, value):
            continue
        if len(seen) >= _MAX_NODES:
            raise Unfit("the cell is too large")
        seen[node] = None
        waiting.extend(view.inputs(node))
    for node in list(seen):
        for v in node.outputs:
            # What nobody needs goes too, such as an empty slice of a product.
            dead = (user for user in view.users(v) if not user.effects)
            seen.update((user, None) for user in dead if not any(map(view.use_count, user.outputs)))
    return list(seen)


class _LstmCell:
    """``c = f * c + i * g`` and ``h = o * tanh(c)``, from h."""

    names = frozenset({"mul"})
    size = 20

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        new_c = self._cell_state(view, node)
        if new_c is None:
            state.fail("it is not o * activation(f * c + i * g)", node)
            return None
        try:
            cell = find_lstm(_reader(view), node.output, new_c, None, None)
            return _match(view, node, cell, (node.output, new_c))
        except Unfit as reason:
            state.fail(f"it is no LSTM cell: {reason}", node, close=True)
            return None

    def _cell_state(self, view: View, node: Node) -> Value | None:
        """What one factor is an activation of, if that is a sum of two products."""
        for v in view.inputs(node):
            maker = view.producer(through(view, v))
            if maker is None or len(maker.outputs) != 1 or len(view.inputs(maker)) != 1:
                continue
            if maker.op != "tanh" and maker.op not in nnops.activation_entries():
                continue
            inner = through(view, view.inputs(maker)[0])
            total = view.producer(inner)
            if total is None or total.op not in _SUMS:
                continue
            parts = (_maker(view, p) for p in view.inputs(total))
            if all(p is not None and p.op == "mul" for p in parts):
                return inner
        return None


def _maker(view: View, value: Value) -> Node | None:
    """What computes a value, behind conversions and transposes."""
    while True:
        node = view.producer(through(view, value))
        if node is None or node.op != "transpose":
            return node
        value = view.inputs(node)[0]


class _GruCell:
    """``h = (1 - z) * n + z * h``, however it is written."""

    names = frozenset({"add", "add_any", "sub"})
    size = 20

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        if not self._mixes(view, node):
            state.fail("it is not a mixture of two arrays by a gate", node)
            return None
        try:
            cell = find_gru(_reader(view), node.output, None)
            return _match(view, node, cell, (node.output,))
        except Unfit as reason:
            state.fail(f"it is no GRU cell: {reason}", node, close=True)
            return None

    def _mixes(self, view: View, node: Node) -> bool:
        """A quick look: z * a + (1 - z) * b, or b + z * (a - b)."""
        makers = [view.producer(through(view, v)) for v in view.inputs(node)]
        products = [m for m in makers if m is not None and m.op == "mul"]
        for product in products:
            differences = gates = 0
            for v in view.inputs(product):
                maker = view.producer(through(view, v))
                if maker is not None and maker.op == "sub":
                    differences += 1
                    v = view.inputs(maker)[1]
                if v.ndim and not isinstance(v, Literal):
                    found = activation_of(view, Ref.whole(v))
                    gates += found is not None and found[0].name.endswith("sigmoid")
            if gates and (differences or len(products) == 2):
                return True
        return False


def _raise_cell(*, match: Match, **given: Any) -> Any:
    plan: _Plan = match.info["plan"]
    cell = plan.cell
    arrays = {v: given[f"v{i}"] for i, v in enumerate(plan.values)}

    def columns(ref: Ref) -> Any:
        x = lax.transpose(arrays[ref.value], ref.axes)
        x = x if (ref.lo, ref.hi) == (0, x.shape[-1]) else x[..., ref.lo : ref.hi]
        shape = (*cell.h.shape[:-1], x.shape[-1])
        return x if x.shape == shape else lax.broadcast_in_dim(x, shape, range(x.ndim))

    operands = operands_for(cell, arrays.__getitem__, columns)
    operands["h"] = arrays[cell.h]
    if cell.c is not None:
        operands["c"] = arrays[cell.c]
    return nnops.registry()[f"{cell.kind}_cell"].rebind(operands, **dict(cell.params))


# o * tanh(f * c + i * g) -> lstm_cell(x, h, c, w_ih, w_hh, b)
RAISE_LSTM_CELL = Rule("raise_lstm_cell", _LstmCell(), _raise_cell, numerics="reassociates")

# (1 - z) * n + z * h -> gru_cell(x, h, w_ih, w_hh, b, b_hh)
RAISE_GRU_CELL = Rule("raise_gru_cell", _GruCell(), _raise_cell, numerics="reassociates")

RECURRENT_CELL_RULES = RuleSet((RAISE_LSTM_CELL, RAISE_GRU_CELL))
