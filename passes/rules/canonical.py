"""A function's body as text that does not depend on shapes, dtypes or names.

Used to tell whether a custom derivative is that of ``jax.nn``: a user's own function called
``relu`` is not ``relu`` unless both its value and its derivative are.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxpress.capture import Graph, Literal, Node, Value, compat, graph_of_jaxpr
from jaxpress.capture.template import inline_calls
from jaxpress.capture.varying import varying_axes

__all__ = ["body_texts", "canonical_text", "custom_jvp_signature"]

_SHAPE_PARAMS = frozenset({"shape", "sharding", "out_sharding", "weak_type"})

# Of each entry by itself: on operands that are transposed alike, the result is transposed so.
# fmt: off
_ELEMENTWISE = frozenset({
    "abs", "add", "and", "ceil", "convert_element_type", "cos", "div", "eq", "erf", "exp", "exp2",
    "expm1", "floor", "ge", "gt", "integer_pow", "is_finite", "le", "log", "log1p", "logistic",
    "lt", "max", "min", "mul", "ne", "neg", "not", "or", "pow", "round", "rsqrt", "select_n",
    "sign", "sin", "sqrt", "square", "sub", "tanh",
})
# fmt: on

_SMALL = frozenset(map(str, range(-8, 9)))

_rules: dict[Any, str] = {}
_MAX_RULES = 4096
# Rules of JAX's own functions, which ask nothing of shapes.
_shape_free: set[Any] = set()


def canonical_text(graph: Graph, active: tuple[Any, ...] = ()) -> str:
    """The graph's equations by number, without shapes; dtypes relative to the first input's.

    Args:
      graph: what to spell.
      active: the custom derivatives that are being spelled, outermost first; one that is called
        again inside its own rule is named by its place.
    """
    graph = inline_calls(graph)
    base = graph.inputs[0].dtype if graph.inputs else None
    fresh = itertools.count()
    numbers: dict[Value, int] = {v: next(fresh) for v in (*graph.constants, *graph.inputs)}

    # A scalar that is spread out is spelled as the scalar: vmap spreads it once more.
    spread: dict[Value, str] = {}
    # Values that are their number transposed: vmap moves the axis that it runs over.
    turned: dict[Value, tuple[int, ...]] = {}

    def spell(v: Value) -> str:
        if isinstance(v, Literal):
            return _number(v.val)
        return spread.get(v) or f"%{numbers[v]}{turned.get(v, '')}"

    def turn(v: Value, order: tuple[int, ...]) -> None:
        if order != tuple(range(v.ndim)):
            turned[v] = order

    lines = []
    for node in graph.nodes:
        if node.op == "broadcast_in_dim":
            source = node.inputs[0]
            if source in spread or (isinstance(source, Literal) and source.ndim == 0):
                spread[node.output] = spell(source)
                continue
        if node.op == "pvary" or _keeps_number(node, spread):
            # Inside shard_map a value has to vary as what it meets does: it stays what it is.
            (source,) = node.inputs
            if isinstance(source, Literal) or source in spread:
                spread[node.output] = spell(source)
                continue
        if node.op in ("convert_element_type", "copy", "pvary") and node.inputs[0] in numbers:
            (source,) = node.inputs
            if source.dtype == node.output.dtype:
                numbers[node.output] = numbers[source]
                turn(node.output, turned.get(source, tuple(range(source.ndim))))
                continue
        if node.op == "transpose" and node.inputs[0] in numbers:
            (source,) = node.inputs
            before = turned.get(source, tuple(range(source.ndim)))
            numbers[node.output] = numbers[source]
            turn(node.output, tuple([before[a] for a in node.params["permutation"]]))
            continue
        operands = ", ".join(map(spell, node.inputs))
        if node.op in _ELEMENTWISE:
            arrays = [v for v in node.inputs if v in numbers and v.ndim]
            orders = {turned.get(v) for v in arrays if v.ndim == node.output.ndim}
            if len(orders) == 1 and None not in orders:
                operands = ", ".join(
                    f"%{numbers[v]}" if v in numbers and v not in spread else spell(v)
                    for v in node.inputs
                )
                turn(node.output, next(iter(orders)) or ())
        for v in node.outputs:
            numbers[v] = next(fresh)
        outs = ", ".join(f"%{numbers[v]}:{_kind(v, base)}" for v in node.outputs)
        lines.append(f"{outs} = {node.op}[{_params(node, base, active)}]({operands})")
    lines.append("return " + ", ".join(map(spell, graph.outputs)))
    return "\n".join(lines)


def _keeps_number(node: Node, spread: Mapping[Value, str]) -> bool:
    """Whether a node converts a number to its own type, or a small integer to floats."""
    if node.op != "convert_element_type" or not jnp.issubdtype(node.output.dtype, jnp.floating):
        return False
    (source,) = node.inputs
    if source.dtype == node.output.dtype:
        return source in spread
    text = _number(source.val) if isinstance(source, Literal) else spread.get(source)
    return jnp.issubdtype(source.dtype, jnp.integer) and text in _SMALL


def body_texts(node: Node) -> tuple[str, ...] | None:
    """The node's bodies as text; ``None`` if a custom derivative in one cannot be spelled."""
    try:
        return tuple(map(canonical_text, node.subgraphs))
    except _UnknownRule:
        return None


