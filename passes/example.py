"""Functions made from a pattern, for testing the rule that has it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpress.capture import PassError, graph_of_jaxpr
from jaxpress.passes.outputs import Outputs
from jaxpress.passes.pattern import AnyOf, AnyValue, Op, Pattern, Repeated, Scalar, Through
from jaxpress.passes.traced import Traced

__all__ = ["Example", "examples_of"]

# What a captured scalar is in an example: a number that is rounded.
_SCALAR = 0.3


class Example(NamedTuple):
    """A function in whose graph a pattern occurs, and arguments for it."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]


def examples_of(
    pattern: Any, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[str]
) -> Iterator[Example]:
    """Examples of a pattern that is a function, or is made of elementwise operations.

    Args:
      pattern: the pattern.
      shapes: for the arrays of an elementwise pattern.
      dtypes: for the arrays, but for those of a function that asks for integers.

    Raises:
      PassError: the pattern is of another kind.
    """
    if isinstance(pattern, Traced):
        types = pattern.example_types
        scalars = {k: _default(pattern.fn, k) for k in pattern.scalars}

        def of_function(*arrays: Any) -> Any:
            return pattern.fn(*arrays, **scalars)

        for dtype in dtypes:
            for variant in _variants(types, shapes):
                yield Example(of_function, _arrays(variant, [_of(t, dtype) for t in types]))
        return
    for dtype in dtypes:
        for shape in shapes:
            yield _elementwise(pattern, shape, dtype)


def _default(fn: Callable[..., Any], name: str) -> Any:
    default = inspect.signature(fn).parameters[name].default
    return _SCALAR if default is inspect.Parameter.empty else default


def _of(example: Any, dtype: str) -> Any:
    return dtype if jnp.issubdtype(example.dtype, jnp.floating) else example.dtype


def _variants(types: Sequence[Any], shapes: Sequence[tuple[int, ...]]) -> list[list[Any]]:
    """Shapes for a function's arguments: any for one that takes a single shape."""
    own = [t.shape for t in types]
    if len(set(own)) == 1 and all(jnp.issubdtype(t.dtype, jnp.inexact) for t in types):
        return [[shape] * len(types) for shape in shapes]
    return [own, [tuple(2 * d for d in shape) for shape in own]]


def _arrays(shapes: Sequence[tuple[int, ...]], dtypes: Sequence[Any]) -> tuple[Any, ...]:
    made = []
    for i, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True)):
        if jnp.issubdtype(dtype, jax.dtypes.prng_key):
            made.append(jax.random.key(i))
            continue
        # Positive and negative, without pattern, and the same in every run.
        x = np.random.default_rng([i, *shape]).uniform(-2.0, 2.0, shape)
        if x.size > 1:
            x.flat[0] = 0.0  # where many a function has a kink
        made.append(jnp.asarray(x if jnp.issubdtype(dtype, jnp.inexact) else np.abs(x), dtype))
    return tuple(made)


def _elementwise(pattern: Any, shape: tuple[int, ...], dtype: str) -> Example:
    names: dict[str, int] = {}
    _collect(pattern, names)
    args = _arrays([shape] * max(len(names), 1), [dtype] * max(len(names), 1))
    primitives = _primitives()

    def build(p: Pattern, arrays: tuple[Any, ...], shared: dict[int, Any]) -> Any:
        if isinstance(p, AnyValue):
            return arrays[names[p.name]] if p.name else arrays[0]
        if isinstance(p, Scalar):
            return jnp.full(shape, _SCALAR if p.value is None else p.value, dtype)
        if isinstance(p, AnyOf):
            return build(p.choices[0], arrays, shared)
        if isinstance(p, Through):
            return build(p.inner, arrays, shared)
        if isinstance(p, Outputs):
            return tuple(build(result, arrays, shared) for result in p.results)
        if not isinstance(p, Op):
            raise PassError(f"no example can be made of {p}; give check_rule a function")
        if id(p) not in shared:
            name = sorted(p.names)[0]
            if name not in primitives or any(isinstance(q, Repeated) for q in p.operands):
                raise PassError(f"no example can be made of {name!r}; give check_rule a function")
            shared[id(p)] = primitives[name](*(build(q, arrays, shared) for q in p.operands))
        return shared[id(p)]

    return Example(lambda *arrays: build(pattern, arrays, {}), args)


def _collect(pattern: Any, names: dict[str, int]) -> None:
    if not isinstance(pattern, Pattern):
        raise PassError(f"no example can be made of {pattern!r}; give check_rule a function")
    for part in pattern.descendants().values():
        if isinstance(part, AnyValue) and part.name:
            names.setdefault(part.name, len(names))


def _primitives() -> dict[str, Callable[..., Any]]:
    """Elementwise functions of ``jax.lax`` by the name of the operation that they make."""
    lax = jax.lax
    functions = (
        lax.neg, lax.abs, lax.exp, lax.log, lax.tanh, lax.sin, lax.cos, lax.sqrt, lax.rsqrt,
        lax.logistic, lax.square, lax.expm1, lax.log1p, lax.erf, lax.sign, lax.floor, lax.exp2,
        lax.ceil, lax.tan, lax.sinh, lax.cosh, lax.asinh, lax.erfc, lax.cbrt,
        lax.add, lax.sub, lax.mul, lax.div, lax.max, lax.min, lax.pow, lax.atan2, lax.rem,
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
