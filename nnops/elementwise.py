"""What the activations share: one operand, any shape, the jax.nn function as reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from jaxpress.nnops.define import define
from jaxpress.nnops.opdef import OpDef
from jaxpress.nnops.settings import static_value
from jaxpress.nnops.transforms import same_batch

__all__ = ["apply", "elementwise"]


def elementwise(
    name: str,
    reference: Callable[..., Any],
    defaults: Mapping[str, Any] | None = None,
    keeps: bool = False,
) -> OpDef:
    """Defines an elementwise op of the operand ``x``; ``vmap`` of it is the same op.

    Args:
        name: the op's name.
        reference: the plain function, called as ``reference(x, **params)``.
        defaults: its static parameters, floats or bools.
        keeps: as of `jaxpress.nnops.define`.

    Returns:
        The definition.
    """
    defaults = dict(defaults or {})

    def normalize(params: dict[str, Any]) -> dict[str, Any]:
        return {k: static_value(name, k, v, defaults[k]) for k, v in params.items()}

    return define(
        name,
        reference,
        defaults=defaults,
        normalize=normalize,
        batch=same_batch,
        keeps=keeps,
        infer=_infer,
    )


def _infer(avals: Any, params: Mapping[str, Any]) -> Any:
    """An activation of real floating-point numbers keeps their type."""
    del params
    return avals[0] if jnp.issubdtype(avals[0].dtype, jnp.floating) else None


def apply(op: OpDef, x: Any, **params: Any) -> Any:
    """Binds an elementwise op to anything array-like.

    Raises:
        OpTypeError: a parameter is no static number.
    """
    return op.rebind({"x": jnp.asarray(x)}, **params)