def _number(value: Any) -> str:
    """A scalar in full, without its dtype; a float0, the tangent of an integer, has no format."""
    array = np.asarray(value)
    return f"{array.item():.17g}" if array.dtype.names is None else str(array.dtype)


def _kind(v: Value, base: Any) -> str:
    return "T" if v.dtype == base else str(v.dtype)


def _params(node: Node, base: Any, active: tuple[Any, ...]) -> str:
    if node.op in compat.CUSTOM_JVP_NAMES:
        # A custom derivative inside: its own rule is part of the text.
        signature = custom_jvp_signature(node, active=active)
        if signature is None:
            raise _UnknownRule
        return signature.replace("\n", "; ")
    parts = []
    for key, value in sorted(node.params.items()):
        if key in _SHAPE_PARAMS or value is None or compat.is_body(value):
            continue
        if key == "new_dtype" and value == base:
            value = "T"
        parts.append(f"{key}={value}")
    parts.extend(canonical_text(body, active).replace("\n", "; ") for body in node.subgraphs)
    return " ".join(parts)


class _UnknownRule(Exception):
    """A custom derivative that cannot be spelled occurs inside another."""


def custom_jvp_signature(
    node: Node, *, any_shape: bool = False, active: tuple[Any, ...] = ()
) -> str | None:
    """What a ``custom_jvp_call`` computes and how it is differentiated, as text.

    The derivative rule is traced once per Python function, body and shapes.

    Args:
      node: the equation.
      any_shape: its rule is known to be the same for every shape, from now on.
      active: as in ``canonical_text``.

    Returns:
      The text; ``None`` if the rule cannot be spelled.
    """
    identity = compat.custom_jvp_identity(node.params)
    if identity is not None and identity in active:
        return f"rule {active.index(identity)}"
    if active and identity is None:
        return None  # perhaps one that is being spelled already
    if any_shape and identity is not None:
        _shape_free.add(identity)
    active = (*active, identity)
    try:
        body = canonical_text(graph_of_jaxpr(node.params["call_jaxpr"], "call_jaxpr"), active)
        # A rule is Python code, and may do one thing for vectors and another for matrices.
        shapes = None if _is_shape_free(identity) else tuple(v.shape for v in node.inputs)
        key = (identity, body, tuple(str(v.dtype) for v in node.inputs), shapes)
        if identity is None or len(active) > 1:
            rule = _rule_text(node, active)
        elif key in _rules:
            rule = _rules[key]
        else:
            if len(_rules) >= _MAX_RULES:
                _rules.clear()
            rule = _rules[key] = _rule_text(node, active)
    except _UnknownRule:
        return None
    return f"{body}\n{rule}"


def _is_shape_free(identity: Any) -> bool:
    """Whether a rule is one of JAX's elementwise functions', by itself or under ``vmap``."""
    return identity is not None and (*identity[:2], ()) in _shape_free


def _rule_text(node: Node, active: tuple[Any, ...]) -> str:
    if node.params.get("num_consts"):
        raise _UnknownRule
    # The rule is traced now, and has to meet the types that the equation was traced with.
    wide = any(getattr(v.dtype, "itemsize", 0) == 8 for v in node.inputs)
    nothing = contextlib.nullcontext()
    inside: contextlib.AbstractContextManager[Any] = nothing
    if any(varying_axes(v.aval) for v in node.outputs):
        mesh = node.ctx.cur_abstract_mesh
        axes = frozenset(mesh.manual_axes)
        params = {"mesh": mesh, "newly_manual_axes": axes, "check_vma": True}
        inside = compat.body_context("shard_map", params)
    try:
        with compat.enable_x64() if wide else nothing, inside:
            closed, zeros = compat.custom_jvp_rule(node.params, len(node.inputs))
    except Exception as error:  # of somebody's own rule, which may take no integers, for instance
        raise _UnknownRule from error
    # A rule mostly calls the function itself again for the value: there it is "rule 0".
    text = canonical_text(graph_of_jaxpr(closed, "jvp"), active)
    return f"{text}\nzeros {zeros} symbolic {bool(node.params.get('symbolic_zeros'))}"
