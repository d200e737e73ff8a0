"""Arrays that are one number everywhere are written inside of the loops that they are given to."""

from __future__ import annotations

from typing import Any

from jax import lax

from jaxpress.capture import Graph, Node, Value, compat
from jaxpress.capture.edit import Editor
from jaxpress.passes.engine import map_bodies
from jaxpress.passes.known import LOOPS_AND_BRANCHES, body_inputs
from jaxpress.passes.more_inputs import with_more_inputs
from jaxpress.passes.view import View, scalar_value

__all__ = ["numbers_inside"]


def numbers_inside(graph: Graph) -> Graph:
    """The graph whose loops and branches make such arrays themselves, where they are known.

    So that a product with ones, which stood outside of a loop, can be left out in it.
    """
    editor = Editor(graph)
    loops = [node for node in graph.nodes if node.op in LOOPS_AND_BRANCHES]
    places = {node: _numbers(editor, node) for node in loops}
    if any(any(found) for found in places.values()):
        for node, found in places.items():
            if not any(found):
                continue
            bodies = [_written(b, n) for b, n in zip(node.subgraphs, found, strict=True)]
            with_more_inputs(editor, node, bodies, [[]] * len(bodies))
        graph = editor.finish()
    return map_bodies(graph, numbers_inside)


def _numbers(view: View, node: Node) -> list[dict[Value, Any]]:
    """For each body, its inputs that are one number, and which."""
    if node.op == "scan" and node.effects:
        return []
    found = []
    for body, sources in zip(node.subgraphs, body_inputs(node), strict=True):
        numbers = {}
        for value, source in zip(body.inputs, sources, strict=True):
            number = scalar_value(view, node.inputs[source.operand])
            plain = source.kind == "const" and value not in body.outputs and body.users(value)
            if plain and number is not None:
                numbers[value] = number
        found.append(numbers)
    return found


def _written(body: Graph, numbers: dict[Value, Any]) -> Graph:
    editor = Editor(body)
    for value, number in numbers.items():

        def full(number: Any = number, aval: Any = value.aval) -> Any:
            return compat.with_weak_type(lax.broadcast(number, aval.shape), aval)

        first = next(node for node in body.nodes if value in node.inputs)
        (new,) = editor.emit(full, (), at=first, cache=False)
        editor.replace_value(value, new)
    return editor.finish()
