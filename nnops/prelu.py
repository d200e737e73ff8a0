"""Leaky relu with learned slopes, as a named op."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxpress.nnops.define import define
from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.errors import OpError
from jaxpress.nnops.opdef import OpDef
from jaxpress.nnops.settings import integer

__all__ = ["prelu"]


def _prelu(x: Any, slope: Any, *, derivative_at_zero: float | str) -> Any:
    if derivative_at_zero:
        right = x > 0 if derivative_at_zero == "slope" else x >= 0
        return jnp.where(right, x, slope * x)
    return jax.nn.relu(x) - slope * jax.nn.relu(-x)


def _batch(op: OpDef, args: Any, axes: Any, params: dict[str, Any]) -> Any:
    x, slope = args
    if axes[0] is None:
        x = lax.broadcast(x, (slope.shape[axes[1]],))
    else:
        x = jnp.moveaxis(x, axes[0], 0)
    if axes[1] is not None:
        slope = jnp.moveaxis(slope, axes[1], 0)
        slope = lax.expand_dims(slope, range(slope.ndim, x.ndim))
    elif slope.ndim:
        slope = lax.expand_dims(slope, (0,))
    return op.primitive.bind(x, slope, **params), 0


def _infer(avals: Any, params: Any) -> Any:
    del params
    x, slope = avals
    plain = x.dtype == slope.dtype and jnp.issubdtype(x.dtype, jnp.floating)
    return x if plain and slope.ndim in (0, x.ndim) else None


def _canonical(derivative: Any) -> float | str:
    return derivative if derivative == "slope" else float(derivative)


_PRELU = define(
    "prelu",
    _prelu,
    operands=("x", "slope"),
    defaults={"derivative_at_zero": 1.0},
    normalize=lambda params: {"derivative_at_zero": _canonical(params["derivative_at_zero"])},
    batch=_batch,
    infer=_infer,
)


@eagerly_jitted
def prelu(
    x: Any, slope: Any, *, axis: int = -1, derivative_at_zero: float | str = 1.0
) -> jax.Array:
    """Leaky rectified linear unit with learned slopes.

    ``x where x >= 0, slope * x elsewhere``

    Args:
        x: any shape.
        slope: what x is multiplied with left of zero: a scalar; a vector along ``axis``, of its
            size or of size 1; or an array of x's rank, with x's sizes or ones.
        axis: the axis along which a vector of slopes runs.
        derivative_at_zero: 1.0, as in Flax, Equinox and of leaky_relu; 0.0, as in Keras, which
            computes ``relu(x) - slope * relu(-x)``; or ``"slope"``, as in torch and of
            ``where(x > 0, x, slope * x)``. Values are the same.

    Returns:
        An array of x's shape, in the dtype to which both are promoted.

    Raises:
        OpError: the slopes do not fit, or derivative_at_zero is none of these.

    Source: He et al., 2015, arXiv:1502.01852.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.prelu([[-1.0, -1.0], [1.0, 0.0]], [0.5, 0.25]).tolist()
        [[-0.5, -0.25], [1.0, 0.0]]
    """
    x, slope = jnp.asarray(x), jnp.asarray(slope)
    operands = {"x": x, "slope": slope}
    if derivative_at_zero not in (0, 1, "slope"):
        what = f"derivative_at_zero is {derivative_at_zero!r}"
        raise OpError("prelu", what, mend="give 1.0, 0.0 or 'slope'")
    if slope.ndim == 1 and x.ndim != 1:
        at = integer("prelu", "axis", axis)
        if not -x.ndim <= at < x.ndim:
            raise OpError("prelu", f"axis is {axis}", operands, f"give one below {x.ndim}")
        slope = lax.expand_dims(slope, [i for i in range(x.ndim) if i != at % x.ndim])
    fits = slope.ndim == 0 or (
        slope.ndim == x.ndim and all(n in (1, m) for n, m in zip(slope.shape, x.shape, strict=True))
    )
    if not fits:
        raise OpError(
            "prelu",
            f"slope has shape {operands['slope'].shape}, and x has {x.shape}",
            operands,
            "give a scalar, a vector along axis, or an array of x's rank with x's sizes or ones",
        )
    return _PRELU.rebind({"x": x, "slope": slope}, derivative_at_zero=derivative_at_zero)
