"""Batch normalisation by running statistics, as a named op."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxpress.nnops.define import define
from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.errors import OpError
from jaxpress.nnops.opdef import OpDef
from jaxpress.nnops.settings import integer, static_value
from jaxpress.nnops.softmax import axes_from_end
from jaxpress.nnops.transforms import general_batch

__all__ = ["batch_norm"]

OPERANDS = ("x", "mean", "var", "scale", "bias")
EPSILON = 1e-5


def _reference(
    x: Any, mean: Any, var: Any, scale: Any = None, bias: Any = None, *, axis: int, epsilon: float
) -> Any:
    given = {"x": x, "mean": mean, "var": var, "scale": scale, "bias": bias}
    given = {k: v for k, v in given.items() if v is not None}
    if x.ndim < 1:
        raise OpError("batch_norm", "x has no axes", given, "give x a feature axis")
    for name, value in given.items():
        if name != "x" and value.shape != (x.shape[axis],):
            raise OpError(
                "batch_norm",
                f"{name} has shape {value.shape}, and x has {x.shape[axis]} features on axis "
                f"{axis}",
                given,
                f"give {name} the shape ({x.shape[axis]},), or name another axis",
            )
    out_dtype = jnp.result_type(*given.values())
    # In low precision a variance plus epsilon is mostly rounding.
    work_dtype = jnp.promote_types(out_dtype, jnp.float32)
    others = [i for i in range(x.ndim) if i != axis % x.ndim]
    x, mean, var, scale, bias = (
        None
        if (v := given.get(name)) is None
        else v.astype(work_dtype)
        if name == "x"
        else lax.expand_dims(v.astype(work_dtype), others)
        for name in OPERANDS
    )
    factor = lax.rsqrt(var + epsilon)
    if scale is not None:
        factor = factor * scale
    y = (x - mean) * factor
    if bias is not None:
        y = y + bias
    return y.astype(out_dtype)


def _batch(op: OpDef, args: Any, axes: Any, params: dict[str, Any]) -> Any:
    if "mapped" in params or any(a is not None for a in axes[1:]):
        return general_batch(op, args, axes, params)
    # axis counts from the end, so a leading dimension changes nothing.
    return op.primitive.bind(jnp.moveaxis(args[0], axes[0], 0), *args[1:], **params), 0


def _normalize(params: dict[str, Any]) -> dict[str, Any]:
    epsilon = static_value("batch_norm", "epsilon", params["epsilon"], EPSILON)
    return {**params, "epsilon": epsilon}


def _infer(avals: Any, params: Mapping[str, Any]) -> Any:
    """The type of x, where all operands fit it; anything else is for the reference to judge."""
    x, *rest = avals
    axis = params["axis"]
    if not (-x.ndim <= axis < x.ndim) or not jnp.issubdtype(x.dtype, jnp.floating):
        return None
    fits = all(v.dtype == x.dtype and v.shape == (x.shape[axis],) for v in rest)
    return x if fits else None


_BATCH_NORM = define(
    "batch_norm",
    _reference,
    operands=OPERANDS[:3],
    optional=OPERANDS[3:],
    defaults={"axis": -1, "epsilon": EPSILON},
    normalize=_normalize,
    batch=_batch,
    infer=_infer,
    keeps=True,
)


@eagerly_jitted
def batch_norm(
    x: Any,
    mean: Any,
    var: Any,
    scale: Any = None,
    bias: Any = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
) -> jax.Array:
    """Batch normalisation by running statistics, as at inference.

    ``(x - mean) / sqrt(var + epsilon) * scale + bias``

    Args:
        x: any shape with a feature axis.
        mean: (features,).
        var: (features,), the variance.
        scale: (features,), or None for 1.
        bias: (features,), or None for 0.
        axis: x's feature axis.
        epsilon: added to the variance, a Python number.

    Returns:
        An array of x's shape, in the dtype to which all operands promote; computed in float32 at
        least.

    Raises:
        OpError: the axis does not exist, or an operand is not (features,).
        OpTypeError: epsilon is no static number.

    Source: Ioffe and Szegedy, 2015, arXiv:1502.03167.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> nnops.batch_norm(jnp.ones((2, 3)), jnp.ones(3), jnp.ones(3)).tolist()
        [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    values = (x, mean, var, scale, bias)
    given = {k: jnp.asarray(v) for k, v in zip(OPERANDS, values, strict=True) if v is not None}
    if "x" not in given:
        raise OpError("batch_norm", "x is missing", given, "give x")
    at = axes_from_end("batch_norm", given["x"], integer("batch_norm", "axis", axis))
    return _BATCH_NORM.rebind(given, axis=at, epsilon=epsilon)
