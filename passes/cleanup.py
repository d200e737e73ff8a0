"""Passes that tidy a graph: inlining, dead code, common subexpressions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxpress.capture import Graph, Literal, Node, Value
from jaxpress.capture.exactly import exactly
from jaxpress.capture.template import inline_calls
from jaxpress.passes.engine import map_bodies
from jaxpress.passes.known import LOOPS_AND_BRANCHES

__all__ = ["eliminate_common_subexpressions", "eliminate_dead_code", "inline"]

# Operations that draw random numbers: two draws are never merged, even from one key. And barriers:
# somebody put them there so that something is computed twice.
_KEPT_APART = (
    *("random_", "threefry", "rng_", "philox", "dropout", "stochastic_depth"),
    "optimization_barrier",
)


def inline(graph: Graph) -> Graph:
    """Every plain ``jit`` and ``closed_call`` is replaced by its body, at all depths.

    A call with shardings, donation or compiler options of its own stays, and so do custom
    derivatives, which are part of a function's meaning.
    """
    memo: dict[int, Any] = {}

    def one(g: Graph) -> Graph:
        return map_bodies(inline_calls(g), one, memo)

    return one(graph)


def eliminate_dead_code(graph: Graph) -> Graph:
    """Nodes that no output needs are left out; nodes with effects stay, in their order.

    So are constants that nothing uses any more. Inputs stay, used or not. The bodies of loops,
    branches and ``remat`` are looked into as well; those of custom derivatives stay as they are.
    """
    return _in_bodies_too(graph, _without_dead_code, {})


def _in_bodies_too(graph: Graph, work: Callable[[Graph], Graph], memo: dict[int, Any]) -> Graph:
    """``work`` on the graph, then on the bodies of what is left of its loops and branches."""
    graph = work(graph)
    exchanged: dict[Node, Node] = {}
    for node in graph.nodes:
        if node._bodies is None or node.op not in LOOPS_AND_BRANCHES:
            continue
        new = []
        for body in node.subgraphs:
            if id(body) not in memo:
                # The body is kept beside, so that its identity is not given to another.
                memo[id(body)] = body, _in_bodies_too(body, work, memo)
            new.append(memo[id(body)][1])
        if any(a is not b for a, b in zip(new, node.subgraphs, strict=True)):
            exchanged[node] = node.with_subgraphs(new)
    if not exchanged:
        return graph
    return graph.with_parts(nodes=[exchanged.get(node, node) for node in graph.nodes])


def _without_dead_code(graph: Graph) -> Graph:
    needed: set[Value] = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if node.effects or any(v in needed for v in node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    if graph.prologue is not None:
        needed.update(graph.prologue.constants)
    constants = {v: a for v, a in graph.constant_values.items() if v in needed}
    if len(kept) == len(graph.nodes) and len(constants) == len(graph.constants):
        return graph
    kept.reverse()
    return graph.with_parts(nodes=kept, constants=constants)


def eliminate_common_subexpressions(graph: Graph) -> Graph:
    """Of nodes that compute the same from the same operands, the first stands for all.

    Nodes with effects, with bodies, random draws and barriers are left alone. The bodies of loops,
    branches and ``remat`` are looked into as well.
    """
    return _in_bodies_too(graph, _without_repetition, {})


def _without_repetition(graph: Graph) -> Graph:
    replaced: dict[Value, Value] = {}
    seen: dict[Any, Node] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        ins = tuple([replaced.get(v, v) for v in node.inputs])
        if any(a is not b for a, b in zip(ins, node.inputs, strict=True)):
            node = node.with_inputs(ins)
        key = _key(node)
        first = seen.get(key) if key is not None else None
        if first is not None:
            replaced.update(zip(node.outputs, first.outputs, strict=True))
            continue
        if key is not None:
            seen[key] = node
        nodes.append(node)
    if not replaced:
        return graph
    outputs = [replaced.get(v, v) for v in graph.outputs]
    return graph.with_parts(nodes=nodes, outputs=outputs)


def _key(node: Node) -> Any:
    if node.effects or node._bodies is not None or node.op.startswith(_KEPT_APART):
        return None
    try:
        params = tuple([(k, exactly(v)) for k, v in sorted(node.params.items())])
        key = (node.primitive, tuple(map(_operand, node.inputs)), params, node.ctx)
        hash(key)
    except TypeError:  # a parameter that cannot be compared
        return None
    return key


def _operand(v: Value) -> Any:
    if not isinstance(v, Literal):
        return v
    array = np.asarray(v.val)
    return (str(array.dtype), array.tobytes(), getattr(v.aval, "weak_type", False))
