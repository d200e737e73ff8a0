"""What convolution computes, before bias, residual and activation: the reference of `conv`."""

from __future__ import annotations

from typing import Any

import jax.export
import jax.numpy as jnp
from jax import lax

from jaxpress.nnops.conv_geometry import specs

__all__ = ["conv_core", "from_features_last"]


def conv_core(
    x: Any,
    w: Any,
    *,
    strides: tuple[int, ...],
    padding: tuple[tuple[Any, Any], ...],
    dilation: tuple[int, ...],
    groups: int,
    dimension_numbers: Any,
    transposed: bool,
    precision: Any,
    preferred_element_type: Any,
) -> Any:
    """`jax.lax.conv_general_dilated` by conv's static parameters."""
    ones = (1,) * len(strides)
    if any(jax.export.is_symbolic_dim(p) for pair in padding for p in pair):
        # lax takes symbolic padding by name only, and the names are resolved by now.
        edges = [(0, 0, 0)] * x.ndim
        for axis, (low, high), step in zip(
            specs(dimension_numbers).lhs_spec[2:], padding, strides, strict=True
        ):
            edges[axis] = (low, high, step - 1 if transposed else 0)
        x, padding = lax.pad(x, jnp.zeros((), x.dtype), edges), ((0, 0),) * len(strides)
        strides, transposed = (ones, False) if transposed else (strides, False)
    return lax.conv_general_dilated(
        x,
        w,
        window_strides=ones if transposed else strides,
        padding=padding,
        lhs_dilation=strides if transposed else ones,
        rhs_dilation=dilation,
        dimension_numbers=specs(dimension_numbers),
        feature_group_count=groups,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )


def from_features_last(y: Any, numbers: lax.ConvDimensionNumbers) -> Any:
    """A result that has x's other axes in their order, then the features, in conv's own layout.

    Args:
        y: such as a matrix product over x's channels makes it.
        numbers: `specs` of the dimension numbers.
    """
    lhs = numbers.lhs_spec
    rest = sorted(i for i in range(y.ndim) if i != lhs[1])
    place = {axis: i for i, axis in enumerate(rest)} | {lhs[1]: len(rest)}
    to = [0] * y.ndim
    for source, target in zip(lhs, numbers.out_spec, strict=True):
        to[target] = place[source]
    return lax.transpose(y, to)
