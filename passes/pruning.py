"""Which weights to keep: the largest, one by one, some of each few, or whole features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxpress.capture import PassError

__all__ = ["check_structure", "keep_above", "magnitude_mask", "threshold"]


def magnitude_mask(
    w: Any,
    sparsity: float = 0.5,
    structure: Any = "unstructured",
    *,
    input_axis: int = -2,
    output_axes: int | Sequence[int] = -1,
) -> Any:
    """True for the weights to keep: those of the largest magnitude.

    ``"unstructured"`` drops ``round(sparsity * size)`` weights; of equal ones, those that come
    first. ``(n, m)``, or ``"n:m"``, keeps n of each m neighbours along the input axis, whatever the
    sparsity is said to be. ``"channel"`` drops ``round(sparsity * features)`` whole features, those
    of the smallest sum of squares.

    Args:
      w: weights of any shape.
      sparsity: the fraction to drop, from 0 to 1.
      structure: which weights go together.
      input_axis: w's axis that is summed over, for ``(n, m)``.
      output_axes: w's axes that the result has, for ``"channel"``.

    Returns:
      An array of booleans of w's shape.

    Raises:
      PassError: the sparsity or structure is none of these, or m does not divide the axis.

    Source: Han et al., 2015, arXiv:1506.02626; Mishra et al., 2021, arXiv:2104.08378.

    >>> import jax.numpy as jnp
    >>> magnitude_mask(jnp.array([3.0, -1.0, 2.0, -4.0]), 0.5).tolist()
    [True, False, False, True]
    >>> magnitude_mask(jnp.array([[3.0], [-1.0], [2.0], [-4.0]]), structure="1:2").ravel().tolist()
    [True, False, False, True]
    """
    structure = check_structure(structure, sparsity)
    w = lax.stop_gradient(jnp.asarray(w))
    size = jnp.abs(w)
    if structure == "unstructured":
        return _largest(size.ravel(), round(sparsity * w.size)).reshape(w.shape)
    if structure == "channel":
        axes = (output_axes,) if isinstance(output_axes, int) else tuple(output_axes)
        kept = {a % w.ndim for a in axes}
        others = tuple(a for a in range(w.ndim) if a not in kept)
        wide = size.astype(jnp.promote_types(size.dtype, jnp.float32))
        norms = jnp.sum(wide * wide, axis=others, keepdims=True)
        mask = _largest(norms.ravel(), round(sparsity * norms.size)).reshape(norms.shape)
        return jnp.broadcast_to(mask, w.shape)
    n, m = structure
    axis = input_axis % w.ndim
    if w.shape[axis] % m:
        raise PassError(
            f"{n}:{m} pruning needs {m} weights in each group, and axis {axis} of the shape "
            f"{w.shape} has {w.shape[axis]}; choose other weights, or another structure"
        )
    groups = jnp.moveaxis(size, axis, -1).reshape(-1, m)
    mask = _largest(groups, m - n).reshape(jnp.moveaxis(w, axis, -1).shape)
    return jnp.moveaxis(mask, -1, axis)


def _largest(x: Any, dropped: int) -> Any:
    """True for all but the ``dropped`` least along the last axis; of equal ones the first go."""
    rank = jnp.argsort(jnp.argsort(x, axis=-1, stable=True), axis=-1, stable=True)
    return rank >= dropped


def threshold(weights: Sequence[Any], sparsity: float) -> Any:
    """The magnitude up to which weights go, where a fraction of all of them together goes."""
    sizes = jnp.concatenate(
        [jnp.abs(lax.stop_gradient(w)).ravel().astype(jnp.float32) for w in weights]
    )
    dropped = round(sparsity * sizes.size)
    return jnp.sort(sizes)[dropped - 1] if dropped else jnp.asarray(-1.0, jnp.float32)


def keep_above(w: Any, limit: Any) -> Any:
    """True where the magnitude is larger than ``limit``."""
    return jnp.abs(lax.stop_gradient(w)).astype(jnp.float32) > limit


def check_structure(structure: Any, sparsity: Any = 0.0) -> Any:
    """``structure`` as ``"unstructured"``, ``"channel"`` or a pair.

    Raises:
      PassError: it is none of these, or the sparsity is no fraction.
    """
    if not (isinstance(sparsity, int | float) and 0 <= sparsity <= 1) or math.isnan(sparsity):
        raise PassError(f"sparsity is {sparsity!r}; give the fraction to drop, from 0 to 1")
    if structure in ("unstructured", "channel"):
        return structure
    pair = structure.split(":") if isinstance(structure, str) else structure
    try:
        n, m = (int(k) for k in pair)
    except (TypeError, ValueError):
        n, m = 0, 0
    if not 1 <= n <= m:
        raise PassError(
            f"structure is {structure!r}; give 'unstructured', 'channel', or (n, m) to keep n of m"
        )
    return n, m
