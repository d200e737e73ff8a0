"""Named ops as ``stablehlo.composite``, on request: an exported module then keeps their names."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from jax import lax
from jax.interpreters import mlir

__all__ = ["composite_prefix", "composites", "lower_composite"]

# Of this JAX's caches know: a function lowered with composites is another one than without.
_PREFIX: Any = jax.make_user_context(None)


@contextlib.contextmanager
def composites(prefix: str = "jaxpress") -> Iterator[None]:
    """While this lasts, named ops lower to ``stablehlo.composite``.

    Each op is one ``stablehlo.composite "jaxpress.dense"`` with its static parameters as
    attributes, and its plain reference (or the kernel that was chosen) as the decomposition. A
    consumer of the module that knows the name may put its own in the place; others inline it.
    JAX's caches tell functions lowered with and without apart. Parameters that MLIR has no
    attribute for are given as text; those that are None are left out. In a module with symbolic
    sizes ops lower as ever: JAX could not call it, since it cannot fill in a composite's sizes.

    Args:
        prefix: what stands before the dot of each name.

    Example:
        >>> import jax, jax.export, jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> with nnops.composites():
        ...     exported = jax.export.export(jax.jit(nnops.softmax))(jnp.ones(3))
        >>> 'stablehlo.composite "jaxpress.softmax"' in exported.mlir_module()
        True
    """
    with _PREFIX(prefix):
        yield


def composite_prefix(ctx: Any) -> str | None:
    """What composites are called in a module that is being lowered; None for no composites."""
    state = ctx.module_context.shape_poly_state
    symbolic = len(state.dim_vars) > state.has_platform_index_argument
    return None if symbolic else _PREFIX.value


def lower_composite(
    ctx: Any,
    name: str,
    fn: Callable[..., Any],
    args: Sequence[Any],
    params: Mapping[str, Any],
    multiple_results: bool,
) -> Any:
    """Lowers ``fn`` to a composite.

    Args:
        ctx: the lowering rule's context.
        name: of the composite.
        fn: what it computes.
        args: its operands, in MLIR.
        params: its attributes.
        multiple_results: whether ``fn`` gives a sequence.

    Returns:
        The results in MLIR.
    """
    composite = lax.composite(lambda *arrays, **_: fn(*arrays), name)
    attributes = {k: attribute(v) for k, v in params.items() if v is not None}
    outs = mlir.lower_fun(
        lambda *arrays: composite(*arrays, **attributes), multiple_results=multiple_results
    )(ctx, *args)
    return _with_dimensions(ctx, outs)


def attribute(value: Any) -> Any:
    """A parameter as something that MLIR has an attribute for: numbers, text, lists of these."""
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return tuple(str(v) if v is None else attribute(v) for v in value)
    return str(value)


def _with_dimensions(ctx: Any, outs: Sequence[Any]) -> Any:
    """Gives the composite what its decomposition takes in front of its arguments.

    A function in a module for several platforms takes their index too. JAX 0.10 forgets it where
    it calls the function as a composite.
    """
    flat = mlir.ir_tree_registry.flatten(outs)[0]
    more = list(ctx.dim_var_values)
    if not more or not flat:
        return outs
    old = flat[0].owner.operation
    operands = list(old.operands)
    if old.name != "stablehlo.composite" or operands[: len(more)] == more:
        return outs
    count = len(old.attributes)
    new = mlir.ir.Operation.create(
        old.name,
        results=[r.type for r in old.results],
        operands=[*more, *operands],
        attributes={a.name: a.attr for a in map(old.attributes.__getitem__, range(count))},
        loc=old.location,
    )
    old.erase()
    return list(new.results)
