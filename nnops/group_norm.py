"""Group and instance normalisation as named ops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from jaxpress.nnops.define import define
from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.errors import OpError
from jaxpress.nnops.moments import (
    affine,
    as_operands,
    batch_first,
    centered,
    check_affine,
    inverse_root,
    normalized_params,
    result_dtype,
    same_type,
    work_dtype,
)
from jaxpress.nnops.settings import integer
from jaxpress.nnops.softmax import axes_from_end

__all__ = ["group_norm", "instance_norm"]

EPSILON = 1e-5


def _in_groups(
    op: str, x: Any, scale: Any, bias: Any, groups: Any, axis: int, epsilon: float,
    placement: str, dtype: Any,
) -> Any:  # fmt: skip
    check_affine(op, {"x": x, "scale": scale, "bias": bias}, (x.shape[axis],), "the features are")
    work = work_dtype(x, scale, bias)
    at = axis % x.ndim
    shape = (*x.shape[:at], groups, x.shape[at] // groups, *x.shape[at + 1 :])
    grouped = x.astype(work).reshape(shape)
    away, _, variance = centered(grouped, [i for i in range(1, len(shape)) if i != at])
    y = (away * inverse_root(variance, epsilon, placement)).reshape(x.shape)
    return affine(y, scale, bias, (axis,), result_dtype(x, scale, bias, dtype=dtype))


def _group_reference(
    x: Any, scale: Any = None, bias: Any = None, *, groups: int, axis: int, epsilon: float,
    placement: str, dtype: Any,
) -> Any:  # fmt: skip
    return _in_groups("group_norm", x, scale, bias, groups, axis, epsilon, placement, dtype)


def _instance_reference(
    x: Any, scale: Any = None, bias: Any = None, *, axis: int, epsilon: float, placement: str,
    dtype: Any,
) -> Any:  # fmt: skip
    check_affine(
        "instance_norm",
        {"x": x, "scale": scale, "bias": bias},
        (x.shape[axis],),
        "the features are",
    )
    others = [i for i in range(1, x.ndim) if i != axis % x.ndim]
    away, _, variance = centered(x.astype(work_dtype(x, scale, bias)), others)
    y = away * inverse_root(variance, epsilon, placement)
    return affine(y, scale, bias, (axis,), result_dtype(x, scale, bias, dtype=dtype))


def _infer(avals: Any, params: Mapping[str, Any]) -> Any:
    x, axis = avals[0], params["axis"]
    return same_type(avals, params, (x.shape[axis],)) if -x.ndim <= axis < 0 else None


_GROUP_NORM = define(
    "group_norm",
    _group_reference,
    optional=("scale", "bias"),
    defaults={"groups": 1, "axis": -1, "epsilon": EPSILON, "placement": "root", "dtype": None},
    normalize=lambda params: normalized_params("group_norm", params, EPSILON),
    batch=batch_first,
    infer=_infer,
    keeps=True,
)
_INSTANCE_NORM = define(
    "instance_norm",
    _instance_reference,
    optional=("scale", "bias"),
    defaults={"axis": -1, "epsilon": EPSILON, "placement": "root", "dtype": None},
    normalize=lambda params: normalized_params("instance_norm", params, EPSILON),
    batch=batch_first,
    infer=_infer,
    keeps=True,
)


def _features_axis(op: str, x: Any, axis: int, least: int, layout: str) -> int:
    if x.ndim < least:
        raise OpError(op, f"x has {x.ndim} axes", {"x": x}, f"x is {layout}")
    at = axes_from_end(op, x, integer(op, "axis", axis))
    assert isinstance(at, int)
    if at == -x.ndim:
        raise OpError(op, "the feature axis is the batch axis", {"x": x}, f"x is {layout}")
    return at


@eagerly_jitted
def group_norm(
    x: Any,
    scale: Any = None,
    bias: Any = None,
    *,
    groups: int,
    axis: int = -1,
    epsilon: float = 1e-5,
    placement: str = "root",
    dtype: Any = None,
) -> jax.Array:
    """Group normalisation.

    ``(x - mean) / sqrt(var + epsilon) * scale + bias``, mean and variance of each example over
    all positions and over each of ``groups`` runs of neighbouring features.

    Args:
        x: (batch, ...) with a feature axis among the rest.
        scale: (features,), or None for 1.
        bias: (features,), or None for 0.
        groups: how many groups; it divides the number of features.
        axis: x's feature axis.
        epsilon: added to the variance, a Python number.
        placement: where epsilon stands: ``"root"`` as above, ``"sum"`` for ``sqrt(var) + epsilon``,
            ``"max"`` or ``"norm"`` for ``max(sqrt(var), epsilon)``: see `l2_normalize`.
        dtype: the result's; None for the one to which all operands promote.

    Returns:
        An array of x's shape; computed in float32 at least.

    Raises:
        OpError: x has no feature axis besides the batch, groups does not divide the features, or
            scale or bias is not (features,).
        OpTypeError: epsilon is no static number, or an operand is complex.

    Source: Wu and He, 2018, arXiv:1803.08494.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.group_norm([[1.0, 3.0, 5.0, 5.0]], groups=2).round(3).tolist()
        [[-1.0, 1.0, 0.0, 0.0]]
    """
    op = "group_norm"
    given = as_operands(op, x=x, scale=scale, bias=bias)
    at = _features_axis(op, given["x"], axis, 2, "(batch, ..., features)")
    groups = integer("group_norm", "groups", groups)
    features = given["x"].shape[at]
    if groups < 1 or features % groups:
        raise OpError(
            op,
            f"groups is {groups}, and x has {features} features on axis {axis}",
            given,
            "give a number of groups that divides the features",
        )
    return _GROUP_NORM.rebind(
        given, groups=groups, axis=at, epsilon=epsilon, placement=placement, dtype=dtype
    )


@eagerly_jitted
def instance_norm(
    x: Any,
    scale: Any = None,
    bias: Any = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    placement: str = "root",
    dtype: Any = None,
) -> jax.Array:
    """Instance normalisation.

    ``(x - mean) / sqrt(var + epsilon) * scale + bias``, mean and variance of each example and
    feature over all positions.

    Args:
        x: (batch, ..., features), the feature axis anywhere after the batch.
        scale: (features,), or None for 1.
        bias: (features,), or None for 0.
        axis: x's feature axis.
        epsilon: added to the variance, a Python number.
        placement: where epsilon stands: ``"root"`` as above, ``"sum"`` for ``sqrt(var) + epsilon``,
            ``"max"`` or ``"norm"`` for ``max(sqrt(var), epsilon)``: see `l2_normalize`.
        dtype: the result's; None for the one to which all operands promote.

    Returns:
        An array of x's shape; computed in float32 at least.

    Raises:
        OpError: x has no positions to normalise over, or scale or bias is not (features,).
        OpTypeError: epsilon is no static number, or an operand is complex.

    Source: Ulyanov, Vedaldi and Lempitsky, 2016, arXiv:1607.08022.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.instance_norm([[[1.0], [3.0]]], epsilon=0).tolist()
        [[[-1.0], [1.0]]]
    """
    op = "instance_norm"
    given = as_operands(op, x=x, scale=scale, bias=bias)
    at = _features_axis(op, given["x"], axis, 3, "(batch, positions..., features)")
    return _INSTANCE_NORM.rebind(given, axis=at, epsilon=epsilon, placement=placement, dtype=dtype)
