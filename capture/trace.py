"""A Python function becomes a graph."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxpress.capture.arguments import (
    check_arrays,
    check_names,
    check_places,
    function_name,
    tuple_of,
    types_text,
)
from jaxpress.capture.errors import ArgumentError, TraceError
from jaxpress.capture.from_jaxpr import graph_of_jaxpr
from jaxpress.capture.graph import Graph
from jaxpress.capture.signature import Signature

__all__ = ["function_name", "static_places", "trace"]

_CONCRETE_VALUE_ERRORS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.UnexpectedTracerError,
)


def trace(
    fn: Callable[..., Any],
    *,
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Sequence[str] = (),
) -> Callable[..., Graph]:
    """Return a function that captures ``fn`` as a :class:`Graph` for given arguments.

    Nothing is computed: arguments may be arrays or ``jax.ShapeDtypeStruct``. Closed-over arrays
    become the graph's named constants.

    Args:
      fn: any function that JAX can trace, from any library.
      static_argnums: positions of arguments that are Python values, not arrays.
      static_argnames: names of such arguments. As with ``jax.jit``, either of the two is enough.

    Returns:
      ``capture(*args, **kwargs) -> Graph``.

    Raises:
      TraceError: from the returned function, where ``fn`` asks for a concrete value of a traced
        array. An error that ``fn`` itself raises passes through.

    >>> import jax.numpy as jnp
    >>> graph = trace(lambda x: jnp.tanh(x) + 1.0)(jnp.zeros(3))
    >>> graph.count()
    Counter({'tanh': 1, 'add': 1})
    """
    if not callable(fn):
        raise ArgumentError(f"trace takes a function, got {type(fn).__name__}: {fn!r}")
    nums, names = static_places(fn, static_argnums, static_argnames)

    @functools.wraps(fn, updated=())
    def capture(*args: Any, **kwargs: Any) -> Graph:
        static_args = {i % len(args): args[i] for i in nums if -len(args) <= i < len(args)}
        static_kwargs = {k: kwargs[k] for k in names if k in kwargs}
        dynamic_args = tuple(a for i, a in enumerate(args) if i not in static_args)
        dynamic_kwargs = {k: v for k, v in kwargs.items() if k not in static_kwargs}
        name = function_name(fn)

        # A function of its own for each trace: JAX remembers jaxprs by function, and so would give
        # a model as it was before its weights changed. Models need not be hashable either.
        @functools.wraps(fn, updated=())
        def target(*args: Any, **kwargs: Any) -> Any:
            return fn(*args, **kwargs, **static_kwargs)

        make = jax.make_jaxpr(target, static_argnums=tuple(static_args), return_shape=True)
        flat, in_tree = jax.tree_util.tree_flatten((dynamic_args, dynamic_kwargs))
        try:
            closed, out_shape = make(*args, **dynamic_kwargs)
        except _CONCRETE_VALUE_ERRORS as error:
            raise TraceError(_explain(name, error)) from error
        except Exception as error:
            check_arrays(name, dynamic_args, dynamic_kwargs)
            error.add_note(f"jaxpress was tracing {name} for arguments {types_text(flat)}")
            raise
        info: Any = closed.jaxpr.debug_info  # fields of several kinds, by JAX's version
        signature = Signature(
            function=name,
            in_tree=in_tree,
            out_tree=jax.tree_util.tree_structure(out_shape),
            arg_names=_names(info.arg_names, "arg", len(flat)),
            result_paths=_names(info.result_paths, "result", len(closed.jaxpr.outvars)),
            static_args=static_args,
            static_kwargs=static_kwargs,
        )
        return graph_of_jaxpr(closed, name, signature=signature)

    return capture


def static_places(
    fn: Callable[..., Any], static_argnums: Any, static_argnames: Any
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """As with ``jax.jit``: where one of the two is given, it holds for the other way of passing.

    Raises:
      ArgumentError: the function has no such argument.
    """
    nums = tuple_of(
        int, static_argnums, "static_argnums", "positions of arguments, such as 0 or (0, 1)"
    )
    names = tuple_of(str, static_argnames, "static_argnames", "names of arguments")
    check_places(fn, "static_argnums", nums)
    check_names(fn, "static_argnames", names)
    if bool(nums) == bool(names):
        return nums, names
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):  # a builtin without a signature
        return nums, names
    places = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if names:
        return tuple(i for i, name in enumerate(places) if name in names), names
    return nums, tuple(places[i] for i in nums if -len(places) <= i < len(places))


def _names(given: Sequence[str | None] | None, stem: str, n: int) -> tuple[str, ...]:
    given = tuple(given or ())
    if len(given) != n:
        given = (None,) * n
    return tuple(name or f"{stem}{i}" for i, name in enumerate(given))


def _explain(name: str, error: Exception) -> str:
    first = str(error).strip().split("\n", 1)[0]
    return (
        f"{name} cannot be traced: {first}\n"
        "Its Python code needs the value of an array that is only known when it runs. Use "
        "jnp.where or lax.cond for a branch on data, or pass the argument as static "
        "(static_argnums, static_argnames) if it is a setting."
    )
