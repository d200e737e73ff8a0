"""Multi-head attention with its projections, made of `dense` and `dot_product_attention`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxpress.nnops.attention import dot_product_attention
from jaxpress.nnops.dense import dense
from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.errors import OpError

__all__ = ["multi_head_attention"]


@eagerly_jitted
def multi_head_attention(
    query: Any,
    key: Any,
    value: Any,
    w_query: Any,
    w_key: Any,
    w_value: Any,
    w_out: Any,
    b_query: Any = None,
    b_key: Any = None,
    b_value: Any = None,
    b_out: Any = None,
    **attention: Any,
) -> jax.Array:
    """Multi-head attention: projections, attention of each head, projection of the result.

    ``sum over heads of attention(query w_query, key w_key, value w_value) w_out + b_out``

    Args:
        query: (B, T, in), any leading dimensions in place of B.
        key: (B, S, in); ``None`` is query itself (self-attention).
        value: (B, S, in); ``None`` is key.
        w_query: (in, N, H): features in, heads, features of a head.
        w_key: (in, K, H); N is a multiple of K.
        w_value: (in, K, Hv).
        w_out: (N, Hv, out).
        b_query: (N, H), or None.
        b_key: (K, H), or None.
        b_value: (K, Hv), or None.
        b_out: (out,), or None.
        **attention: what `dot_product_attention` takes besides: bias, mask, key_padding_mask,
            is_causal, scale, dropout_key, ...

    Returns:
        (B, T, out).

    Raises:
        OpError: shapes do not fit.
        OpTypeError: as `dot_product_attention`.

    Source: Vaswani et al., 2017, arXiv:1706.03762; weights are laid out as in
    flax.linen.MultiHeadDotProductAttention.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> w, w_out = jnp.ones((6, 2, 3)), jnp.ones((2, 3, 6))
        >>> x = jnp.ones((4, 5, 6))
        >>> nnops.multi_head_attention(x, None, None, w, w, w, w_out, is_causal=True).shape
        (4, 5, 6)
    """
    key = query if key is None else key
    value = key if value is None else value
    q = _heads("query", query, w_query, b_query)
    k = _heads("key", key, w_key, b_key)
    v = _heads("value", value, w_value, b_value)
    out = dot_product_attention(q, k, v, **attention)
    w_out = jnp.asarray(w_out)
    given = {"w_value": w_value, "w_out": w_out}
    if w_out.ndim != 3 or w_out.shape[:2] != out.shape[-2:]:
        heads, features = out.shape[-2:]
        raise OpError(
            "multi_head_attention",
            f"w_out has shape {w_out.shape}",
            given,
            f"give it the shape ({heads}, {features}, out)",
        )
    flat = out.reshape(*out.shape[:-2], w_out.shape[0] * w_out.shape[1])
    return dense(flat, w_out.reshape(-1, w_out.shape[2]), b_out)


def _heads(name: str, x: Any, w: Any, b: Any) -> jax.Array:
    """A projection, (..., T, heads, features)."""
    x, w = jnp.asarray(x), jnp.asarray(w)
    given: Mapping[str, Any] = {name: x, f"w_{name}": w, f"b_{name}": b}
    if w.ndim != 3 or x.ndim < 2 or x.shape[-1] != w.shape[0]:
        raise OpError(
            "multi_head_attention",
            f"{name} and its weights do not fit",
            given,
            f"{name} is (B, T, in) and w_{name} (in, heads, features)",
        )
    if b is not None:
        b = jnp.asarray(b)
        if b.shape != w.shape[1:]:
            raise OpError(
                "multi_head_attention",
                f"b_{name} has shape {b.shape}",
                given,
                f"give it the shape {w.shape[1:]}",
            )
        b = b.reshape(-1)
    y = dense(x, w.reshape(w.shape[0], -1), b)
    return y.reshape(*y.shape[:-1], *w.shape[1:])
