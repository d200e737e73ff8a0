"""Strided slices of a padded array, one for each tap of a window."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from jax import core, lax

__all__ = ["shifted_slices", "window_positions"]


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
        starts = [t * d for t, d in zip(tap, dilation, strict=True)]
        limits = [
            s + (n - 1) * step + 1 for s, n, step in zip(starts, counts, strides, strict=True)
        ]
        yield lax.slice(x, starts, limits, strides)
