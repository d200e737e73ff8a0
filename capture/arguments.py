"""Whether a function can be called as somebody asks; messages that name the argument."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax

from jaxpress.capture import compat
from jaxpress.capture.avals import short_aval
from jaxpress.capture.errors import ArgumentError

__all__ = [
    "check_arrays",
    "check_names",
    "check_places",
    "check_values",
    "function_name",
    "tuple_of",
    "types_text",
]


def check_places(fn: Callable[..., Any], option: str, places: Sequence[int]) -> None:
    """Whether a function has positional arguments of these numbers, as far as one can tell.

    Raises:
      ArgumentError: it has not; the message names the option that asked for them.
    """
    parameters = _parameters(fn) if places else None
    if parameters is None or any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return
    n = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    for i in places:
        if not -n <= i < n:
            raise ArgumentError(
                f"{option} has {i}, but {function_name(fn)} takes {n} positional "
                f"argument{'s' * (n != 1)}, counted from 0"
            )


def check_names(fn: Callable[..., Any], option: str, names: Sequence[str]) -> None:
    """Whether a function has arguments of these names, as far as one can tell.

    Raises:
      ArgumentError: it has not; the message names the option that asked for them.
    """
    parameters = _parameters(fn) if names else None
    if parameters is None or any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters]
    for name in names:
        if name not in known:
            raise ArgumentError(
                f"{option} has {name!r}, and the arguments of {function_name(fn)} are "
                f"{', '.join(known) or 'none'}"
            )


def _parameters(fn: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """A function's own parameters: what it wraps may take others."""
    try:
        return list(inspect.signature(fn, follow_wrapped=False).parameters.values())
    except (TypeError, ValueError):  # a builtin without a signature
        return None


def check_arrays(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Whether all leaves of a function's arguments are something that JAX takes.

    Raises:
      ArgumentError: one is not; the message says which.
    """
    for path, x in jax.tree_util.tree_leaves_with_path((args, kwargs)):
        if isinstance(x, jax.ShapeDtypeStruct):
            continue
        try:
            jax.typeof(x)
        except TypeError as error:
            place = ("args", "kwargs")[path[0].idx] + jax.tree_util.keystr(path[1:])
            raise ArgumentError(
                f"{place} of {name} is a {type(x).__name__}, {x!r:.60}, and no array; pass a "
                "setting as static (static_argnums, static_argnames)"
            ) from error


def check_values(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Whether a function can be run on arguments, and its results be looked at.

    Raises:
      ArgumentError: one is a shape without values, or is known only when a program runs.
    """
    for x in jax.tree_util.tree_leaves((args, kwargs)):
        if isinstance(x, jax.ShapeDtypeStruct):
            raise ArgumentError(f"a comparison needs values, and {x} is a shape; give an array")
        if compat.is_tracer(x):
            raise ArgumentError(
                f"a comparison needs values, and {x} is known only when the program runs; compare "
                "outside of jit, grad and vmap"
            )


def tuple_of(kind: type, given: Any, option: str, what: str) -> tuple[Any, ...]:
    """An option that is one thing or several, as a tuple.

    Raises:
      ArgumentError: it is of another kind.
    """
    is_one = isinstance(given, str) or not isinstance(given, Iterable)
    items = (given,) if is_one else tuple(given)
    if not all(isinstance(item, kind) for item in items):
        raise ArgumentError(f"{option} is {given!r}; give {what}")
    return items


def types_text(flat: Sequence[Any]) -> str:
    """The types of a call's flat arguments in short."""
    texts = [
        short_aval(x) if hasattr(x, "shape") and hasattr(x, "dtype") else type(x).__name__
        for x in flat[:8]
    ]
    return f"({', '.join(texts)}{', ...' * (len(flat) > 8)})"


def function_name(fn: Any) -> str:
    """A readable name for any callable: a bound model's is its class's."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = str(getattr(fn, "__name__", None) or type(fn).__name__)
    # Names go into messages, tables and files: one that could steer a terminal is spelled out.
    return name if name.isprintable() else ascii(name)[1:-1]
