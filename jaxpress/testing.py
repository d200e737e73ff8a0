"""What people test their own rules with, and what jaxpress's own tests use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpress.capture import Graph, Literal, PassError, VerificationError, trace
from jaxpress.passes import Rule
from jaxpress.passes.example import Example, examples_of
from jaxpress.rule_cases import (
    REFUSED,
    check_batched,
    check_derivatives,
    check_mutants,
    check_second_users,
    check_values,
    is_float,
    rewritten,
)
from jaxpress.rule_precisions import check_float16, check_wide
from jaxpress.verification import verify

__all__ = ["assert_equivalent", "assert_rewrites", "check_rule"]

_SHAPES: tuple[tuple[int, ...], ...] = ((3, 5), (), (0, 3))
# Tried with one example, and numbers of their own.
_APART = ("float16", "float64", "int64")
_DTYPES = ("float32", "bfloat16", "int32", "complex64", *_APART)


def assert_equivalent(
    f: Callable[..., Any],
    g: Callable[..., Any],
    *args: Any,
    tolerance: float | None = None,
    gradients: bool = True,
    vmap: bool = True,
) -> None:
    """Assert that two functions are the same function on ``args``.

    Values against a float64 run of ``f``; gradients with respect to the floating-point arguments;
    ``jax.jit`` and ``jax.vmap`` of both.

    Raises:
      VerificationError: they differ; the message says where and by how much.

    >>> import jax.numpy as jnp
    >>> assert_equivalent(lambda x: x + x, lambda x: 2 * x, jnp.arange(3.0))
    """
    verify(f, g, tolerance=tolerance, gradients=gradients)(*args)
    verify(f, jax.jit(g), tolerance=tolerance)(*args)
    if vmap and jax.tree_util.tree_leaves(args):
        stacked = jax.tree_util.tree_map(lambda x: jnp.stack([jnp.asarray(x)] * 2), args)
        verify(jax.vmap(f), jax.vmap(g), tolerance=tolerance)(*stacked)


def assert_rewrites(
    rule: Any,
    fn: Callable[..., Any],
    *args: Any,
    times: int | None = None,
    gradients: bool = True,
    vmap: bool = True,
) -> Graph:
    """Assert that rules apply to ``fn``, leave it the same function, and find nothing twice.

    Args:
      rule: a rule, several, or a set of rules.
      fn: a function in whose graph they apply.
      *args: its arguments, concrete arrays.
      times: how often; at least once if left out.
      gradients, vmap: whether those are compared too.

    Returns:
      The rewritten graph.

    Raises:
      VerificationError: a rule did not apply, applied again, or changed the function.
    """
    graph = trace(fn)(*args)
    new, record = rewritten(rule, graph)
    new.validate()
    if _effects(new) != _effects(graph):
        raise VerificationError(f"{rule!r} changes the effects of\n{graph}\nto those of\n{new}")
    if not record or (times is not None and len(record) != times):
        raise VerificationError(
            f"{rule!r} applied {len(record)} times, not {times or 'once or more'}, to\n{graph}"
        )
    _, again = rewritten(rule, new)
    if again:
        raise VerificationError(f"{rule!r} applies to its own result: {again[0]}\n{new}")
    # Compiled: one by one, operations are not rounded as XLA rounds them together.
    before, after = jax.jit(graph), jax.jit(new)
    if {r.numerics for r in record} == {"exact"}:
        for given in (args, *(_with_special_values(args, s) for s in (_SPECIAL, _LARGE))):
            _assert_same_bits(before, after, given)
        _assert_same_zeros(graph, new, args)
    else:
        _assert_same_kinds(before, after, args)
    verify(fn, after, gradients=gradients)(*args)
    if vmap:
        many = jax.tree_util.tree_map(lambda x: jnp.stack([jnp.asarray(x)] * 2), args)
        if jax.tree_util.tree_leaves(many):
            verify(jax.vmap(fn), jax.jit(jax.vmap(new)))(*many)
    return new


# What floating point has and algebra has not.
_SPECIAL = (np.nan, np.inf, -0.0, -np.inf, 0.0)
# Of these exp overflows, or gives nothing.
_LARGE = (100.0, -100.0, 95.0, -110.0)


def _with_special_values(tree: Any, special: Sequence[float], turn: int = 1) -> Any:
    """The arrays with special values in front; without a ``turn`` each with the same ones."""

    def change(x: Any, i: int) -> Any:
        x = jnp.asarray(x)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        # Not all arguments at once: a NaN must come through from each.
        some = np.roll(special, turn * i)[: x.size]
        return x.ravel().at[: some.size].set(some.astype(x.dtype)).reshape(x.shape)

    leaves, structure = jax.tree_util.tree_flatten(tree)
    return jax.tree_util.tree_unflatten(structure, [change(x, i) for i, x in enumerate(leaves)])


def _assert_same_bits(before: Any, after: Any, args: Sequence[Any]) -> None:
    """What is called exact keeps every bit."""
    a, b = (jax.tree_util.tree_leaves(run(*args)) for run in (before, after))
    for x, y in zip(a, b, strict=True):
        inexact = jnp.issubdtype(x.dtype, jnp.inexact)
        if _bits(x) != _bits(y) if inexact else not bool(jnp.array_equal(x, y)):
            what = f"a rule that is called exact changed a value{_how_much(x, y)}"
            raise VerificationError(f"{what}:\n{x}\n{y}\nof\n{args}")


def _how_much(x: Any, y: Any) -> str:
    """By how much at most, and what to call a rule that only rounds otherwise."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return ""
    wide = np.asarray(x, np.float64), np.asarray(y, np.float64)
    with np.errstate(all="ignore"):
        most = np.nanmax(np.abs(wide[0] - wide[1]), initial=0.0)
        size = np.nanmax(np.abs(wide[0]), initial=0.0)
    rounded = most <= 16 * float(jnp.finfo(x.dtype).eps) * size
    return f" by {most:.1e}" + (
        '; numerics="reassociates" allows other rounding' if rounded else ""
    )


