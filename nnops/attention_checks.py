"""What operands of attention must look like, and errors that say so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxpress.nnops.errors import OpError, OpTypeError

__all__ = ["as_operands", "check_shapes"]

OP = "dot_product_attention"


def as_operands(given: Mapping[str, Any]) -> dict[str, Any]:
    """Attention's operands as arrays of the right kinds; what is None is left out.

    Raises:
        OpError: query, key or value is missing.
        OpTypeError: a mask is not boolean, lengths are no integers, or others no floats.
    """
    arrays = {k: jnp.asarray(v) for k, v in given.items() if v is not None}
    missing = [name for name in ("query", "key", "value") if name not in arrays]
    if missing:
        raise OpError(OP, f"{missing} are missing", arrays, "give query, key and value")
    if arrays["query"].ndim == 3:
        # jax.nn takes (1, N, T, S) for queries without a batch too.
        for name in ("bias", "mask"):
            if name in arrays and arrays[name].ndim == 4 and arrays[name].shape[0] == 1:
                arrays[name] = arrays[name].squeeze(0)
    for name, array in arrays.items():
        _check_kind(name, array, arrays)
    return arrays


def _check_kind(name: str, array: Any, arrays: Mapping[str, Any]) -> None:
    if name.endswith("mask"):
        if array.dtype != jnp.bool_:
            raise OpTypeError(
                OP,
                f"{name} has dtype {array.dtype}",
                arrays,
                "give booleans, True for what takes part; a mask that is added goes to bias",
            )
    elif name.endswith("lengths"):
        if not jnp.issubdtype(array.dtype, jnp.integer):
            raise OpTypeError(OP, f"{name} has dtype {array.dtype}", arrays, "give integers")
    elif not jnp.issubdtype(array.dtype, jnp.floating):
        raise OpTypeError(OP, f"{name} has dtype {array.dtype}", arrays, "give floating-point data")


def check_shapes(query: Any, key: Any, value: Any, optional: Mapping[str, Any]) -> None:
    """Raises where shapes do not fit; all are anything with ``shape``.

    Raises:
        OpError: they do not.
    """
    arrays = {"query": query, "key": key, "value": value}
    arrays.update({k: v for k, v in optional.items() if v is not None and k not in arrays})
    arrays.pop("dropout_key", None)
    layout = "query is (B, T, N, H), key (B, S, K, H) and value (B, S, K, Hv)"
    rank = len(query.shape)
    if rank < 3 or len(key.shape) != rank or len(value.shape) != rank:
        raise OpError(OP, "query, key and value need 3 dimensions or more", arrays, layout)
    *lead, t, n, h = query.shape
    *key_lead, s, k, key_h = key.shape
    if key_lead != lead or list(value.shape[:-3]) != lead:
        raise OpError(OP, "batch dimensions differ", arrays, layout)
    if tuple(value.shape[-3:-1]) != (s, k):
        raise OpError(OP, "key and value differ in length or heads", arrays, layout)
    if key_h != h:
        raise OpError(OP, f"queries have {h} features and keys {key_h}", arrays, layout)
    if k == 0 or n % k != 0:
        raise OpError(
            OP, f"{n} query heads cannot share {k} key heads", arrays, "make N a multiple of K"
        )
    full = (*lead, n, t, s)
    for name in ("bias", "mask"):
        if name in arrays and not _stretches(arrays[name].shape, full):
            raise OpError(OP, f"{name} has shape {tuple(arrays[name].shape)}", arrays, _mend(full))
    wanted = {
        "key_padding_mask": (*lead, s),
        "query_seq_lengths": tuple(lead),
        "key_value_seq_lengths": tuple(lead),
    }
    for name, shape in wanted.items():
        if name in arrays and tuple(arrays[name].shape) != shape:
            raise OpError(
                OP,
                f"{name} has shape {tuple(arrays[name].shape)}",
                arrays,
                f"give it the shape {shape}",
            )


def _stretches(shape: Any, full: Any) -> bool:
    """Whether each dimension is the one wanted, or 1."""
    if len(shape) != len(full):
        return False
    return all(d in (1, f) for d, f in zip(shape, full, strict=True))


def _mend(full: Any) -> str:
    return (
        f"give it the dimensions {full}, each that or 1, such as x[None, None] for (T, S); a mask "
        "of keys (B, S) goes to key_padding_mask"
    )
