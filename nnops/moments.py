"""What the normalising ops share: their checks, and mean and variance in float32 at least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxpress.nnops.errors import OpError, OpTypeError
from jaxpress.nnops.opdef import OpDef
from jaxpress.nnops.settings import data_type, static_value
from jaxpress.nnops.transforms import general_batch

__all__ = [
    "PLACEMENTS",
    "affine",
    "as_operands",
    "batch_first",
    "centered",
    "check_affine",
    "inverse_root",
    "normalized_params",
    "result_dtype",
    "rows_batch",
    "same_type",
    "work_dtype",
]

# Where an epsilon stands beside a root: see `inverse_root`.
PLACEMENTS = ("max", "norm", "sum", "root")


def as_operands(op: str, **values: Any) -> dict[str, Any]:
    """The operands that are given, as arrays.

    Raises:
        OpError: the first is missing.
        OpTypeError: one is complex.
    """
    given = {k: jnp.asarray(v) for k, v in values.items() if v is not None}
    first = next(iter(values))
    if first not in given:
        raise OpError(op, f"{first} is missing", given, f"give {first}")
    for name, value in given.items():
        if jnp.issubdtype(value.dtype, jnp.complexfloating):
            raise OpTypeError(
                op, f"{name} is complex", given, "give real and imaginary parts their own norms"
            )
    return given


def result_dtype(*values: Any, dtype: Any = None) -> Any:
    """The dtype of a result: ``dtype``, or the floating one to which the operands promote."""
    if dtype is not None:
        return jnp.dtype(dtype)
    promoted = jnp.result_type(*(v for v in values if v is not None))
    if jnp.issubdtype(promoted, jnp.floating):
        return promoted
    return jnp.promote_types(promoted, jnp.float32)


def work_dtype(*values: Any) -> Any:
    """The dtype to compute in: in low precision a variance plus epsilon is mostly rounding."""
    return jnp.promote_types(result_dtype(*values), jnp.float32)


def normalized_params(op: str, params: dict[str, Any], epsilon: float) -> dict[str, Any]:
    """Static parameters as the primitive holds them: epsilon a float, dtype a dtype or None.

    Raises:
        OpError: there is no such placement.
        OpTypeError: epsilon is no number, or dtype no floating one.
    """
    # Of the two zeros, which are not equal to each other here, the one.
    out = {**params, "epsilon": static_value(op, "epsilon", params["epsilon"], epsilon) + 0.0}
    if out.get("dtype") is not None:
        out["dtype"] = data_type(op, "dtype", out["dtype"])
        if not jnp.issubdtype(out["dtype"], jnp.floating):
            raise OpTypeError(op, f"dtype is {out['dtype']}", mend="give a floating dtype, or None")
    if out.get("placement", "root") not in PLACEMENTS:
        raise OpError(op, f"placement is {out['placement']!r}", mend=f"give one of {PLACEMENTS}")
    return out


def check_affine(op: str, given: Mapping[str, Any], shape: Sequence[Any], what: str) -> None:
    """That each operand but x has ``shape``.

    Raises:
        OpError: one has not; nothing is broadcast by accident.
    """
    shape = tuple(shape)
    for name, value in given.items():
        if name != "x" and value is not None and tuple(value.shape) != shape:
            raise OpError(
                op,
                f"{name} has shape {tuple(value.shape)}, and {what} {shape}",
                given,
                f"give {name} the shape {shape}, or name another axis",
            )


def centered(x: Any, axes: Sequence[int]) -> tuple[Any, Any, Any]:
    """``(x - mean, mean, variance)`` over ``axes``, which are kept with size 1.

    The variance is that of the differences: of large means nothing is lost.
    """
    mean = jnp.mean(x, axes, keepdims=True)
    away = x - mean
    return away, mean, jnp.mean(jnp.square(away), axes, keepdims=True)


def inverse_root(x: Any, epsilon: float, placement: str = "root") -> Any:
    """One over a root that epsilon keeps from zero.

    ``1 / sqrt(x + epsilon)``; with ``"sum"`` ``1 / (sqrt(x) + epsilon)``, with ``"max"`` and
    ``"norm"`` ``1 / max(sqrt(x), epsilon)``, whose derivative at zero is zero, and NaN.
    """
    e = jnp.asarray(epsilon, x.dtype)
    if placement == "root":
        return lax.rsqrt(x + e)
    if placement == "sum":
        return 1 / (jnp.sqrt(x) + e)
    if placement == "norm":
        return 1 / jnp.maximum(jnp.sqrt(x), e)
    if epsilon == 0:
        return lax.rsqrt(x)
    # Under the root the square is never zero, where a root has no derivative; and the smallest of
    # epsilons has no square in float32.
    long = ~(x <= jnp.square(e))  # NaN is long: it goes on
    return jnp.where(long, lax.rsqrt(jnp.where(long, x, jnp.ones_like(x))), 1 / e)


def affine(y: Any, scale: Any, bias: Any, axes: Sequence[int], dtype: Any) -> Any:
    """``y * scale + bias`` in y's dtype, then ``dtype``; scale and bias run along ``axes``."""
    others = [i for i in range(y.ndim) if i - y.ndim not in axes]
    if scale is not None:
        y = y * lax.expand_dims(scale.astype(y.dtype), others)
    if bias is not None:
        y = y + lax.expand_dims(bias.astype(y.dtype), others)
    return y.astype(dtype)


def same_type(avals: Any, params: Mapping[str, Any], shape: Sequence[Any]) -> Any:
    """The type of x, where all operands fit it; None leaves the judgement to the reference."""
    x, *rest = avals
    if params.get("dtype") not in (None, x.dtype) or not jnp.issubdtype(x.dtype, jnp.floating):
        return None
    return x if all(v.dtype == x.dtype and v.shape == tuple(shape) for v in rest) else None


def rows_batch(op: OpDef, args: Any, axes: Any, params: dict[str, Any]) -> Any:
    """For ops that count axes from the end: a mapped x has one more leading dimension."""
    if "mapped" in params or any(a is not None for a in axes[1:]):
        return general_batch(op, args, axes, params)
    return op.primitive.bind(jnp.moveaxis(args[0], axes[0], 0), *args[1:], **params), 0


def batch_first(op: OpDef, args: Any, axes: Any, params: dict[str, Any]) -> Any:
    """For ops whose first axis is the batch: a mapped x is a larger batch."""
    if "mapped" in params or any(a is not None for a in axes[1:]):
        return general_batch(op, args, axes, params)
    x = jnp.moveaxis(args[0], axes[0], 0)
    y = op.primitive.bind(lax.collapse(x, 0, 2), *args[1:], **params)
    return y.reshape(x.shape), 0
