"""Looking for norms: from the square root that every one has back to the data, then to its end."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import jax.numpy as jnp

from jaxpress.capture import Literal, Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rules.axes import MOVES, place_of, strip
from jaxpress.passes.rules.moments import Reading
from jaxpress.passes.rules.norm_form import Norm, norm_of
from jaxpress.passes.rules.scalars import number
from jaxpress.passes.view import View

__all__ = ["Found", "data_under", "search"]

_MAX_BACK = 32
_MAX_FORWARD = 24
_MAX_MISSES = 3
_MAX_SIBLINGS = 8
_AFFINE = frozenset({"add", "add_any", "sub", "mul", "div", "neg", "max", "min", "integer_pow"})
_BACK = _AFFINE | MOVES | {"select_n", "psum", "slice", "stack", "concatenate"}


def data_under(view: View, root: Node) -> list[Value]:
    """The arrays whose squares are summed under a square root, the barest first."""
    seen: set[Node] = set()
    frontier = deque([view.inputs(root)[0]])
    while frontier and len(seen) < _MAX_BACK:
        node = view.producer(frontier.popleft())
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.op == "reduce_sum":
            squared = _squared(view, view.inputs(node)[0])
            if squared is not None:
                return _candidates(view, squared)
            frontier.append(view.inputs(node)[0])
        elif node.op in _BACK:
            frontier.extend(v for v in view.inputs(node) if not isinstance(v, Literal))
    return []


def _squared(view: View, value: Value) -> Value | None:
    """What ``value`` is the square of."""
    node = view.producer(value)
    while node is not None and node.op in MOVES:
        value = view.inputs(node)[0]
        node = view.producer(value)
    if node is None:
        return None
    inputs = view.inputs(node)
    if node.op == "square" or (node.op == "integer_pow" and node.params["y"] == 2):
        return inputs[0]
    if node.op == "pow" and number(view, inputs[1]) == 2:
        return inputs[0]
    if node.op == "mul" and strip(view, inputs[0]) is strip(view, inputs[1]):
        return inputs[0]
    return None


def _candidates(view: View, squared: Value) -> list[Value]:
    """``x`` of a square of ``x - mean(x)``, then the difference itself."""
    base = strip(view, squared)
    node = view.producer(base)
    if node is not None and node.op in ("sub", "add"):
        a, b = view.inputs(node)
        for mean, x in ((b, a), (a, b)):
            if _is_mean(view, mean) and not isinstance(x, Literal):
                return [strip(view, x), base]
    return [base]


def _is_mean(view: View, value: Value) -> bool:
    for _ in range(16):
        node = view.producer(value)
        if node is None:
            return False
        if node.op == "reduce_sum":
            return True
        inputs = view.inputs(node)
        if node.op in ("mul", "div") and number(view, inputs[0]) is not None:
            value = inputs[1]
        elif node.op in ("mul", "div", "neg", "psum", "slice") or node.op in MOVES:
            value = inputs[0]
        else:
            # Several statistics that are reduced together.
            return node.op in ("stack", "concatenate")
    return False


@dataclass
class Found:
    """A norm that ends at a node.

    Attributes:
      norm: which it is.
      reading: what it was read with.
      nodes: those that it swallows, the last first.
      leaks: inner values that something else needs: none, but for a batch norm's statistics.
    """

    norm: Norm
    reading: Reading
    nodes: list[Node]
    leaks: list[Value]


class _Search:
    """The readings of one root's data, one for each shape in which the result may stand."""

    def __init__(self, view: View, x: Value):
        self.view = view
        self.x = x
        self._readings: dict[tuple, Reading] = {}

    def at(self, node: Node) -> Found | str | None:
        """The norm that ends at ``node``, or why there is none; ``None`` for no polynomial."""
        shape = node.output.shape
        if shape not in self._readings:
            self._readings[shape] = Reading(self.view, self.x, place_of(shape))
        reading = self._readings[shape]
        p = reading.read(node.output, reading.result)
        if p is None:
            return None
        nodes = self._swallowed(reading, node)
        norm = norm_of(reading, p, node, reading.result, set(nodes))
        return norm if isinstance(norm, str) else Found(norm, reading, nodes, [])

    def reason(self, node: Node) -> str:
        """Why there is no polynomial at ``node``."""
        return self._readings[node.output.shape].reason or "it is no norm of the data"

    def _swallowed(self, reading: Reading, root: Node) -> list[Node]:
        """The nodes that compute ``root`` from x and the parameters, the root first."""
        found: dict[Node, None] = {root: None}
        stack = [root]
        while stack:
            for v in self.view.inputs(stack.pop()):
                known = isinstance(v, Literal) or v not in reading.computed
                node = None if known else self.view.producer(v)
                if node is not None and node not in found:
                    found[node] = None
                    stack.append(node)
        return list(found)


