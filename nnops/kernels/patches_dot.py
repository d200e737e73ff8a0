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
from jaxpress.nnops.kernels.windows import conv_windows, shifted_slices, taps_in_order
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
    padded, sliding = conv_windows(x, w, params)
    patches = lax.concatenate(list(shifted_slices(padded, *sliding)), lhs[1])
    # The rows of the matrix are taps in the order of the slices, and for each tap the channels.
    matrix = lax.transpose(w, [*taps_in_order(numbers, rhs), rhs[1], rhs[0]])
    y = lax.dot_general(
        patches,
        matrix.reshape(-1, w.shape[rhs[0]]),
        (((lhs[1],), (0,)), ((), ())),
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )
    return from_features_last(y, numbers)


PATCHES_DOT = Kernel("patches_dot", patches_dot, applies)
