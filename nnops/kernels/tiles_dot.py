"""Convolution whose windows do not overlap, and the transposed one, as a matrix product.

That is a split into patches, a layer that halves an image, and the step up of a U-Net. XLA's CPU
backend computes their gradients some thirty times slower than those of the product.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxpress.nnops.conv_core import from_features_last
from jaxpress.nnops.conv_geometry import specs
from jaxpress.nnops.opdef import Kernel

__all__ = ["TILES_DOT", "tiles_dot"]


def applies(params: Mapping[str, Any], operands: Mapping[str, Any]) -> bool:
    """One group of floats, strides of the kernel's size, neither padding nor dilation."""
    x, w = operands["x"], operands["w"]
    numbers = specs(params["dimension_numbers"])
    sizes = [w.shape[i] for i in numbers.rhs_spec[2:]]
    padding = [(k - 1, k - 1) if params["transposed"] else (0, 0) for k in sizes]
    return (
        params["groups"] == 1
        and list(params["strides"]) == sizes
        and list(params["padding"]) == padding
        and all(d == 1 for d in params["dilation"])
        and all(jnp.issubdtype(v.dtype, jnp.inexact) for v in operands.values())
        and 0 not in w.shape
        and all(isinstance(x.shape[i], int) for i in numbers.lhs_spec[2:])
    )


def tiles_dot(x: Any, w: Any, **params: Any) -> Any:
    """The core of conv where `applies`.

    Args:
        x: the input.
        w: the kernel.
        **params: conv's static parameters.

    Returns:
        The convolution, in conv's layout and dtype.
    """
    numbers = specs(params["dimension_numbers"])
    how = {k: params[k] for k in ("precision", "preferred_element_type")}
    return (_upwards if params["transposed"] else _downwards)(x, w, numbers, how)


def _downwards(x: Any, w: Any, numbers: lax.ConvDimensionNumbers, how: dict[str, Any]) -> Any:
    taps = dict(zip(numbers.lhs_spec[2:], (w.shape[i] for i in numbers.rhs_spec[2:]), strict=True))
    whole = [n - n % taps[i] if i in taps else n for i, n in enumerate(x.shape)]
    x = lax.slice(x, [0] * x.ndim, whole)
    shape: list[int] = []
    within, channels = {}, 0
    for i, n in enumerate(whole):
        if i == numbers.lhs_spec[1]:
            channels = len(shape)
        shape.append(n // taps[i] if i in taps else n)
        if i in taps:
            within[i] = len(shape)
            shape.append(taps[i])
    summed = ([*(within[i] for i in numbers.lhs_spec[2:]), channels],)
    y = lax.dot_general(
        lax.reshape(x, shape),
        w,
        ((*summed, [*numbers.rhs_spec[2:], numbers.rhs_spec[1]]), ((), ())),
        **how,
    )
    return from_features_last(y, numbers)


def _upwards(x: Any, w: Any, numbers: lax.ConvDimensionNumbers, how: dict[str, Any]) -> Any:
    lhs, rhs, out = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    y = lax.dot_general(x, lax.rev(w, rhs[2:]), (((lhs[1],), (rhs[1],)), ((), ())), **how)
    # The product has x's other axes in their order, then those of w.
    rest = [("x", i) for i in range(x.ndim) if i != lhs[1]]
    rest += [("w", i) for i in range(w.ndim) if i != rhs[1]]
    place = {axis: i for i, axis in enumerate(rest)}
    parts: dict[int, list[int]] = {out[0]: [place["x", lhs[0]]], out[1]: [place["w", rhs[0]]]}
    for at, tap, to in zip(lhs[2:], rhs[2:], out[2:], strict=True):
        parts[to] = [place["x", at], place["w", tap]]
    order = [axis for to in range(x.ndim) for axis in parts[to]]
    sizes = [1] * x.ndim
    for to, axes in parts.items():
        for axis in axes:
            sizes[to] *= y.shape[axis]
    return lax.reshape(lax.transpose(y, order), sizes)


TILES_DOT = Kernel("tiles_dot", tiles_dot, applies)
