"""Is the optimised function the same function? ``jaxpress.verify``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpress.capture import ArgumentError, Graph, VerificationError, trace
from jaxpress.capture.arguments import check_values
from jaxpress.capture.evaluate import evaluate
from jaxpress.passes.comparison import (
    OutputError,
    as_numpy,
    check_tolerance,
    compare_arrays,
    run_in_float64,
    tolerance_of,
)

__all__ = ["OutputError", "Verification", "tolerance_of", "verify"]

# An error of jax.jit's own that rounding alone seldom makes.
_SUSPICIOUS = 1e-2


@dataclass(frozen=True)
class Verification:
    """The result of a comparison; print it for a table.

    Attributes:
      outputs: one entry per output, and per gradient if those were compared.
      reference: what errors are measured against: ``"float64"``, or ``"jax.jit"`` where the
        function could not be run in float64.
      note: what keeps the comparison from saying much, such as why it could not; else empty.
    """

    outputs: tuple[OutputError, ...]
    reference: str
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether every output is within its tolerance."""
        return all(o.passed for o in self.outputs)

    @property
    def error(self) -> float:
        """The largest error of the optimised function."""
        return max((o.error for o in self.outputs), default=0.0)

    @property
    def original_error(self) -> float:
        """The largest error of ``jax.jit(fn)``."""
        return max((o.original_error for o in self.outputs), default=0.0)

    def __str__(self) -> str:
        lines = [f"{'output':<32} {'type':<24} {'error':>9} {'jax.jit':>9} {'allowed':>9}"]
        for o in self.outputs:
            kind = f"{o.dtype}{list(o.shape)}"
            lines.append(
                f"{o.path:<32} {kind:<24} {o.error:>9.1e} {o.original_error:>9.1e} "
                f"{o.tolerance:>9.1e}  {o.problem or 'ok'}"
            )
        lines.append(f"errors relative to a run in {self.reference}")
        if self.note:
            lines.append(self.note)
        return "\n".join(lines)


def verify(
    fn: Callable[..., Any],
    fast: Callable[..., Any],
    *,
    tolerance: float | None = None,
    gradients: bool = False,
) -> Callable[..., Verification]:
    """Return a function that compares ``fast`` with ``fn`` on given arguments.

    Both are measured against ``fn`` run in float64. An output passes if its error is within the
    tolerance of its dtype (2e-5 for float32), or within three times that of ``jax.jit(fn)``;
    where ``jax.jit(fn)`` gives NaN or infinity, so must ``fast``. Integers must be equal. Where
    ``fn`` cannot be run in float64, the result and a warning say so, and ``jax.jit(fn)`` itself is
    what ``fast`` is measured against.

    Args:
      fn: the original.
      fast: what should be the same.
      tolerance: another largest relative error, for floating point.
      gradients: whether to compare gradients with respect to the floating-point inputs too.

    Returns:
      ``compare(*args, **kwargs) -> Verification``.

    Raises:
      ArgumentError: something is no function, no tolerance, or has no values to compare.
      VerificationError: from the returned function; ``error.result`` has all figures.

    >>> import jax.numpy as jnp
    >>> bool(verify(jnp.sin, lambda x: jnp.sin(x))(jnp.ones(3)).passed)
    True
    """
    for what, function in (("original", fn), ("other", fast)):
        if not callable(function):
            raise ArgumentError(f"verify takes two functions; the {what} is {function!r:.60}")
    check_tolerance(tolerance)

    def compare(*args: Any, **kwargs: Any) -> Verification:
        result = compare_functions(fn, fast, args, kwargs, tolerance)
        if gradients:
            slope, fast_slope = (gradient_function(f, args, kwargs) for f in (fn, fast))
            more = compare_functions(
                slope, fast_slope, args, kwargs, tolerance, "gradient of ", of_one_sum=True
            )
            worse = more if more.note else result
            both = (*result.outputs, *more.outputs)
            result = Verification(both, worse.reference, worse.note)
        if not result.passed:
            raise VerificationError(f"the functions differ:\n{result}", result)
        return result

    return compare


