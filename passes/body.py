"""Patterns for nodes with a body: a ``scan``, a custom derivative, a ``remat``.

::

    # a custom derivative around max(x, 0)
    body("custom_jvp_call", op("max", any_value("x"), 0.0))

A name inside the body stands for the node's operand that the body is given there: for ``scan`` a
constant, an initial carry, or a whole array of which the body sees one row at a time.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

from jaxpress.capture import Graph, Literal, Node, PassError, Value
from jaxpress.capture.template import inline_calls
from jaxpress.passes.constraints import constraint_of
from jaxpress.passes.pattern_base import Ops, Pattern, State, done, names_of
from jaxpress.passes.pattern_ops import same_param
from jaxpress.passes.view import GraphView, View

__all__ = ["Body", "body", "body_operands"]


class Body(Pattern):
    """An operation whose body's results fit patterns.

    A rule that starts at a custom derivative gives up that derivative: its replacement must have
    the same one, or be for results that nobody differentiates.

    Args:
      names: the operation, or several: ``"scan"``, ``"custom_jvp_call"``, ``"remat2"``, ...
      *results: a pattern for each of the body's results in order; one pattern with several
        results, such as ``traced(fn)``, stands for all of them.
      which: which body, for an operation that has several (``cond``'s branches, ``while``'s
        condition and body).
      name: capture the node under this name.
      params: parameters that must be equal, or predicates of them.
      where: a further condition on the node.
      output: which of the node's results is meant, where it is an operand of another pattern.
      **constraints: on that result, as of :class:`~jaxpress.passes.pattern.AnyValue`.
    """

    def __init__(
        self,
        names: Ops,
        *results: Pattern,
        which: int = 0,
        name: str = "",
        params: Mapping[str, Any] | None = None,
        where: Callable[[View, Node], bool] | None = None,
        output: int = 0,
        **constraints: Any,
    ):
        self.names = names_of(names)
        self.results = results
        self.which = which
        self.name = name
        self.params = dict(params or {})
        self.where = where
        self.output = output
        self.constraint = constraint_of(constraints)
        self.size = 1 + sum(p.size for p in results)
        if not results:
            raise PassError("body(...): give a pattern for each of the body's results")

    def match(self, value: Value, state: State, then: Callable[[], bool] = done) -> bool:
        node = state.view.producer(value)
        if node is None or node.op not in self.names:
            made_by = node.op if node else "no operation"
            return state.fail(
                lambda: f"{value!r} comes from {made_by}, not from {'/'.join(sorted(self.names))}",
                node,
                part=self,
            )
        if self.output >= len(node.outputs) or node.outputs[self.output] is not value:
            return state.fail(lambda: f"{value!r} is another result of {node.op}", node, part=self)
        return self.match_node(node, state, then)

    def match_node(self, node: Node, state: State, then: Callable[[], bool] = done) -> bool:
        """Whether ``node`` and its body fit."""
        bodies = node.subgraphs
        if node.op not in self.names or self.which >= len(bodies):
            return state.fail(f"{node.op} has {len(bodies)} bodies", node, part=self)
        for key, wanted in self.params.items():
            got = node.params.get(key)
            if not (wanted(got) if callable(wanted) else same_param(got, wanted)):
                return state.fail(f"{node.op} has {key}={got!r}", node, part=self)
        if self.where is not None and not self.where(state.view, node):
            return state.fail(f"{node.op} does not meet the pattern's condition", node, part=self)
        inside = _without_calls(bodies[self.which])
        effectful = next((inner for inner in inside.nodes if inner.effects), None)
        if effectful is not None:
            return state.fail(f"{effectful!r} in its body has an effect", node, part=self)
        mark = state.mark()
        if self.constraint is not None:
            reason = self.constraint.why_not(node.outputs[self.output], state)
            if reason is not None:
                return state.fail(reason, node, part=self) or state.undo(mark)
        if node not in state.matched:
            state.bind(state.matched, node, None)
        if self.name and self.name not in state.nodes:
            state.bind(state.nodes, self.name, node)
        outside = body_operands(state.view, node, self.which)
        operands = dict(zip(inside.inputs, outside, strict=True))
        places = {value: i for i, value in enumerate(inside.inputs)}
        arguments = getattr(self.results[0], "arrays", ())
        # Of c + x, either may be the carry: the one that comes first in the body, if that fits.
        for ordered in (True, False):
            inner = State(GraphView(inside), state.explain)

            def fits_outside(inner: State = inner, ordered: bool = ordered) -> bool:
                bound = [inner.values[a] for a in arguments if a in inner.values]
                taken = [places[value] for value in bound if value in places]
                if ordered and taken != sorted(taken):
                    return inner.fail("its arguments are in another order", node)
                return self._bind(inner, operands, state, node, then)

            if self._match_results(inside, inner, fits_outside):
                return True
            if len(arguments) < 2:
                break
        complete, depth, close = inner.miss[0]
        nearness = (complete, depth + len(state.matched), close)
        if state.explain and nearness > state.miss[0]:
            # What is in the body is nearer than the node that holds it.
            reason, at = inner.miss[1], inner.miss[2]
            at = at if at is not None and at.source else node
            state.miss = (nearness, f"in the body of {node.op}: {reason}", at)
            state.missed_part = inner.missed_part
        return state.undo(mark)

    def _match_results(self, inside: Graph, inner: State, then: Callable[[], bool]) -> bool:
        whole = self.results[0]
        if len(self.results) == 1 and hasattr(whole, "match_values"):
            return whole.match_values(inside.outputs, inner, then)  # type: ignore[attr-defined]
        if len(inside.outputs) != len(self.results):
            return inner.fail(f"there are {len(inside.outputs)} results, not {len(self.results)}")

        def rest(i: int) -> bool:
            if i == len(self.results):
                return then()
            return self.results[i].match(inside.outputs[i], inner, lambda: rest(i + 1))

        return rest(0)

    def _bind(
        self,
        inner: State,
        operands: dict[Value, Value],
        state: State,
        node: Node,
        then: Callable[[], bool],
    ) -> bool:
        """Bind the names of the body to the node's operands."""
        captured: list[tuple[str, Value]] = []
        for name, value in inner.values.items():
            outside = value if isinstance(value, Literal) else operands.get(value)
            if outside is None:
                return inner.fail(f"{name}: {value!r} is computed in the body", node)
            captured.append((name, outside))
        mark = state.mark()
        for name, inner_node in inner.nodes.items():
            if name not in state.nodes:
                state.bind(state.nodes, name, inner_node)

        def rest(i: int) -> bool:
            if i == len(captured):
                return then()
            return state.capture(*captured[i], lambda: rest(i + 1), self)

        return rest(0) or state.undo(mark)

    @property
    def parts(self) -> tuple[Pattern, ...]:
        return self.results

    def __str__(self) -> str:
        return f"{'/'.join(sorted(self.names))}{{{', '.join(map(str, self.results))}}}"


