"""Convolution as a product of all patches with the kernel as a matrix.

Where an image is smaller than the kernel, XLA's CPU backend lets the two change places and
convolves with the image, up to eighty times slower; where there are few positions, it does not keep
all cores busy. Copying patches costs little there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxpress.nnops.conv_core import from_features_last
from jaxpress.nnops.conv_geometry import specs
from jaxpress.nnops.kernels.windows import shifted_slices, window_positions
from jaxpress.nnops.opdef import Kernel

__all__ = ["PATCHES_DOT", "patches_dot"]


def applies(params: Mapping[str, Any], operands: Mapping[str, Any]) -> bool:
    """One group, not transposed, floats, a kernel that has a size."""
    return (
        params["groups"] == 1
        and not params["transposed"]
        and all(jnp.issubdtype(v.dtype, jnp.inexact) for v in operands.values())
        and 0 not in operands["w"].shape
    )


def patches_dot(x: Any, w: Any, **params: Any) -> Any:
    """The core of conv where `applies`.

    Args:
        x: the input.
        w: the kernel.
        **params: conv's static parameters.

    Returns:
        The convolution, in conv's layout and dtype.
    """
    numbers = specs(params["dimension_numbers"])
    lhs, rhs = numbers.lhs_spec, numbers.rhs_spec

    # One entry per axis of x: taps only along the spatial ones.
    def along(spatial: Any, other: Any) -> list[Any]:
        full = [other] * x.ndim
        for axis, value in zip(lhs[2:], spatial, strict=True):
            full[axis] = value
        return full

    window = along([w.shape[i] for i in rhs[2:]], 1)
    strides, dilation = along(params["strides"], 1), along(params["dilation"], 1)
    pads = along(params["padding"], (0, 0))
    counts = [
        window_positions(*of) for of in zip(x.shape, window, strides, dilation, pads, strict=True)
    ]
    padded = lax.pad(x, jnp.zeros((), x.dtype), [(low, high, 0) for low, high in pads])
    patches = lax.concatenate(
        list(shifted_slices(padded, window, strides, dilation, counts)), lhs[1]
    )
    # The rows of the matrix are taps in the order of the slices, and for each tap the channels.
    order = sorted(range(len(lhs) - 2), key=lambda i: lhs[2 + i])
    matrix = lax.transpose(w, [*(rhs[2 + i] for i in order), rhs[1], rhs[0]])
    y = lax.dot_general(
        patches,
        matrix.reshape(-1, w.shape[rhs[0]]),
        (((lhs[1],), (0,)), ((), ())),
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )
    return from_features_last(y, numbers)


PATCHES_DOT = Kernel("patches_dot", patches_dot, applies)
