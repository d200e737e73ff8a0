"""Patterns with several results: one rewrite for several nodes, such as two products of one input.

::

    # dense(x, w1), dense(x, w2) -> one dense with both weights
    outputs(
        op("dense", any_value("x"), any_value("w1")), op("dense", any_value("x"), any_value("w2"))
    )

A rule with such a pattern replaces all of its results at once: the replacement gives a tuple. The
rule starts at the first result; the others are found from what is bound by then, so each must
have a captured value, or a part, in common with those before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from jaxpress.capture import Node, PassError, Value
from jaxpress.passes.pattern_base import Pattern, State, done, mark_recurring
from jaxpress.passes.pattern_ops import AnyOf, Op

__all__ = ["Outputs", "outputs"]

# No more places than this are tried for a further result: the cost of a sweep stays linear.
_MOST_CANDIDATES = 64


class Outputs(Pattern):
    """Several operations whose results are replaced together.

    Args:
      *results: an operation's pattern each; those that are one node's name ``output=``.

    Raises:
      PassError: a pattern is no operation, or has nothing in common with those before it.
    """

    def __init__(self, *results: Pattern):
        if not results or not all(p.names for p in results):
            raise PassError(f"outputs({', '.join(map(str, results))}): each must be an operation")
        self.results = results
        mark_recurring(results)
        self.size = sum(isinstance(part, Op) for part in self.descendants().values())
        self.names = results[0].names
        bound = _captures(results[0])
        for pattern in results[1:]:
            found = _captures(pattern)
            if not bound & found:
                raise PassError(
                    f"{pattern} has nothing in common with the results before it; rules cannot "
                    "look for it"
                )
            bound |= found

    def match_node(self, node: Node, state: State, then: Callable[[], bool] = done) -> bool:
        """Whether ``node`` makes the first result, and others make the rest."""
        first = self.results[0]
        if getattr(first, "output", 0) >= len(node.outputs):
            return state.fail(f"{node.op} has {len(node.outputs)} results", node, part=first)
        mark = state.mark()
        state.bind(state.results, 0, node.outputs[getattr(first, "output", 0)])
        if first.recurs:
            state.bind(state.parts, id(first), state.results[0])
        return first.match_node(node, state, lambda: self._rest(1, state, then)) or state.undo(mark)

    def match(self, value: Value, state: State, then: Callable[[], bool] = done) -> bool:
        node = state.view.producer(value)
        if node is None:
            return state.fail(lambda: f"{value!r} is made by no operation", part=self)
        return self.match_node(node, state, then)

    def match_values(
        self, values: tuple[Value, ...], state: State, then: Callable[[], bool] = done
    ) -> bool:
        """Whether the results fit just these values."""
        if len(values) != len(self.results):
            return state.fail(f"there are {len(values)} results, not {len(self.results)}")

        def rest(i: int) -> bool:
            if i == len(values):
                return then()
            return self.results[i].match(values[i], state, lambda: rest(i + 1))

        return rest(0)

    def _rest(self, i: int, state: State, then: Callable[[], bool]) -> bool:
        if i == len(self.results):
            return then()
        pattern = self.results[i]
        for value in _candidates(pattern, state):
            if any(value is taken for taken in state.results.values()):
                continue
            mark = state.mark()
            state.bind(state.results, i, value)
            if pattern.match(value, state, lambda: self._rest(i + 1, state, then)):
                return True
            state.undo(mark)
        return state.fail(lambda: f"nothing makes the result {pattern}", part=pattern)

    @property
    def parts(self) -> tuple[Pattern, ...]:
        return self.results

    def __str__(self) -> str:
        return ", ".join(map(str, self.results))


def outputs(*results: Pattern) -> Outputs:
    """Several results that one rewrite replaces together; see :class:`Outputs`."""
    return Outputs(*results)


def _captures(pattern: Pattern) -> set[Any]:
    """What can be bound in a pattern: names, and parts that occur in several results."""
    found: set[Any] = set()
    for key, part in pattern.descendants().items():
        if getattr(part, "name", "") and not part.names:
            found.add(part.name)  # type: ignore[attr-defined]
        elif part.recurs:
            found.add(key)
    return found


def _candidates(pattern: Pattern, state: State) -> Iterator[Value]:
    """Values that ``pattern`` may stand for: reached upwards from what is bound already."""
    if id(pattern) in state.parts:
        yield state.parts[id(pattern)]
        return
    paths = sorted(_paths_up(pattern, state), key=lambda path: len(path[1]))
    if not paths:
        return
    start, steps = paths[0]
    view = state.view
    level: dict[Value, None] = {start: None}
    for step in steps:
        following: dict[Value, None] = {}
        frontier = list(level)
        seen = set(frontier)
        for value in frontier:
            for user in view.users(value):
                if isinstance(step, frozenset):
                    # Wrappers, as many as there are; none of them is one of the choices.
                    if user.op in step and user.output not in seen:
                        seen.add(user.output)
                        frontier.append(user.output)
                elif user.op in step.names and step.output < len(user.outputs):
                    following[user.outputs[step.output]] = None
            if len(frontier) > _MOST_CANDIDATES or len(following) > _MOST_CANDIDATES:
                break
        level = dict.fromkeys(frontier) if isinstance(step, frozenset) else following
    yield from list(level)[:_MOST_CANDIDATES]


def _paths_up(pattern: Pattern, state: State) -> Iterator[tuple[Value, tuple[Any, ...]]]:
    """From each bound leaf up to ``pattern``: the operations, and the wrappers between."""
    stack: list[tuple[Pattern, tuple[Any, ...]]] = [(pattern, ())]
    while stack:
        part, above = stack.pop()
        if above and id(part) in state.parts:
            yield state.parts[id(part)], above
            continue
        name = getattr(part, "name", "")
        if not part.names and name in state.values:
            yield state.values[name], above
        elif isinstance(part, Op):
            stack.extend((p, (part, *above)) for p in part.operands)
        elif part.through:
            stack.extend((p, (part.through, *above)) for p in part.parts)
        elif not part.names or isinstance(part, AnyOf):
            stack.extend((p, above) for p in part.parts)
