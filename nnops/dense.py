"""Fully connected layer as a named op: ``activation(x @ w + b + residual)``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.errors import OpError
from jaxpress.nnops.fused import as_arrays, define_fused, fused_call

__all__ = ["dense", "fold_leading", "linear"]


def _core(x: Any, w: Any, *, precision: Any, preferred_element_type: Any) -> Any:
    return lax.dot_general(
        x,
        w,
        (((x.ndim - 1,), (0,)), ((), ())),
        precision=precision,
        preferred_element_type=preferred_element_type,
    )


def _check(x: Any, w: Any, params: Mapping[str, Any]) -> None:
    del params
    if x.ndim < 1 or w.ndim != 2:
        raise OpError(
            "dense",
            f"x has {x.ndim} dimensions and w has {w.ndim}",
            {"x": x, "w": w},
            "x is (..., in) and w is (in, out)",
        )
    if x.shape[-1] != w.shape[0]:
        raise OpError(
            "dense",
            f"x has {x.shape[-1]} features and w takes {w.shape[0]}",
            {"x": x, "w": w},
            "x is (..., in) and w is (in, out); transpose w if it is (out, in)",
        )


def fold_leading(x: Any, residual: Any, axes: Any, size: Any, params: Any) -> Any:
    """Takes in a mapped axis of x (and perhaps residual) as one more leading dimension."""
    del params
    x = jnp.moveaxis(x, axes[0], 0)
    if residual is not None:
        if axes[1] is None:
            residual = jnp.broadcast_to(residual, (size, *residual.shape))
        else:
            residual = jnp.moveaxis(residual, axes[1], 0)
    return x, residual, lambda y: (y, 0)


_DENSE = define_fused(
    "dense",
    _core,
    defaults={"precision": None, "preferred_element_type": None},
    kernels=(),
    normalize=lambda params: params,
    check=_check,
    features_axis=lambda params: -1,
    fold=fold_leading,
    core_shape=lambda x, w, params: (*x.shape[:-1], w.shape[1]),
)


@eagerly_jitted
def dense(
    x: Any,
    w: Any,
    b: Any = None,
    residual: Any = None,
    *,
    activation: Any = None,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """Fully connected layer.

    ``activation(x @ w + b + residual)``

    Args:
        x: (..., in), any leading dimensions.
        w: (in, out).
        b: (out,), or None.
        residual: (..., out), the result's very shape, or None.
        activation: None, a name such as ``"relu"``, or ``("leaky_relu", {"negative_slope": 0.2})``.
        precision: as in jax.lax.dot_general.
        preferred_element_type: dtype of the product, as in jax.lax.dot_general.

    Returns:
        (..., out). Operands of different dtypes are promoted as jax.numpy does.

    Raises:
        OpError: shapes do not fit; b and residual are never broadcast beyond the above.
        OpTypeError: the activation is of no known kind.

    Source: jax.lax.dot_general.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> nnops.dense(jnp.ones((2, 3)), jnp.ones((3, 4)), activation="relu").shape
        (2, 4)
    """
    operands = as_arrays("dense", x, w, b, residual)
    params = {
        "activation": activation,
        "precision": precision,
        "preferred_element_type": preferred_element_type,
    }
    return fused_call(_DENSE, operands, params)


# What PyTorch, Equinox and Haiku call it. The weights are (in, out) here, as everywhere in nnops.
linear = dense
