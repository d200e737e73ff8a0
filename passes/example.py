"""A function made from a pattern, for testing the rule that has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpress.capture import PassError, graph_of_jaxpr
from jaxpress.passes.pattern import AnyOf, AnyValue, Op, Pattern, Scalar, Through

__all__ = ["Example", "example_of"]


class Example(NamedTuple):
    """A function in whose graph a pattern occurs, and arguments for it.

    Attributes:
      fn: the function.
      args: its arguments.
      with_second_user: the same, returning an inner value as well; ``None`` if it has none.
    """

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    with_second_user: Callable[..., Any] | None


def example_of(pattern: Any, shape: tuple[int, ...], dtype: str) -> Example:
    """An example of an elementwise pattern.

    Raises:
      PassError: the pattern is not made of elementwise operations.
    """
    names: dict[str, int] = {}
    _collect(pattern, names)
    scale = np.linspace(-2.0, 2.0, int(np.prod(shape))).reshape(shape)
    args = tuple(jnp.asarray(scale + 0.3 * i, dtype) for i in range(max(len(names), 1)))
    primitives = _primitives()

    def build(p: Pattern, arrays: tuple[Any, ...], inner: list[Any]) -> Any:
        if isinstance(p, AnyValue):
            return arrays[names[p.name]] if p.name else arrays[0]
        if isinstance(p, Scalar):
            return jnp.full(shape, 0.5 if p.value is None else p.value, dtype)
        if isinstance(p, AnyOf):
            return build(p.choices[0], arrays, inner)
        if isinstance(p, Through):
            return build(p.inner, arrays, inner)
        if not isinstance(p, Op):
            raise PassError(f"no example can be made of {p!r}; give check_rule a function")
        name = sorted(p.names)[0]
        if name not in primitives:
            raise PassError(f"no example can be made of {name!r}; give check_rule a function")
        parts = [build(q, arrays, inner) for q in p.operands]
        out = primitives[name](*parts)
        inner.append(out)
        return out

    def fn(*arrays: Any) -> Any:
        return build(pattern, arrays, [])

    def second(*arrays: Any) -> Any:
        inner: list[Any] = []
        out = build(pattern, arrays, inner)
        return out, inner[0]

    return Example(fn, args, second if pattern.size > 1 else None)


def _collect(p: Any, names: dict[str, int]) -> None:
    if isinstance(p, AnyValue) and p.name:
        names.setdefault(p.name, len(names))
    for q in (*getattr(p, "operands", ()), *getattr(p, "choices", ())):
        _collect(q, names)
    if isinstance(p, Through):
        _collect(p.inner, names)


def _primitives() -> dict[str, Callable[..., Any]]:
    """Elementwise functions of ``jax.lax`` by the name of the operation that they make."""
    lax = jax.lax
    functions = (
        lax.neg, lax.abs, lax.exp, lax.log, lax.tanh, lax.sin, lax.cos, lax.sqrt, lax.rsqrt,
        lax.logistic, lax.square, lax.expm1, lax.log1p, lax.erf, lax.sign, lax.floor,
        lax.add, lax.sub, lax.mul, lax.div, lax.max, lax.min, lax.pow, lax.atan2,
    )  # fmt: skip
    found = {}
    for f in functions:
        for n in (1, 2):
            try:
                jaxpr = jax.make_jaxpr(f)(*[jnp.ones(2)] * n)
            except TypeError:
                continue
            nodes = graph_of_jaxpr(jaxpr).nodes
            if len(nodes) == 1:
                found[nodes[0].op] = f
    return found
