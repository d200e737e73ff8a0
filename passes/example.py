"""Functions made from a pattern, for testing the rule that has it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpress.capture import PassError, graph_of_jaxpr
from jaxpress.passes.outputs import Outputs
from jaxpress.passes.pattern import AnyOf, AnyValue, Op, Pattern, Repeated, Scalar, Through
from jaxpress.passes.traced import Traced

__all__ = ["Example", "examples_of"]

# What captured scalars are in an example: numbers that are rounded, no two of them equal.
_SCALARS = (0.3, 0.7, 1.3, 2.1)
# Values at which functions have kinks and steps, in front of those that are drawn.
_ROUND = (0.5, 1.0, -1.0, 1.5, -2.5)


class Example(NamedTuple):
    """A function in whose graph a pattern occurs, and arguments for it.

    ``form`` tells apart the alternatives that the pattern leaves open.
    """

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    form: int = 0


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
        scalars = {
            k: _default(pattern.fn, k, _SCALARS[i % len(_SCALARS)])
            for i, k in enumerate(pattern.scalars)
        }

        def of_function(*arrays: Any) -> Any:
            return pattern.fn(*arrays, **scalars)

        for dtype in dtypes:
            for variant in _variants(types, shapes):
                yield Example(of_function, _arrays(variant, [_of(t, dtype) for t in types]))
        return
    if not isinstance(pattern, Pattern):
        raise PassError(f"no example can be made of {pattern!r}; give check_rule a function")
    for dtype in dtypes:
        for shape in shapes:
            yield _elementwise(pattern, shape, dtype)
    for i, form in enumerate(_forms(pattern), 1):
        yield _elementwise(pattern, shapes[0], dtypes[0], form)._replace(form=i)


def _forms(pattern: Pattern) -> Iterator[dict[int, Any]]:
    """Each alternative that a pattern names: another choice, another operation, a wrapper."""
    for key, part in pattern.descendants().items():
        if isinstance(part, AnyOf):
            yield from ({key: choice} for choice in part.choices[1:])
        elif isinstance(part, Through):
            yield from ({key: name} for name in sorted(part.through) if name in _wrappers())
        elif isinstance(part, Op):
            names = sorted(part.names)[1:]
            yield from ({key: name} for name in names if name in _primitives())


def _default(fn: Callable[..., Any], name: str, otherwise: float) -> Any:
    default = inspect.signature(fn).parameters[name].default
    return otherwise if default is inspect.Parameter.empty else default


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
        draw = np.random.default_rng([i, *shape])
        x = draw.uniform(-2.0, 2.0, shape)
        if x.size > 1:
            x.flat[0] = 0.0  # where many a function has a kink
        if x.size > 2 * len(_ROUND):
            x.flat[1 : 1 + len(_ROUND)] = np.roll(_ROUND, i)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            x = x + 1j * draw.uniform(-4.0, 4.0, shape)  # past pi
        made.append(jnp.asarray(x if jnp.issubdtype(dtype, jnp.inexact) else np.abs(x), dtype))
    return tuple(made)


def _elementwise(
    pattern: Pattern, shape: tuple[int, ...], dtype: str, form: Mapping[int, Any] | None = None
) -> Example:
    names: dict[str, int] = {}
    scalars: dict[str, float] = {}
    for part in _as_read(pattern):
        if isinstance(part, AnyValue) and part.name:
            names.setdefault(part.name, len(names))
        elif isinstance(part, Scalar) and part.name:
            scalars.setdefault(part.name, _SCALARS[len(scalars) % len(_SCALARS)])
    args = _arrays([shape] * max(len(names), 1), [dtype] * max(len(names), 1))
    primitives = _primitives()
    chosen = form or {}

    def build(p: Pattern, arrays: tuple[Any, ...], shared: dict[int, Any]) -> Any:
        if isinstance(p, AnyValue):
            return arrays[names[p.name]] if p.name else arrays[0]
        if isinstance(p, Scalar):
            number = scalars.get(p.name, _SCALARS[0]) if p.value is None else p.value
            return jnp.full(shape, number, dtype)
        if isinstance(p, AnyOf):
            return build(chosen.get(id(p), p.choices[0]), arrays, shared)
        if isinstance(p, Through):
            inner = build(p.inner, arrays, shared)
            return _wrappers()[chosen[id(p)]](inner) if id(p) in chosen else inner
        if isinstance(p, Outputs):
            return tuple(build(result, arrays, shared) for result in p.results)
        if not isinstance(p, Op):
            raise PassError(f"no example can be made of {p}; give check_rule a function")
        if id(p) not in shared:
            name = chosen.get(id(p), sorted(p.names)[0])
            if name not in primitives or any(isinstance(q, Repeated) for q in p.operands):
                raise PassError(f"no example can be made of {name!r}; give check_rule a function")
            shared[id(p)] = primitives[name](*(build(q, arrays, shared) for q in p.operands))
        return shared[id(p)]

    return Example(lambda *arrays: build(pattern, arrays, {}), args)


def _as_read(pattern: Pattern) -> Iterator[Pattern]:
    yield pattern
    for part in pattern.parts:
        yield from _as_read(part)


@functools.cache
def _wrappers() -> dict[str, Callable[..., Any]]:
    """Functions of one array that a pattern may look through, by the operation that they make."""
    return {
        **{name: fn for name, fn in _primitives().items() if name not in _OF_TWO},
        "convert_element_type": lambda x: x.astype("int16").astype(x.dtype),
        "copy": jnp.copy,
        "reshape": lambda x: jnp.reshape(jnp.reshape(x, -1), x.shape),
        "rev": lambda x: lax.rev(x, tuple(range(x.ndim))),
        "stop_gradient": lax.stop_gradient,
        "transpose": lambda x: x.T if x.ndim < 2 else jnp.reshape(x, x.shape[::-1]).T,
    }


_OF_TWO = frozenset({"add", "sub", "mul", "div", "max", "min", "pow", "atan2", "rem", "nextafter"})


@functools.cache
def _primitives() -> dict[str, Callable[..., Any]]:
    """Elementwise functions of ``jax.lax`` by the name of the operation that they make."""
    functions = (
        lax.neg, lax.abs, lax.exp, lax.log, lax.tanh, lax.sin, lax.cos, lax.sqrt, lax.rsqrt,
        lax.logistic, lax.square, lax.expm1, lax.log1p, lax.erf, lax.sign, lax.floor, lax.exp2,
        lax.ceil, lax.tan, lax.sinh, lax.cosh, lax.asinh, lax.erfc, lax.cbrt, lax.atan,
        lax.asin, lax.acos, lax.acosh, lax.atanh, lax.erf_inv, lax.lgamma, lax.digamma,
        lax.round, lax.is_finite, lax.stop_gradient,
        lax.add, lax.sub, lax.mul, lax.div, lax.max, lax.min, lax.pow, lax.atan2, lax.rem,
        lax.nextafter, lax.eq, lax.ne, lax.lt, lax.le, lax.gt, lax.ge,
    )  # fmt: skip
    found = {}
    for f in functions:
        for n in (1, 2):
            try:
                jaxpr = jax.make_jaxpr(f)(*[jnp.ones(2)] * n)
            except (TypeError, ValueError):
                continue
            nodes = graph_of_jaxpr(jaxpr).nodes
            if len(nodes) == 1:
                found[nodes[0].op] = f
    return found
