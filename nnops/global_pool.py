"""Pooling over all positions at once, as named ops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray

from jaxpress.nnops.define import define
from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.errors import OpError
from jaxpress.nnops.opdef import OpDef
from jaxpress.nnops.settings import static_value
from jaxpress.nnops.softmax import axes_from_end
from jaxpress.nnops.transforms import leading_batch

__all__ = ["global_avg_pool", "global_max_pool"]


def _mean(x: Any, *, axis: tuple[int, ...], keepdims: bool) -> Any:
    return jnp.mean(x, axis, keepdims=keepdims)


def _max(x: Any, *, axis: tuple[int, ...], keepdims: bool) -> Any:
    return jnp.max(x, axis, keepdims=keepdims)


def _infer(avals: Any, params: Mapping[str, Any]) -> Any:
    (x,) = avals
    axes = {a % x.ndim for a in params["axis"]} if x.ndim else set()
    # A maximum over nothing is refused by the trace.
    if not jnp.issubdtype(x.dtype, jnp.floating) or 0 in x.shape:
        return None
    kept = [1 if i in axes else n for i, n in enumerate(x.shape)]
    shape = [n for i, n in enumerate(kept) if params["keepdims"] or i not in axes]
    return ShapedArray(tuple(shape), x.dtype)


_HOW: dict[str, Any] = {
    "defaults": {"axis": (-3, -2), "keepdims": False},
    "batch": leading_batch,
    "infer": _infer,
}
_AVG = define("global_avg_pool", _mean, **_HOW, linear=True)
_MAX = define("global_max_pool", _max, **_HOW)


def _pool(op: OpDef, x: Any, axis: int | Sequence[int] | None, keepdims: bool) -> jax.Array:
    x = jnp.asarray(x)
    if axis is None:
        if x.ndim < 3:
            raise OpError(
                op.name,
                f"x has {x.ndim} dimensions",
                {"x": x},
                "x is (batch, spatial..., channels), or say which axes are spatial",
            )
        axis = tuple(range(1, x.ndim - 1))
    axes = axes_from_end(op.name, x, axis)
    axes = (axes,) if isinstance(axes, int) else axes
    flag = static_value(op.name, "keepdims", keepdims, False)
    return op.rebind({"x": x}, axis=axes, keepdims=flag)


@eagerly_jitted
def global_avg_pool(
    x: Any, axis: int | Sequence[int] | None = None, *, keepdims: bool = False
) -> jax.Array:
    """Mean over all positions.

    ``mean(x)`` over ``axis``

    Args:
        x: (batch, spatial..., channels); any shape where ``axis`` is given.
        axis: the spatial axes; None for all but the first and the last.
        keepdims: leave them in the result with size 1.

    Returns:
        (batch, channels), in x's dtype; of integers, floats.

    Raises:
        OpError: an axis does not exist or comes twice, or x has no spatial axes.

    Source: Lin et al., 2013, arXiv:1312.4400; jax.numpy.mean.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.global_avg_pool([[[1.0, 2.0], [3.0, 6.0]]]).tolist()
        [[2.0, 4.0]]
    """
    return _pool(_AVG, x, axis, keepdims)


@eagerly_jitted
def global_max_pool(
    x: Any, axis: int | Sequence[int] | None = None, *, keepdims: bool = False
) -> jax.Array:
    """Maximum over all positions.

    ``max(x)`` over ``axis``

    Args:
        x: (batch, spatial..., channels); any shape where ``axis`` is given.
        axis: the spatial axes; None for all but the first and the last.
        keepdims: leave them in the result with size 1.

    Returns:
        (batch, channels), in x's dtype. The derivative at a tie is shared evenly.

    Raises:
        OpError: an axis does not exist or comes twice, or x has no spatial axes.

    Source: jax.numpy.max.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.global_max_pool([[[1.0, 6.0], [3.0, 2.0]]]).tolist()
        [[3.0, 6.0]]
    """
    return _pool(_MAX, x, axis, keepdims)
