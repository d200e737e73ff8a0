"""Convolution of any rank as a named op: ``activation(conv(x, w) + b + residual)``."""

from __future__ import annotations

from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from jax import lax

from jaxpress.nnops.conv_core import conv_core
from jaxpress.nnops.conv_geometry import (
    check_operands,
    conv_shape,
    layout,
    per_dimension,
    resolve_padding,
    specs,
)
from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.fused import as_arrays, define_fused, fused_call
from jaxpress.nnops.kernels.depthwise_gradients import DEPTHWISE_SHIFTED
from jaxpress.nnops.kernels.grouped_split import GROUPED_SPLIT
from jaxpress.nnops.kernels.patches_dot import PATCHES_DOT
from jaxpress.nnops.kernels.planes import PLANES
from jaxpress.nnops.kernels.pointwise_dot import POINTWISE_DOT
from jaxpress.nnops.kernels.tiles_dot import TILES_DOT
from jaxpress.nnops.settings import static_value

__all__ = ["conv"]


def _normalize(params: dict[str, Any]) -> dict[str, Any]:
    """Tuples for lists; what depends on shapes was resolved by `conv`."""
    numbers = params["dimension_numbers"]
    if not isinstance(numbers, lax.ConvDimensionNumbers):
        numbers = tuple(numbers)
    return {
        **params,
        "strides": tuple(params["strides"]),
        "padding": tuple((low, high) for low, high in params["padding"]),
        "dilation": tuple(params["dilation"]),
        "dimension_numbers": numbers,
        "transposed": static_value("conv", "transposed", params["transposed"], False),
    }


def _fold(x: Any, residual: Any, axes: Any, size: Any, params: Any) -> Any:
    numbers = specs(params["dimension_numbers"])
    at, out = numbers.lhs_spec[0], numbers.out_spec[0]
    x = _merge(x, axes[0], at)
    if residual is not None:
        if axes[1] is None:
            residual = jnp.broadcast_to(residual, (size, *residual.shape))
        residual = _merge(residual, axes[1] or 0, out)

    def unfold(y: Any) -> tuple[Any, int]:
        shape = y.shape
        return y.reshape((*shape[:out], size, shape[out] // size, *shape[out + 1 :])), out

    return x, residual, unfold


def _merge(value: Any, mapped: int, at: int) -> Any:
    """The mapped axis as the outer part of axis ``at`` (counted without it)."""
    value = jnp.moveaxis(value, mapped, at)
    shape = value.shape
    return value.reshape((*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :]))


_CONV = define_fused(
    "conv",
    conv_core,
    defaults={
        "groups": 1,
        "transposed": False,
        "precision": None,
        "preferred_element_type": None,
    },
    kernels=(DEPTHWISE_SHIFTED, POINTWISE_DOT, TILES_DOT, GROUPED_SPLIT, PLANES, PATCHES_DOT),
    normalize=_normalize,
    check=check_operands,
    features_axis=lambda params: specs(params["dimension_numbers"]).out_spec[1],
    fold=_fold,
    core_shape=conv_shape,
)


@eagerly_jitted
def conv(
    x: Any,
    w: Any,
    b: Any = None,
    residual: Any = None,
    *,
    strides: Any = 1,
    padding: Any = "SAME",
    dilation: Any = 1,
    groups: int = 1,
    dimension_numbers: Any = None,
    transposed: bool = False,
    activation: Any = None,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """Convolution in any number of spatial dimensions (what the field calls so: no flip).

    ``activation(conv(x, w) + b + residual)``

    Args:
        x: (batch, spatial..., channels), unless ``dimension_numbers`` say otherwise.
        w: (spatial..., channels / groups, features), unless they do.
        b: (features,), or None; runs along the result's feature axis.
        residual: the result's very shape, or None.
        strides: an int, or one for each spatial dimension.
        padding: ``"SAME"``, ``"VALID"``, ``"SAME_LOWER"``, ``"CAUSAL"`` (one spatial dimension), an
            int, or for each spatial dimension an int or a pair (low, high).
        dilation: of the kernel; an int, or one for each spatial dimension.
        groups: channels and features are split into so many independent convolutions; with as many
            as there are channels it is depthwise.
        dimension_numbers: None (channels last, ``HWIO``), three strings such as
            ``("NCHW", "OIHW", "NCHW")``, or a jax.lax.ConvDimensionNumbers.
        transposed: strides dilate the input, and padding means what it does in
            jax.lax.conv_transpose (there numbers pad the dilated input).
        activation: None, a name such as ``"relu"``, or ``("leaky_relu", {"negative_slope": 0.2})``.
        precision: as in jax.lax.conv_general_dilated.
        preferred_element_type: dtype of the result, as there.

    Returns:
        (batch, spatial..., features). Operands of different dtypes are promoted as jax.numpy does.

    Raises:
        OpError: shapes or parameters do not fit; b and residual are never broadcast beyond the
            above.
        OpTypeError: a parameter or the activation is of no known kind.

    Source: jax.lax.conv_general_dilated, jax.lax.conv_transpose.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> x, w = jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 16))
        >>> nnops.conv(x, w, strides=2, activation="relu").shape
        (1, 4, 4, 16)
    """
    operands = as_arrays("conv", x, w, b, residual)
    x, w = operands["x"], operands["w"]
    numbers = layout(dimension_numbers, x, w)
    rank = x.ndim - 2
    strides = per_dimension("strides", strides, rank)
    dilation = per_dimension("dilation", dilation, rank)
    (groups,) = per_dimension("groups", groups, 1)
    transposed = static_value("conv", "transposed", transposed, False)
    params = {
        "strides": strides,
        "padding": resolve_padding(padding, x, w, numbers, strides, dilation, transposed),
        "dilation": dilation,
        "groups": groups,
        "dimension_numbers": numbers,
        "transposed": transposed,
        "activation": activation,
        "precision": precision,
        "preferred_element_type": preferred_element_type,
    }
    return fused_call(_CONV, operands, params, axis=specs(numbers).out_spec[1])
