"""Boolean masks of attention: which query positions may look at which key positions.

True takes part, as in `jax.nn.dot_product_attention`. Masks read (..., heads, T, S), or (T, S)
where they are the same for every sample and head.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.errors import OpError, OpTypeError

__all__ = [
    "band_mask",
    "causal_mask",
    "combine_masks",
    "large_negative",
    "segment_mask",
    "sliding_window_mask",
]


def large_negative(dtype: Any) -> float:
    """What stands in place of a masked logit: 0.7 times the lowest number of ``dtype``.

    No lower than in float32, so that a softmax in float32 keeps it finite.
    """
    return -0.7 * min(float(jnp.finfo(dtype).max), float(jnp.finfo(jnp.float32).max))


def band_mask(t: Any, s: Any, left: Any, right: Any) -> jax.Array | None:
    """True where ``query - left <= key <= query + right``; None leaves a side open.

    Args:
        t: number of queries.
        s: number of keys.
        left: how many positions before its own a query sees, or None for all.
        right: how many after its own, or None for all.

    Returns:
        bool (t, s); None where both sides are open.
    """
    if left is None and right is None:
        return None
    query = lax.broadcasted_iota(jnp.int32, (t, s), 0)
    key = lax.broadcasted_iota(jnp.int32, (t, s), 1)
    inside = None
    if right is not None:
        inside = query >= key - right if right else query >= key
    if left is not None:
        near = query <= key + left
        inside = near if inside is None else inside & near
    return inside


@eagerly_jitted
def causal_mask(t: int, s: int | None = None) -> jax.Array:
    """Mask that lets every query see its own position and those before it.

    ``mask[i, j] = j <= i``

    Args:
        t: number of queries.
        s: number of keys; ``t`` if left out.

    Returns:
        bool (t, s).

    Source: jax.nn.dot_product_attention's ``is_causal``.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.causal_mask(2).tolist()
        [[True, False], [True, True]]
    """
    mask = band_mask(t, t if s is None else s, None, 0)
    assert mask is not None
    return mask


@eagerly_jitted
def sliding_window_mask(t: int, s: int | None = None, *, left: int, right: int) -> jax.Array:
    """Mask that lets every query see the positions near its own.

    ``mask[i, j] = i - left <= j <= i + right``

    Args:
        t: number of queries.
        s: number of keys; ``t`` if left out.
        left: how many positions before its own a query sees.
        right: how many after its own.

    Returns:
        bool (t, s).

    Source: jax.nn.dot_product_attention's ``local_window_size``; Beltagy et al., 2020,
    arXiv:2004.05150.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.sliding_window_mask(3, left=1, right=0).astype(int).tolist()
        [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    """
    mask = band_mask(t, t if s is None else s, left, right)
    assert mask is not None
    return mask


@eagerly_jitted
def segment_mask(query_segment_ids: Any, key_segment_ids: Any = None) -> jax.Array:
    """Mask that keeps apart the sequences that are packed into one row (block-diagonal).

    ``mask[..., 0, i, j] = query_segment_ids[..., i] == key_segment_ids[..., j]``

    Args:
        query_segment_ids: integers (..., T); `pack_sequences` makes them. Padding has an id of its
            own (0 there), so it sees padding alone.
        key_segment_ids: integers (..., S); the queries' own if left out.

    Returns:
        bool (..., 1, T, S), to be given as ``mask``.

    Raises:
        OpError: the leading dimensions differ, or there is no axis of positions.
        OpTypeError: ids are no integers.

    Source: Krell et al., 2021, arXiv:2107.02027.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> nnops.segment_mask(jnp.array([1, 1, 2])).astype(int).tolist()
        [[[1, 1, 0], [1, 1, 0], [0, 0, 1]]]
    """
    query = jnp.asarray(query_segment_ids)
    key = query if key_segment_ids is None else jnp.asarray(key_segment_ids)
    given = {"query_segment_ids": query, "key_segment_ids": key}
    if query.ndim < 1 or query.shape[:-1] != key.shape[:-1] or query.ndim != key.ndim:
        raise OpError("segment_mask", "shapes do not fit", given, "give ids (..., T) and (..., S)")
    if not all(jnp.issubdtype(v.dtype, jnp.integer) for v in (query, key)):
        raise OpTypeError("segment_mask", "ids are no integers", given, "give integer ids")
    return query[..., None, :, None] == key[..., None, None, :]


@eagerly_jitted
def combine_masks(*masks: Any) -> jax.Array | None:
    """One mask that is True where all of several are.

    Args:
        *masks: boolean masks of one rank, whose dimensions are equal or 1; None is left out.

    Returns:
        bool, the masks' common shape; None where all are None.

    Raises:
        OpError: ranks or dimensions do not fit.
        OpTypeError: one is not boolean.

    Example:
        >>> from jaxpress import nnops
        >>> window = nnops.sliding_window_mask(3, left=1, right=1)
        >>> nnops.combine_masks(nnops.causal_mask(3), window, None).astype(int).tolist()
        [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    """
    given = [jnp.asarray(m) for m in masks if m is not None]
    named = {f"masks[{i}]": m for i, m in enumerate(given)}
    if any(m.dtype != jnp.bool_ for m in given):
        raise OpTypeError(
            "combine_masks", "a mask is not boolean", named, "give True where a position takes part"
        )
    if any(m.ndim != given[0].ndim for m in given):
        raise OpError(
            "combine_masks", "ranks differ", named, "give all the same rank, with dimensions of 1"
        )
    combined = None
    for mask in given:
        try:
            combined = mask if combined is None else combined & mask
        except (TypeError, ValueError) as error:
            raise OpError(
                "combine_masks", "dimensions do not fit", named, "make them equal or 1"
            ) from error
    return combined
