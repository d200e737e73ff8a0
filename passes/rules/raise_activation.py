"""Activations, written out as ``jax.nn`` writes them, become named ops.

The patterns are made from the ops' own references: each is traced once, and its equations become
a pattern in which shapes and dtypes do not occur. A parameter such as ``negative_slope`` becomes a
captured scalar.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Collection, Iterator
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
from jaxpress.passes.pattern import AnyOf, AnyValue, Op, Pattern, Scalar, any_value, op
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.canonical import custom_jvp_signature
from jaxpress.passes.rules.cleanup import CLEANUP_RULES
from jaxpress.passes.rules.formulas import FORMULAS, Formula
from jaxpress.passes.rules.raise_gated import GATED_RULES
from jaxpress.passes.rules.raise_prelu import PRELU_RULES
from jaxpress.passes.rules.raise_product import (
    CLIPPED_PRODUCT_RULES,
    PRODUCT_NEEDS,
    PRODUCT_RULES,
)
from jaxpress.passes.view import View, scalar_value

__all__ = ["activation_rules", "clip_rules", "pattern_of"]

# Parameters that say how large a result is, and nothing of what it is.
_SHAPE_PARAMS = frozenset(
    {"shape", "sharding", "out_sharding", "broadcast_dimensions", "weak_type"}
)
# Activations that make integers of integers: relu6 makes floats of them, as in jax.nn.
_OF_INTEGERS = frozenset({"relu"})
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
    "quick_gelu": ("logistic", "mul"),
    "relu": ("custom_jvp_call",),
    "relu6": ("custom_jvp_call",),
    "relu_squared": ("custom_jvp_call",),
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
    rules.extend(_formula_rules(ops, only_values=False))
    if ops is None or any(op in ops for op in PRODUCT_NEEDS):
        rules.extend((*PRODUCT_RULES, *GATED_RULES, *PRELU_RULES))
    return RuleSet(rules)


def _formula_rules(ops: Collection[str] | None, only_values: bool) -> Iterator[Rule]:
    for formula in FORMULAS:
        if formula.only_values == only_values and (
            ops is None or all(need in ops for need in formula.needs)
        ):
            yield from _rules_of_formula(formula)


@functools.cache
def _rules_of_formula(formula: Formula) -> tuple[Rule, ...]:
    free = list(formula.free)
    replacement = _replacement(getattr(nnops, formula.op), formula.fixed, free)
    name = formula.op if formula.numerics == "exact" else f"{formula.op}_by_hand"
    return tuple(
        _rule(name, pattern, replacement, formula.numerics)
        for pattern in _activation_patterns(formula.fn, {}, free)
    )


@functools.cache
def _rules_of(name: str) -> tuple[Rule, ...]:
    entry = activation_entries()[name]
    rules = []
    for fixed in _fixed_choices(entry.defaults):
        free = [k for k in entry.defaults if k not in fixed]
        patterns = _activation_patterns(entry.reference, fixed, free)
        rules.extend(_rule(name, p, _replacement(entry.op, fixed, free)) for p in patterns)
        if free:
            # A product with 1 is gone by the time that rules look; or a parameter is computed
            # with, and its default at least is known.
            fixed = {**entry.defaults, **fixed}
            plain = _activation_patterns(entry.reference, fixed, [])
            if plain and (not patterns or plain[0].size != patterns[0].size):
                rules.extend(_rule(name, p, _replacement(entry.op, fixed, [])) for p in plain)
    return tuple(rules)


def _rule(name: str, pattern: Op, replacement: Callable[..., Any], numerics: str = "exact") -> Rule:
    guard = _guard if name in _OF_INTEGERS else _float_guard
    return Rule(f"raise_{name}", pattern, replacement, guard, numerics=numerics)


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


def _activation_patterns(
    reference: Callable[..., Any], fixed: dict[str, Any], free: list[str]
) -> list[Op]:
    """The patterns of an elementwise function of one array with numeric parameters ``free``."""
    # A parameter that is only computed with leaves a number in the pattern that no model has.
    values = {k: _PROBE * (1 + i / 16) for i, k in enumerate(free)}
    pattern, found = pattern_of(
        lambda x: reference(x, **fixed, **values), ["x"], {v: k for k, v in values.items()}
    )
    choices = pattern.choices if isinstance(pattern, AnyOf) else (pattern,)
    return [p for p in choices if isinstance(p, Op)] if found == set(free) else []


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
                parts = [build(v) for v in node.inputs]
                memo[value] = _spellings(
                    Op(
                        node.op,
                        *parts,
                        params=_plain_params(node),
                        where=_condition(node),
                        output=node.outputs.index(value),
                    ),
                    squares=node.op == "mul" and node.inputs[0] is node.inputs[1],
                )
        return memo[value]

    return build(graph.outputs[0]), found


def _spellings(pattern: Op, squares: bool) -> Pattern:
    """An operation in every way to write it that gives the same bits, the given one first."""
    (name,) = pattern.names
    if name == "square" or squares or (name == "integer_pow" and pattern.params["y"] == 2):
        x = pattern.operands[0]
        ways = [Op("square", x), Op("integer_pow", x, params={"y": 2}), Op("mul", x, x)]
        first = [w for w in ways if name in w.names]
        return AnyOf(*first, *(w for w in ways if w not in first))
    if name in ("mul", "div"):
        for i, p in enumerate(pattern.operands):
            number = p.value if isinstance(p, Scalar) and not p.name else None
            if number is None or math.frexp(abs(number))[0] != 0.5 or (name == "div" and i == 0):
                continue
            # A power of two: its inverse is exact.
            other = Op(
                "div" if name == "mul" else "mul", pattern.operands[1 - i], Scalar(1 / number)
            )
            return AnyOf(pattern, other)
    return pattern


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


def _float_guard(match: Match) -> str | None:
    if not jnp.issubdtype(match["x"].dtype, jnp.floating):
        return "it is of no floating-point array"
    return _guard(match)


def clip_rules(ops: Collection[str] | None = None) -> RuleSet:
    """``max(x, 0)`` and its like. Values are equal; derivatives differ at the kinks.

    ``lax.max`` gives each operand half of the derivative where they are equal, ``jax.nn.relu``
    none: only for a result that nobody differentiates.

    Args:
      ops: the op names of a graph; rules that cannot apply in it are left out.
    """
    rules = _clips() + RuleSet(_formula_rules(ops, only_values=True))
    # What is made of a clip is found as well.
    return rules + CLIPPED_PRODUCT_RULES


def _less_than_one(match: Match) -> str | None:
    slope = float(match["slope"].val)  # type: ignore[attr-defined]
    return _float_guard(match) if 0 < slope < 1 else f"its slope is {slope}"


def _leaky(x: Any, *, match: Match) -> Any:
    return nnops.leaky_relu(x, _short(match["slope"], match["x"].dtype))


@functools.cache
def _clips() -> RuleSet:
    x, slope = any_value("x"), Scalar(name="slope")
    return RuleSet(
        (
            # min(max(x, 0), 6) -> relu6(x)
            Rule("raise_clip6", op("min", op("max", x, 0.0), 6.0), nnops.relu6, _float_guard),
            # max(x, 0) -> relu(x)
            Rule("raise_max0", op("max", x, 0.0), nnops.relu, _float_guard),
            # max(x, slope * x) -> leaky_relu(x, slope)
            Rule("raise_max_slope", op("max", x, op("mul", x, slope)), _leaky, _less_than_one),
            # prelu(x, number) -> leaky_relu(x, number)
            Rule(
                "raise_prelu_number",
                op("prelu", x, slope),
                _leaky,
                _float_guard,
                stands_for=lambda match: "raise_leaky_relu",
            ),
        )
    )
