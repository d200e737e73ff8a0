"""Layer normalisation as a named op."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxpress.nnops.define import define
from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.errors import OpError
from jaxpress.nnops.moments import (
    affine,
    as_operands,
    centered,
    check_affine,
    inverse_root,
    normalized_params,
    result_dtype,
    rows_batch,
    same_type,
    work_dtype,
)
from jaxpress.nnops.softmax import axes_from_end

__all__ = ["layer_norm"]

EPSILON = 1e-5


def norm_axes(op: str, x: Any, axis: int | Sequence[int]) -> int | tuple[int, ...]:
    """The axes to normalise over, counted from the end, a single one as an int.

    Raises:
        OpError: there is none, one does not exist, or one comes twice.
    """
    axes = axes_from_end(op, x, axis)
    if isinstance(axes, tuple):
        if not axes:
            raise OpError(op, "axis names no axis", {"x": x}, "name one axis at least")
        return axes[0] if len(axes) == 1 else axes
    return axes


def as_tuple(axis: int | tuple[int, ...]) -> tuple[int, ...]:
    """``axis`` as several."""
    return (axis,) if isinstance(axis, int) else axis


def _reference(
    x: Any, scale: Any = None, bias: Any = None, *, axis: Any, epsilon: float, placement: str,
    dtype: Any,
) -> Any:  # fmt: skip
    axes = as_tuple(axis)
    given = {"x": x, "scale": scale, "bias": bias}
    check_affine("layer_norm", given, [x.shape[a] for a in axes], "the normalised axes have")
    work = work_dtype(x, scale, bias)
    away, _, variance = centered(x.astype(work), axes)
    y = away * inverse_root(variance, epsilon, placement)
    return affine(y, scale, bias, axes, result_dtype(x, scale, bias, dtype=dtype))


def infer(avals: Any, params: Mapping[str, Any]) -> Any:
    """A short cut to the result's type."""
    x, axes = avals[0], as_tuple(params["axis"])
    if any(not -x.ndim <= a < 0 for a in axes):
        return None
    return same_type(avals, params, [x.shape[a] for a in axes])


_LAYER_NORM = define(
    "layer_norm",
    _reference,
    optional=("scale", "bias"),
    defaults={"axis": -1, "epsilon": EPSILON, "placement": "root", "dtype": None},
    normalize=lambda params: normalized_params("layer_norm", params, EPSILON),
    batch=rows_batch,
    infer=infer,
    keeps=True,
)


@eagerly_jitted
def layer_norm(
    x: Any,
    scale: Any = None,
    bias: Any = None,
    *,
    axis: int | Sequence[int] = -1,
    epsilon: float = 1e-5,
    placement: str = "root",
    dtype: Any = None,
) -> jax.Array:
    """Layer normalisation.

    ``(x - mean) / sqrt(var + epsilon) * scale + bias``, mean and variance over ``axis``.

    Args:
        x: any shape.
        scale: of the shape of the normalised axes, in x's order; None for 1.
        bias: likewise; None for 0.
        axis: the axes to normalise over, one or several.
        epsilon: added to the variance, a Python number.
        placement: where epsilon stands: ``"root"`` as above, ``"sum"`` for ``sqrt(var) + epsilon``,
            ``"max"`` or ``"norm"`` for ``max(sqrt(var), epsilon)``: see `l2_normalize`.
        dtype: the result's; None for the one to which all operands promote.

    Returns:
        An array of x's shape; computed in float32 at least.

    Raises:
        OpError: an axis does not exist, or scale or bias has another shape.
        OpTypeError: epsilon is no static number, or an operand is complex.

    Source: Ba, Kiros and Hinton, 2016, arXiv:1607.06450.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.layer_norm([[1.0, 3.0]], epsilon=0).tolist()
        [[-1.0, 1.0]]
    """
    given = as_operands("layer_norm", x=x, scale=scale, bias=bias)
    at = norm_axes("layer_norm", given["x"], axis)
    return _LAYER_NORM.rebind(given, axis=at, epsilon=epsilon, placement=placement, dtype=dtype)
