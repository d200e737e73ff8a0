"""Normalisation without parameters: standardize, l2_normalize and weight_standardize."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxpress.nnops.define import define
from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.errors import OpError, OpTypeError
from jaxpress.nnops.layer_norm import as_tuple, norm_axes
from jaxpress.nnops.moments import (
    PLACEMENTS,
    as_operands,
    centered,
    inverse_root,
    normalized_params,
    result_dtype,
    work_dtype,
)
from jaxpress.nnops.opdef import OpDef
from jaxpress.nnops.softmax import axes_from_end
from jaxpress.nnops.transforms import general_batch, leading_batch

__all__ = ["PLACEMENTS", "l2_normalize", "l2_reference", "standardize", "weight_standardize"]


def _standardize_batch(op: OpDef, args: Any, axes: Any, params: dict[str, Any]) -> Any:
    if len(args) > 1:
        # Given statistics broadcast against x by their own ranks.
        return general_batch(op, args, axes, params)
    return leading_batch(op, args, axes, params)


def _standardize_reference(
    x: Any, mean: Any = None, variance: Any = None, where: Any = None, **params: Any
) -> Any:
    return jax.nn.standardize(x, mean=mean, variance=variance, where=where, **params)


_STANDARDIZE = define(
    "standardize",
    _standardize_reference,
    optional=("mean", "variance", "where"),
    defaults={"axis": -1, "epsilon": 1e-5},
    normalize=lambda params: normalized_params("standardize", params, 1e-5),
    batch=_standardize_batch,
    keeps=True,
)


def l2_reference(x: Any, *, axis: Any, epsilon: float, placement: str) -> Any:
    """What `l2_normalize` computes."""
    wide = x.astype(work_dtype(x))
    square = jnp.sum(jnp.square(wide), axis, keepdims=True)
    factor = inverse_root(square, epsilon, placement)
    return (wide * factor).astype(result_dtype(x))


_L2_NORMALIZE = define(
    "l2_normalize",
    l2_reference,
    defaults={"axis": -1, "epsilon": 1e-12, "placement": "max"},
    normalize=lambda params: normalized_params("l2_normalize", params, 1e-12),
    batch=leading_batch,
)


def _weight_reference(w: Any, *, axis: Any, epsilon: float, placement: str) -> Any:
    away, _, variance = centered(w.astype(work_dtype(w)), as_tuple(axis))
    return (away * inverse_root(variance, epsilon, placement)).astype(result_dtype(w))


_WEIGHT_STANDARDIZE = define(
    "weight_standardize",
    _weight_reference,
    operands=("w",),
    defaults={"axis": -1, "epsilon": 1e-5, "placement": "root"},
    normalize=lambda params: normalized_params("weight_standardize", params, 1e-5),
    batch=leading_batch,
    keeps=True,
)


@eagerly_jitted
def standardize(
    x: Any,
    axis: int | Sequence[int] | None = -1,
    mean: Any = None,
    variance: Any = None,
    epsilon: float = 1e-5,
    where: Any = None,
) -> jax.Array:
    """Takes the mean away and divides by the standard deviation.

    ``(x - mean) / sqrt(variance + epsilon)``

    Args:
        x: any shape.
        axis: one axis, several, or None for all.
        mean: None for x's own over ``axis``; otherwise it broadcasts against x.
        variance: None for x's own about ``mean``; otherwise it broadcasts against x.
        epsilon: added to the variance, a Python number.
        where: the elements that count for mean and variance, broadcast against x; None for all.

    Returns:
        An array of x's shape.

    Raises:
        OpError: an axis does not exist, or comes twice.
        OpTypeError: epsilon is no static number, or an operand is complex.

    Source: jax.nn.standardize.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.standardize([1.0, 3.0], epsilon=0).tolist()
        [-1.0, 1.0]
    """
    given = as_operands("standardize", x=x, mean=mean, variance=variance, where=where)
    at = axes_from_end("standardize", given["x"], axis)
    for name, value in given.items():
        if not _stretches(value.shape, given["x"].shape):
            raise OpError(
                "standardize",
                f"{name} has shape {value.shape}, and x {given['x'].shape}",
                given,
                f"give a {name} that broadcasts to x's shape",
            )
    if "where" in given and given["where"].dtype != bool:
        raise OpTypeError("standardize", f"where is {given['where'].dtype}", given, "give booleans")
    return _STANDARDIZE.rebind(given, axis=at, epsilon=epsilon)


def _stretches(shape: Sequence[Any], to: Sequence[Any]) -> bool:
    """Whether an array broadcasts to a shape, and does not make it larger."""
    if len(shape) > len(to):
        return False
    return all(n in (1, m) for n, m in zip(reversed(shape), reversed(to), strict=False))


@eagerly_jitted
def l2_normalize(
    x: Any,
    *,
    axis: int | Sequence[int] = -1,
    epsilon: float = 1e-12,
    placement: str = "max",
) -> jax.Array:
    """Divides by the Euclidean norm.

    ``x / max(norm, epsilon)`` with ``norm = sqrt(sum(x**2))`` over ``axis``.

    Args:
        x: any shape.
        axis: the axes over which the norm is taken, one or several.
        epsilon: a Python number; with 0, vectors of zeros become NaN.
        placement: where epsilon stands: ``"max"`` as above, ``"sum"`` for ``norm + epsilon``,
            ``"root"`` for ``sqrt(sum(x**2) + epsilon)``; ``"norm"`` has the values of ``"max"``,
            and the derivative of the root before the maximum is taken, which is NaN at zero.

    Returns:
        An array of x's shape; computed in float32 at least. With ``"max"`` the gradient is finite
        at zero too.

    Raises:
        OpError: an axis does not exist, or there is no such placement.
        OpTypeError: epsilon is no static number, or x is complex.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.l2_normalize([3.0, 4.0]).round(3).tolist()
        [0.6000000238418579, 0.800000011920929]
    """
    given = as_operands("l2_normalize", x=x)
    at = norm_axes("l2_normalize", given["x"], axis)
    return _L2_NORMALIZE.rebind(given, axis=at, epsilon=epsilon, placement=placement)


@eagerly_jitted
def weight_standardize(
    w: Any,
    *,
    axis: int | Sequence[int] | None = None,
    epsilon: float = 1e-5,
    placement: str = "root",
) -> jax.Array:
    """Weight standardisation: each output feature's weights get mean 0 and variance 1.

    ``(w - mean) / sqrt(var + epsilon)``, mean and variance over ``axis``.

    Args:
        w: a kernel, such as (height, width, in, out) or (in, out).
        axis: the axes to normalise over; None for all but the last, which is that of the outputs.
        epsilon: added to the variance, a Python number.
        placement: where epsilon stands: ``"root"`` as above, ``"sum"`` for ``sqrt(var) + epsilon``,
            ``"max"`` or ``"norm"`` for ``max(sqrt(var), epsilon)``: see `l2_normalize`.

    Returns:
        An array of w's shape; computed in float32 at least.

    Raises:
        OpError: an axis or the placement does not exist, or there is no axis to normalise over.
        OpTypeError: epsilon is no static number, or w is complex.

    Source: Qiao et al., 2019, arXiv:1903.10520.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.weight_standardize([[1.0], [3.0]], epsilon=0).tolist()
        [[-1.0], [1.0]]
    """
    given = as_operands("weight_standardize", w=w)
    axis = tuple(range(given["w"].ndim - 1)) if axis is None else axis
    at = norm_axes("weight_standardize", given["w"], axis)
    return _WEIGHT_STANDARDIZE.rebind(given, axis=at, epsilon=epsilon, placement=placement)
