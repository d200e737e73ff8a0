"""Patterns: what must hold around a node for a rule to apply.

A pattern is built of small parts that read like the expression they match::

    op("mul", any_value("x"), op("logistic", any_value("x")))  # x * sigmoid(x)

Operands of commutative operations match in either order, a name that occurs twice must be the
same value, and constants compare by value. Patterns know nothing of shapes unless told to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from jaxpress.capture import Literal, Node, Value
from jaxpress.passes.view import View, scalar_value

__all__ = [
    "COMMUTATIVE",
    "AnyOf",
    "AnyValue",
    "Op",
    "Pattern",
    "Scalar",
    "State",
    "Through",
    "any_of",
    "any_value",
    "op",
    "scalar",
    "through",
]

COMMUTATIVE = frozenset({"add", "mul", "max", "min", "and", "or", "xor", "eq", "ne", "add_any"})


class State:
    """One attempt to match: what is bound so far, and the nearest miss if anybody asks."""

    def __init__(self, view: View, explain: bool = False):
        self.view = view
        self.explain = explain
        self.values: dict[str, Value] = {}
        self.nodes: dict[str, Node] = {}
        self.matched: dict[Node, None] = {}
        self._trail: list[tuple[dict, Any]] = []
        self.miss: tuple[Any, str, Node | None] = ((-1, False), "nothing was tried", None)

    def mark(self) -> int:
        """A point to come back to."""
        return len(self._trail)

    def undo(self, mark: int) -> bool:
        """Forget what was bound since ``mark``; always False, so that it can end a match."""
        while len(self._trail) > mark:
            table, key = self._trail.pop()
            del table[key]
        return False

    def bind(self, table: dict, key: Any, what: Any) -> None:
        """Remember a binding, and that it can be undone."""
        table[key] = what
        self._trail.append((table, key))

    def fail(
        self, reason: str | Callable[[], str], node: Node | None = None, *, close: bool = False
    ) -> bool:
        """Note a miss; always False.

        The one with the most nodes matched is the nearest; among equals one that is ``close``
        (the right thing with a wrong value), then the first.
        """
        nearness = (len(self.matched), close)
        if self.explain and nearness > self.miss[0]:
            text = reason if isinstance(reason, str) else reason()
            self.miss = (nearness, text, node)
        return False


def _done() -> bool:
    return True


class Pattern:
    """The base of all patterns."""

    size = 0

    def match(self, value: Value, state: State, then: Callable[[], bool] = _done) -> bool:
        """Whether ``value`` fits, and ``then()`` what is to be matched after it.

        Names are bound in ``state`` on the way. Where a pattern can match in several ways, such as
        with the operands of a sum swapped, the next is tried until ``then()`` is true.
        """
        raise NotImplementedError

    def __or__(self, other: Pattern) -> Pattern:
        return AnyOf(self, other)


class AnyValue(Pattern):
    """Any value; one with a name is captured, and must be the same wherever the name occurs."""

    def __init__(self, name: str = "", where: Callable[[View, Value], bool] | None = None):
        self.name = name
        self.where = where

    def match(self, value: Value, state: State, then: Callable[[], bool] = _done) -> bool:
        if self.where is not None and not self.where(state.view, value):
            return state.fail(lambda: f"{self.name or 'a value'}: {value!r} is refused")
        if not self.name:
            return then()
        bound = state.values.get(self.name)
        if bound is None:
            mark = state.mark()
            state.bind(state.values, self.name, value)
            return then() or state.undo(mark)
        if bound is value or _same_literal(bound, value):
            return then()
        return state.fail(lambda: f"{self.name} is {bound!r} in one place and {value!r} in another")


class Scalar(Pattern):
    """A scalar written in the program, or broadcast from one: by value, or captured by name."""

    def __init__(self, value: float | None = None, name: str = ""):
        self.value = value
        self.name = name

    def match(self, value: Value, state: State, then: Callable[[], bool] = _done) -> bool:
        found = scalar_value(state.view, value)
        if found is None:
            return state.fail(lambda: f"{value!r} is not a scalar that is written in the program")
        if self.value is not None and not _equal(found, self.value, value.dtype):
            return state.fail(lambda: f"{found} is not {self.value}", close=True)
        if not self.name:
            return then()
        bound = state.values.get(self.name)
        if bound is None:
            mark = state.mark()
            state.bind(state.values, self.name, Literal(found, value.aval))
            return then() or state.undo(mark)
        if isinstance(bound, Literal) and _equal(bound.val, found, value.dtype):
            return then()
        return state.fail(lambda: f"{self.name} is {bound!r} and {found} at once")


class Op(Pattern):
    """One operation by name, with patterns for its operands.

    Args:
      names: the op's name, or several of which any will do.
      operands: a pattern each; left out, any operands will do.
      name: capture the node under this name.
      params: parameters that must be equal, or predicates of them.
      where: a further condition on the node.
      output: which of the node's results is meant.
      commutative: whether two operands may be swapped; known by the op's name if left out.
    """

    def __init__(
        self,
        names: str | Iterable[str],
        *operands: Pattern,
        name: str = "",
        params: Mapping[str, Any] | None = None,
        where: Callable[[View, Node], bool] | None = None,
        output: int = 0,
        commutative: bool | None = None,
    ):
        self.names = frozenset((names,) if isinstance(names, str) else names)
        self.operands = operands
        self.name = name
        self.params = dict(params or {})
        self.where = where
        self.output = output
        if commutative is None:
            commutative = self.names <= COMMUTATIVE
        self.commutative = commutative and len(operands) == 2
        self.size = 1 + sum(p.size for p in operands)

    def match(self, value: Value, state: State, then: Callable[[], bool] = _done) -> bool:
        node = state.view.producer(value)
        if node is None or node.op not in self.names:
            return state.fail(
                lambda: (
                    f"{value!r} comes from {node.op if node else 'no operation'}, "
                    f"not from {' or '.join(sorted(self.names))}"
                ),
                node,
            )
        if self.output >= len(node.outputs) or node.outputs[self.output] is not value:
            return state.fail(lambda: f"{value!r} is another result of {node.op}", node)
        return self.match_node(node, state, then)

    def match_node(self, node: Node, state: State, then: Callable[[], bool] = _done) -> bool:
        """Whether ``node`` itself fits."""
        if node.op not in self.names:
            return state.fail(lambda: f"{node.op} is not {' or '.join(sorted(self.names))}", node)
        for key, wanted in self.params.items():
            got = node.params.get(key)
            if not (wanted(got) if callable(wanted) else _same(got, wanted)):
                return state.fail(lambda key=key, got=got: f"{node.op} has {key}={got!r}", node)
        if self.where is not None and not self.where(state.view, node):
            return state.fail(lambda: f"{node.op} does not meet the pattern's condition", node)
        mark = state.mark()
        if node not in state.matched:
            state.bind(state.matched, node, None)
        if self.name:
            bound = state.nodes.get(self.name)
            if bound is None:
                state.bind(state.nodes, self.name, node)
            elif bound is not node:
                return state.undo(mark)
        if not self.operands:
            return then() or state.undo(mark)
        inputs = state.view.inputs(node)
        if len(inputs) != len(self.operands):
            state.fail(lambda: f"{node.op} has {len(inputs)} operands", node)
            return state.undo(mark)
        if self._match_operands(self.operands, inputs, 0, state, then):
            return True
        if self.commutative and inputs[0] is not inputs[1]:
            swapped = self.operands[::-1]
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


class AnyOf(Pattern):
    """The first of several patterns that fits."""

    def __init__(self, *choices: Pattern):
        self.choices = choices
        self.size = max(p.size for p in choices)

    def match(self, value: Value, state: State, then: Callable[[], bool] = _done) -> bool:
        return any(choice.match(value, state, then) for choice in self.choices)


class Through(Pattern):
    """A pattern behind any number of one-operand operations, such as reshapes or converts."""

    def __init__(self, inner: Pattern, names: Iterable[str]):
        self.inner = inner
        self.names = frozenset(names)
        self.size = inner.size

    def match(self, value: Value, state: State, then: Callable[[], bool] = _done) -> bool:
        mark = state.mark()
        while not self.inner.match(value, state, then):
            node = state.view.producer(value)
            if node is None or node.op not in self.names:
                return state.undo(mark)
            if node not in state.matched:
                state.bind(state.matched, node, None)
            value = state.view.inputs(node)[0]
        return True


def any_value(name: str = "", where: Callable[[View, Value], bool] | None = None) -> AnyValue:
    """Any value, captured under ``name``."""
    return AnyValue(name, where)


def scalar(value: float | None = None, name: str = "") -> Scalar:
    """A scalar that is written in the program: this value, or any, captured under ``name``."""
    return Scalar(value, name)


def op(names: str | Iterable[str], *operands: Pattern | float, **options: Any) -> Op:
    """An operation; a number among the operands stands for that scalar."""
    parts = (p if isinstance(p, Pattern) else Scalar(p) for p in operands)
    return Op(names, *parts, **options)


def any_of(*choices: Pattern) -> AnyOf:
    """Any of several patterns, the first that fits."""
    return AnyOf(*choices)


def through(inner: Pattern, *names: str) -> Through:
    """``inner``, possibly behind operations of these names."""
    return Through(inner, names)


def _same_literal(a: Value, b: Value) -> bool:
    if not (isinstance(a, Literal) and isinstance(b, Literal)):
        return False
    return a.dtype == b.dtype and _equal(a.val, b.val, a.dtype)


def _equal(a: Any, b: Any, dtype: Any) -> bool:
    """Whether two scalars are the same once rounded to ``dtype``; NaN equals itself."""
    try:
        x, y = np.asarray(a).astype(dtype), np.asarray(b).astype(dtype)
    except (TypeError, ValueError):
        return a is b
    if x.shape != () or y.shape != ():
        return False
    if x == y:
        # The two zeros are not the same number to a division.
        return math.copysign(1, complex(x).real) == math.copysign(1, complex(y).real)
    return bool(x != x and y != y)


def _same(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except (TypeError, ValueError):
        return a is b
