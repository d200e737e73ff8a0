"""A graph becomes JAX operations again: the evaluator, and lowering to a jaxpr.

Each node's primitive is bound under an ordinary trace, so JAX itself checks every type again,
and source lines, name stacks, weak types, shardings and effects survive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxpress.capture import compat
from jaxpress.capture.avals import short_aval
from jaxpress.capture.errors import ArgumentError, GraphError
from jaxpress.capture.graph import Graph, Literal, Node, Value
from jaxpress.capture.symbolic import has_symbols, run_at_sizes
from jaxpress.capture.varying import varying_alike

__all__ = ["call_graph", "evaluate", "evaluate_prologue", "graph_to_jaxpr", "last_uses"]


def last_uses(graph: Graph) -> list[list[Value]]:
    """For each node, the values that nothing needs once it has run."""
    kept = set(graph.outputs)
    seen: set[Value] = set()
    dying: list[list[Value]] = []
    for node in reversed(graph.nodes):
        here = [
            v
            for v in dict.fromkeys((*node.inputs, *node.outputs))
            if v not in seen and v not in kept and not isinstance(v, Literal)
        ]
        seen.update(here)
        dying.append(here)
    dying.reverse()
    return dying


def evaluate(
    graph: Graph,
    flat: Sequence[Any],
    constants: Sequence[Any] | None = None,
    prepared: Sequence[Any] | None = None,
) -> list[Any]:
    """Run ``graph`` on flat arrays or tracers and return its flat outputs.

    Args:
      graph: what to run.
      flat: one array per ``graph.inputs``.
      constants: arrays to use in place of the graph's own constants.
      prepared: what the prologue gave for these weights; it is run here if left out.
    """
    if len(flat) != len(graph.inputs):
        raise ArgumentError(
            f"graph {graph.name!r} takes {len(graph.inputs)} flat inputs, got {len(flat)}"
        )
    env: dict[Value, Any] = dict(zip(graph.inputs, flat, strict=True))
    values = graph.constant_values.values() if constants is None else constants
    env.update(zip(graph.constants, values, strict=True))
    if graph.prologue is not None:
        if prepared is None:
            prepared = evaluate_prologue(graph, env)
        env.update(zip(graph.prepared, prepared, strict=True))

    def read(v: Value) -> Any:
        return v.val if isinstance(v, Literal) else env[v]

    for node, dying in zip(graph.nodes, last_uses(graph), strict=True):
        params = node_params(node)
        with compat.provenance(node.source_info, node.ctx):
            ins: Sequence[Any] = [read(v) for v in node.inputs]
            if len(ins) > 1:
                ins = varying_alike(node.op, ins)
            outs = compat.bind(node.primitive, ins, params)
        env.update(zip(node.outputs, outs, strict=True))
        for v in dying:
            del env[v]
    return [read(v) for v in graph.outputs]


def evaluate_prologue(graph: Graph, env: dict[Value, Any]) -> list[Any]:
    """Run the prologue on the inputs and constants of its graph, given by value."""
    prologue = graph.prologue
    assert prologue is not None
    constants = [env[v] if v in env else prologue.constant_value(v) for v in prologue.constants]
    return evaluate(prologue, [env[v] for v in prologue.inputs], constants)


def node_params(node: Node) -> dict[str, Any]:
    """The node's parameters, with rewritten bodies lowered back into them."""
    if not node.bodies_changed:
        return node.params
    params = dict(node.params)
    bodies = iter(node.subgraphs)
    with compat.body_context(node.op, params):
        for key, value in node.params.items():
            if compat.is_body(value):
                params[key] = _lower_body(node, value, next(bodies))
            elif isinstance(value, tuple | list) and any(map(compat.is_body, value)):
                items = [
                    _lower_body(node, item, next(bodies)) if compat.is_body(item) else item
                    for item in value
                ]
                # A named tuple, such as custom_linear_solve's, takes its items one by one.
                make = getattr(type(value), "_make", type(value))
                params[key] = make(items)
    return params


def _lower_body(node: Node, old: Any, graph: Graph) -> Any:
    # Nodes that share a body share its lowering too, or the program would grow. The old body is
    # kept beside it, so that its identity is not given to another.
    key = (compat.context_key(), id(old))
    if key not in graph._lowered:
        graph._lowered[key] = (compat.replace_body(node.op, old, graph_to_jaxpr(graph)), old)
    new, _ = graph._lowered[key]
    if new is None:
        raise GraphError(
            f"the body {graph.name!r} of a {node.op} ({node.source or 'no source line'}) gained "
            f"array constants, which {node.op} cannot carry; pass the arrays in as operands"
        )
    return new


def graph_to_jaxpr(graph: Graph) -> Any:
    """Lower a graph to a closed jaxpr. Remembered per graph and trace context."""
    key = compat.context_key()
    if key not in graph._lowered:
        n = len(graph.constants)

        def run(*flat: Any) -> list[Any]:
            return evaluate(graph, flat[n:], flat[:n])

        run.__name__ = graph.name
        avals = [v.aval for v in (*graph.constants, *graph.inputs)]
        closed = compat.trace_closed(run, avals)
        closed = compat.with_constants(closed, list(graph.constant_values.values()))
        if graph.signature is not None:
            names = graph.signature
            closed = compat.with_debug_names(closed, names.arg_names, names.result_paths)
        graph._lowered[key] = closed
    return graph._lowered[key]


def call_graph(graph: Graph, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a graph on its function's own pytrees."""
    if graph.signature is None:
        if kwargs:
            raise ArgumentError(f"graph {graph.name!r} is a body: call it with flat arrays")
        return evaluate(graph, [as_input(a) for a in args])
    flat = graph.signature.flatten(args, kwargs)
    inputs = check_inputs(graph, flat)
    symbols = any(has_symbols(v.shape) for v in graph.inputs)
    other = symbols and [x.shape for x in inputs] != [v.shape for v in graph.inputs]
    outputs = run_at_sizes(graph, inputs) if other else evaluate(graph, inputs)
    return graph.signature.unflatten(outputs)


def as_input(x: Any) -> Any:
    """``x`` as something that a primitive takes: Python and NumPy numbers become arrays."""
    return x if isinstance(x, jax.Array) else jnp.asarray(x)


def check_inputs(graph: Graph, flat: Sequence[Any]) -> list[Any]:
    """The flat inputs as arrays of the traced types; a symbolic dimension may have any size.

    Raises:
      ArgumentError: one is no array, or of another shape or dtype; the message names it.
    """
    out = []
    for value, x in zip(graph.inputs, flat, strict=True):
        wanted = value.aval
        try:
            x = x if _fits(x, wanted) else as_input(x)
        except TypeError as error:
            raise ArgumentError(
                f"argument {value.name} of {graph.name} is {x!r:.60}, which is no array"
            ) from error
        got = jax.typeof(x)
        if not _fits(x, wanted):
            raise ArgumentError(
                f"argument {value.name} of {graph.name} has type {short_aval(got)}, but the graph "
                f"was traced with {short_aval(wanted)}; pass that, or trace again with this"
            )
        out.append(x)
    return out


def _fits(x: Any, aval: Any) -> bool:
    if not isinstance(x, jax.Array) and not hasattr(x, "aval"):
        return False
    got = jax.typeof(x)
    if getattr(got, "dtype", None) != getattr(aval, "dtype", None):
        return False
    shape, wanted = getattr(got, "shape", None), getattr(aval, "shape", None)
    if shape == wanted or shape is None or wanted is None or len(shape) != len(wanted):
        return shape == wanted
    return all(a == b or not isinstance(b, int) for a, b in zip(shape, wanted, strict=True))
