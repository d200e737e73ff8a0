"""Activations, written out as ``jax.nn`` writes them, become named ops.

The patterns are made from the ops' own references: each is traced once, and its equations become
a pattern in which shapes and dtypes do not occur. A parameter such as ``negative_slope`` becomes a
captured scalar.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpress import nnops
from jaxpress.capture import Literal, Node, Value, compat, graph_of_jaxpr
from jaxpress.capture.edit import Editor
from jaxpress.capture.template import inline_calls
from jaxpress.nnops import activation_entries
from jaxpress.passes.engine import rewrite
from jaxpress.passes.pattern import AnyValue, Op, Pattern, Scalar, any_value, op
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.canonical import custom_jvp_signature
from jaxpress.passes.rules.cleanup import CLEANUP_RULES
from jaxpress.passes.view import View, scalar_value

__all__ = ["activation_rules", "clip_rules", "pattern_of"]

# Parameters that say how large a result is, and nothing of what it is.
_SHAPE_PARAMS = frozenset(
    {"shape", "sharding", "out_sharding", "broadcast_dimensions", "weak_type"}
)
# A number that no model has, to see where a parameter stands in the trace.
_PROBE = 0.3719582


# Operations without which an activation cannot be there: its pattern is not even made for a graph
# that lacks one, since tracing all of them takes longer than rewriting a model.
_NEEDS: dict[str, tuple[str, ...]] = {
    "celu": ("expm1", "max"),
    "elu": ("expm1",),
    "gelu": ("mul",),
    "hard_sigmoid": ("custom_jvp_call", "div"),
    "hard_silu": ("custom_jvp_call", "div", "mul"),
    "hard_tanh": ("gt", "lt", "select_n"),
    "leaky_relu": ("select_n", "mul"),
    "log_sigmoid": ("custom_jvp_call", "neg"),
    "mish": ("custom_jvp_call", "tanh"),
    "relu": ("custom_jvp_call",),
    "relu6": ("custom_jvp_call",),
    "selu": ("expm1",),
    "sigmoid": ("logistic",),
    "silu": ("logistic", "mul"),
    "soft_sign": ("abs", "div"),
    "softplus": ("custom_jvp_call",),
    "sparse_plus": ("ge", "le", "select_n"),
    "sparse_sigmoid": ("max", "min", "mul"),
    "squareplus": ("sqrt",),
}


def activation_rules(ops: Collection[str] | None = None) -> RuleSet:
    """The rules for every activation.

    Args:
      ops: the op names of a graph; activations that cannot be in it are left out.
    """
    rules: list[Rule] = []
    for name in activation_entries():
        if name not in nnops.registry():  # a primitive of JAX's own, such as tanh
            continue
        if ops is None or all(need in ops for need in _NEEDS.get(name, ())):
            rules.extend(_rules_of(name))
    return RuleSet(rules)


@functools.cache
def _rules_of(name: str) -> tuple[Rule, ...]:
    entry = activation_entries()[name]
    rules = []
    for fixed in _fixed_choices(entry.defaults):
        free = [k for k in entry.defaults if k not in fixed]
        pattern = _activation_pattern(entry.reference, fixed, free)
        if pattern is not None:
            rules.append(_rule(name, pattern, _replacement(entry.op, fixed, free)))
        if free:
            # A product with 1 is gone by the time that rules look; or a parameter is computed
            # with, and its default at least is known.
            fixed = {**entry.defaults, **fixed}
            plain = _activation_pattern(entry.reference, fixed, [])
            if plain is not None and (pattern is None or plain.size != pattern.size):
                rules.append(_rule(name, plain, _replacement(entry.op, fixed, [])))
    return tuple(rules)


def _rule(name: str, pattern: Op, replacement: Callable[..., Any]) -> Rule:
    return Rule(f"raise_{name}", pattern, replacement, _guard)


def _fixed_choices(defaults: Any) -> list[dict[str, Any]]:
    """Every combination of the parameters that are not numbers, such as ``approximate``."""
    flags = [k for k, v in defaults.items() if isinstance(v, bool | str)]
    choices = [(True, False) if isinstance(defaults[k], bool) else (defaults[k],) for k in flags]
    return [dict(zip(flags, values, strict=True)) for values in itertools.product(*choices)]


def _replacement(
    op_function: Callable[..., Any], fixed: dict[str, Any], free: list[str]
) -> Callable[..., Any]:
    def replace(x: Any, *, match: Match) -> Any:
        dtype = match["x"].dtype
        return op_function(x, **fixed, **{k: _short(match[k], dtype) for k in free})

    return replace


def _short(value: Value, dtype: Any) -> float:
    """The shortest decimal that is this number in ``dtype``: 0.2, not 0.20000000298."""
    assert isinstance(value, Literal)
    number = np.asarray(value.val).astype(dtype)
    for text in (f"{float(number):.{n}g}" for n in range(1, 18)):
        if np.asarray(float(text)).astype(dtype) == number:
            return float(text)
    return float(number)


def _guard(match: Match) -> str | None:
    x = match["x"]
    if isinstance(x, Literal) or x.aval.shape != match.root.output.aval.shape:
        return "it is of a scalar that is written in the program"
    if x.dtype != match.root.output.dtype:
        return "it changes the dtype"
    return None


def _activation_pattern(
    reference: Callable[..., Any], fixed: dict[str, Any], free: list[str]
) -> Op | None:
    """The pattern of an elementwise function of one array with numeric parameters ``free``."""
    # A parameter that is only computed with leaves a number in the pattern that no model has.
    values = {k: _PROBE * (1 + i / 16) for i, k in enumerate(free)}
    pattern, found = pattern_of(
        lambda x: reference(x, **fixed, **values), ["x"], {v: k for k, v in values.items()}
    )
    return pattern if isinstance(pattern, Op) and found == set(free) else None


def pattern_of(
    fn: Callable[..., Any], names: list[str], holes: dict[float, str] | None = None
) -> tuple[Pattern, set[str]]:
    """An elementwise function of arrays as a pattern that knows no shapes and no dtypes.

    Args:
      fn: a function over ``jnp`` or ``jax.nn`` of ``len(names)`` arrays of one shape.
      names: under which the arguments are captured.
      holes: scalars that stand for a parameter: each becomes a captured scalar of that name.

    Returns:
      The pattern of the result, and the names of the parameters that occurred.
    """
    holes = holes or {}
    found: set[str] = set()
    # In float64, so that the constants are exact.
    with compat.enable_x64(True):
        x = jax.ShapeDtypeStruct((2, 3), np.float64)
        graph = inline_calls(graph_of_jaxpr(jax.make_jaxpr(fn)(*[x] * len(names))))
        # As the graphs are in which it is looked for.
        graph = rewrite(graph, CLEANUP_RULES)
    view = Editor(graph)
    arguments = {v: AnyValue(name) for v, name in zip(graph.inputs, names, strict=True)}
    memo: dict[Value, Pattern] = {}

    def build(value: Value) -> Pattern:
        number = scalar_value(view, value)
        if number is not None:
            name = holes.get(float(number)) if np.isreal(number) else None
            if name is not None:
                found.add(name)
                return Scalar(name=name)
            return Scalar(number)
        if value in arguments:
            return arguments[value]
        if value not in memo:
            node = graph.producer(value)
            if node is None:
                memo[value] = any_value()
            elif node.op == "copy" or _is_plain_convert(node):
                memo[value] = build(node.inputs[0])
            else:
                memo[value] = Op(
                    node.op,
                    *[build(v) for v in node.inputs],
                    params=_plain_params(node),
                    where=_condition(node),
                    output=node.outputs.index(value),
                )
        return memo[value]

    return build(graph.outputs[0]), found


def _is_plain_convert(node: Node) -> bool:
    return node.op == "convert_element_type" and node.inputs[0].dtype == node.output.dtype


def _plain_params(node: Node) -> dict[str, Any]:
    if node.subgraphs:
        return {}
    return {k: v for k, v in node.params.items() if k not in _SHAPE_PARAMS and k != "new_dtype"}


def _condition(node: Node) -> Callable[[View, Node], bool] | None:
    """A custom derivative must be the very same one."""
    if node.op not in compat.CUSTOM_JVP_NAMES:
        return None
    wanted = custom_jvp_signature(node, any_shape=True)

    def same_rule(view: View, other: Node) -> bool:
        return len(other.outputs) == 1 and custom_jvp_signature(other) == wanted

    return same_rule


def _clip_guard(match: Match) -> str | None:
    if not jnp.issubdtype(match["x"].dtype, jnp.floating):
        return "it is of no floating-point array"
    return _guard(match)


@functools.cache
def clip_rules() -> RuleSet:
    """``max(x, 0)`` and its like. Values are equal; derivatives differ at the kinks.

    ``lax.max`` gives each operand half of the derivative where they are equal, ``jax.nn.relu``
    none: only for a result that nobody differentiates.
    """
    # min(max(x, 0), 6) -> relu6(x);  max(x, 0) -> relu(x)
    relu6 = op("min", op("max", any_value("x"), 0.0), 6.0)
    return RuleSet(
        (
            Rule("raise_clip6", relu6, lambda x: nnops.relu6(x), _clip_guard),
            Rule(
                "raise_max0", op("max", any_value("x"), 0.0), lambda x: nnops.relu(x), _clip_guard
            ),
        )
    )