def compare_functions(
    fn: Callable[..., Any],
    fast: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    tolerance: float | None = None,
    prefix: str = "",
    of_one_sum: bool = False,
) -> Verification:
    """The comparison itself; raises only where the results cannot be compared at all.

    ``of_one_sum`` says that the results are sums of the same terms, as gradients are: one that is
    zero is then measured by the largest of them.
    """
    statics: dict[str, Any] = {
        "static_argnums": getattr(fast, "_static_argnums", ()),
        "static_argnames": getattr(fast, "_static_argnames", ()),
    }
    check_values(args, kwargs)
    graph = trace(fn, **statics)(*args, **kwargs)
    signature = graph.signature
    assert signature is not None

    @functools.wraps(fn, updated=())
    def original(*args: Any, **kwargs: Any) -> Any:  # a model need not be hashable, as jit asks
        return fn(*args, **kwargs)

    expected = jax.jit(original, **statics)(*args, **kwargs)
    got = fast(*args, **kwargs)
    want_leaves, want_tree = jax.tree_util.tree_flatten(expected)
    got_leaves, got_tree = jax.tree_util.tree_flatten(got)
    if want_tree != got_tree:
        raise VerificationError(f"the results' structures differ:\n  {want_tree}\n  {got_tree}")
    flat = signature.flatten(args, kwargs)
    exact, why_not = run_in_float64(graph, flat, [as_numpy(x) for x in want_leaves])
    reference = "jax.jit" if why_not else "float64"
    beside = max((_largest(x) for x in exact), default=0.0) if of_one_sum else 0.0
    outputs = tuple(
        compare_arrays(f"{prefix}{path}", as_numpy(a), as_numpy(b), e, tolerance, beside)
        for path, a, b, e in zip(
            signature.result_paths, want_leaves, got_leaves, exact, strict=True
        )
    )
    note = f"in float64 it fails with {why_not}" if why_not else ""
    far_off = [
        o.path for o in outputs if o.original_error > max(_SUSPICIOUS, tolerance_of(o.dtype))
    ]
    if far_off:
        _check_same_every_time(graph, flat, want_leaves)
        note = (
            f"jax.jit itself is far off in {far_off[0]}: the function takes another branch in "
            "float64, or its rounding grows; what is allowed then says little"
        )
    return Verification(outputs, reference, note)


def _largest(x: np.ndarray) -> float:
    finite = np.abs(x[np.isfinite(x)]) if np.issubdtype(x.dtype, np.inexact) else x[:0]
    return float(finite.max()) if finite.size else 0.0


def _check_same_every_time(graph: Graph, flat: list[Any], want: list[Any]) -> None:
    """Whether the function is off because each trace of it is another function.

    Raises:
      VerificationError: it is.
    """
    again = jax.jit(functools.partial(evaluate, graph))(flat)
    for a, b in zip(map(as_numpy, again), map(as_numpy, want), strict=True):
        if compare_arrays("", b, a, b, _SUSPICIOUS).problem:
            raise VerificationError(
                f"{graph.name} gives other values each time it is traced, so nothing can be "
                "compared with it; take random numbers, times and counters as arguments"
            )


def gradient_function(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[..., Any]:
    """The gradient of a fixed weighting of ``fn``'s outputs by all its floating-point inputs."""
    leaves, tree = jax.tree_util.tree_flatten((args, kwargs))
    places = [i for i, x in enumerate(leaves) if _is_real(x)]

    def gradient(*args: Any, **kwargs: Any) -> list[Any]:
        given = jax.tree_util.tree_leaves((args, kwargs))

        def scalar(floats: list[Any]) -> Any:
            flat = list(given)
            for i, x in zip(places, floats, strict=True):
                flat[i] = x
            a, k = jax.tree_util.tree_unflatten(tree, flat)
            outs = jax.tree_util.tree_leaves(fn(*a, **k))
            # Weights that differ from entry to entry, so that no error cancels.
            return sum(
                (
                    jnp.vdot(jnp.cos(jnp.arange(x.size, dtype=x.dtype)), x.ravel())
                    for x in outs
                    if _is_real(x)
                ),
                jnp.zeros(()),
            )

        return jax.grad(scalar)([given[i] for i in places])

    return gradient


def _is_real(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.floating)
