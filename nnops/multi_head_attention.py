"""Multi-head attention with its projections, a named op made of other named ops.

A graph shows ``multi_head_attention`` until `raise_ops` puts its parts in its place: ``dense`` for
each projection and ``dot_product_attention``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxpress.nnops.attention import (
    OPTIONAL,
    SETTINGS,
    bind_attention,
    canonical_settings,
    dot_product_attention,
)
from jaxpress.nnops.define import define
from jaxpress.nnops.dense import dense
from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.errors import OpError

__all__ = ["multi_head_attention"]

NAME = "multi_head_attention"


def _reference(
    query: Any,
    w_query: Any,
    w_key: Any,
    w_value: Any,
    w_out: Any,
    key: Any = None,
    value: Any = None,
    b_query: Any = None,
    b_key: Any = None,
    b_value: Any = None,
    b_out: Any = None,
    **attention: Any,
) -> Any:
    key = query if key is None else key
    value = key if value is None else value
    q = _heads(query, w_query, b_query)
    k = _heads(key, w_key, b_key)
    v = _heads(value, w_value, b_value)
    out = dot_product_attention(q, k, v, **attention)
    heads, features, wanted = w_out.shape
    flat = out.reshape(*out.shape[:-2], heads * features)
    return dense(flat, w_out.reshape(heads * features, wanted), b_out)


def _heads(x: Any, w: Any, b: Any) -> Any:
    """A projection, (..., T, heads, features)."""
    flat = w.reshape(w.shape[0], w.shape[1] * w.shape[2])
    y = dense(x, flat, None if b is None else b.reshape(flat.shape[1]))
    return y.reshape(*y.shape[:-1], *w.shape[1:])


_MULTI_HEAD_ATTENTION = define(
    NAME,
    _reference,
    operands=("query", "w_query", "w_key", "w_value", "w_out"),
    optional=("key", "value", "b_query", "b_key", "b_value", "b_out", *OPTIONAL),
    defaults=SETTINGS,
    normalize=canonical_settings,
    made_of_ops=True,
)


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
    *,
    bias: Any = None,
    mask: Any = None,
    key_padding_mask: Any = None,
    is_causal: bool = False,
    scale: float | None = None,
    local_window_size: Any = None,
    query_seq_lengths: Any = None,
    key_value_seq_lengths: Any = None,
    dropout_key: Any = None,
    dropout_rate: float = 0.0,
    dropout_broadcast_dims: tuple[int, ...] = (),
    logits_soft_cap: float | None = None,
    mask_value: float | None = None,
    zero_masked: bool = False,
    logits_dtype: Any = None,
    softmax_dtype: Any = None,
    precision: Any = None,
    preferred_element_type: Any = None,
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
        bias: of the attention, as in dot_product_attention.
        mask: of the attention, as in dot_product_attention.
        key_padding_mask: of the attention, as in dot_product_attention.
        is_causal: of the attention, as in dot_product_attention.
        scale: of the attention, as in dot_product_attention.
        local_window_size: of the attention, as in dot_product_attention.
        query_seq_lengths: of the attention, as in dot_product_attention.
        key_value_seq_lengths: of the attention, as in dot_product_attention.
        dropout_key: of the attention, as in dot_product_attention.
        dropout_rate: of the attention, as in dot_product_attention.
        dropout_broadcast_dims: of the attention, as in dot_product_attention.
        logits_soft_cap: of the attention, as in dot_product_attention.
        mask_value: of the attention, as in dot_product_attention.
        zero_masked: of the attention, as in dot_product_attention.
        logits_dtype: of the attention, as in dot_product_attention.
        softmax_dtype: of the attention, as in dot_product_attention.
        precision: of the attention, as in dot_product_attention.
        preferred_element_type: of the attention, as in dot_product_attention.

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
    given = {
        "query": query,
        "w_query": w_query,
        "w_key": w_key,
        "w_value": w_value,
        "w_out": w_out,
        "key": key,
        "value": value,
        "b_query": b_query,
        "b_key": b_key,
        "b_value": b_value,
        "b_out": b_out,
        "bias": bias,
        "mask": mask,
        "key_padding_mask": key_padding_mask,
        "query_seq_lengths": query_seq_lengths,
        "key_value_seq_lengths": key_value_seq_lengths,
    }
    operands = {name: jnp.asarray(v) for name, v in given.items() if v is not None}
    _check(operands)
    return bind_attention(
        _MULTI_HEAD_ATTENTION,
        operands,
        dropout_key,
        is_causal=is_causal,
        scale=scale,
        local_window_size=local_window_size,
        dropout_rate=dropout_rate,
        dropout_broadcast_dims=dropout_broadcast_dims,
        logits_soft_cap=logits_soft_cap,
        mask_value=mask_value,
        zero_masked=zero_masked,
        logits_dtype=logits_dtype,
        softmax_dtype=softmax_dtype,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )


def _check(operands: Mapping[str, Any]) -> None:
    """Raises where a projection does not fit; the attention's own shapes are its own to check."""
    op = _MULTI_HEAD_ATTENTION
    missing = [n for n in op.names[: op.required] if n not in operands]
    if missing:
        raise OpError(NAME, f"{missing} are missing", operands, "give them")
    of_key = "key" if "key" in operands else "query"
    source = {"query": "query", "key": of_key, "value": "value" if "value" in operands else of_key}
    for name, x in source.items():
        weights, shift = f"w_{name}", operands.get(f"b_{name}")
        x, w = operands[x], operands[weights]
        if w.ndim != 3 or x.ndim < 2 or x.shape[-1] != w.shape[0]:
            given = {name: x, weights: w}
            mend = f"{name} is (B, T, in) and {weights} (in, heads, features)"
            raise OpError(NAME, f"{name} and its weights do not fit", given, mend)
        if shift is not None and shift.shape != w.shape[1:]:
            given = {weights: w, f"b_{name}": shift}
            what = f"b_{name} has shape {shift.shape}"
            raise OpError(NAME, what, given, f"give it the shape {w.shape[1:]}")
    heads, features = operands["w_query"].shape[1], operands["w_value"].shape[2]
    w_out, b_out = operands["w_out"], operands.get("b_out")
    if w_out.ndim != 3 or w_out.shape[:2] != (heads, features):
        given = {"w_query": operands["w_query"], "w_value": operands["w_value"], "w_out": w_out}
        what = f"w_out has shape {w_out.shape}"
        raise OpError(NAME, what, given, f"give it the shape ({heads}, {features}, out)")
    if b_out is not None and b_out.shape != w_out.shape[2:]:
        given = {"w_out": w_out, "b_out": b_out}
        what = f"b_out has shape {b_out.shape}"
        raise OpError(NAME, what, given, f"give it the shape {w_out.shape[2:]}")
