"""Strided slices of a padded array, one for each tap of a window."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import core, lax

from jaxpress.nnops.conv_geometry import specs

__all__ = ["along_spatial", "conv_windows", "shifted_slices", "taps_in_order", "window_positions"]


def window_positions(size: Any, window: int, stride: int, dilation: int, pair: Any) -> Any:
    """How often a window fits a padded dimension; never below 0."""
    if window == stride == 1 and tuple(pair) == (0, 0):
        return size
    room = size + pair[0] + pair[1] - ((window - 1) * dilation + 1)
    return core.max_dim(room // stride + 1, 0)


def shifted_slices(
    x: Any,
    window: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
    counts: Sequence[Any],
) -> Iterator[Any]:
    """What each tap of a full-rank window sees at every position; the last axis's taps run first.

    Args:
        x: the padded array.
        window: taps along each axis of x; 1 where nothing slides.
        strides: along each axis.
        dilation: distance of neighbouring taps, along each axis.
        counts: positions along each axis.

    Yields:
        Arrays of shape ``counts``.
    """
    for tap in itertools.product(*map(range, window)):
        # Where no window fits, taps lie beyond the array.
        starts = [0 if n == 0 else t * d for t, d, n in zip(tap, dilation, counts, strict=True)]
        limits = [
            0 if n == 0 else s + (n - 1) * step + 1
            for s, n, step in zip(starts, counts, strides, strict=True)
        ]
        yield lax.slice(x, starts, limits, strides)


def along_spatial(numbers: lax.ConvDimensionNumbers, spatial: Iterable[Any], other: Any) -> list:
    """One entry for each axis of x: those of the spatial ones in the convolution's order."""
    full = [other] * len(numbers.lhs_spec)
    for axis, value in zip(numbers.lhs_spec[2:], spatial, strict=True):
        full[axis] = value
    return full


def conv_windows(x: Any, w: Any, params: Mapping[str, Any]) -> tuple[Any, tuple[list[Any], ...]]:
    """The padded input of a convolution that is not transposed, and how its kernel slides.

    Args:
        x: the input.
        w: the kernel.
        params: conv's static parameters.

    Returns:
        The padded array, and what `shifted_slices` takes besides: the counts of positions are last.
    """
    numbers = specs(params["dimension_numbers"])

    along = functools.partial(along_spatial, numbers)
    window = along([w.shape[i] for i in numbers.rhs_spec[2:]], 1)
    strides, dilation = along(params["strides"], 1), along(params["dilation"], 1)
    pads = along(params["padding"], (0, 0))
    counts = [
        window_positions(*of) for of in zip(x.shape, window, strides, dilation, pads, strict=True)
    ]
    padded = lax.pad(x, jnp.zeros((), x.dtype), [(low, high, 0) for low, high in pads])
    return padded, (window, strides, dilation, counts)


def taps_in_order(numbers: lax.ConvDimensionNumbers, spec: Sequence[int]) -> list[int]:
    """The spatial axes of ``spec``, in the order in which `shifted_slices` goes along x's."""
    order = sorted(range(len(numbers.lhs_spec) - 2), key=lambda i: numbers.lhs_spec[2 + i])
    return [spec[2 + i] for i in order]