def _assert_same_zeros(before: Graph, after: Graph, args: Sequence[Any]) -> None:
    """What is called exact keeps minus zero.

    One operation at a time: XLA, given all of them, drops ``x + 0`` itself.
    """
    given = _with_special_values(args, (-0.0, 0.0))
    a, b = (jax.tree_util.tree_leaves(graph(*given)) for graph in (before, after))
    for x, y in zip(a, b, strict=True):
        if jnp.issubdtype(x.dtype, jnp.floating) and bool(
            jnp.any((x == 0) & (y == 0) & (jnp.signbit(x) != jnp.signbit(y)))
        ):
            raise VerificationError(
                f"a rule that is called exact changes the sign of zero:\n{x}\n{y}\nof\n{given}"
            )


def _effects(graph: Graph) -> list[str]:
    """The operations with effects of their own, in their order."""
    return [node.op for node in graph.walk() if node.effects and not node.subgraphs]


def _assert_same_kinds(before: Any, after: Any, args: Sequence[Any]) -> None:
    """What rounds otherwise lets every NaN through, and makes no NaN or infinity of its own.

    That infinity minus infinity is computed in another place, or not at all, is no difference in
    real arithmetic.
    """
    kinds = ((np.nan, -0.0, 1.0, 0.0), 1), (_SPECIAL, 1), (_LARGE, 1), (_LARGE, 0)
    for special, turn in kinds:
        given = _with_special_values(args, special, turn)
        a, b = (jax.tree_util.tree_leaves(run(*given)) for run in (before, after))
        for x, y in zip(a, b, strict=True):
            if not jnp.issubdtype(x.dtype, jnp.inexact):
                continue
            lost = special[1] == 0.0 and bool(jnp.any(jnp.isnan(x) & ~jnp.isnan(y)))
            if lost or bool(jnp.any(jnp.isfinite(x) & ~jnp.isfinite(y))):
                what = "lost a NaN" if lost else "makes NaN or infinity of a number"
                raise VerificationError(f"a rule that {what}:\n{x}\n{y}\nof\n{given}")


def _bits(x: Any) -> bytes:
    """The array's bytes; all NaNs are one, the two zeros are two."""
    x = np.asarray(x)
    return np.where(np.isnan(x), np.asarray(np.nan, x.dtype), x).tobytes()


