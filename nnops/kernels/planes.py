"""Convolution over three dimensions as one over two.

XLA's CPU backend convolves over one or two dimensions several times as fast as over three. The taps
along the first spatial dimension become channels, or a sum, and its positions part of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxpress.nnops.conv_core import conv_core
from jaxpress.nnops.conv_geometry import specs
from jaxpress.nnops.kernels.windows import shifted_slices, window_positions
from jaxpress.nnops.opdef import Kernel

__all__ = ["PLANES", "planes"]

# Up to here it is cheaper to copy the input for every tap than to add results.
FEW_CHANNELS = 16


def applies(params: Mapping[str, Any], operands: Mapping[str, Any]) -> bool:
    """Three spatial dimensions, one group, not transposed, floats of at least 32 bits."""
    preferred = filter(None, [params["preferred_element_type"]])
    return (
        len(params["strides"]) == 3
        and params["groups"] == 1
        and not params["transposed"]
        and all(jnp.issubdtype(v.dtype, jnp.inexact) for v in operands.values())
        # Sums of halves, rounded tap by tap, would be less exact.
        and all(d.itemsize >= 4 for d in (*(v.dtype for v in operands.values()), *preferred))
        and 0 not in operands["w"].shape
    )


def planes(x: Any, w: Any, **params: Any) -> Any:
    """The core of conv where `applies`.

    Args:
        x: the input.
        w: the kernel.
        **params: conv's static parameters.

    Returns:
        The convolution, in conv's layout and dtype.
    """
    numbers = specs(params["dimension_numbers"])
    # Channels last, where a plane of the input and a tap of the kernel are each in one piece.
    x = lax.transpose(x, [numbers.lhs_spec[i] for i in (0, 2, 3, 4, 1)])
    w = lax.transpose(w, [numbers.rhs_spec[i] for i in (2, 3, 4, 1, 0)])
    first, *others = zip(params["strides"], params["dilation"], params["padding"], strict=True)
    step, distance, (low, high) = first
    depth, channels = w.shape[0], x.shape[-1]
    positions = window_positions(x.shape[1], depth, step, distance, (low, high))
    counts = [x.shape[0], positions, *x.shape[2:]]
    padded = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (low, high, 0), *[(0, 0, 0)] * 3])
    along = lambda n: [1, n, 1, 1, 1]  # noqa: E731
    slices = list(shifted_slices(padded, along(depth), along(step), along(distance), counts))

    def plane(x: Any, w: Any) -> Any:
        strides, dilation, padding = zip(*others, strict=True)
        return conv_core(
            x.reshape(-1, *x.shape[2:]),
            w,
            **{
                **params,
                "strides": strides,
                "dilation": dilation,
                "padding": padding,
                "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
            },
        )

    if channels <= FEW_CHANNELS:
        together = lax.transpose(w, [1, 2, 0, 3, 4])
        together = together.reshape(*together.shape[:2], depth * channels, -1)
        y = plane(lax.concatenate(slices, 4), together)
    else:
        y = plane(slices[0], w[0])
        for seen, tap in zip(slices[1:], w[1:], strict=True):
            y = lax.add(y, plane(seen, tap))
    y = y.reshape(x.shape[0], positions, *y.shape[1:])
    to = [0] * y.ndim
    for axis, target in zip((0, 4, 1, 2, 3), numbers.out_spec, strict=True):
        to[target] = axis
    return lax.transpose(y, to)


PLANES = Kernel("planes", planes, applies)
