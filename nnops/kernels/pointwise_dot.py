"""Convolution with a kernel of size 1 as a matrix product."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jax import lax

from jaxpress.nnops.conv_core import from_features_last
from jaxpress.nnops.conv_geometry import specs
from jaxpress.nnops.opdef import Kernel

__all__ = ["POINTWISE_DOT", "pointwise_dot"]


def applies(params: Mapping[str, Any], operands: Mapping[str, Any]) -> bool:
    """Every spatial size of the kernel is 1, one group, no padding, input not dilated."""
    numbers = specs(params["dimension_numbers"])
    strides = params["strides"]
    return (
        params["groups"] == 1
        and all(operands["w"].shape[i] == 1 for i in numbers.rhs_spec[2:])
        and all(pair == (0, 0) for pair in params["padding"])
        and (not params["transposed"] or all(s == 1 for s in strides))
    )


def pointwise_dot(x: Any, w: Any, **params: Any) -> Any:
    """The core of conv where `applies`.

    Args:
        x: the input.
        w: the kernel.
        **params: conv's static parameters.

    Returns:
        The convolution, in conv's layout and dtype.
    """
    numbers = specs(params["dimension_numbers"])
    lhs = numbers.lhs_spec
    if any(s > 1 for s in params["strides"]):
        steps = [1] * x.ndim
        for axis, stride in zip(lhs[2:], params["strides"], strict=True):
            steps[axis] = stride
        x = lax.slice(x, [0] * x.ndim, x.shape, steps)
    matrix = lax.squeeze(w, numbers.rhs_spec[2:])
    inner = 0 if numbers.rhs_spec[1] < numbers.rhs_spec[0] else 1
    y = lax.dot_general(
        x,
        matrix,
        (((lhs[1],), (inner,)), ((), ())),
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )
    return from_features_last(y, numbers)


POINTWISE_DOT = Kernel("pointwise_dot", pointwise_dot, applies)
