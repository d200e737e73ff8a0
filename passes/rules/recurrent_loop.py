"""What a ``scan`` carries along, and what of its body can run for all steps at once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpress.capture import Graph, Node, Value, compat
from jaxpress.capture.edit import Editor
from jaxpress.capture.evaluate import evaluate
from jaxpress.passes.cleanup import eliminate_common_subexpressions, eliminate_dead_code, inline
from jaxpress.passes.engine import rewrite
from jaxpress.passes.rules.cleanup import CLEANUP_RULES
from jaxpress.passes.rules.raise_activation import activation_rules
from jaxpress.passes.rules.recurrent_polynomial import Unfit
from jaxpress.passes.rules.recurrent_terms import Reader
from jaxpress.passes.view import scalar_value

__all__ = ["Loop", "replay"]

_MAX_NODES = 400
_MAX_CARRY = 8
# Random draws step by step are not those of all steps at once.
_DRAWS = ("random_", "threefry", "rng_", "philox")


@dataclass(frozen=True)
class Counter:
    """A carried whole number that goes up by ``step`` each time."""

    slot: int
    step: int


class Loop:
    """A ``scan``'s body in its simplest form, and what depends on what.

    Attributes:
        body: the body: calls inlined, repetitions merged, activations named.
        view: the body as rules look at it.
        consts, carry, xs: its inputs.
        carry_out, ys: its outputs.
        states: which carried values change, by their places.
        kept: which carried values stay as they are.
        counters: which are counters.

    Args:
        node: the ``scan``.

    Raises:
        Unfit: it is too large, or does what cannot be moved.
    """

    def __init__(self, node: Node):
        (body,) = node.subgraphs
        n_consts, n_carry = compat.scan_counts(node.params)
        if len(body.nodes) > _MAX_NODES or n_carry > _MAX_CARRY + n_consts:
            raise Unfit("its body is too large for a cell")
        if node.effects or any(n.effects for n in body.walk()):
            raise Unfit("it has effects")
        products = {"dot_general", "dense", "jit", "pjit", "closed_call"}
        products |= {"lstm_cell", "gru_cell", "rnn_cell"}
        if not any(n.op in products for n in body.nodes):
            raise Unfit("there is no product in its body")
        body = eliminate_common_subexpressions(rewrite(inline(body), CLEANUP_RULES))
        body = rewrite(body, activation_rules(body.count()))
        # A graph of its own, so that what is remembered by the node's body does not keep it alive.
        self.body = body = eliminate_dead_code(body).with_parts()
        self.view = Editor(body)
        self.consts = body.inputs[:n_consts]
        self.carry = body.inputs[n_consts : n_consts + n_carry]
        self.xs = body.inputs[n_consts + n_carry :]
        self.carry_out = body.outputs[:n_carry]
        self.ys = body.outputs[n_carry:]
        self.kept: list[int] = []
        self.counters: list[Counter] = []
        self.states: list[int] = []
        for i, (v, new) in enumerate(zip(self.carry, self.carry_out, strict=True)):
            if v is new:
                self.kept.append(i)
            elif (step := self._counts(v, new)) is not None:
                self.counters.append(Counter(i, step))
            else:
                self.states.append(i)
        self._steady: set[Value] = {*self.consts, *(self.carry[i] for i in self.kept)}
        self._steady |= set(body.constants)
        self._free: set[Value] = {*self.xs, *(self.carry[c.slot] for c in self.counters)}
        for n in body.nodes:
            if n.op.startswith(_DRAWS):
                continue
            inputs = [v for v in n.inputs if v not in self._steady and hasattr(v, "val") is False]
            if not inputs:
                self._steady.update(n.outputs)
            elif all(v in self._free for v in inputs):
                self._free.update(n.outputs)

    @property
    def values(self) -> set[Value]:
        """Every value of the body."""
        made = {v for node in self.body.nodes for v in node.outputs}
        return made | {*self.body.inputs, *self.body.constants}

    def _counts(self, v: Value, new: Value) -> int | None:
        node = self.view.producer(new)
        if node is None or node.op != "add" or v.shape or not jnp.issubdtype(v.dtype, np.integer):
            return None
        others = [x for x in self.view.inputs(node) if x is not v]
        number = scalar_value(self.view, others[0]) if len(others) == 1 else None
        return None if number is None else int(number)

    def is_steady(self, value: Value) -> bool:
        """Whether a value is the same at each step."""
        return value in self._steady

    def is_free(self, value: Value) -> bool:
        """Whether a value does not depend on the state."""
        return value in self._steady or value in self._free or hasattr(value, "val")

    def reader(self) -> Reader:
        """A reader of the body."""
        return Reader(self.view, self.is_steady, self.is_free)

    def within(self, results: Iterable[Value]) -> set[Node]:
        """The nodes that depend on the state and that ``results`` are computed by."""
        found: set[Node] = set()
        waiting = list(results)
        while waiting:
            node = self.view.producer(waiting.pop())
            if node is None or node in found or self.is_free(node.outputs[0]):
                continue
            found.add(node)
            waiting.extend(self.view.inputs(node))
        return found

    def reach(
        self, wanted: Iterable[Value], given: Iterable[Value], carried: Collection[Value] = ()
    ) -> list[Node]:
        """The nodes that compute ``wanted`` from ``given``, inputs but the state's, in order.

        Args:
            wanted: values of the body.
            given: values that need not be computed.
            carried: states that may be needed; then it is to run step by step.

        Raises:
            Unfit: they need another state, or draw random numbers for all steps at once.
        """
        stop = set(given)
        needed = {v for v in wanted if v not in stop}
        states = {self.carry[i] for i in self.states}.difference(carried)
        nodes = []
        for node in reversed(self.body.nodes):
            if any(v in needed for v in node.outputs):
                if node.op.startswith(_DRAWS) and not carried:
                    raise Unfit("it draws random numbers at each step")
                nodes.append(node)
                needed.update(v for v in node.inputs if v not in stop)
        if needed & states:
            raise Unfit("its results are computed from the state in another way")
        nodes.reverse()
        return nodes

    def check_size(self, nodes: Sequence[Node], allowed: int) -> None:
        """Raises Unfit where running nodes for all steps at once would take much memory."""
        total = sum(_size(v) for node in nodes for v in node.outputs)
        if total > allowed:
            raise Unfit("what it computes besides would take much memory for all steps at once")


def _size(value: Value) -> int:
    try:
        return int(np.prod([int(d) for d in value.shape]))
    except TypeError:
        return 1


def replay(
    loop: Loop,
    wanted: Sequence[Value],
    steady: Mapping[Value, Any],
    moving: Mapping[Value, Any],
) -> dict[Value, Any]:
    """Computes values of the body: those that move for all steps at once.

    Args:
        loop: the loop.
        wanted: values.
        steady: arrays that are the same at each step.
        moving: arrays over time, which leads.

    Returns:
        An array for each value; with time in front, unless it is of steady values alone.
    """
    out: dict[Value, Any] = {}
    for v in wanted:
        if v in steady:
            out[v] = steady[v]
        elif v in moving:
            out[v] = moving[v]
    rest = [v for v in dict.fromkeys(wanted) if v not in out]
    if not rest:
        return out
    given = {**steady, **moving}
    nodes = loop.reach(rest, given)
    used = {v for node in nodes for v in node.inputs} | set(rest)
    operands = [v for v in given if v in used]
    constants = {v: a for v, a in loop.body.constant_values.items() if v in used and v not in given}
    graph = Graph("step", operands, nodes, rest, constants)

    def run(*arrays: Any) -> list[Any]:
        return evaluate(graph, arrays)

    arrays = [given[v] for v in operands]
    axes = [0 if v in moving else None for v in operands]
    if any(axis == 0 for axis in axes):
        run = jax.vmap(run, in_axes=axes)
    out.update(zip(rest, run(*arrays), strict=True))
    return out
