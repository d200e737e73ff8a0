"""Gradients of a depthwise convolution, in forms that stay in the cache.

The transpose of a sum of shifted products, as JAX derives it, is right and slow in two ways: the
kernel's gradient copies the whole batch once for every tap, and the input's, for a large kernel, is
a sum of as many padded arrays.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxpress.nnops.conv_geometry import specs
from jaxpress.nnops.kernels.batch_parts import sum_over_parts
from jaxpress.nnops.kernels.depthwise_shifted import applies, depthwise_shifted
from jaxpress.nnops.opdef import Kernel

__all__ = ["DEPTHWISE_SHIFTED", "input_gradient", "kernel_gradient"]

# Measured: up to here the derived form is as fast, and with strides faster.
FEW_TAPS = 9


def input_gradient(g: Any, x: Any, w: Any, **params: Any) -> Any:
    """What `depthwise_shifted` is in x, transposed: a convolution of g with the turned kernel.

    Args:
        g: the cotangent of the result.
        x: shape and dtype of the input.
        w: the kernel.
        **params: conv's static parameters.

    Returns:
        The input's cotangent; None where the derived form is as good.
    """
    numbers = specs(params["dimension_numbers"])
    taps = [w.shape[i] for i in numbers.rhs_spec[2:]]
    if (
        params["transposed"]
        or math.prod(taps) <= FEW_TAPS
        or w.shape[numbers.rhs_spec[0]] != params["groups"]
    ):
        return None
    if 0 in g.shape or 0 in x.shape:
        return None
    edges = [(0, 0, 0)] * g.ndim
    # For every spatial dimension: sizes of x and g, and how the kernel slides.
    for at, to, size, stride, step, (low, high) in zip(
        numbers.lhs_spec[2:],
        numbers.out_spec[2:],
        taps,
        params["strides"],
        params["dilation"],
        params["padding"],
        strict=True,
    ):
        reach = (size - 1) * step
        unseen = x.shape[at] + low + high - reach - 1 - (g.shape[to] - 1) * stride
        edges[to] = (reach - low, reach - high + unseen, stride - 1)
    turned = {
        **params,
        "strides": (1,) * len(taps),
        "padding": ((0, 0),) * len(taps),
        "dimension_numbers": lax.ConvDimensionNumbers(
            numbers.out_spec, numbers.rhs_spec, numbers.lhs_spec
        ),
        "preferred_element_type": x.dtype,
    }
    return depthwise_shifted(
        lax.pad(g, jnp.zeros((), g.dtype), edges), lax.rev(w, numbers.rhs_spec[2:]), **turned
    )


def kernel_gradient(g: Any, x: Any, w: Any, **params: Any) -> Any:
    """What `depthwise_shifted` is in w, transposed: some images at a time, then their sum.

    Args:
        g: the cotangent of the result.
        x: the input.
        w: shape and dtype of the kernel.
        **params: conv's static parameters.

    Returns:
        The kernel's cotangent; None where there is nothing to take apart.
    """
    numbers = specs(params["dimension_numbers"])
    # Parts are added up in at least float32, whatever the kernel's dtype.
    like = jax.ShapeDtypeStruct(w.shape, jnp.promote_types(w.dtype, jnp.float32))

    def of_some(x: Any, g: Any) -> Any:
        in_kernel = lambda w: depthwise_shifted(x, w, **params)  # noqa: E731
        return jax.linear_transpose(in_kernel, like)(g)[0]

    total = sum_over_parts(of_some, (x, numbers.lhs_spec[0]), (g, numbers.out_spec[0]))
    return None if total is None else total.astype(w.dtype)


DEPTHWISE_SHIFTED = Kernel(
    "depthwise_shifted",
    depthwise_shifted,
    applies,
    {"x": input_gradient, "w": kernel_gradient},
)
