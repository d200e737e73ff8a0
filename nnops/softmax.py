"""Activations along axes: softmax, log_softmax and glu, as named ops.

Their ``axis`` is kept counted from the end, so that leading batch dimensions change nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import ad

from jaxpress.nnops.define import define
from jaxpress.nnops.errors import OpError
from jaxpress.nnops.opdef import OpDef
from jaxpress.nnops.transforms import is_zero, leading_batch, zero_like

__all__ = ["glu", "log_softmax", "softmax"]


def axes_from_end(op: str, x: Any, axis: int | Sequence[int] | None) -> int | tuple[int, ...]:
    """``axis`` counted from the end: -1 is the last; several come sorted, None means all.

    Raises:
        OpError: an axis does not exist, or comes twice.
    """
    ndim = x.ndim
    if axis is None:
        return tuple(range(-ndim, 0))
    single = not isinstance(axis, Sequence)
    given = [operator.index(a) for a in ([axis] if single else axis)]
    out = sorted(a - ndim if a >= 0 else a for a in given)
    if any(not -ndim <= a < 0 for a in out) or len(set(out)) < len(out):
        raise OpError(op, f"axis is {axis!r}", {"x": x}, f"give distinct axes below {ndim}")
    return out[0] if single else tuple(out)


def _softmax_jvp(op: OpDef, primals: Any, tangents: Any, params: dict[str, Any]) -> Any:
    # From the result, so that a gradient computes softmax once; the formula of jax.nn.
    y = op.primitive.bind(*primals, **params)
    if is_zero(tangents[0]):
        return y, zero_like(y)
    if not jnp.issubdtype(primals[0].dtype, jnp.inexact):
        return y, ad.Zero(jax.typeof(y).to_tangent_aval())
    dx = tangents[0]
    return y, y * (dx - (y * dx).sum(params["axis"], keepdims=True))


_SOFTMAX = define(
    "softmax", jax.nn.softmax, defaults={"axis": -1}, jvp=_softmax_jvp, batch=leading_batch
)
_LOG_SOFTMAX = define("log_softmax", jax.nn.log_softmax, defaults={"axis": -1}, batch=leading_batch)
_GLU = define("glu", jax.nn.glu, defaults={"axis": -1}, batch=leading_batch)


def softmax(x: Any, axis: int | Sequence[int] | None = -1) -> jax.Array:
    """Softmax.

    ``exp(x) / sum(exp(x))``, the sum over ``axis``.

    Args:
        x: any shape; integers become floats.
        axis: one axis, several, or None for all.

    Returns:
        An array of ``x``'s shape whose sum over ``axis`` is 1.

    Raises:
        OpError: an axis does not exist, or comes twice.

    Source: jax.nn.softmax.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.softmax([0.0, 0.0]).tolist()
        [0.5, 0.5]
    """
    x = jnp.asarray(x)
    return _SOFTMAX.rebind({"x": x}, axis=axes_from_end("softmax", x, axis))


def log_softmax(x: Any, axis: int | Sequence[int] | None = -1) -> jax.Array:
    """Logarithm of softmax.

    ``x - log(sum(exp(x)))``, the sum over ``axis``.

    Args:
        x: any shape; integers become floats.
        axis: one axis, several, or None for all.

    Returns:
        An array of ``x``'s shape.

    Raises:
        OpError: an axis does not exist, or comes twice.

    Source: jax.nn.log_softmax.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.log_softmax([3.0]).tolist()
        [0.0]
    """
    x = jnp.asarray(x)
    return _LOG_SOFTMAX.rebind({"x": x}, axis=axes_from_end("log_softmax", x, axis))


def glu(x: Any, axis: int = -1) -> jax.Array:
    """Gated linear unit.

    ``a * sigmoid(b)``, where ``a`` and ``b`` are the halves of ``x`` along ``axis``.

    Args:
        x: any shape of at least one dimension, even along ``axis``.
        axis: the axis that is halved.

    Returns:
        An array of ``x``'s shape with half as many entries along ``axis``.

    Raises:
        OpError: ``axis`` does not exist, or its size is odd.

    Source: jax.nn.glu (Dauphin et al., 2016, arXiv:1612.08083).

    Example:
        >>> from jaxpress import nnops
        >>> nnops.glu([4.0, 0.0]).tolist()
        [2.0]
    """
    x = jnp.asarray(x)
    at = axes_from_end("glu", x, operator.index(axis))
    assert isinstance(at, int)
    if x.shape[at] % 2:
        raise OpError("glu", f"axis {axis} is odd", {"x": x}, "give an axis of even size")
    return _GLU.rebind({"x": x}, axis=at)
