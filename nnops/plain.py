"""Activations that are one equation of JAX already, or none: no primitive of their own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxpress.nnops.activation_spec import register
from jaxpress.nnops.eager import eagerly_jitted

__all__ = ["identity", "tanh"]


def identity(x: Any) -> jax.Array:
    """Its argument, as an array.

    ``x``

    Args:
        x: any shape and dtype.

    Returns:
        ``x``. In fused ops ``activation="identity"`` means none.

    Source: jax.nn.identity.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.identity(2.0).tolist()
        2.0
    """
    return jnp.asarray(x)


@eagerly_jitted
def tanh(x: Any) -> jax.Array:
    """Hyperbolic tangent; JAX has it as one equation, of this name.

    ``(exp(x) - exp(-x)) / (exp(x) + exp(-x))``

    Args:
        x: any shape; integers become floats.

    Returns:
        An array of ``x``'s shape.

    Source: jax.nn.tanh.

    Example:
        >>> from jaxpress import nnops
        >>> [round(float(y), 3) for y in nnops.tanh([-1.0, 0.0, 1.0])]
        [-0.762, 0.0, 0.762]
    """
    return jnp.tanh(jnp.asarray(x))


register("tanh", tanh, jnp.tanh)
