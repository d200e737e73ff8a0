"""Is a graph well formed?"""

from __future__ import annotations

from jaxpress.capture.errors import GraphError
from jaxpress.capture.graph import Graph, Literal, Node, Value

__all__ = ["validate"]


def validate(graph: Graph) -> None:
    """Check that every value is made once, before it is used.

    Raises:
      GraphError: naming the value, the node and the nodes around it.
    """
    _validate(graph, set())


def _validate(graph: Graph, seen: set[int]) -> None:
    # A body that several nodes share is looked at once.
    if id(graph) in seen:
        return
    seen.add(id(graph))
    known: set[Value] = set()
    if graph.prologue is not None:
        _validate(graph.prologue, seen)
    for v in (*graph.constants, *graph.inputs, *graph.prepared):
        if v in known:
            raise GraphError(f"{graph.name}: {v!r} is listed twice among inputs and constants")
        known.add(v)
    for i, node in enumerate(graph.nodes):
        for v in node.inputs:
            if v not in known and not isinstance(v, Literal):
                raise GraphError(_message(graph, i, f"{v!r} is used before it is made"))
        for v in node.outputs:
            if v in known:
                raise GraphError(_message(graph, i, f"{v!r} is made twice"))
            known.add(v)
        for body in node.subgraphs if node.bodies_changed else ():
            _validate(body, seen)
    for v in graph.outputs:
        if v not in known and not isinstance(v, Literal):
            raise GraphError(f"{graph.name}: the output {v!r} is made by no node")


def _message(graph: Graph, i: int, what: str) -> str:
    def line(j: int, node: Node) -> str:
        return f"  {'>' if j == i else ' '} {node!r}  # {node.source or 'no source line'}"

    low = max(0, i - 2)
    around = "\n".join(line(j, n) for j, n in enumerate(graph.nodes[low : i + 3], low))
    return f"{graph.name}: {what}, near\n{around}"
