"""Ordinary JAX functions traced into pieces of graph that can be inserted many times.

A model repeats its layers, and so a rule meets the same shapes again and again: the trace of a
replacement is remembered by the function, what it closes over, and its operands' avals.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container
from typing import Any, NamedTuple

import jax

from jaxpress.capture import compat
from jaxpress.capture.from_jaxpr import graph_of_jaxpr
from jaxpress.capture.graph import Graph, Literal, Node, Value
from jaxpress.capture.names import Names
from jaxpress.capture.provenance import is_at_user

__all__ = ["Template", "inline_calls", "is_plain_call", "template_of"]

_MAX_CACHED = 4096


class Template(NamedTuple):
    """A traced function without inner calls: inputs, nodes and outputs to be copied in."""

    graph: Graph


_cache: OrderedDict[Any, Template] = OrderedDict()


def template_of(fn: Callable[..., Any], avals: tuple[Any, ...], key: Any, cache: bool) -> Template:
    """The trace of ``fn`` over ``avals``, with calls to ``jit`` spelled out.

    Args:
      fn: an ordinary JAX function of arrays.
      avals: abstract values of its arguments.
      key: hashable; what tells apart two functions of the same code.
      cache: whether the trace may be remembered.
    """
    if not cache:
        return _trace(fn, avals)
    full_key = (fn if key is None else key, avals, compat.context_key())
    try:
        found = _cache.get(full_key)
    except TypeError:  # an unhashable aval or key
        return _trace(fn, avals)
    if found is None:
        found = _cache[full_key] = _trace(fn, avals)
        if len(_cache) > _MAX_CACHED:
            _cache.popitem(last=False)
    return found


def _trace(fn: Callable[..., Any], avals: tuple[Any, ...]) -> Template:
    def flat(*arrays: Any) -> list[Any]:
        return jax.tree_util.tree_leaves(fn(*arrays))

    closed = compat.trace_flat(flat, avals)
    return Template(inline_calls(graph_of_jaxpr(closed, getattr(fn, "__name__", "template"))))


def inline_calls(
    graph: Graph,
    only: Container[Node] | None = None,
    owners: dict[Node, Node] | None = None,
) -> Graph:
    """``graph`` with every plain ``jit`` and ``closed_call`` replaced by its body, at all depths.

    A call that asks for something of its own (shardings, donation, compiler options) stays.

    Args:
      graph: the graph.
      only: which calls of the graph itself to replace, with all calls inside them; all if left out.
      owners: filled with the call of the graph that each node comes from.
    """
    if not any(is_plain_call(node) for node in graph.nodes):
        return graph
    nodes: list[Node] = []
    names = Names((v.name for v in (*graph.inputs, *graph.constants)), graph.next_id)
    constants = dict(graph.constant_values)
    by_identity = {id(array): v for v, array in constants.items()}
    env: dict[Value, Value] = {}
    at_user: dict[int, bool] = {}

    def read(v: Value) -> Value:
        return env.get(v, v)

    def placed(source_info: Any, outer: Any) -> Any:
        """Where an equation of a call's body is: in its scope, and on a line of the user's."""
        key = id(source_info.traceback)
        if key not in at_user:
            at_user[key] = is_at_user(source_info)
        if not at_user[key]:
            # JAX's own functions keep none of the user's frames in their bodies.
            source_info = source_info.replace(traceback=outer.traceback)
        if outer.name_stack.stack:
            source_info = source_info.replace(name_stack=outer.name_stack + source_info.name_stack)
        return source_info

    # An explicit stack of (iterator, environment of that body, where the call is), since
    # calls may be nested deeper than Python's own stack allows.
    stack: list[tuple[Any, dict[Value, Value], Any, Any]] = [(iter(graph.nodes), env, None, None)]
    while stack:
        iterator, env, outer, finish = stack[-1]
        node = next(iterator, None)
        if node is None:
            stack.pop()
            if finish is not None:
                call, body = finish
                around = stack[-1][1]
                for out, result in zip(call.outputs, body.outputs, strict=True):
                    around[out] = result if isinstance(result, Literal) else env[result]
            continue
        if is_plain_call(node) and (outer is not None or only is None or node in only):
            (body,) = node.subgraphs
            inner: dict[Value, Value] = {
                v: read_from(env, x) for v, x in zip(body.inputs, node.inputs, strict=True)
            }
            for v in body.constants:
                array = body.constant_value(v)
                known = by_identity.get(id(array))
                if known is None:
                    known = by_identity[id(array)] = Value(names.fresh("const"), v.aval)
                    constants[known] = array
                inner[v] = known
            place = node.source_info if outer is None else placed(node.source_info, outer)
            stack.append((iter(body.nodes), inner, place, (node, body)))
            continue
        if outer is None:
            ins = tuple([read_from(env, v) for v in node.inputs])
            changed = any(a is not b for a, b in zip(ins, node.inputs, strict=True))
            nodes.append(node.with_inputs(ins) if changed else node)
            for v in node.outputs:
                env[v] = v
            continue
        outs = []
        for v in node.outputs:
            env[v] = new = Value(names.fresh(node.op), v.aval)
            outs.append(new)
        inlined = Node(
            node.primitive,
            tuple([read_from(env, v) for v in node.inputs]),
            tuple(outs),
            node.params,
            effects=node.effects,
            ctx=node.ctx,
            source_info=placed(node.source_info, outer),
            origin=node.origin or (node,),
            bodies=node._bodies,
        )
        nodes.append(inlined)
        if owners is not None:
            owners[inlined] = stack[1][3][0]
    outputs = [read(v) for v in graph.outputs]
    return graph.with_parts(
        nodes=nodes, outputs=outputs, constants=constants, next_id=names.next_id
    )


def read_from(env: dict[Value, Value], v: Value) -> Value:
    return v if isinstance(v, Literal) else env.get(v, v)


def is_plain_call(node: Node) -> bool:
    """Whether a node is a call that ``inline_calls`` replaces."""
    if node.op in compat.JIT_NAMES:
        return compat.jit_is_plain(node.params) and len(node.subgraphs) == 1
    return node.op in compat.CALL_NAMES and len(node.subgraphs) == 1
