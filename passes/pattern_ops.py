"""The patterns that are made of others: operations, alternatives, wrappers, repeated operands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jaxpress.capture import Node, PassError, Value
from jaxpress.passes.constraints import constraint_of
from jaxpress.passes.pattern_base import (
    AnyValue,
    Ops,
    Pattern,
    Scalar,
    State,
    done,
    mark_recurring,
    names_of,
)
from jaxpress.passes.view import View

__all__ = ["COMMUTATIVE", "AnyOf", "Op", "Repeated", "Through", "same_param"]

COMMUTATIVE = frozenset({"add", "mul", "max", "min", "and", "or", "xor", "eq", "ne", "add_any"})


class Op(Pattern):
    """One operation by name, with patterns for its operands.

    Args:
      names: the op's name or its primitive, or several of which any will do.
      operands: a pattern each, the last perhaps :func:`repeated`; left out, any will do.
      name: capture the node under this name.
      params: parameters that must be equal, or predicates of them.
      where: a further condition on the node.
      output: which of the node's results is meant.
      commutative: whether two operands may be swapped; known by the op's name if left out.
      **constraints: on that result, as of :class:`AnyValue`.
    """

    def __init__(
        self,
        names: Ops,
        *operands: Pattern,
        name: str = "",
        params: Mapping[str, Any] | None = None,
        where: Callable[[View, Node], bool] | None = None,
        output: int = 0,
        commutative: bool | None = None,
        **constraints: Any,
    ):
        self.names = names_of(names)
        self.operands = operands
        self.name = name
        self.params = dict(params or {})
        self.where = where
        self.output = output
        self.constraint = constraint_of(constraints)
        if any(isinstance(p, Repeated) for p in operands[:-1]):
            raise PassError(f"{self}: only the last operand of a pattern may be repeated")
        if commutative is None:
            commutative = self.names <= COMMUTATIVE
        self.commutative = commutative and len(operands) == 2
        self.size = 1 + sum(p.size for p in operands)
        # The operands that a glance can refuse, for `may_fit`.
        self._tests = tuple((i, p.may_be) for i, p in enumerate(operands) if p.may_be is not None)
        mark_recurring(operands)

    def match(self, value: Value, state: State, then: Callable[[], bool] = done) -> bool:
        node = state.view.producer(value)
        if node is None or node.op not in self.names:
            return state.fail(
                lambda: (
                    f"{value!r} comes from {node.op if node else 'no operation'}, "
                    f"not from {' or '.join(sorted(self.names))}"
                ),
                node,
                part=self,
            )
        if self.output >= len(node.outputs) or node.outputs[self.output] is not value:
            return state.fail(lambda: f"{value!r} is another result of {node.op}", node, part=self)
        if not self.recurs:
            return self.match_node(node, state, then)
        # A part that occurs twice stands for one value: what fitted once fits again.
        key = id(self)
        if state.parts.get(key) is value:
            return then()
        mark = state.mark()
        if key not in state.parts:
            state.bind(state.parts, key, value)
        return self.match_node(node, state, then) or state.undo(mark)

    def may_be(self, view: View, value: Value) -> bool:
        node = view.producer(value)
        return node is not None and node.op in self.names

    def may_fit(self, view: View, node: Node) -> bool:
        inputs = view.inputs(node)
        if not self._tests or len(inputs) != len(self.operands):
            return True
        if all(may_be(view, inputs[i]) for i, may_be in self._tests):
            return True
        return self.commutative and all(may_be(view, inputs[1 - i]) for i, may_be in self._tests)

    def match_node(self, node: Node, state: State, then: Callable[[], bool] = done) -> bool:
        """Whether ``node`` itself fits."""
        if node.op not in self.names:
            return state.fail(
                lambda: f"{node.op} is not {' or '.join(sorted(self.names))}", node, part=self
            )
        for key, wanted in self.params.items():
            got = node.params.get(key)
            if not (wanted(got) if callable(wanted) else same_param(got, wanted)):
                but = "" if callable(wanted) else f", not {wanted!r}"
                return state.fail(
                    lambda key=key, got=got, but=but: f"{node.op} has {key}={got!r}{but}",
                    node,
                    part=self,
                )
        if self.where is not None and not self.where(state.view, node):
            return state.fail(
                lambda: f"{node.op} does not meet the pattern's condition", node, part=self
            )
        mark = state.mark()
        if self.constraint is not None:
            reason = self.constraint.why_not(node.outputs[self.output], state)
            if reason is not None:
                return state.fail(reason, node, part=self) or state.undo(mark)
        if node not in state.matched:
            state.bind(state.matched, node, None)
        if self.name:
            bound = state.nodes.get(self.name)
            if bound is None:
                state.bind(state.nodes, self.name, node)
            elif bound is not node:
                return state.undo(mark)
        operands = self.operands
        if not operands:
            return then() or state.undo(mark)
        inputs = state.view.inputs(node)
        if isinstance(operands[-1], Repeated):
            return self._match_repeated(node, inputs, state, then) or state.undo(mark)
        if len(inputs) != len(operands):
            state.fail(
                lambda: f"{node.op} has {len(inputs)} operands, not {len(operands)}",
                node,
                part=self,
            )
            return state.undo(mark)
        if self._match_operands(operands, inputs, 0, state, then):
            return True
        if self.commutative and inputs[0] is not inputs[1]:
            swapped = operands[::-1]
            if self._match_operands(swapped, inputs, 0, state, then):
                return True
        return state.undo(mark)

    def _match_operands(
        self,
        patterns: tuple[Pattern, ...],
        inputs: tuple[Value, ...],
        i: int,
        state: State,
        then: Callable[[], bool],
    ) -> bool:
        if i == len(patterns):
            return then()
        return patterns[i].match(
            inputs[i], state, lambda: self._match_operands(patterns, inputs, i + 1, state, then)
        )

    def _match_repeated(
        self, node: Node, inputs: tuple[Value, ...], state: State, then: Callable[[], bool]
    ) -> bool:
        *first, last = self.operands
        assert isinstance(last, Repeated)
        n = len(first)
        if len(inputs) < n + last.at_least:
            return state.fail(
                lambda: f"{node.op} has {len(inputs)} operands, fewer than {n + last.at_least}",
                node,
                part=self,
            )
        return self._match_operands(
            tuple(first), inputs[:n], 0, state, lambda: last.match_all(inputs[n:], state, then)
        )

    @property
    def parts(self) -> tuple[Pattern, ...]:
        return self.operands

    def __str__(self) -> str:
        return f"{'/'.join(sorted(self.names))}({', '.join(map(str, self.operands)) or '...'})"


class AnyOf(Pattern):
    """The first of several patterns that fits."""

    def __init__(self, *choices: Pattern):
        self.choices = choices
        self.size = max(p.size for p in choices)
        if all(p.names for p in choices):
            self.names = frozenset().union(*(p.names for p in choices))

    def match(self, value: Value, state: State, then: Callable[[], bool] = done) -> bool:
        return any(choice.match(value, state, then) for choice in self.choices)

    def match_node(self, node: Node, state: State, then: Callable[[], bool] = done) -> bool:
        """Whether ``node`` fits one of them."""
        return any(choice.match_node(node, state, then) for choice in self.choices if choice.names)

    @property
    def parts(self) -> tuple[Pattern, ...]:
        return self.choices

    def __str__(self) -> str:
        return " | ".join(map(str, self.choices))


class Through(Pattern):
    """A pattern behind one-operand operations, such as reshapes or converts.

    Args:
      inner: the pattern.
      names: the operations.
      most: how many of them there may be.
    """

    def __init__(self, inner: Pattern, names: Ops, most: int | None = None):
        self.inner = inner
        self.through = names_of(names)
        self.most = most
        self.size = inner.size

    def match(self, value: Value, state: State, then: Callable[[], bool] = done) -> bool:
        mark = state.mark()
        passed = 0
        while not self.inner.match(value, state, then):
            node = state.view.producer(value)
            if node is None or node.op not in self.through or passed == self.most:
                return state.undo(mark)
            passed += 1
            if node not in state.matched:
                state.bind(state.matched, node, None)
            value = state.view.inputs(node)[0]
        return True

    @property
    def parts(self) -> tuple[Pattern, ...]:
        return (self.inner,)

    def __str__(self) -> str:
        return str(self.inner)


class Repeated(Pattern):
    """Any number of operands that all fit one pattern, as those of ``concatenate``.

    Each of them is a match of its own: a name that is bound before must be the same value in all,
    any other is captured as the tuple of what it stood for, where it stood for something: of
    alternatives with names of their own, each has those operands that fitted it.

    Raises:
      PassError: a node in it is captured: there would be one for each operand.
    """

    def __init__(self, inner: Pattern, at_least: int = 1):
        self.inner = inner
        self.at_least = at_least
        self.size = inner.size
        parts = inner.descendants().values()
        named = [p for p in parts if p.names and getattr(p, "name", "") and isinstance(p, Op)]
        if named:
            raise PassError(f"{named[0]}: no node of a repeated operand can be captured")
        self.captured = tuple(
            dict.fromkeys(p.name for p in parts if isinstance(p, AnyValue | Scalar) and p.name)
        )

    def match_all(self, values: tuple[Value, ...], state: State, then: Callable[[], bool]) -> bool:
        """Whether every value fits, and ``then()``."""
        mark = state.mark()
        rows: list[dict[str, Value]] = []
        for value in values:
            one = State(state.view, state.explain)
            one.values = dict(state.values)
            one.matched = dict(state.matched)
            one.sizes = dict(state.sizes)
            one.parts = dict(state.parts)
            if not self.inner.match(value, one):
                state.miss, state.missed_part = max(
                    (state.miss, state.missed_part),
                    (one.miss, one.missed_part),
                    key=lambda miss: miss[0][0],
                )
                return state.undo(mark)
            rows.append({k: v for k, v in one.values.items() if k not in state.values})
            for node in one.matched:
                if node not in state.matched:
                    state.bind(state.matched, node, None)
            for name, size in one.sizes.items():
                if name not in state.sizes:
                    state.bind(state.sizes, name, size)
        for name in self.captured:
            if name not in state.lists and name not in state.values:
                several = tuple(row[name] for row in rows if name in row)
                state.bind(state.lists, name, several)
        return then() or state.undo(mark)

    @property
    def parts(self) -> tuple[Pattern, ...]:
        return (self.inner,)

    def __str__(self) -> str:
        return f"{self.inner}, ..."


def same_param(a: Any, b: Any) -> bool:
    """Whether two parameters are equal; arrays in them are not compared."""
    try:
        return bool(a == b)
    except (TypeError, ValueError):
        return a is b
