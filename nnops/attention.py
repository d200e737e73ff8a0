"""Scaled dot-product attention as a named op: ``softmax(q k^T * scale + bias, masked) v``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray

from jaxpress.nnops.attention_checks import as_operands, check_shapes
from jaxpress.nnops.attention_masks import band_mask, large_negative
from jaxpress.nnops.define import define
from jaxpress.nnops.dropout import FORMS, random_key
from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.errors import OpError
from jaxpress.nnops.fused import canonical_precision
from jaxpress.nnops.opdef import OpDef
from jaxpress.nnops.settings import data_type, integer, static_value
from jaxpress.nnops.transforms import general_batch

__all__ = [
    "OPTIONAL",
    "SETTINGS",
    "bind_attention",
    "canonical_settings",
    "dot_product_attention",
]

OPTIONAL = (
    "bias",
    "mask",
    "key_padding_mask",
    "query_seq_lengths",
    "key_value_seq_lengths",
    "dropout_key",
)
# What the public function is given besides.
SETTINGS: dict[str, Any] = {
    "is_causal": False,
    "scale": None,
    "local_window_size": None,
    "dropout_rate": 0.0,
    "dropout_broadcast_dims": (),
    "logits_soft_cap": None,
    "mask_value": None,
    "zero_masked": False,
    "logits_dtype": None,
    "softmax_dtype": None,
    "precision": None,
    "preferred_element_type": None,
}


def _reference(query: Any, key: Any, value: Any, **given: Any) -> Any:
    """The definition; operands and parameters by the names that the public function has."""
    operands = {name: given.get(name) for name in OPTIONAL}
    check_shapes(query, key, value, operands)
    bias, dropout_key = operands["bias"], operands["dropout_key"]
    logits_dtype = given["logits_dtype"] or _default_logits_dtype(query, key)
    precision = given["precision"]
    scale = given["scale"]
    if scale is None:
        scale = 1.0 / np.sqrt(query.shape[-1])

    logits = _logits(query, key, logits_dtype, precision)
    logits = logits * jnp.asarray(scale, logits_dtype)
    if given["logits_soft_cap"] is not None:
        cap = jnp.asarray(given["logits_soft_cap"], logits_dtype)
        logits = jnp.tanh(logits / cap) * cap
    if bias is not None:
        logits = (logits + bias).astype(logits_dtype)
    allowed = _allowed(logits.shape, operands, given["is_causal"], given["local_window_size"])
    zeroed, fill = given["zero_masked"], given["mask_value"]
    # Without a fill, a softmax over the keys that take part leaves the others out.
    alone = zeroed and fill is None
    if allowed is not None and not alone:
        fill = large_negative(logits_dtype) if fill is None else fill
        logits = jnp.where(allowed, logits, jnp.asarray(fill, logits_dtype))

    logits = logits.astype(given["softmax_dtype"] or logits_dtype)
    weights = jax.nn.softmax(logits, axis=-1, where=allowed if alone else None)
    if allowed is not None and zeroed and not alone:
        weights = jnp.where(allowed, weights, jnp.zeros((), weights.dtype))
    weights = weights.astype(value.dtype)
    if dropout_key is not None and given["dropout_rate"] > 0:
        weights = _dropped(weights, dropout_key, given)
    out = _weighted(weights, value, precision, given["preferred_element_type"])
    lengths = operands["query_seq_lengths"]
    if lengths is not None:
        present = _positions_below(lengths, query.shape[-3])
        out = out * present[..., None, None].astype(out.dtype)
    return out


def _default_logits_dtype(query: Any, key: Any) -> Any:
    return jnp.promote_types(jnp.promote_types(query.dtype, key.dtype), jnp.float32)


def _logits(query: Any, key: Any, dtype: Any, precision: Any) -> Any:
    """``q k^T``, (..., N, T, S)."""
    common = jnp.promote_types(query.dtype, key.dtype)
    query, key = query.astype(common), key.astype(common)
    if precision is None and dtype != common and common == jnp.bfloat16:
        # The default would use inconsistent types in the gradient (jax.nn does the same, and asks
        # for an algorithm of float16 as well, which a CPU does not have).
        precision = lax.DotAlgorithmPreset.BF16_BF16_F32
    n = key.ndim
    lead = tuple(range(n - 3))
    heads, groups = query.shape[-2], key.shape[-2]
    of_query, of_key = (*lead, n - 2), (*lead, n - 2)
    if heads != groups:
        # (..., K, G, T, H): G neighbouring heads share one key head.
        query = query.reshape(*query.shape[:-2], groups, heads // groups, query.shape[-1])
        query = jnp.moveaxis(query, -4, -2)
        of_query = (*lead, n - 3)
    dims = (((query.ndim - 1,), (n - 1,)), (of_query, of_key))
    out = lax.dot_general(query, key, dims, precision=precision, preferred_element_type=dtype)
    return out if heads == groups else out.reshape(*out.shape[: n - 3], heads, *out.shape[-2:])


def _weighted(weights: Any, value: Any, precision: Any, preferred: Any) -> Any:
    """The values' weighted means, (..., T, N, Hv)."""
    *lead_shape, heads, t, s = weights.shape
    groups = value.shape[-2]
    if heads != groups:
        weights = weights.reshape(*lead_shape, groups, heads // groups, t, s)
    n = value.ndim
    lead = tuple(range(n - 3))
    dims = (((weights.ndim - 1,), (n - 3,)), ((*lead, n - 3), (*lead, n - 2)))
    out = lax.dot_general(
        weights, value, dims, precision=precision, preferred_element_type=preferred
    )
    if heads == groups:
        return jnp.swapaxes(out, -3, -2)
    out = jnp.moveaxis(out, -2, -4)
    return out.reshape(*lead_shape, t, heads, out.shape[-1])


def _positions_below(lengths: Any, n: Any) -> Any:
    """Shape (..., n): True for the first ``lengths`` positions."""
    return lax.broadcasted_iota(jnp.int32, (*lengths.shape, n), lengths.ndim) < lengths[..., None]


def _allowed(shape: Any, operands: Mapping[str, Any], is_causal: bool, window: Any) -> Any:
    """All masks as one, of ``shape``'s rank; None where there is none."""
    t, s = shape[-2:]
    left, right = (None, None) if window is None else window
    if is_causal:
        right = 0 if right is None else min(right, 0)
    parts = [operands["mask"], band_mask(t, s, left, right)]
    if operands["key_padding_mask"] is not None:
        parts.append(operands["key_padding_mask"][..., None, None, :])
    if operands["query_seq_lengths"] is not None:
        parts.append(_positions_below(operands["query_seq_lengths"], t)[..., None, :, None])
    if operands["key_value_seq_lengths"] is not None:
        parts.append(_positions_below(operands["key_value_seq_lengths"], s)[..., None, None, :])
    allowed = None
    for part in parts:
        if part is not None:
            allowed = part if allowed is None else allowed & part
    return allowed


def _dropped(weights: Any, key: Any, given: Mapping[str, Any]) -> Any:
    rate = given["dropout_rate"]
    shape = list(weights.shape)
    for axis in given["dropout_broadcast_dims"]:
        # Without a batch, there is none to draw once for.
        if axis >= -len(shape):
            shape[axis] = 1
    if rate >= 1:
        return jnp.zeros_like(weights)
    keep = jax.random.bernoulli(key, 1 - rate, tuple(shape))
    share = jnp.asarray(1 - rate, weights.dtype)
    if given["dropout_form"] == "multiply":
        return keep * weights / share
    return jnp.where(keep, weights / share, 0)


def _batch(op: OpDef, args: Any, axes: Any, params: dict[str, Any]) -> Any:
    """A mapped axis of query, key and value becomes a leading dimension of all operands."""
    named = dict(zip(op.present(params), zip(args, axes, strict=True), strict=True))
    # Draws depend on the shape; and keys that all samples share are not to be copied for each.
    shared = any(named[name][1] is None for name in ("key", "value"))
    if "mapped" in params or "dropout_key" in named or shared:
        return general_batch(op, args, axes, params)
    size = named["key"][0].shape[named["key"][1]]

    def leading(name: str, x: Any, axis: Any) -> Any:
        if axis is not None:
            return jnp.moveaxis(x, axis, 0)
        if name in ("bias", "mask"):
            return lax.expand_dims(x, (0,))
        return jnp.broadcast_to(x, (size, *x.shape))

    arrays = [leading(name, x, axis) for name, (x, axis) in named.items()]
    return op.primitive.bind(*arrays, **params), 0


def canonical_settings(params: dict[str, Any]) -> dict[str, Any]:
    """`SETTINGS` as primitives hold them.

    Raises:
        OpError: one has no meaning.
        OpTypeError: one is of another kind.
    """
    op = "dot_product_attention"
    window = params["local_window_size"]
    if window is not None:
        pair = window if isinstance(window, tuple | list) else (window, window)
        if len(pair) != 2:
            raise OpError(op, f"local_window_size is {window!r}", mend="give (left, right)")
        window = tuple(None if w is None else integer(op, "local_window_size", w) for w in pair)
    for name in ("scale", "logits_soft_cap", "mask_value"):
        if params[name] is not None:
            params = {**params, name: static_value(op, name, params[name], 1.0)}
    if params["logits_soft_cap"] is not None and not params["logits_soft_cap"]:
        raise OpError(op, "logits_soft_cap is 0", mend="give another number; for no cap, None")
    rate = static_value(op, "dropout_rate", params["dropout_rate"], 0.0)
    if not 0 <= rate <= 1:
        raise OpError(op, f"dropout_rate is {rate}", mend="give a number from 0 to 1")
    dims = tuple(sorted({_from_end(axis) for axis in params["dropout_broadcast_dims"]}))
    return {
        **params,
        "is_causal": static_value(op, "is_causal", params["is_causal"], False),
        "zero_masked": static_value(op, "zero_masked", params["zero_masked"], False),
        "local_window_size": window,
        "dropout_rate": rate,
        "dropout_broadcast_dims": dims,
        "precision": canonical_precision(params["precision"], op),
        **{k: data_type(op, k, params[k]) for k in params if k.endswith(("_dtype", "_type"))},
    }


def _from_end(axis: Any) -> int:
    """An axis of the weights (B, N, T, S), or (..., N, T, S), counted from the end."""
    axis = integer("dot_product_attention", "dropout_broadcast_dims", axis)
    if not -4 <= axis < 4:
        raise OpError(
            "dot_product_attention",
            f"dropout_broadcast_dims has {axis}",
            mend="name axes of the weights (B, N, T, S), 0 to 3 or -4 to -1",
        )
    return axis - 4 if axis >= 0 else axis


def _infer(avals: Any, params: Mapping[str, Any]) -> Any:
    operands = dict(zip(params["operands"], avals, strict=True))
    query, key, value = (operands[name] for name in ("query", "key", "value"))
    check_shapes(query, key, value, operands)
    dtype = params["preferred_element_type"] or value.dtype
    return ShapedArray((*query.shape[:-1], value.shape[-1]), dtype)


_ATTENTION = define(
    "dot_product_attention",
    _reference,
    operands=("query", "key", "value"),
    optional=OPTIONAL,
    defaults={**SETTINGS, "dropout_form": FORMS[0]},
    normalize=canonical_settings,
    batch=_batch,
    infer=_infer,
)


def bind_attention(op: OpDef, operands: dict[str, Any], key: Any, **settings: Any) -> jax.Array:
    """Binds an op with `SETTINGS`; where nothing is dropped, it has no parameters of a dropout.

    Raises:
        OpError: there is more than one key.
        OpTypeError: the key is none.
    """
    if settings["dropout_rate"] and key is not None:
        operands = {**operands, "dropout_key": random_key(op.name, key, operands)}
    else:
        settings |= {name: SETTINGS[name] for name in ("dropout_rate", "dropout_broadcast_dims")}
    return op.rebind(operands, **settings)


@eagerly_jitted
def dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    bias: Any = None,
    mask: Any = None,
    *,
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
    """Scaled dot-product attention, with many heads.

    ``softmax(where(mask, q k^T * scale + bias, mask_value)) v``, for each head

    B is the batch, T the number of queries, S of keys, N of query heads, K of key heads, H the
    features of a head. All masks hold together. A row in which every key is masked gives the mean
    of all values, as in jax.nn, or zeros with ``zero_masked``; a query beyond
    ``query_seq_lengths`` gives zeros.

    Args:
        query: (B, T, N, H); any number of leading dimensions in place of B, also none.
        key: (B, S, K, H). N is a multiple of K; where it is not K itself, N // K neighbouring
            query heads share one key head (grouped or multi-query attention).
        value: (B, S, K, Hv).
        bias: added to the logits; (B, N, T, S), each dimension that or 1.
        mask: bool (B, N, T, S), each dimension that or 1; True takes part.
        key_padding_mask: bool (B, S); True takes part.
        is_causal: query i sees keys 0 to i, counted from the first of each.
        scale: a Python number; ``1 / sqrt(H)`` if left out.
        local_window_size: ``(left, right)``: query i sees keys i - left to i + right; one number is
            both, None leaves a side open.
        query_seq_lengths: integers (B,); queries from there on do not take part.
        key_value_seq_lengths: integers (B,); keys from there on do not take part.
        dropout_key: random key; without one nothing is dropped.
        dropout_rate: share of attention weights that are dropped, from 0 to 1.
        dropout_broadcast_dims: axes of the weights (B, N, T, S) along which one draw serves all.
        logits_soft_cap: scaled logits x become ``cap * tanh(x / cap)``, before bias and masks; as
            they are if left out.
        mask_value: what stands for a masked logit; ``-0.7`` times the largest number of the dtype
            if left out.
        zero_masked: weights of masked keys are 0, and so is all of a row in which every key is
            masked: the softmax is over the other keys alone, as ``jax.nn.softmax(where=...)``, or,
            where ``mask_value`` is given, its result is set to 0 after it, as in Keras.
        logits_dtype: dtype of logits, bias sum and masking; the operands', float32 at least, if
            left out.
        softmax_dtype: dtype of the softmax; ``logits_dtype`` if left out.
        precision: of both products, as in jax.lax.dot_general.
        preferred_element_type: dtype of the result; the values' if left out.

    Returns:
        (B, T, N, Hv).

    Raises:
        OpError: shapes do not fit; bias and masks are never broadcast beyond the above.
        OpTypeError: a mask is not boolean, lengths are no integers, queries no floats, or a static
            parameter is no Python number.

    Source: jax.nn.dot_product_attention; Vaswani et al., 2017, arXiv:1706.03762; grouped queries:
    Ainslie et al., 2023, arXiv:2305.13245; soft cap: Gemma 2, 2024, arXiv:2408.00118.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> q, v = jnp.zeros((1, 2, 1, 4)), jnp.array([2.0, 4.0]).reshape(1, 2, 1, 1)
        >>> nnops.dot_product_attention(q, q, v, is_causal=True).ravel().tolist()
        [2.0, 3.0]
    """
    given = {
        "query": query,
        "key": key,
        "value": value,
        "bias": bias,
        "mask": mask,
        "key_padding_mask": key_padding_mask,
        "query_seq_lengths": query_seq_lengths,
        "key_value_seq_lengths": key_value_seq_lengths,
    }
    return bind_attention(
        _ATTENTION,
        as_operands(given),
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