def body(names: Ops, *results: Pattern, **options: Any) -> Body:
    """An operation whose body's results fit patterns; options are those of :class:`Body`.

    >>> from jaxpress.passes.pattern import any_value, op
    >>> relu_like = body("custom_jvp_call", op("max", any_value("x"), 0.0))
    """
    return Body(names, *results, **options)


_inlined: weakref.WeakKeyDictionary[Graph, Graph] = weakref.WeakKeyDictionary()


def _without_calls(graph: Graph) -> Graph:
    """A body with the calls to ``jit`` in it spelled out, as ``jax.nn.relu``'s has one."""
    if graph not in _inlined:
        _inlined[graph] = inline_calls(graph)
    return _inlined[graph]


def body_operands(view: View, node: Node, which: int = 0) -> tuple[Value, ...]:
    """The node's operands in the order in which the body takes them.

    Raises:
      PassError: it is not known how this operation calls its body.
    """
    inputs = view.inputs(node)
    if node.op == "cond":
        inputs = inputs[1:]
    elif node.op == "while":
        n, m = node.params["cond_nconsts"], node.params["body_nconsts"]
        carry = inputs[n + m :]
        inputs = (*(inputs[:n] if which == 0 else inputs[n : n + m]), *carry)
    if len(inputs) != len(node.subgraphs[which].inputs):
        raise PassError(f"it is not known how {node.op} calls its body")
    return inputs
