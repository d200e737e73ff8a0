"""Sums over a batch, some images at a time, so that what is worked on stays in the cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["sum_over_parts"]

# Numbers of the first array that are worked on at a time; two megabytes of float32.
CHUNK = 1 << 19


def sum_over_parts(of_some: Callable[..., Any], *arrays: tuple[Any, int]) -> Any:
    """``of_some(*arrays)``, which is a sum over images, as a loop over parts of the batch.

    Args:
        of_some: takes the arrays with some of their images each.
        *arrays: each with its batch axis; the first is the one whose size counts.

    Returns:
        The sum; None where there is nothing to take apart.
    """
    first, at = arrays[0]
    images = first.shape[at]
    chunk = _images_at_a_time(first.shape, images)
    # With axes of a mesh in the type, taking the batch apart would need to say what becomes of it.
    if chunk is None or not jax.typeof(first).sharding.mesh.empty:
        return None

    def split(value: Any, axis: int) -> Any:
        shape = value.shape
        value = value.reshape(*shape[:axis], images // chunk, chunk, *shape[axis + 1 :])
        return jnp.moveaxis(value, axis, 0)

    parts = [split(value, axis) for value, axis in arrays]
    return lax.map(lambda some: of_some(*some), parts).sum(0)


def _images_at_a_time(shape: Any, images: Any) -> int | None:
    """The most images that divide the batch and fit; None where that is all, or nobody knows."""
    if not all(isinstance(n, int) for n in shape) or 0 in shape:
        return None
    most = max(1, CHUNK // (math.prod(shape) // images))
    chunk = max(n for n in range(1, min(most, images) + 1) if images % n == 0)
    return None if chunk == images else chunk
