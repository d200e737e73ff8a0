"""A function's body as text that does not depend on shapes, dtypes or names.

Used to tell whether a custom derivative is that of ``jax.nn``: a user's own function called
``relu`` is not ``relu`` unless both its value and its derivative are.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from jaxpress.capture import Graph, Literal, Node, Value, compat, graph_of_jaxpr
from jaxpress.capture.template import inline_calls

__all__ = ["canonical_text", "custom_jvp_signature"]

_SHAPE_PARAMS = frozenset({"shape", "sharding", "out_sharding", "accuracy", "weak_type"})

_rules: dict[Any, tuple[Any, str]] = {}
_MAX_RULES = 4096


def canonical_text(graph: Graph) -> str:
    """The graph's equations by number, without shapes; dtypes relative to the first input's."""
    graph = inline_calls(graph)
    base = graph.inputs[0].dtype if graph.inputs else None
    numbers: dict[Value, int] = {}
    for v in (*graph.constants, *graph.inputs):
        numbers[v] = len(numbers)

    def spell(v: Value) -> str:
        if isinstance(v, Literal):
            return f"{np.asarray(v.val).item():.6g}" if np.shape(v.val) == () else "?"
        return f"%{numbers[v]}"

    lines = []
    for node in graph.nodes:
        for v in node.outputs:
            numbers[v] = len(numbers)
        if node.op in ("convert_element_type", "copy") and node.inputs[0].dtype == node.output.dtype:
            source = node.inputs[0]
            if not isinstance(source, Literal):
                numbers[node.output] = numbers[source]
                continue
        operands = ", ".join(map(spell, node.inputs))
        outs = ", ".join(f"%{numbers[v]}:{_kind(v, base)}" for v in node.outputs)
        lines.append(f"{outs} = {node.op}[{_params(node, base)}]({operands})")
    lines.append("return " + ", ".join(map(spell, graph.outputs)))
    return "\n".join(lines)


def _kind(v: Value, base: Any) -> str:
    return "T" if v.dtype == base else str(v.dtype)


def _params(node: Node, base: Any) -> str:
    if node.op in compat.CUSTOM_JVP_NAMES:
        # A custom derivative inside: its own rule is part of the text.
        signature = custom_jvp_signature(node)
        return "" if signature is None else signature.replace("\n", "; ")
    parts = []
    for key, value in sorted(node.params.items()):
        if key in _SHAPE_PARAMS or value is None or compat.is_body(value):
            continue
        if key == "new_dtype" and value == base:
            value = "T"
        parts.append(f"{key}={value}")
    parts.extend(canonical_text(body).replace("\n", "; ") for body in node.subgraphs)
    return " ".join(parts)


def custom_jvp_signature(node: Node) -> str | None:
    """What a ``custom_jvp_call`` computes and how it is differentiated, as text.

    The derivative rule is traced once per Python function and body; ``None`` if it cannot be.
    """
    body = canonical_text(graph_of_jaxpr(node.params["call_jaxpr"], "call_jaxpr"))
    identity = compat.custom_jvp_identity(node.params)
    key = (identity, body, tuple(str(v.dtype) for v in node.inputs))
    if identity is not None and key in _rules:
        return body + "\n" + _rules[key][1]
    if node.params.get("num_consts"):
        return None
    # The rule is traced now, and has to meet the types that the equation was traced with.
    wide = any(getattr(v.dtype, "itemsize", 0) == 8 for v in node.inputs)
    with compat.enable_x64() if wide else contextlib.nullcontext():
        closed, zeros = compat.custom_jvp_rule(node.params, len(node.inputs))
    # The rule calls the function itself again for the value: its derivative there is this very
    # rule, so the inner call is spelled without it.
    rule = _rule_text(graph_of_jaxpr(closed, "jvp")) + f"\nzeros {zeros}"
    if identity is not None:
        if len(_rules) >= _MAX_RULES:
            _rules.clear()
        _rules[key] = (identity, rule)
    return body + "\n" + rule


def _rule_text(graph: Graph) -> str:
    return canonical_text(_spell_out_custom_calls(graph))


def _spell_out_custom_calls(graph: Graph) -> Graph:
    """``graph`` with the bodies of custom derivatives in place of the calls."""
    graph = inline_calls(graph)
    if not any(node.op in compat.CUSTOM_JVP_NAMES for node in graph.nodes):
        return graph
    nodes: list[Node] = []
    env: dict[Value, Value] = {}

    def read(v: Value) -> Value:
        return v if isinstance(v, Literal) else env.get(v, v)

    for node in graph.nodes:
        if node.op not in compat.CUSTOM_JVP_NAMES:
            nodes.append(node.with_inputs(tuple(read(v) for v in node.inputs)))
            continue
        body = _spell_out_custom_calls(graph_of_jaxpr(node.params["call_jaxpr"], "call_jaxpr"))
        local = dict(zip(body.inputs, (read(v) for v in node.inputs), strict=True))
        for inner in body.nodes:
            ins = tuple(v if isinstance(v, Literal) else local.get(v, v) for v in inner.inputs)
            nodes.append(inner.with_inputs(ins))
        for out, result in zip(node.outputs, body.outputs, strict=True):
            env[out] = result if isinstance(result, Literal) else local.get(result, result)
    return graph.with_parts(nodes=nodes, outputs=[read(v) for v in graph.outputs])
