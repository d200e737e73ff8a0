"""Activations that are products, in whatever order people write the factors.

``x * sigmoid(x)``, ``x / (1 + exp(-x))``, ``0.5 * x * (1 + tanh(...))``, ``x * relu6(x + 3) / 6``:
the exact trace of ``jax.nn`` has rules of its own, and these find the rest.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from jaxpress import nnops
from jaxpress.capture import Node, Value, compat, graph_of_jaxpr
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.arithmetic import (
    Product,
    Terms,
    number_of,
    polynomial_in,
    product_of,
    same_number,
)
from jaxpress.passes.rules.canonical import custom_jvp_signature
from jaxpress.passes.view import View

__all__ = ["CLIPPED_PRODUCT_RULES", "PRODUCT_NEEDS", "PRODUCT_RULES", "call_of"]

# A graph with none of these has no activation that is a product or a gate.
PRODUCT_NEEDS = frozenset(
    """
    logistic tanh erf erfc exp expm1 custom_jvp_call select_n
    relu relu6 hard_sigmoid elu softplus sigmoid silu gelu
    """.split()  # noqa: SIM905
)

_ROOT_2 = math.sqrt(0.5)
_CUBIC = {1: math.sqrt(2 / math.pi), 3: math.sqrt(2 / math.pi) * 0.044715}

# What a product turned out to be: the op, its parameters, its operand, further nodes.
Found = tuple[str, dict[str, Any], Value, list[Node]]
Reading = Callable[[View, Product, Any], Found | None]


class _ProductPattern:
    """A product whose factors are those of an activation."""

    size = 1  # after the exact patterns

    def __init__(self, names: Iterable[str], readings: Iterable[Reading]):
        self.names = frozenset(names)
        self.readings = tuple(readings)

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        if not jnp.issubdtype(node.output.dtype, jnp.floating):
            state.fail("it is of no floating-point array", node)
            return None
        product = product_of(view, node)
        if product is None:
            state.fail("it is a product of other shapes, or of too many factors", node)
            return None
        for reading in self.readings:
            found = reading(view, product, node.output.dtype)
            if found is None:
                continue
            op, params, x, more = found
            if x.shape == node.output.shape and x.dtype == node.output.dtype:
                info = {"op": op, "params": tuple(sorted(params.items()))}
                return Match(view, node, {"x": x}, matched=(*product.nodes, *more), info=info)
        state.fail("its factors are those of no activation", node)
        return None


def _sigmoids(view: View, p: Product, dtype: Any) -> Found | None:
    """``1 / (1 + exp(-u))``, and ``x`` times it."""
    if len(p.under) != 1 or len(p.over) > 1 or p.coefficient != 1:
        return None
    add = view.producer(p.under[0])
    if add is None or add.op != "add":
        return None
    exp = _beside_one(view, add)
    if exp is None or exp.op != "exp":
        return None
    return _of_sigmoid(view, p.over, view.inputs(exp)[0], -1.0, [add, exp], dtype)


def _gates(view: View, p: Product, dtype: Any) -> Found | None:
    """``x * sigmoid(x)`` and ``x * sigmoid(1.702 * x)``."""
    if len(p.over) != 2 or p.under or p.coefficient != 1:
        return None
    for gate, x in (p.over, p.over[::-1]):
        node = view.producer(gate)
        if node is not None and _is_sigmoid(node):
            u = view.inputs(node)[0]
            found = _of_sigmoid(view, [x], u, 1.0, [node], dtype)
            if found is not None:
                return found
    return None


def _of_sigmoid(
    view: View, over: list[Value], u: Value, sign: float, nodes: list[Node], dtype: Any
) -> Found | None:
    """``over * sigmoid(sign * u)``."""
    if not over:
        node = view.producer(u)
        if sign < 0 and node is not None and node.op == "neg":
            return "sigmoid", {}, view.inputs(node)[0], [*nodes, node]
        return None
    more = list(nodes)
    terms = polynomial_in(view, u, over[0], more)
    if terms is None or set(terms) != {1}:
        return None
    if terms[1] == sign:
        return "silu", {}, over[0], more
    if same_number(terms[1], 1.702 * sign, dtype):
        return "quick_gelu", {}, over[0], more
    return None


def _gelus(view: View, p: Product, dtype: Any) -> Found | None:
    """``x`` times half of one plus a tanh or an erf; without ``x``, a sigmoid."""
    if p.under or len(p.over) not in (1, 2):
        return None
    for i, gate in enumerate(p.over):
        rest = p.over[:i] + p.over[i + 1 :]
        # gate = constant + slope * core(u), and p.coefficient of it.
        found = _affine_core(view, gate)
        if found is None:
            continue
        core, constant, slope, more = found
        constant, slope = constant * p.coefficient, slope * p.coefficient
        u = view.inputs(core)[0]
        if core.op == "erfc":
            wanted = (0.0, 0.5, -_ROOT_2)
        elif core.op == "erf":
            wanted = (0.5, 0.5, _ROOT_2)
        else:
            wanted = (0.5, 0.5, 0.0)
        if (constant, slope) != wanted[:2]:
            continue
        if not rest:
            half = _half_of(view, u, dtype) if core.op == "tanh" else None
            return None if half is None else ("sigmoid", {}, half[0], [*more, *half[1]])
        terms = polynomial_in(view, u, rest[0], more)
        if terms is None:
            continue
        if core.op == "tanh":
            if _same_terms(terms, _CUBIC, dtype):
                return "gelu", {"approximate": True}, rest[0], more
        elif _same_terms(terms, {1: wanted[2]}, dtype):
            return "gelu", {"approximate": False}, rest[0], more
    return None


def _affine_core(view: View, value: Value) -> tuple[Node, float, float, list[Node]] | None:
    """``constant + slope * core(u)``, where ``core`` is tanh, erf or erfc."""
    node, nodes = view.producer(value), []
    constant, slope = 0.0, 1.0
    if node is not None and node.op == "add":
        for i in (0, 1):
            number = number_of(view, view.inputs(node)[i])
            if number is not None:
                nodes.append(node)
                constant = number
                node = view.producer(view.inputs(node)[1 - i])
                break
    if node is not None and node.op == "mul":
        for i in (0, 1):
            number = number_of(view, view.inputs(node)[i])
            if number is not None:
                nodes.append(node)
                slope = number
                node = view.producer(view.inputs(node)[1 - i])
                break
    if node is None or node.op not in ("tanh", "erf", "erfc"):
        return None
    return node, constant, slope, [*nodes, node]


def _half_of(view: View, u: Value, dtype: Any) -> tuple[Value, list[Node]] | None:
    """``x`` of ``x / 2``."""
    node = view.producer(u)
    if node is None or node.op not in ("mul", "div"):
        return None
    p = product_of(view, node)
    if p is None or len(p.over) != 1 or p.under or p.coefficient != 0.5:
        return None
    return p.over[0], p.nodes


def _same_terms(a: Terms, b: Terms, dtype: Any) -> bool:
    a = {k: c for k, c in a.items() if c != 0}
    return set(a) == set(b) and all(same_number(a[k], b[k], dtype) for k in b)


def _hards(view: View, p: Product, dtype: Any, clips: bool = False) -> Found | None:
    """``relu6(x + 3) / 6``, and ``x`` times it."""
    if p.under or len(p.over) not in (1, 2):
        return None
    for i, gate in enumerate(p.over):
        rest = p.over[:i] + p.over[i + 1 :]
        found = call_of(view, gate)
        clip = _clip_of(view, gate, 6.0) if clips and found is None else None
        if clip is not None:
            found = "relu6", clip[0], clip[1][0]
        if found is None:
            continue
        name, u, node = found
        if name == "hard_sigmoid" and rest and u is rest[0] and p.coefficient == 1:
            return "hard_silu", {}, u, [node]
        if name != "relu6" or not same_number(p.coefficient, 1 / 6, dtype):
            continue
        add = view.producer(u)
        if add is None or add.op != "add":
            continue
        for x in rest or view.inputs(add):
            more: list[Node] = [node, *(clip[1][1:] if clip else ())]
            if polynomial_in(view, u, x, more) == {1: 1.0, 0: 3.0}:
                return "hard_silu" if rest else "hard_sigmoid", {}, x, more
    return None


def _mish(view: View, p: Product, dtype: Any) -> Found | None:
    """``x * tanh(softplus(x))``."""
    del dtype
    if p.under or len(p.over) != 2 or p.coefficient != 1:
        return None
    for gate, x in (p.over, p.over[::-1]):
        tanh = view.producer(gate)
        if tanh is None or tanh.op != "tanh":
            continue
        found = call_of(view, view.inputs(tanh)[0])
        if found is not None and found[0] == "softplus" and found[1] is x:
            return "mish", {}, x, [tanh, found[2]]
    return None


def _selu(view: View, p: Product, dtype: Any) -> Found | None:
    """``1.0507 * elu(x, 1.6733)``."""
    if p.under or len(p.over) != 1 or not same_number(p.coefficient, 1.0507009873554805, dtype):
        return None
    node = view.producer(p.over[0])
    if node is None or node.op != "elu":
        return None
    if not same_number(node.params["alpha"], 1.6732632423543772, dtype):
        return None
    return "selu", {}, view.inputs(node)[0], [node]


def _beside_one(view: View, add: Node) -> Node | None:
    """What makes the other operand of ``1 + ...``."""
    for one, other in (view.inputs(add), view.inputs(add)[::-1]):
        if number_of(view, one) == 1:
            return view.producer(other)
    return None


def _is_sigmoid(node: Node) -> bool:
    return node.op == "sigmoid" or (node.op == "logistic" and node.params["accuracy"] is None)


def call_of(view: View, value: Value) -> tuple[str, Value, Node] | None:
    """The activation that makes ``value``: its name, its operand, its node.

    A named op, or ``relu``, ``relu6`` or ``softplus`` with the very derivative of ``jax.nn``.
    """
    node = view.producer(value)
    if node is None or len(node.outputs) != 1:
        return None
    if node.op in nnops.activation_entries():
        return node.op, view.inputs(node)[0], node
    if node.op in compat.CUSTOM_JVP_NAMES:
        name = _signatures().get(custom_jvp_signature(node) or "")
        if name is None:
            return None
        values = [v for v in view.inputs(node) if number_of(view, v) != 0]
        wanted = 2 if name == "softplus" else 1
        if len(values) == 1 and len(view.inputs(node)) == wanted:
            return name, values[0], node
    return None


@functools.cache
def _signatures() -> dict[str, str]:
    """What tells apart the custom derivatives of jax.nn, by what they are of."""
    found = {}
    for name, fn in (
        ("relu", jax.nn.relu),
        ("relu6", jax.nn.relu6),
        ("softplus", lambda x: jnp.logaddexp(x, 0.0)),
    ):
        graph = graph_of_jaxpr(jax.make_jaxpr(fn)(jax.ShapeDtypeStruct((2, 3), "float32")))
        (node,) = (n for n in graph.nodes if n.op in compat.CUSTOM_JVP_NAMES)
        signature = custom_jvp_signature(node, any_shape=True)
        if signature is not None:
            found[signature] = name
    return found


def _clip_of(view: View, value: Value, high: float) -> tuple[Value, list[Node]] | None:
    """``u`` of ``min(max(u, 0), high)``."""
    nodes: list[Node] = []
    for op, limit in (("min", high), ("max", 0.0)):
        node = view.producer(value)
        if node is None or node.op != op:
            return None
        rest = [v for v in view.inputs(node) if number_of(view, v) != limit]
        if len(rest) != 1:
            return None
        nodes.append(node)
        (value,) = rest
    return value, nodes


class _UnitClipPattern:
    """``clip(x / 6 + 0.5, 0, 1)``."""

    names = frozenset({"min"})
    size = 4

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        found = _clip_of(view, node.output, 1.0)
        if found is None or not jnp.issubdtype(node.output.dtype, jnp.floating):
            state.fail("it is no clip from 0 to 1", node)
            return None
        u, nodes = found
        x: Value | None = u
        for _ in range(4):  # down to what is clipped, past sums and products with numbers
            maker = None if x is None else view.producer(x)
            if maker is None or maker.op not in ("add", "mul", "div"):
                break
            x = next((v for v in view.inputs(maker) if number_of(view, v) is None), None)
            terms = None if x is None else polynomial_in(view, u, x, more := list(nodes))
            if terms and _same_terms(terms, {1: 1 / 6, 0: 0.5}, node.output.dtype):
                assert x is not None
                info = {"op": "hard_sigmoid", "params": ()}
                return Match(view, node, {"x": x}, matched=more, info=info)
        state.fail("what it clips is not x / 6 + 0.5", node)
        return None


def _raise(x: Any, *, match: Match) -> Any:
    fn = nnops.activation_entries()[match.info["op"]].op
    return fn(x, **dict(match.info["params"]))


def _activation_rule(match: Match) -> str:
    """Somebody who switches off ``raise_silu`` wants no ``silu``, however it is spelled."""
    return f"raise_{match.info['op']}"


# a product of the same factors -> silu(x), quick_gelu(x), gelu(x), sigmoid(x), hard_sigmoid(x),
# hard_silu(x), mish(x) or selu(x)
RAISE_PRODUCT = Rule(
    "raise_activation_product",
    _ProductPattern(("mul", "div"), (_gates, _sigmoids, _gelus, _hards, _mish, _selu)),
    _raise,
    numerics="reassociates",
    stands_for=_activation_rule,
)

# 0.5 * tanh(x / 2) + 0.5 -> sigmoid(x)
RAISE_TANH_SIGMOID = Rule(
    "raise_tanh_sigmoid",
    _ProductPattern(("add",), (_gelus,)),
    _raise,
    numerics="reassociates",
    stands_for=_activation_rule,
)

PRODUCT_RULES = RuleSet((RAISE_PRODUCT, RAISE_TANH_SIGMOID))

# x * clip(x + 3, 0, 6) / 6 -> hard_silu(x), and without x hard_sigmoid(x)
RAISE_CLIPPED_PRODUCT = Rule(
    "raise_clipped_product",
    _ProductPattern(("mul", "div"), (functools.partial(_hards, clips=True),)),
    _raise,
    numerics="reassociates",
    stands_for=_activation_rule,
)

# clip(x / 6 + 0.5, 0, 1) -> hard_sigmoid(x)
RAISE_UNIT_CLIP = Rule(
    "raise_unit_clip",
    _UnitClipPattern(),
    _raise,
    numerics="reassociates",
    stands_for=_activation_rule,
)

CLIPPED_PRODUCT_RULES = RuleSet((RAISE_CLIPPED_PRODUCT, RAISE_UNIT_CLIP))
