"""Batch normalisation by the batch's own statistics, as in training, as a named op."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import batching

from jaxpress.nnops.define import define
from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.errors import OpError
from jaxpress.nnops.moments import (
    affine,
    as_operands,
    check_affine,
    inverse_root,
    normalized_params,
    result_dtype,
    work_dtype,
)
from jaxpress.nnops.settings import integer, static_value
from jaxpress.nnops.softmax import axes_from_end
from jaxpress.nnops.transforms import general_batch, general_jvp, kept_jvp

__all__ = ["batch_norm_train"]

OPERANDS = ("x", "mean", "var", "scale", "bias")
EPSILON = 1e-5
MOMENTUM = 0.9


def _reference(
    x: Any, mean: Any, var: Any, scale: Any = None, bias: Any = None, *, axis: int,
    momentum: float, epsilon: float, placement: str, axis_name: Any, dtype: Any,
) -> tuple[Any, Any, Any]:  # fmt: skip
    given = {"x": x, "mean": mean, "var": var, "scale": scale, "bias": bias}
    check_affine("batch_norm_train", given, (x.shape[axis],), "the features are")
    others = [i for i in range(x.ndim) if i != axis % x.ndim]
    wide = x.astype(work_dtype(x, scale, bias))
    batch_mean = jnp.mean(wide, others, keepdims=True)
    if axis_name is not None:
        batch_mean = lax.pmean(batch_mean, axis_name)
    away = wide - batch_mean
    batch_var = jnp.mean(jnp.square(away), others, keepdims=True)
    if axis_name is not None:
        batch_var = lax.pmean(batch_var, axis_name)
    y = affine(
        away * inverse_root(batch_var, epsilon, placement),
        scale,
        bias,
        (axis,),
        result_dtype(x, scale, bias, dtype=dtype),
    )
    news = [
        momentum * old + (1 - momentum) * lax.squeeze(new, others).astype(old.dtype)
        for old, new in ((mean, batch_mean), (var, batch_var))
    ]
    return y, *news


def _normalize(params: dict[str, Any]) -> dict[str, Any]:
    op = "batch_norm_train"
    momentum = static_value(op, "momentum", params["momentum"], MOMENTUM)
    names = params["axis_name"]
    names = tuple(names) if isinstance(names, list) else names
    return {
        **normalized_params(op, params, EPSILON),
        "momentum": momentum,
        "axis_name": None if names == () else names,
    }


def _jvp(op: Any, primals: Any, tangents: Any, params: dict[str, Any]) -> Any:
    # An axis by name may become part of the batch under `vmap`, which the op must be there for.
    rule = kept_jvp if params["axis_name"] is None else general_jvp
    return rule(op, primals, tangents, params)


_OP = define(
    "batch_norm_train",
    _reference,
    operands=OPERANDS[:3],
    optional=OPERANDS[3:],
    defaults={
        "axis": -1,
        "momentum": MOMENTUM,
        "epsilon": EPSILON,
        "placement": "root",
        "axis_name": None,
        "dtype": None,
    },
    normalize=_normalize,
    jvp=_jvp,
    keeps=True,
    multiple_results=True,
)


def _batch(axis_data: Any, args: Any, axes: Any, **params: Any) -> Any:
    """``vmap``: its axis joins the batch where the op reduces over it by name."""
    names = params["axis_name"]
    several = names if isinstance(names, tuple) else (names,)
    if names is None or axis_data.name not in several:
        if all(axis is None for axis in axes):
            return _OP.primitive.bind(*args, **params), [None] * 3
        return general_batch(_OP, args, axes, params)
    if "mapped" in params:
        # Every level is spelled out: the op has no parameter that says which one has the name.
        fn = jax.vmap(_OP.implementation(params), axes, axis_name=axis_data.name)
        return fn(*args), [0] * 3
    rest = tuple(name for name in several if name != axis_data.name)
    params = {**params, "axis_name": rest or None}
    if axes[0] is not None:
        args = (jnp.moveaxis(args[0], axes[0], 0), *args[1:])
    if all(axis is None for axis in axes[1:]):
        # The feature axis counts from the end, so a leading dimension is more of the batch.
        return _OP.primitive.bind(*args, **params), [0 if axes[0] is not None else None, None, None]
    return _share_statistics(args, axes, params)


def _share_statistics(args: Any, axes: Any, params: dict[str, Any]) -> Any:
    """One batch for all, and running statistics, scale and bias of each its own."""
    given = _OP.operands(args, params)
    at = dict(zip(_OP.present(params), axes, strict=True))
    x = given["x"]
    size = next(a.shape[i] for a, i in zip(args, axes, strict=True) if i is not None)
    if at["x"] is None:
        x = jnp.broadcast_to(x, (size, *x.shape))
    scale, bias = given.get("scale"), given.get("bias")
    dtype = result_dtype(x, scale, bias, dtype=params["dtype"])
    wide = x.astype(work_dtype(x, scale, bias))
    zeros = jnp.zeros(x.shape[params["axis"]], wide.dtype)
    y, *batch = _OP.rebind(
        {"x": wide, "mean": zeros, "var": zeros},
        **{**params, "operands": OPERANDS[:3], "momentum": 0.0, "dtype": None},
    )

    def finish(y: Any, rest: dict[str, Any]) -> Any:
        momentum = params["momentum"]
        news = [
            momentum * rest[k] + (1 - momentum) * new.astype(rest[k].dtype)
            for k, new in zip(("mean", "var"), batch, strict=True)
        ]
        return affine(y, rest.get("scale"), rest.get("bias"), (params["axis"],), dtype), *news

    rest = {k: v for k, v in given.items() if k != "x"}
    return jax.vmap(finish, (0, {k: at[k] for k in rest}))(y, rest), [0] * 3


batching.fancy_primitive_batchers[_OP.primitive] = _batch


@eagerly_jitted
def batch_norm_train(
    x: Any,
    mean: Any,
    var: Any,
    scale: Any = None,
    bias: Any = None,
    *,
    axis: int = -1,
    momentum: float = 0.9,
    epsilon: float = 1e-5,
    placement: str = "root",
    axis_name: Any = None,
    dtype: Any = None,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Batch normalisation by the batch's own statistics, as in training.

    ``y = (x - m) / sqrt(v + epsilon) * scale + bias`` with m and v the mean and variance of x over
    all axes but ``axis``; ``new_mean = momentum * mean + (1 - momentum) * m``, and so for var.

    Args:
        x: any shape with a feature axis.
        mean: (features,), the running mean so far.
        var: (features,), the running variance so far.
        scale: (features,), or None for 1.
        bias: (features,), or None for 0.
        axis: x's feature axis.
        momentum: how much of the running statistics stays, a Python number. In torch's words it is
            one minus that; and torch's running variance is that of a sample, ``v * n / (n - 1)``.
        epsilon: added to the variance, a Python number.
        placement: where epsilon stands: ``"root"`` as above, ``"sum"`` for ``sqrt(v) + epsilon``,
            ``"max"`` or ``"norm"`` for ``max(sqrt(v), epsilon)``: see `l2_normalize`.
        axis_name: name or names of mapped axes (of ``shard_map`` or ``vmap``) whose parts of the
            batch count together; None for this part alone.
        dtype: y's; None for the one to which x, scale and bias promote.

    Returns:
        ``y, (new_mean, new_var)``; y of x's shape, computed in float32 at least.

    Raises:
        OpError: the axis does not exist, x has no other, or an operand is not (features,).
        OpTypeError: momentum or epsilon is no static number, or an operand is complex.

    Source: Ioffe and Szegedy, 2015, arXiv:1502.03167.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> x = jnp.array([[1.0], [3.0]])
        >>> y, (mean, var) = nnops.batch_norm_train(x, jnp.zeros(1), jnp.ones(1), epsilon=0)
        >>> y.tolist(), mean.round(3).tolist(), var.tolist()
        ([[-1.0], [1.0]], [0.20000000298023224], [1.0])
    """
    op = "batch_norm_train"
    given = as_operands(op, x=x, mean=mean, var=var, scale=scale, bias=bias)
    at = axes_from_end(op, given["x"], integer(op, "axis", axis))
    if given["x"].ndim < 2:
        raise OpError(op, "x has no batch axis", given, "x is (batch, ..., features)")
    y, new_mean, new_var = _OP.rebind(
        given,
        axis=at,
        momentum=momentum,
        epsilon=epsilon,
        placement=placement,
        axis_name=axis_name,
        dtype=dtype,
    )
    return y, (new_mean, new_var)
