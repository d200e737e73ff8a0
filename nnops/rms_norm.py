"""Root mean square normalisation as a named op."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxpress.nnops.define import define
from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.layer_norm import as_tuple, infer, norm_axes
from jaxpress.nnops.moments import (
    affine,
    as_operands,
    check_affine,
    inverse_root,
    normalized_params,
    result_dtype,
    rows_batch,
    work_dtype,
)

__all__ = ["rms_norm"]

EPSILON = 1e-6


def _reference(
    x: Any, scale: Any = None, bias: Any = None, *, axis: Any, epsilon: float, placement: str,
    dtype: Any,
) -> Any:  # fmt: skip
    axes = as_tuple(axis)
    given = {"x": x, "scale": scale, "bias": bias}
    check_affine("rms_norm", given, [x.shape[a] for a in axes], "the normalised axes have")
    wide = x.astype(work_dtype(x, scale, bias))
    y = wide * inverse_root(jnp.mean(jnp.square(wide), axes, keepdims=True), epsilon, placement)
    return affine(y, scale, bias, axes, result_dtype(x, scale, bias, dtype=dtype))


_RMS_NORM = define(
    "rms_norm",
    _reference,
    optional=("scale", "bias"),
    defaults={"axis": -1, "epsilon": EPSILON, "placement": "root", "dtype": None},
    normalize=lambda params: normalized_params("rms_norm", params, EPSILON),
    batch=rows_batch,
    infer=infer,
    keeps=True,
)


@eagerly_jitted
def rms_norm(
    x: Any,
    scale: Any = None,
    bias: Any = None,
    *,
    axis: int | Sequence[int] = -1,
    epsilon: float = 1e-6,
    placement: str = "root",
    dtype: Any = None,
) -> jax.Array:
    """Root mean square normalisation: layer normalisation without taking the mean away.

    ``x / sqrt(mean(x**2) + epsilon) * scale + bias``, the mean over ``axis``.

    Args:
        x: any shape.
        scale: of the shape of the normalised axes, in x's order; None for 1. Gemma's
            weights are one less: give ``1 + weights``.
        bias: likewise; None for 0.
        axis: the axes to normalise over, one or several.
        epsilon: added to the mean square, a Python number.
        placement: where epsilon stands: ``"root"`` as above, ``"sum"`` for ``rms + epsilon``,
            ``"max"`` or ``"norm"`` for ``max(rms, epsilon)``: see `l2_normalize`.
        dtype: the result's; None for the one to which all operands promote.

    Returns:
        An array of x's shape; computed in float32 at least.

    Raises:
        OpError: an axis does not exist, or scale or bias has another shape.
        OpTypeError: epsilon is no static number, or an operand is complex.

    Source: Zhang and Sennrich, 2019, arXiv:1910.07467.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.rms_norm([[3.0, 3.0, 0.0, 0.0]], [2.0, 1.0, 1.0, 1.0], epsilon=0).round(
        ...     3
        ... ).tolist()
        [[2.828000068664551, 1.4140000343322754, 0.0, 0.0]]
    """
    given = as_operands("rms_norm", x=x, scale=scale, bias=bias)
    at = norm_axes("rms_norm", given["x"], axis)
    return _RMS_NORM.rebind(given, axis=at, epsilon=epsilon, placement=placement, dtype=dtype)
