"""A jaxpr becomes a graph."""

from __future__ import annotations

from typing import Any

from jaxpress.capture import compat
from jaxpress.capture.graph import Bodies, Graph, Literal, Node, Value
from jaxpress.capture.names import Names
from jaxpress.capture.signature import Signature

__all__ = ["graph_of_body", "graph_of_jaxpr"]


def graph_of_jaxpr(
    closed: Any,
    name: str = "jaxpr",
    *,
    signature: Signature | None = None,
    memo: dict[Any, Any] | None = None,
) -> Graph:
    """Capture a (closed) jaxpr. Nested bodies are captured when they are first looked at.

    Args:
      closed: a jaxpr; an open one may have no constants.
      name: what to call the graph.
      signature: the function's pytrees, for a whole function.
      memo: bodies captured so far, by identity: a jaxpr is a DAG, and a body that several
        equations share becomes one graph.
    """
    jaxpr, consts = compat.closed_parts(closed)
    memo = {} if memo is None else memo
    env: dict[Any, Value] = {}

    # Variables that an open jaxpr calls constants, but whose arrays come from outside.
    free = jaxpr.constvars[len(consts) :]
    arg_names = signature.arg_names if signature is not None else ()
    inputs: dict[str, Value] = {}
    for i, var in enumerate((*free, *jaxpr.invars)):
        name_of_input = arg_names[i] if i < len(arg_names) else f"in{i}"
        while name_of_input in inputs:
            name_of_input += "'"
        env[var] = inputs[name_of_input] = Value(name_of_input, var.aval)

    constants: dict[Value, Any] = {}
    by_identity: dict[int, Value] = {}
    number = 0
    for var, const in zip(jaxpr.constvars, consts, strict=False):
        # The same array closed over twice is one constant.
        value = by_identity.get(id(const))
        if value is None or value.aval != var.aval:
            while f"const{number}" in inputs:
                number += 1
            value = by_identity[id(const)] = Value(f"const{number}", var.aval)
            constants[value] = const
            number += 1
        env[var] = value
    names = Names(inputs)

    literal = compat.Literal

    def read(atom: Any) -> Value:
        return Literal(atom.val, atom.aval) if isinstance(atom, literal) else env[atom]

    nodes = []
    for eqn in jaxpr.eqns:
        primitive = eqn.primitive
        ins = tuple([read(atom) for atom in eqn.invars])
        outs = []
        for var in eqn.outvars:
            value = env[var] = Value(names.fresh(primitive.name), var.aval)
            outs.append(value)
        has_body = next(compat.bodies_in_params(eqn.params), None) is not None
        nodes.append(
            Node(
                primitive,
                ins,
                tuple(outs),
                eqn.params,
                effects=eqn.effects,
                ctx=eqn.ctx,
                source_info=eqn.source_info,
                bodies=Bodies(memo=memo) if has_body else None,
            )
        )
    outputs = [read(atom) for atom in jaxpr.outvars]
    return Graph(
        name,
        tuple(inputs.values()),
        nodes,
        outputs,
        constants,
        signature=signature,
        next_id=names.next_id,
    )


def graph_of_body(body: Any, where: str, memo: dict[Any, Any] | None) -> Graph:
    """The graph of a nested jaxpr, shared between the equations that share it."""
    memo = {} if memo is None else memo
    key = (id(body), where)
    if key not in memo:
        # The body is kept beside its graph, so that its identity is not given to another.
        memo[key] = (body, graph_of_jaxpr(body, where, memo=memo))
    return memo[key][1]