def search(state: State, anchor: Node, x: Value) -> list[Found] | None:
    """The norms of ``x`` that have this square root, each with all that belongs to it.

    Mostly one; several that share their statistics. Empty if something else needs their inner
    values, ``None`` if there is none.
    """
    view = state.view
    looking = _Search(view, x)
    seen: set[Node] = {anchor}
    queue = deque(view.users(anchor.output))
    found: list[Found] = []
    while queue and len(seen) < _MAX_FORWARD and len(found) < _MAX_SIBLINGS:
        node = queue.popleft()
        if node in seen or not (node.op in _AFFINE or node.op in MOVES):
            continue
        seen.add(node)
        if not _has_size(node.output, x):
            queue.extend(view.users(node.output))
            continue
        here = looking.at(node)
        if isinstance(here, Found):
            found.append(here)
            if len(found) == 1 and _is_closed(view, here, here.nodes):
                break
        else:
            state.fail(here or looking.reason(node), node)
            if here is not None:
                queue.extend(view.users(node.output))
    if not found:
        return None
    inside = {node for one in found for node in one.nodes}
    for one in found:
        if not _is_closed(view, one, inside) or (one.leaks and len(found) > 1):
            leak = _leaks(view, one.nodes, inside)[0]
            state.fail(lambda leak=leak: f"{leak!r} is used elsewhere as well", one.nodes[0])
            return []
    return [_furthest(view, looking, one, inside) for one in found]


def _is_closed(view: View, found: Found, inside: Iterable[Node]) -> bool:
    """Whether nothing outside needs what the norm swallows, but for statistics of a batch norm."""
    leaks = _leaks(view, found.nodes, inside)
    if leaks and (found.norm.features is None or not all(map(found.reading.is_statistic, leaks))):
        return False
    found.leaks = leaks
    return True


def _leaks(view: View, nodes: list[Node], inside: Iterable[Node]) -> list[Value]:
    """The inner values that are needed outside; known ones are computed again at no cost."""
    inside = set(inside)
    return [
        v
        for node in nodes[1:]
        for v in node.outputs
        if (view.is_output(v) or any(user not in inside for user in view.users(v)))
        and not view.is_known(v)
    ]


def _furthest(view: View, looking: _Search, best: Found, inside: set[Node]) -> Found:
    """Scales and shifts further on belong to the norm too, as long as each has one user."""
    node, misses = best.nodes[0], 0
    while misses < _MAX_MISSES:
        users = view.users(node.output)
        if len(users) != 1 or view.is_output(node.output):
            break
        node = users[0]
        if not (node.op in _AFFINE or node.op in MOVES) or not _has_size(node.output, looking.x):
            break
        here = looking.at(node)
        if here is None:
            break
        if (
            isinstance(here, Found)
            and (here.norm.is_bare or not best.norm.is_bare)
            and _is_worth(looking.x, best.nodes[0], node)
            and _is_closed(view, here, inside.union(here.nodes))
        ):
            best, misses = here, 0
        else:
            misses += 1
    return best


def _is_worth(x: Value, before: Node, node: Node) -> bool:
    """Whether a node belongs to the norm: arithmetic does, and what restores x's shape or dtype."""
    if node.op in _AFFINE:
        return True
    if node.op == "convert_element_type":
        return _narrows(before.output, node.output)
    return node.output.shape == x.shape != before.output.shape


def _narrows(wide: Value, narrow: Value) -> bool:
    if not jnp.issubdtype(narrow.dtype, jnp.floating):
        return False
    return jnp.finfo(narrow.dtype).nmant < jnp.finfo(wide.dtype).nmant


def _has_size(a: Value, b: Value) -> bool:
    if a.shape == b.shape:
        return True
    try:
        return bool(math.prod(a.shape) == math.prod(b.shape))
    except Exception:  # symbolic sizes of which nobody can say
        return False
