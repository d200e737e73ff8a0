"""Faster ways to reduce windows: as shifted slices, and one axis at a time.

XLA's CPU backend walks a window of several axes element by element. The reduction over slices
fuses into one vectorised loop; one over a single axis is vectorised as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from jax import lax

from jaxpress.nnops.kernels.windows import shifted_slices, window_positions

__all__ = ["separable", "separable_applies", "shifted", "shifted_applies"]

# Beyond that many taps the program grows long, and `separable` is faster.
MOST_TAPS = 32


def shifted_applies(params: Mapping[str, Any], operands: Mapping[str, Any]) -> bool:
    """A window of few taps."""
    del operands
    return math.prod(params["window_shape"]) <= MOST_TAPS


def separable_applies(params: Mapping[str, Any], operands: Mapping[str, Any]) -> bool:
    """A window over two axes or more."""
    del operands
    return sum(size > 1 for size in params["window_shape"]) > 1


def shifted(
    x: Any, unit: Any, combine: Callable[[Any, Any], Any], params: Mapping[str, Any]
) -> Any:
    """Reduces windows as ``combine`` of one strided slice for each tap.

    Args:
        x: any array.
        unit: what ``combine`` starts from, and what pads.
        combine: such as lax.add.
        params: the pooling op's static parameters, of full rank.

    Returns:
        As lax.reduce_window, up to the order of combining.
    """
    window, strides = params["window_shape"], params["strides"]
    dilation, pads = params["dilation"], params["padding"]
    counts = [
        window_positions(*of) for of in zip(x.shape, window, strides, dilation, pads, strict=True)
    ]
    padded = lax.pad(x, unit, [(low, high, 0) for low, high in pads])
    total = None
    for seen in shifted_slices(padded, window, strides, dilation, counts):
        total = seen if total is None else combine(total, seen)
    return total


def separable(
    x: Any, unit: Any, combine: Callable[[Any, Any], Any], params: Mapping[str, Any]
) -> Any:
    """Reduces windows along one axis after the other; arguments and result as `shifted`."""
    for axis in range(x.ndim):

        def at_axis(name: str, other: Any, axis: int = axis) -> list[Any]:
            return [v if i == axis else other for i, v in enumerate(params[name])]

        sizes, steps, pads = (
            at_axis("window_shape", 1),
            at_axis("strides", 1),
            at_axis("padding", (0, 0)),
        )
        if sizes[axis] > 1 or steps[axis] > 1 or pads[axis] != (0, 0):
            x = lax.reduce_window(
                x, unit, combine, sizes, steps, pads, window_dilation=at_axis("dilation", 1)
            )
    return x
