"""Activations along axes: softmax, log_softmax and glu, as named ops.

Their ``axis`` is kept counted from the end, so that leading batch dimensions change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad

from jaxpress.nnops.define import define
from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.errors import OpError
from jaxpress.nnops.opdef import OpDef
from jaxpress.nnops.settings import integer
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
    given = [integer(op, "axis", a) for a in ([axis] if single else axis)]
    out = sorted(a - ndim if a >= 0 else a for a in given)
    if any(not -ndim <= a < 0 for a in out) or len(set(out)) < len(out):
        raise OpError(op, f"axis is {axis!r}", {"x": x}, f"give distinct axes below {ndim}")
    return out[0] if single else tuple(out)


def aligned(op: str, name: str, value: Any, x: Any) -> Any:
    """An operand that goes along with ``x``, with as many axes; None stays None.

    Raises:
        OpError: it does not broadcast to ``x``'s shape.
    """
    if value is None:
        return None
    value = jnp.asarray(value)
    try:
        fits = jnp.broadcast_shapes(value.shape, x.shape) == x.shape
    except ValueError:
        fits = False
    if not fits:
        raise OpError(
            op,
            f"{name} has shape {value.shape}, and x has {x.shape}",
            {"x": x, name: value},
            f"give {name} x's shape, or one that is broadcast to it",
        )
    if name == "where" and value.dtype != jnp.bool_:
        value = value.astype(jnp.bool_)
    return lax.expand_dims(value, range(x.ndim - value.ndim))


def aligned_batch(op: OpDef, args: Any, axes: Any, params: dict[str, Any]) -> Any:
    """For ops of operands with as many axes each, counted from the end: the axis goes in front."""
    size = next(a.shape[at] for a, at in zip(args, axes, strict=True) if at is not None)
    moved = [
        lax.expand_dims(a, (0,)) if at is None else jnp.moveaxis(a, at, 0)
        for a, at in zip(args, axes, strict=True)
    ]
    # The others are broadcast to the first, so that it has to have them all.
    if axes[0] is None:
        moved[0] = jnp.broadcast_to(moved[0], (size, *args[0].shape))
    out = op.primitive.bind(*moved, **params)
    return out, [0] * len(out) if op.primitive.multiple_results else 0


def _softmax_jvp(op: OpDef, primals: Any, tangents: Any, params: dict[str, Any]) -> Any:
    # From the result, so that a gradient computes softmax once; the formula of jax.nn.
    y = op.primitive.bind(*primals, **params)
    if is_zero(tangents[0]):
        return y, zero_like(y)
    if not jnp.issubdtype(primals[0].dtype, jnp.inexact):
        return y, ad.Zero(jax.typeof(y).to_tangent_aval())
    dx = tangents[0]
    if len(primals) == 1:
        return y, _tangent(y, dx, params["axis"])
    # y is 0 where an element does not count, and 0 * nan is nan: of dx, and of a cotangent too.
    where = primals[1]
    dy = _tangent(y, jnp.where(where, dx, 0), params["axis"])
    return y, jnp.where(where, dy, 0)


def _tangent(y: Any, dx: Any, axis: int | tuple[int, ...]) -> Any:
    return y * (dx - (y * dx).sum(axis, keepdims=True))


def _softmax(x: Any, where: Any = None, *, axis: int | tuple[int, ...]) -> Any:
    return jax.nn.softmax(x, axis, where=where)


def _log_softmax(x: Any, where: Any = None, *, axis: int | tuple[int, ...]) -> Any:
    return jax.nn.log_softmax(x, axis, where=where)


def _infer(avals: Any, params: Mapping[str, Any]) -> Any:
    """Real floating-point numbers keep their type."""
    del params
    x = avals[0]
    alone = len(avals) == 1 and x.ndim > 0
    return x if alone and jnp.issubdtype(x.dtype, jnp.floating) else None


_SOFTMAX = define(
    "softmax",
    _softmax,
    optional=("where",),
    defaults={"axis": -1},
    infer=_infer,
    jvp=_softmax_jvp,
    batch=aligned_batch,
)
_LOG_SOFTMAX = define(
    "log_softmax",
    _log_softmax,
    optional=("where",),
    defaults={"axis": -1},
    infer=_infer,
    batch=aligned_batch,
)
_GLU = define("glu", jax.nn.glu, defaults={"axis": -1}, batch=leading_batch)


@eagerly_jitted
def softmax(x: Any, axis: int | Sequence[int] | None = -1, where: Any = None) -> jax.Array:
    """Softmax.

    ``exp(x) / sum(exp(x))``, the sum over ``axis``.

    Args:
        x: any shape; integers become floats.
        axis: one axis, several, or None for all.
        where: which elements count, of x's shape or one that is broadcast to it; the others are 0
            in the result. All count if None.

    Returns:
        An array of ``x``'s shape whose sum over ``axis`` is 1.

    Raises:
        OpError: an axis does not exist, or comes twice; ``where`` does not fit ``x``.

    Source: jax.nn.softmax.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.softmax([0.0, 0.0]).tolist()
        [0.5, 0.5]
    """
    x = jnp.asarray(x)
    operands = {"x": x, "where": aligned("softmax", "where", where, x)}
    return _SOFTMAX.rebind(operands, axis=axes_from_end("softmax", x, axis))


@eagerly_jitted
def log_softmax(x: Any, axis: int | Sequence[int] | None = -1, where: Any = None) -> jax.Array:
    """Logarithm of softmax.

    ``x - log(sum(exp(x)))``, the sum over ``axis``.

    Args:
        x: any shape; integers become floats.
        axis: one axis, several, or None for all.
        where: which elements count, of x's shape or one that is broadcast to it; the others are
            minus infinity in the result. All count if None.

    Returns:
        An array of ``x``'s shape.

    Raises:
        OpError: an axis does not exist, or comes twice; ``where`` does not fit ``x``.

    Source: jax.nn.log_softmax.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.log_softmax([3.0]).tolist()
        [0.0]
    """
    x = jnp.asarray(x)
    operands = {"x": x, "where": aligned("log_softmax", "where", where, x)}
    return _LOG_SOFTMAX.rebind(operands, axis=axes_from_end("log_softmax", x, axis))


@eagerly_jitted
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
    at = axes_from_end("glu", x, integer("glu", "axis", axis))
    assert isinstance(at, int)
    if x.shape[at] % 2:
        raise OpError("glu", f"axis {axis} is odd", {"x": x}, "give an axis of even size")
    return _GLU.rebind({"x": x}, axis=at)
