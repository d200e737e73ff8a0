"""Depthwise convolution as a sum of shifted products.

XLA's CPU backend has no depthwise convolution to speak of; a sum over the taps of strided slices
times one row of the kernel fuses into a single loop, and is some forty times as fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxpress.nnops.conv_geometry import specs
from jaxpress.nnops.kernels.windows import conv_windows, shifted_slices, taps_in_order

__all__ = ["applies", "depthwise_shifted"]


def applies(params: Mapping[str, Any], operands: Mapping[str, Any]) -> bool:
    """One group for each channel, floats."""
    x, w = operands["x"], operands["w"]
    numbers = specs(params["dimension_numbers"])
    return (
        params["groups"] == x.shape[numbers.lhs_spec[1]]
        and all(jnp.issubdtype(v.dtype, jnp.inexact) for v in (x, w))
        and all(w.shape[i] > 0 for i in numbers.rhs_spec)
    )


def depthwise_shifted(x: Any, w: Any, **params: Any) -> Any:
    """The core of conv where `applies`; sums in at least float32.

    Args:
        x: the input.
        w: the kernel.
        **params: conv's static parameters.

    Returns:
        The convolution, in conv's layout and dtype.
    """
    numbers = specs(params["dimension_numbers"])
    lhs, rhs = numbers.lhs_spec, numbers.rhs_spec
    channels, features = lhs[1], rhs[0]
    out_dtype = params["preferred_element_type"] or x.dtype
    sum_dtype = jnp.promote_types(out_dtype, jnp.float32)
    multiplier = w.shape[features] // x.shape[channels]
    if params["transposed"]:
        # Zeros between the entries of x, as many as the strides say, and then steps of one.
        between = dict.fromkeys(range(x.ndim), 0)
        between.update(zip(lhs[2:], (step - 1 for step in params["strides"]), strict=True))
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, n) for n in between.values()])
        params = {**params, "transposed": False, "strides": (1,) * (x.ndim - 2)}
    padded, sliding = conv_windows(x, w, params)
    counts = sliding[-1]
    # Without the barrier XLA sees that the middle tap reads x itself, and computes what made x
    # (an activation, mostly) a second time for it.
    padded = lax.optimization_barrier(padded)
    # (taps, features): rows of the kernel, in the order in which the slices come.
    rows = lax.transpose(w, [*taps_in_order(numbers, rhs), features, rhs[1]])
    rows = rows.reshape(-1, w.shape[features]).astype(sum_dtype)
    total = None
    # Few equations a tap: a network has hundreds of taps, and each is traced, lowered and compiled.
    split = multiplier != 1
    shape = [*counts[: channels + 1], *([multiplier] if split else []), *counts[channels + 1 :]]
    row_shape = (x.shape[channels], multiplier) if split else (w.shape[features],)
    row_axes = (channels, channels + 1) if split else (channels,)
    seen_axes = [i + (split and i > channels) for i in range(x.ndim)]
    for tap, seen in enumerate(shifted_slices(padded, *sliding)):
        row = lax.slice_in_dim(rows, tap, tap + 1).reshape(row_shape)
        seen = lax.convert_element_type(seen, sum_dtype)
        if split:
            seen = lax.broadcast_in_dim(seen, shape, seen_axes)
        product = lax.mul(seen, lax.broadcast_in_dim(row, shape, row_axes))
        total = product if total is None else lax.add(total, product)
    assert total is not None
    if multiplier != 1:
        shape = total.shape
        merged = (*shape[:channels], shape[channels] * multiplier, *shape[channels + 2 :])
        total = total.reshape(merged)
    # From x's layout to the result's.
    to = [0] * x.ndim
    for source, target in zip(lhs, numbers.out_spec, strict=True):
        to[target] = source
    return lax.transpose(total.astype(out_dtype), to)
