"""What people test their own rules with, and what jaxpress's own tests use."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpress.capture import Graph, VerificationError, trace
from jaxpress.passes import Rule, rewrite
from jaxpress.passes.example import example_of
from jaxpress.passes.record import Rewrite
from jaxpress.verification import verify

__all__ = ["assert_equivalent", "assert_rewrites", "check_rule"]

_SHAPES: tuple[tuple[int, ...], ...] = ((3, 5), (), (0, 3))
_DTYPES = ("float32", "bfloat16", "int32", "complex64")


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
    record: list[Rewrite] = []
    new = rewrite(graph, rule, record=record).validate()
    if not record or (times is not None and len(record) != times):
        raise VerificationError(
            f"{rule!r} applied {len(record)} times, not {times or 'once or more'}, to\n{graph}"
        )
    again: list[Rewrite] = []
    rewrite(new, rule, record=again)
    if again:
        raise VerificationError(f"{rule!r} applies to its own result: {again[0]}\n{new}")
    numerics = {r.numerics for r in record}
    _assert_same_bits(graph, new, args, numerics)
    _assert_same_bits(graph, new, _with_special_values(args), numerics)
    assert_equivalent(fn, new, *args, gradients=gradients, vmap=False)
    if vmap:
        assert_equivalent(fn, jax.jit(new), *args, gradients=False)
    return new


def _with_special_values(tree: Any) -> Any:
    """The arrays with what floating point has and algebra has not in front."""

    def change(x: Any, i: int) -> Any:
        x = jnp.asarray(x)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        # Not all arguments at once: a NaN must come through from each.
        special = np.roll([np.nan, np.inf, -0.0, -np.inf, 0.0], i)[: x.size]
        return x.ravel().at[: special.size].set(special.astype(x.dtype)).reshape(x.shape)

    leaves, structure = jax.tree_util.tree_flatten(tree)
    return jax.tree_util.tree_unflatten(structure, [change(x, i) for i, x in enumerate(leaves)])


def _assert_same_bits(
    before: Graph, after: Graph, args: Sequence[Any], numerics: Collection[str]
) -> None:
    """What is called exact keeps every bit, whatever else keeps NaN where it was."""
    exact = set(numerics) == {"exact"}
    # Compiled: one by one, operations are not rounded as XLA rounds them together.
    a, b = (jax.tree_util.tree_leaves(jax.jit(graph)(*args)) for graph in (before, after))
    for x, y in zip(a, b, strict=True):
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            same = bool(jnp.array_equal(x, y))
        elif exact:
            same = _bits(x) == _bits(y)
        else:
            same = bool(jnp.all(jnp.isnan(x) <= jnp.isnan(y)))
        if not same:
            claim = "is called exact changed a value" if exact else "lost a NaN"
            raise VerificationError(f"a rule that {claim}:\n{x}\n{y}\nof\n{args}")


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
) -> None:
    """Test a rule: that it applies, that it keeps the function, and that it refuses when it must.

    Without an ``example``, one is made from the rule's pattern, for several shapes and dtypes.
    Each is checked for values against float64, gradients, ``jit`` and ``vmap``; the rule must not
    apply to its own result, nor where an inner value is used outside the match.

    Args:
      rule: the rule.
      example: a function in whose graph it applies; needed where the pattern is not elementwise.
      *args: the example's arguments.
      shapes, dtypes: for the examples that are made.

    Raises:
      VerificationError: one of these does not hold.

    >>> import jax.numpy as jnp
    >>> from jaxpress.passes import Rule, any_value, op
    >>> check_rule(Rule("neg_neg", op("neg", op("neg", any_value("x"))), lambda x: x))
    """
    if example is not None:
        assert_rewrites(rule, example, *args)
        return
    applied = 0
    for dtype in dtypes:
        for shape in shapes:
            made = example_of(rule.pattern, shape, dtype)
            try:
                graph = trace(made.fn)(*made.args)
            except TypeError:
                continue  # no operation of integers, for instance
            record: list[Rewrite] = []
            rewrite(graph, rule, record=record)
            if not record:
                continue  # a guard may refuse a shape or dtype
            applied += 1
            assert_rewrites(rule, made.fn, *made.args)
            if made.with_second_user is not None and not rule.shared:
                _check_second_user(rule, made.with_second_user, made.args)
    if not applied:
        raise VerificationError(
            f"{rule!r} applies to none of the examples made from its pattern; give check_rule a "
            "function in which it does"
        )


def _check_second_user(rule: Rule, fn: Callable[..., Any], args: Sequence[Any]) -> None:
    graph = trace(fn)(*args)
    record: list[Rewrite] = []
    rewrite(graph, rule, record=record)
    if any(r.before[0] in graph.nodes and len(r.before) > 1 for r in record):
        raise VerificationError(
            f"{rule!r} swallows a value that is used elsewhere as well, in\n{graph}"
        )
