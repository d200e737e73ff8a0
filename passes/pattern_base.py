"""What every pattern is, the state of a match, and the leaves: any value, and scalars."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from jaxpress.capture import Literal, Node, PassError, Value
from jaxpress.capture.compat import Primitive
from jaxpress.passes.constraints import constraint_of
from jaxpress.passes.view import View, scalar_under, scalar_value

__all__ = [
    "AnyValue",
    "Ops",
    "Pattern",
    "Scalar",
    "State",
    "done",
    "equal_scalars",
    "mark_recurring",
    "names_of",
]

Ops = str | Primitive | Iterable[str | Primitive]


def names_of(ops: Ops) -> frozenset[str]:
    """The names of an operation, given as such or as JAX's primitive, or of several.

    Raises:
      PassError: something is neither.
    """
    several = (ops,) if isinstance(ops, str | Primitive) else ops
    if not isinstance(several, Iterable):
        raise PassError(f"an operation is given by its name or primitive, not by {ops!r}")
    names = [one.name if isinstance(one, Primitive) else one for one in several]
    if not all(isinstance(name, str) for name in names):
        raise PassError(f"an operation is given by its name or primitive, not by {ops!r}")
    return frozenset(names)


class State:
    """One attempt to match: what is bound so far, and the nearest miss if anybody asks.

    Attributes:
      values: captured values by name; ``lists`` those of repeated operands.
      nodes: captured nodes by name.
      matched: every node that the pattern covers.
      results: for a pattern of several results, the value of each by its place.
      sizes: what the names in constraints on shapes stand for.
      parts: the value that a part of the pattern stands for, where it occurs more than once.
    """

    def __init__(self, view: View, explain: bool = False):
        self.view = view
        self.explain = explain
        self.values: dict[str, Value] = {}
        self.lists: dict[str, tuple[Value, ...]] = {}
        self.nodes: dict[str, Node] = {}
        self.matched: dict[Node, None] = {}
        self.results: dict[int, Value] = {}
        self.sizes: dict[str, Any] = {}
        self.parts: dict[int, Value] = {}
        self._trail: list[tuple[dict, Any]] = []
        self.miss: tuple[Any, str, Node | None] = ((False, -1, False), "nothing was tried", None)
        self.missed_part: Any = None

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

    def capture(self, name: str, value: Value, then: Callable[[], bool], part: Any = None) -> bool:
        """Whether ``name`` may stand for ``value``, and ``then()`` holds."""
        if not name:
            return then()
        bound = self.values.get(name)
        if bound is None:
            mark = self.mark()
            self.bind(self.values, name, value)
            return then() or self.undo(mark)
        if bound is value or _same_literal(bound, value):
            return then()
        return self.fail(
            lambda: f"{name} is {bound!r} in one place and {value!r} in another", part=part
        )

    def fail(
        self,
        reason: str | Callable[[], str],
        node: Node | None = None,
        *,
        close: bool = False,
        complete: bool = False,
        part: Any = None,
    ) -> bool:
        """Note a miss; always False.

        The nearest is one where all of the pattern fits (``complete``) and is refused for another
        reason, then the one with the most nodes matched; among equals one that is ``close`` (the
        right thing with a wrong value), then the first. ``part`` is the part of the pattern that
        did not fit.
        """
        nearness = (complete, len(self.matched), close)
        if self.explain and nearness > self.miss[0]:
            text = reason if isinstance(reason, str) else reason()
            self.miss = (nearness, text, node)
            self.missed_part = part
        return False


def done() -> bool:
    """What follows where nothing does."""
    return True


class Pattern:
    """The base of all patterns."""

    size = 0
    # The names of the operations that it may start at; empty for a pattern that is no node.
    names: frozenset[str] = frozenset()
    # The names of operations that it looks behind.
    through: frozenset[str] = frozenset()
    # False where a glance shows that a value does not fit; None where none can.
    may_be: Callable[[View, Value], bool] | None = None
    # Whether it occurs more than once in what it is a part of.
    recurs = False

    def match(self, value: Value, state: State, then: Callable[[], bool] = done) -> bool:
        """Whether ``value`` fits, and ``then()`` what is to be matched after it.

        Names are bound in ``state`` on the way. Where a pattern can match in several ways, such as
        with the operands of a sum swapped, the next is tried until ``then()`` is true.
        """
        raise NotImplementedError

    def match_node(self, node: Node, state: State, then: Callable[[], bool] = done) -> bool:
        """Whether ``node`` itself fits, as the root of a rule."""
        raise PassError(f"a rule cannot start at the pattern {self}: it is no operation")

    def may_fit(self, view: View, node: Node) -> bool:
        """False where a glance shows that ``node`` does not fit; most do not."""
        return True

    @property
    def parts(self) -> tuple[Pattern, ...]:
        """The patterns that it is made of."""
        return ()

    def descendants(self) -> dict[int, Pattern]:
        """Itself and all that it is made of, each once, by identity."""
        found: dict[int, Pattern] = {}
        stack: list[Pattern] = [self]
        while stack:
            part = stack.pop()
            if id(part) not in found:
                found[id(part)] = part
                stack.extend(part.parts)
        return found

    def __or__(self, other: Pattern) -> Pattern:
        from jaxpress.passes.pattern import any_of

        return any_of(self, other)


class AnyValue(Pattern):
    """Any value; one with a name is captured, and must be the same wherever the name occurs.

    Args:
      name: under which it is captured.
      where: a condition on it.
      **constraints: of :class:`~jaxpress.passes.constraints.Constraint`: ``shape``, ``ndim``,
        ``dtype``, ``users``, ``known``.
    """

    def __init__(
        self,
        name: str = "",
        where: Callable[[View, Value], bool] | None = None,
        **constraints: Any,
    ):
        self.name = name
        self.where = where
        self.constraint = constraint_of(constraints)

    def match(self, value: Value, state: State, then: Callable[[], bool] = done) -> bool:
        if self.where is not None and not self.where(state.view, value):
            return state.fail(lambda: f"{self.name or 'a value'}: {value!r} is refused", part=self)
        if self.constraint is None:
            return state.capture(self.name, value, then, self)
        mark = state.mark()
        reason = self.constraint.why_not(value, state)
        if reason is not None:
            return state.fail(f"{self.name or 'a value'}: {reason}", part=self)
        return state.capture(self.name, value, then, self) or state.undo(mark)

    def __str__(self) -> str:
        return self.name or "_"


class Scalar(Pattern):
    """A scalar written in the program, or broadcast from one: by value, or captured by name."""

    def __init__(self, value: float | None = None, name: str = ""):
        self.value = value
        self.name = name

    def match(self, value: Value, state: State, then: Callable[[], bool] = done) -> bool:
        found = scalar_value(state.view, value)
        if found is None:
            return state.fail(
                lambda: f"{value!r} is not a scalar that is written in the program", part=self
            )
        if self.value is not None and not self._is_value(found, value.dtype):
            return state.fail(lambda: f"{found} is not {self.value}", close=True, part=self)
        if not self.name:
            return then()
        bound = state.values.get(self.name)
        if bound is None:
            mark = state.mark()
            state.bind(state.values, self.name, Literal(found, value.aval))
            return then() or state.undo(mark)
        if isinstance(bound, Literal) and equal_scalars(bound.val, found, value.dtype):
            return then()
        return state.fail(lambda: f"{self.name} is {bound!r} and {found} at once", part=self)

    def may_be(self, view: View, value: Value) -> bool:
        return scalar_under(view, value) is not None

    def _is_value(self, found: Any, dtype: Any) -> bool:
        return equal_scalars(found, self.value, dtype)

    def __str__(self) -> str:
        return self.name or ("_" if self.value is None else f"{self.value:g}")


def mark_recurring(patterns: Iterable[Pattern]) -> None:
    """Mark the parts that several of ``patterns`` have: each stands for one value."""
    seen: set[int] = set()
    for pattern in patterns:
        for key, part in pattern.descendants().items():
            if key in seen:
                part.recurs = True
            seen.add(key)


def _same_literal(a: Value, b: Value) -> bool:
    if not (isinstance(a, Literal) and isinstance(b, Literal)):
        return False
    return a.dtype == b.dtype and equal_scalars(a.val, b.val, a.dtype)


def equal_scalars(a: Any, b: Any, dtype: Any) -> bool:
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
