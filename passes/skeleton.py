"""The operations of a traced function as a pattern, without shapes, dtypes and parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxpress.capture import Graph, Literal, Node, PassError, Value
from jaxpress.passes.layout import MOVES, moved_from
from jaxpress.passes.outputs import Outputs
from jaxpress.passes.pattern_base import (
    AnyValue,
    Pattern,
    Scalar,
    State,
    done,
    equal_scalars,
)
from jaxpress.passes.pattern_ops import Op
from jaxpress.passes.view import GraphView, scalar_value

__all__ = ["Skeleton", "skeleton_of"]

# Operations that do the same where one of them is written for the other.
_ALIKE = (
    frozenset({"add", "add_any"}),
    frozenset({"reshape", "squeeze", "expand_dims", "broadcast_in_dim"}),
)
# Numbers this close are compared in earnest later: they may have been rounded on the way.
_CLOSE = 1e-2


class Skeleton(NamedTuple):
    """A pattern that binds a function's arguments.

    Attributes:
      root: its results.
      key: what it looks like; two of one key are the same pattern.
    """

    root: Outputs
    key: str


class _Near(Scalar):
    """A scalar of about this value; whether it is the very one is seen later."""

    def _is_value(self, found: Any, dtype: Any) -> bool:
        try:
            a, b = complex(found), complex(self.value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return False
        if a == b or (a != a and b != b):
            return True
        return abs(a - b) <= _CLOSE * max(abs(a), abs(b))


class _Edge(Pattern):
    """What stands behind reshapes, broadcasts and conversions, however many there are.

    Args:
      inner: what stands there.
      deep: whether the function itself has some here: then an argument is looked for behind all of
        them first.
    """

    through = MOVES

    def __init__(self, inner: Pattern, deep: bool):
        self.inner = inner
        self.deep = deep
        self.size = inner.size

    def match(self, value: Value, state: State, then: Callable[[], bool] = done) -> bool:
        if isinstance(self.inner, Scalar):
            return self.inner.match(value, state, then)
        levels = [value]
        view = state.view
        while not isinstance(levels[-1], Literal):
            node = view.producer(levels[-1])
            if node is None or node.op not in MOVES or len(view.inputs(node)) != 1:
                break
            levels.append(view.inputs(node)[0])
        if not isinstance(self.inner, AnyValue):
            return self.inner.match(levels[-1], state, then)
        for level in reversed(levels) if self.deep else levels:
            if self.inner.match(level, state, then):
                return True
        return False

    @property
    def parts(self) -> tuple[Pattern, ...]:
        return (self.inner,)

    def __str__(self) -> str:
        return str(self.inner)


def skeleton_of(
    graph: Graph,
    again: Graph,
    arrays: Sequence[str],
    probes: Mapping[str, float],
    captures: Mapping[str, AnyValue],
    name: str,
) -> Skeleton:
    """The pattern of a traced function.

    Args:
      graph: the trace, without inner calls.
      again: the trace with other numbers for the scalars, and other sizes: a number that differs
        is computed from them.
      arrays: the names of the graph's inputs.
      probes: the numbers that stand for the scalars in ``graph``.
      captures: the patterns for some of the inputs.
      name: what errors call the function.

    Raises:
      PassError: a result is an argument or a constant, or an argument is used by none.
    """
    computed = set(_numbers(graph, again))
    view = GraphView(graph)
    arguments = {
        v: captures.get(k) or AnyValue(k) for v, k in zip(graph.inputs, arrays, strict=True)
    }
    memo: dict[Value, Pattern] = {}
    seen: set[str] = set()

    def scalar_of(value: Value, number: Any) -> Pattern:
        for hole, probe in probes.items():
            if equal_scalars(number, probe, value.dtype):
                seen.add(hole)
                return Scalar(name=hole)
        return Scalar() if value in computed else _Near(number)

    def edge(value: Value) -> Pattern:
        number = scalar_value(view, value)
        if number is not None:
            return scalar_of(value, number)
        moved = moved_from(view, value, arguments.__contains__)
        return _Edge(build(moved.base), bool(moved.nodes))

    def build(value: Value) -> Pattern:
        if value in arguments:
            seen.add(arguments[value].name)
            return arguments[value]
        if value not in memo:
            node = view.producer(value)
            memo[value] = AnyValue() if node is None else op_of(node, value)
        return memo[value]

    def op_of(node: Node, value: Value) -> Op:
        names = next((alike for alike in _ALIKE if node.op in alike), frozenset({node.op}))
        return Op(names, *map(edge, node.inputs), output=node.outputs.index(value))

    results = []
    for value in graph.outputs:
        node = view.producer(value)
        if node is None:
            raise PassError(f"the pattern {name!r} gives {value!r} back as it is")
        if value not in memo:
            memo[value] = op_of(node, value)
        results.append(memo[value])
    missing = [k for k in (*arrays, *probes) if k not in seen]
    if missing:
        raise PassError(
            f"the pattern {name!r} does not use {', '.join(missing)} in what it computes, so that "
            "nothing can be captured for it"
        )
    return Skeleton(Outputs(*results), ", ".join(map(str, results)))


def _numbers(graph: Graph, again: Graph) -> Iterator[Value]:
    """The scalars of ``graph`` that are others in ``again``."""
    here, there = GraphView(graph), GraphView(again)
    for a, b in zip(graph.nodes, again.nodes, strict=False):
        if a.op != b.op:
            return
        for v, w in zip(a.inputs, b.inputs, strict=False):
            x, y = scalar_value(here, v), scalar_value(there, w)
            if x is not None and y is not None and x != y:
                yield v
