"""Decoding with a cache of keys and values, as functions: a cache goes in, a new one comes out."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import core, lax

from jaxpress.nnops.attention import dot_product_attention
from jaxpress.nnops.define import define
from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.errors import OpError, OpTypeError, explained
from jaxpress.nnops.settings import integer

__all__ = ["KVCache", "init_kv_cache", "kv_cache_attention", "kv_cache_update"]


class KVCache(NamedTuple):
    """Keys and values of the positions so far.

    Attributes:
        key: (B, maxlen, K, H); or any leading dimensions in place of B.
        value: (B, maxlen, K, Hv).
        length: int32 (), how many positions are filled; (B,) where sequences differ.
    """

    key: Any
    value: Any
    length: Any


def init_kv_cache(
    batch: int,
    maxlen: int,
    heads: int,
    features: int,
    *,
    value_features: int | None = None,
    per_sequence: bool = False,
    dtype: Any = jnp.float32,
) -> KVCache:
    """An empty cache.

    Args:
        batch: B, how many sequences.
        maxlen: how many positions it can hold.
        heads: K, key heads.
        features: H, features of a key head.
        value_features: Hv; H if left out.
        per_sequence: each sequence has a length of its own.
        dtype: of keys and values.

    Returns:
        A `KVCache` of zeros.

    Source: Shazeer, 2019, arXiv:1911.02150.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.init_kv_cache(2, 8, 4, 16).key.shape
        (2, 8, 4, 16)
    """
    last = features if value_features is None else value_features
    return KVCache(
        jnp.zeros((batch, maxlen, heads, features), dtype),
        jnp.zeros((batch, maxlen, heads, last), dtype),
        jnp.zeros((batch,) if per_sequence else (), jnp.int32),
    )


def _update(cache: Any, new: Any, index: Any, *, axis: int) -> Any:
    new = new.astype(cache.dtype)
    # JAX gives constants as numbers of its own to a function that is traced again.
    index = jnp.asarray(index)
    if index.ndim == 0:
        return lax.dynamic_update_slice_in_dim(cache, new, index, axis)
    one = lambda c, n, i: lax.dynamic_update_slice_in_dim(c, n, i, axis)  # noqa: E731
    return jax.vmap(one)(cache, new, index)


_UPDATE = define(
    "kv_cache_update", _update, operands=("cache", "new", "index"), defaults={"axis": -3}
)


@eagerly_jitted
def kv_cache_update(cache: Any, new: Any, index: Any, *, axis: int = 1) -> jax.Array:
    """An array with new entries written at ``index`` along an axis.

    ``y[:, index : index + T] = new``, everything else as in ``cache``

    Args:
        cache: (B, maxlen, ...).
        new: (B, T, ...), equal but for the axis; its dtype becomes the cache's.
        index: integer (), or (B,) for a place of its own in each sequence. A place past
            ``maxlen - T`` is moved back to that, as lax.dynamic_update_slice does.
        axis: along which positions run.

    Returns:
        An array of the cache's shape and dtype.

    Raises:
        OpError: shapes do not fit, or T is greater than maxlen.
        OpTypeError: index is no integer.

    Source: jax.lax.dynamic_update_slice.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> nnops.kv_cache_update(jnp.zeros((1, 4)), jnp.ones((1, 2)), 1).tolist()
        [[0.0, 1.0, 1.0, 0.0]]
    """
    cache, new, index = jnp.asarray(cache), jnp.asarray(new), jnp.asarray(index)
    given = {"cache": cache, "new": new, "index": index}
    if not jnp.issubdtype(index.dtype, jnp.integer):
        raise OpTypeError(
            "kv_cache_update", f"index has dtype {index.dtype}", given, "give integers"
        )
    wider = (jnp.complexfloating, jnp.inexact)  # what would be cut off
    if any(jnp.issubdtype(new.dtype, k) > jnp.issubdtype(cache.dtype, k) for k in wider):
        raise OpTypeError(
            "kv_cache_update",
            f"new is {new.dtype}, and the cache {cache.dtype}",
            given,
            "cast new, or make a cache that holds it",
        )
    axis = integer("kv_cache_update", "axis", axis)
    if new.ndim != cache.ndim or not -cache.ndim <= axis < cache.ndim:
        raise OpError(
            "kv_cache_update",
            "ranks do not fit, or there is no such axis",
            given,
            "give new the cache's rank, and one of its axes",
        )
    at = axis % cache.ndim
    rest = [(c, n) for i, (c, n) in enumerate(zip(cache.shape, new.shape, strict=True)) if i != at]
    if any(c != n for c, n in rest) or new.shape[at] > cache.shape[at]:
        raise OpError(
            "kv_cache_update",
            "new entries do not fit into the cache",
            given,
            f"make them equal but for axis {axis}, and no more there than the cache holds",
        )
    if index.ndim and (at == 0 or index.shape != cache.shape[:1]):
        raise OpError(
            "kv_cache_update",
            f"index has shape {index.shape}",
            given,
            f"give () for all sequences, or {cache.shape[:1]} for one each",
        )
    return _UPDATE.rebind(given, axis=at - cache.ndim)


@explained
def kv_cache_attention(
    query: Any,
    key: Any,
    value: Any,
    cache: KVCache,
    *,
    bias: Any = None,
    scale: float | None = None,
    local_window_size: int | None = None,
) -> tuple[jax.Array, KVCache]:
    """One step of decoding: new keys and values go to the cache, new queries see all up to them.

    The i-th new query is at position ``cache.length + i``, and sees keys up to there: a prompt of
    many positions and one token after another are the same function.

    Args:
        query: (B, T, N, H), queries of the T new positions.
        key: (B, T, K, H).
        value: (B, T, K, Hv).
        cache: as `init_kv_cache` or the last step gave it.
        bias: added to the logits; (B, N, T, maxlen), each dimension that or 1.
        scale: of the logits, ``1 / sqrt(H)`` if left out.
        local_window_size: how many positions before its own a query sees; all if left out.

    Returns:
        ``(out, cache)``: (B, T, N, Hv), and the cache with T more positions.

    Raises:
        OpError: shapes do not fit, or the cache is known to be full.
        OpTypeError: as `dot_product_attention`.

    Source: Shazeer, 2019, arXiv:1911.02150.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> cache = nnops.init_kv_cache(1, 4, 1, 2)
        >>> x = jnp.ones((1, 1, 1, 2))
        >>> out, cache = nnops.kv_cache_attention(x, x, x, cache)
        >>> out.ravel().tolist(), int(cache.length)
        ([1.0, 1.0], 1)
    """
    query, length = jnp.asarray(query), jnp.asarray(cache.length)
    t, maxlen = query.shape[-3], cache.key.shape[-3]
    given = {"query": query, "cache.key": cache.key, "cache.length": length}
    if not isinstance(length, core.Tracer) and length.size and int(length.max()) + t > maxlen:
        raise OpError(
            "kv_cache_attention",
            f"the cache holds {maxlen} positions, {int(length.max())} are filled, {t} come",
            given,
            "make a larger cache",
        )
    keys = kv_cache_update(cache.key, key, length, axis=-3)
    values = kv_cache_update(cache.value, value, length, axis=-3)
    # (..., 1, T, 1) against (maxlen,): positions of queries and of keys.
    at = length[..., None, None, None] + lax.broadcasted_iota(jnp.int32, (t, 1), 0)
    of_key = lax.broadcasted_iota(jnp.int32, (1, maxlen), 1)
    mask = of_key <= at
    if local_window_size is not None:
        width = integer("kv_cache_attention", "local_window_size", local_window_size)
        mask = mask & (of_key >= at - width)
    mask = lax.expand_dims(mask, tuple(range(query.ndim - mask.ndim)))
    out = dot_product_attention(query, keys, values, bias, mask, scale=scale)
    return out, KVCache(keys, values, length + t)
