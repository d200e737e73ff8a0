"""Weights that scale each channel by itself: those of a batch norm, or of a product."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import lax

from jaxpress.capture import Node
from jaxpress.nnops.conv_geometry import specs
from jaxpress.passes.rules.fold import batch_norm_scale
from jaxpress.passes.rules.weights import along, as_type, bias_axes, bias_shape, work_dtype

__all__ = ["Places", "diagonal_of", "padded"]

# For each spatial axis how many taps lie before, behind and between those of a smaller kernel.
Places = tuple[tuple[int, int, int], ...]


def diagonal_of(
    main: Node, other: Node, operands: dict[str, Any], places: Places, w: Any
) -> tuple[Any, Any]:
    """The weights and the bias with which a linear op does what another node does.

    Args:
      main: the linear op, whose features and channels are the same axis.
      other: a ``batch_norm``, or a product with something known.
      operands: the operands of that, but x, by name; what is known is ``vector``.
      places: where the one tap lies, for a convolution.
      w: the weights of ``main``, for their shape.

    Returns:
      ``(weights, bias)`` in the dtype to compute in; the bias of a product is None.
    """
    dtype = work_dtype(main)
    if other.op == "batch_norm":
        scale, shift = _norm_terms(main, other, operands, dtype)
    else:
        scale, shift = _scale(main, other, operands["vector"], dtype), None
    return _diagonal(main, places, scale, w), shift


def padded(u: Any, places: Places, spec: Sequence[int]) -> Any:
    """A kernel with zeros around and between its taps; ``spec`` says where its axes are."""
    config = [(0, 0, 0)] * u.ndim
    for axis, place in zip(spec[2:], places, strict=True):
        config[axis] = place
    return lax.pad(u, np.zeros((), u.dtype), config)


def _norm_terms(main: Node, other: Node, norm: dict[str, Any], dtype: Any) -> tuple[Any, Any]:
    """What a batch norm multiplies by, and the bias that it adds."""
    operands = {k: norm.get(k) for k in ("mean", "var", "scale", "bias")}
    scale = batch_norm_scale(operands, other.params["epsilon"], dtype)
    shift = lax.neg(lax.mul(as_type(norm["mean"], dtype), scale))
    if operands["bias"] is not None:
        shift = lax.add(shift, as_type(operands["bias"], dtype))
    return scale, lax.reshape(shift, bias_shape(main))


def _scale(main: Node, other: Node, vector: Any, dtype: Any) -> Any:
    """What a product multiplies each feature by."""
    axes = bias_axes(main)
    varies = axes if math.prod(vector.shape) != 1 else ()
    scale = along(vector, varies, axes, bias_shape(main), dtype)
    return lax.div(lax.full_like(scale, 1), scale) if other.op == "div" else scale


def _diagonal(main: Node, places: Places, scale: Any, w: Any) -> Any:
    """The kernel, in the shape of the main one, that scales each channel."""
    n = scale.shape[0]
    spec = specs(main.params["dimension_numbers"]).rhs_spec if main.op == "conv" else (1, 0)
    inner = w.shape[spec[1]]
    # Feature i takes channel i, which is the one at i modulo the channels of a group.
    row = lax.rem(lax.broadcasted_iota("int32", (n, inner), 0), np.int32(inner))
    on = lax.eq(row, lax.broadcasted_iota("int32", (n, inner), 1))
    spread = lax.broadcast_in_dim(scale, (n, inner), (0,))
    u = lax.select(on, spread, lax.full_like(spread, 0))
    shape = [1] * w.ndim
    shape[spec[0]], shape[spec[1]] = n, inner
    u = lax.reshape(u if spec[0] < spec[1] else lax.transpose(u, (1, 0)), shape)
    if main.op == "conv":
        u = padded(u, places, spec)
    return u
