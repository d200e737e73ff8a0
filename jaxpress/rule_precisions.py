"""Other precisions that ``check_rule`` tries: 64 bits, where 32 are not all, and float16."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpress.capture import Graph, VerificationError, compat, trace
from jaxpress.capture.float64 import evaluate_in_float64
from jaxpress.passes import Rule
from jaxpress.passes.comparison import as_numpy, tolerance_of
from jaxpress.passes.example import Example
from jaxpress.rule_cases import REFUSED, check_values, is_float, rewritten

__all__ = ["check_float16", "check_wide"]


def check_wide(rule: Rule, made: Example, dtype: str) -> None:
    """The example with numbers of 64 bits, where a rule may take 32 for all there are.

    Args:
      rule: the rule; what is approximate has no more digits there than elsewhere.
      made: the example.
      dtype: ``"float64"`` or ``"int64"``, of the arguments that are floating-point. Integers have
        64 bits in both.
    """
    if rule.numerics == "approximate":
        return

    def change(x: Any) -> Any:
        if is_float(x):
            return jnp.asarray(x, dtype) + 1e-9 if dtype == "float64" else jnp.asarray(x, dtype)
        return jnp.asarray(x, "int64") if _is_integer(x) else x

    with compat.enable_x64(True):
        args = jax.tree_util.tree_map(change, made.args)
        graph = _traced(made.fn, args)
        if graph is not None and rewritten(rule, graph)[1]:
            check_values(rule, graph, args)


def check_float16(rule: Rule, made: Example) -> None:
    """The example in float16, whose numbers overflow and vanish where no other type's do.

    Each argument in turn is nothing, almost nothing, and so large that its square overflows.
    """

    def change(x: Any) -> Any:
        return jnp.asarray(x, "float16") if is_float(x) else x

    args = jax.tree_util.tree_map(change, made.args)
    graph = _traced(made.fn, args)
    if graph is None:
        return
    new, record = rewritten(rule, graph)
    if not record:
        return
    new.validate()

    def exact(i: int, given: Sequence[Any]) -> np.ndarray:
        """What rules may come nearer to, where an intermediate of float16 overflows."""
        assert graph.signature is not None
        return as_numpy(evaluate_in_float64(graph, graph.signature.flatten(tuple(given), {}))[i])

    # Where rounding is all, as beside a zero of the sine, values say nothing.
    extremes = ((given, rule.numerics == "exact") for given in _in_turn(args))
    for given, values in ((args, True), *extremes):
        before, after = (map(as_numpy, jax.tree_util.tree_leaves(g(*given))) for g in (graph, new))
        for i, (x, y) in enumerate(zip(before, after, strict=True)):
            if x.dtype != y.dtype or x.shape != y.shape:
                what = f"gives {y.dtype}{y.shape} for {x.dtype}{x.shape}"
            elif not jnp.issubdtype(x.dtype, jnp.floating):
                continue
            elif np.any(np.isfinite(x) & ~np.isfinite(y)):
                what = "makes NaN or infinity of a number"
            elif values and not (_close(x, y) or _close(exact(i, given), y)):
                what = "changes a value"
            else:
                continue
            raise VerificationError(
                f"{rule!r} {what}, in float16, in\n{graph}\nof\n{given}:\n{x}\n{y}"
            )


def _in_turn(args: Sequence[Any]) -> Iterator[Sequence[Any]]:
    leaves, structure = jax.tree_util.tree_flatten(args)
    for i, leaf in enumerate(leaves):
        if not is_float(leaf):
            continue
        for numbers in _NUMBERS:
            some = np.resize(numbers, leaf.shape).astype(leaf.dtype)
            changed = [*leaves[:i], jnp.asarray(some), *leaves[i + 1 :]]
            yield structure.unflatten(changed)


# The square of 300 is more than float16 holds, and that of 0.0001 is less.
_NUMBERS = ((300.0, -300.0, 290.0), (1e-4, -1e-4, 0.0), (0.0,))


def _close(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether two results differ by rounding only, where both are numbers."""
    both = np.isfinite(x) & np.isfinite(y)
    a, b = x[both].astype(np.float64), y[both].astype(np.float64)
    room = 2 * tolerance_of(np.float16) * (1e-2 + np.max(np.abs(a), initial=0.0))
    return bool(np.allclose(a, b, rtol=0.0, atol=room))


def _traced(fn: Callable[..., Any], args: Sequence[Any]) -> Graph | None:
    try:
        return trace(fn)(*args)
    except REFUSED:
        return None  # it does not take such numbers


def _is_integer(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.integer)