def check_rule(
    rule: Rule,
    example: Callable[..., Any] | None = None,
    *args: Any,
    shapes: Sequence[tuple[int, ...]] = _SHAPES,
    dtypes: Sequence[str] = _DTYPES,
    refuses: Sequence[tuple[Any, ...]] = (),
    gradients: bool = True,
) -> None:
    """Test a rule: that it applies, that it keeps the function, and that it refuses when it must.

    Without an ``example``, some are made from the rule's pattern, for several shapes and dtypes.
    Each is checked for values against float64 (NaN, infinity and minus zero among the inputs),
    gradients, ``jit`` and ``vmap``, and the rule must not apply to its own result. Then come the
    cases that are easily forgotten: integers, complex numbers, numbers of 64 bits (integers that do
    not fit into 32 among them), float16 (where squares overflow, and small numbers vanish), scalars
    and arrays without elements, each alternative that the pattern names, the example under
    ``vmap``, each inner value being needed elsewhere as well, and each operation of the match being
    another one, or having its operands swapped or a parameter or number changed. In all of them the
    rule may refuse, or must be right. Gradients are compared at kinks, must stay numbers where
    arguments are large, and forward derivatives must exist; of an example that is made, the
    gradient's own derivative is compared too.

    Args:
      rule: the rule.
      example: a function in whose graph it applies; needed where the pattern is not elementwise.
      *args: the example's arguments, concrete arrays.
      shapes, dtypes: for the examples that are made, and for what a given one is tried with.
      refuses: functions to which the rule must not apply, each with its arguments.
      gradients: whether gradients are compared too.

    Raises:
      VerificationError: one of these does not hold.

    >>> import jax.numpy as jnp
    >>> from jaxpress.passes import Rule, any_value, op
    >>> check_rule(Rule("neg_neg", op("neg", op("neg", any_value("x"))), lambda x: x))
    """
    plain = [d for d in dtypes if d not in _APART]
    if not isinstance(rule, Rule):
        raise PassError(f"check_rule takes a Rule, got {rule!r:.60}")
    if example is not None:
        assert_rewrites(rule, example, *args, gradients=gradients, vmap=False)
        examples = [Example(example, args)]
        examples += [Example(example, cast) for d in plain for cast in _cast(args, d)]
        examples += [Example(example, cut) for cut in _without_elements(args)]
    else:
        examples = list(examples_of(rule.pattern, shapes, plain))
    applied = 0
    thoroughly: set[Any] = set()
    for i, made in enumerate(examples):
        try:
            graph = trace(made.fn)(*made.args)
        except PassError:  # no example can be made
            raise
        except REFUSED:
            continue  # no operation of integers, for instance
        if example is None:
            # Where a function has a kink, it often is at a number that is written in it.
            made = made._replace(args=_at_kinks(graph, made.args))
        _, record = rewritten(rule, graph)
        if not record:
            continue  # a guard may refuse a shape or dtype
        applied += 1
        # All comparisons for the first example of a floating-point type; for the others, values.
        kind = (made.form, *(str(x.dtype) for x in made.args if is_float(x)))
        if len(kind) == 1 or kind in thoroughly or example is not None:
            if example is None or i > 0:
                check_values(rule, graph, made.args)
        else:
            assert_rewrites(rule, made.fn, *made.args, gradients=gradients, vmap=False)
        thoroughly.add(kind)
        if applied == 1:
            check_second_users(rule, graph, made.args, record[0])
            check_mutants(rule, graph, made.args, record[0])
            check_batched(rule, made)
            if gradients:
                kinks = made.args if example is None else _at_kinks(graph, made.args)
                large = _with_special_values(made.args, _LARGE, 0)
                check_derivatives(rule, graph, kinks, large, second=example is None)
            for dtype in ("float64", "int64"):
                if dtype in dtypes:
                    check_wide(rule, made, dtype)
            if "float16" in dtypes:
                check_float16(rule, made)
    if not applied:
        raise VerificationError(
            f"{rule!r} applies to none of the examples made from its pattern; give check_rule a "
            "function in which it does"
        )
    for fn, *refused in refuses:
        graph = trace(fn)(*refused)
        _, record = rewritten(rule, graph)
        if record:
            raise VerificationError(f"{rule!r} applies where it must not: {record[0]}, in\n{graph}")


def _at_kinks(graph: Graph, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments where a function has its kinks: at zero, and at the numbers written in it."""
    return _with_special_values(args, (*_numbers_in(graph), 0.0))


def _numbers_in(graph: Graph) -> list[float]:
    """The numbers that are written in a program, each once."""
    found: dict[float, None] = {}
    for node in graph.walk():
        for v in node.inputs:
            if isinstance(v, Literal) and v.shape == () and jnp.issubdtype(v.dtype, jnp.floating):
                found[float(v.val)] = None
    return [number for number in found if np.isfinite(number)][:_MOST_NUMBERS]


_MOST_NUMBERS = 4


def _cast(args: tuple[Any, ...], dtype: str) -> list[tuple[Any, ...]]:
    """The arguments in another dtype, those that are numbers of the first one's."""
    leaves = [x for x in jax.tree_util.tree_leaves(args) if is_float(x)]
    if not leaves or leaves[0].dtype == dtype:
        return []
    # A complex number has an imaginary part.
    factor = 1 + 0.5j if jnp.issubdtype(dtype, jnp.complexfloating) else 1

    def change(x: Any) -> Any:
        return jnp.asarray(x * factor, dtype) if is_float(x) else x

    return [jax.tree_util.tree_map(change, args)]


def _without_elements(args: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """The arguments with nothing along the first one's first axis."""
    first: Any = args[0] if args else None
    return [(first[:0], *args[1:])] if is_float(first) and jnp.ndim(first) else []
